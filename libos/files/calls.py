"""The functions of the interface that are about files, as methods of a Python library OS."""

from collections.abc import Awaitable
from typing import TYPE_CHECKING, Final

from libos.files.client import FileClient
from libos.files.protocol import DATA_SIZE, NAME_SIZE, DirectoryEntry, FileStatus, Operation
from libos.filesystems.interface import FileSystemError
from libos.startup import Region

if TYPE_CHECKING:
    from exokernel.abi.downcalls import Exo
    from libos.paging import Paging

_INT: Final = 0xFFFF_FFFF


async def _number(asked: Awaitable[int]) -> int:
    """What is asked for, or the negative of why not, as C programs are told."""
    try:
        return await asked
    except FileSystemError as error:
        return -int(error.errno)


class FileCalls:
    """What a program asks for by addresses in its memory."""

    exo: "Exo"
    paging: "Paging"
    files: FileClient

    async def bytes_at(self, va: int) -> bytes:
        """The C string at an address of the program."""
        raise NotImplementedError

    async def map_file(self, name: bytes) -> Region | None:
        """Let the program have a file: one that it was given, or else one of the mounted file system."""
        region = self.paging.regions.open_file(name.decode("utf-8", "replace"))
        if region is None and self.paging.start.file_server:
            region = await self.files.map(name)
        return region

    async def os_open(self, context: int, path: int, flags: int, mode: int) -> int:
        """Open a file: its number, or why not."""
        words = (flags & _INT, mode & _INT)
        return await _number(self.files.by_path(Operation.OPEN, await self.bytes_at(path), words=words))

    async def os_close(self, context: int, file: int) -> int:
        """Close a file."""
        return await _number(self.files.by_handle(Operation.CLOSE, file))

    async def os_read_file(self, context: int, file: int, buffer: int, size: int) -> int:
        """Up to `size` bytes from the position to `buffer`: how many, or why none."""
        return await _number(self._read(file, buffer, size))

    async def _read(self, file: int, buffer: int, size: int) -> int:
        done = 0
        while True:
            part = min(size - done, DATA_SIZE)
            try:
                contents = await self.files.read(file, part)
            except FileSystemError:
                if done:
                    return done
                raise
            await self.exo.write(buffer + done, contents)
            await self.exo.charge(len(contents) // 8)
            done += len(contents)
            if len(contents) < part or done == size:
                return done

    async def os_write_file(self, context: int, file: int, contents: int, size: int) -> int:
        """Store `size` bytes at the position: how many, or why none."""
        return await _number(self._write(file, contents, size))

    async def _write(self, file: int, contents: int, size: int) -> int:
        done = 0
        while True:
            part = min(size - done, DATA_SIZE)
            try:
                stored = await self.files.write(file, await self.exo.read(contents + done, part))
            except FileSystemError:
                if done:
                    return done
                raise
            await self.exo.charge(stored // 8)
            done += stored
            if stored < part or done == size:
                return done

    async def os_seek(self, context: int, file: int, distance: int, whence: int) -> int:
        """Go to a position: it, or why not."""
        return await _number(self.files.seek(file, distance, whence & _INT))

    async def os_sync(self, context: int, file: int, data_only: int) -> int:
        """Wait until what was written is on the medium."""
        return await _number(self.files.by_handle(Operation.SYNC, file, data_only & _INT))

    async def os_truncate(self, context: int, file: int, size: int) -> int:
        """Cut a file off, or make it longer."""
        return await _number(self.files.by_handle(Operation.TRUNCATE, file, size))

    async def os_stat(self, context: int, path: int, status: int, follow: int) -> int:
        """What is known of what a path leads to, stored at `status`."""
        try:
            it = await self.files.status(await self.bytes_at(path), bool(follow & _INT))
        except FileSystemError as error:
            return -int(error.errno)
        await self.exo.write(status, FileStatus.build({part.name: getattr(it, part.name) for part in FileStatus.subcons}))
        return 0

    async def os_list(self, context: int, directory: int, entries: int, count: int) -> int:
        """The next entries of a directory, stored at `entries`: how many."""
        try:
            there = await self.files.entries(directory, count)
        except FileSystemError as error:
            return -int(error.errno)
        rows = [{"inode": one.inode, "kind": one.kind, "name": one.name.ljust(NAME_SIZE, b"\0")} for one in there]
        await self.exo.write(entries, b"".join(DirectoryEntry.build(row) for row in rows))
        return len(there)

    async def os_make_directory(self, context: int, path: int, mode: int) -> int:
        """A new directory."""
        words = (mode & _INT,)
        return await _number(self.files.by_path(Operation.MAKE_DIRECTORY, await self.bytes_at(path), words=words))

    async def os_remove(self, context: int, path: int) -> int:
        """Take a name away, or remove an empty directory."""
        return await _number(self.files.by_path(Operation.REMOVE, await self.bytes_at(path)))

    async def os_rename(self, context: int, path: int, new_path: int) -> int:
        """Another name."""
        return await self._two_paths(Operation.RENAME, path, new_path)

    async def os_link(self, context: int, path: int, new_path: int) -> int:
        """One more name."""
        return await self._two_paths(Operation.LINK, path, new_path)

    async def os_symlink(self, context: int, target: int, path: int) -> int:
        """A new symbolic link."""
        return await self._two_paths(Operation.SYMLINK, target, path)

    async def _two_paths(self, operation: Operation, first: int, second: int) -> int:
        return await _number(self.files.by_path(operation, await self.bytes_at(first), await self.bytes_at(second)))

    async def os_read_link(self, context: int, path: int, target: int, size: int) -> int:
        """Up to `size` bytes of a symbolic link's target, stored at `target`: how many it has."""
        try:
            length, found = await self.files.read_link(await self.bytes_at(path), min(size, DATA_SIZE))
        except FileSystemError as error:
            return -int(error.errno)
        await self.exo.write(target, found)
        return length

    async def os_set_mode(self, context: int, path: int, mode: int) -> int:
        """Other permissions."""
        return await _number(self.files.by_path(Operation.SET_MODE, await self.bytes_at(path), words=(mode & _INT,)))
