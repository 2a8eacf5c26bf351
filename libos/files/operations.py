"""What clients of the file server ask for, once it is known who asks: a method for each operation.

A path's operations go by way of a `Tree`; what changes names, or writes at the end of a file, is done in one go as far as
other callers see.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Final

from exokernel.abi.downcalls import Exo
from libos.files.clients import Client, Clients, OpenFile
from libos.files.protocol import (
    DATA,
    DATA_SIZE,
    ENTRIES_AT_ONCE,
    EVERYTHING,
    NAME_SIZE,
    PLACE_SHIFT,
    DirectoryEntry,
    FileStatus,
    Operation,
    Whence,
)
from libos.filesystems.handles import OpenFlags
from libos.filesystems.interface import Errno, FileSystem, FileSystemError, Kind
from libos.filesystems.paths import PATH_MAXIMUM, Tree
from libos.section import Section

_SIGN: Final = 1 << 63
_SIZE_MASK: Final = (1 << PLACE_SHIFT) - 1
_OFFSET_MAXIMUM: Final = _SIGN - 1
_MODE: Final = 0o7777
_FLAGS: Final = sum(OpenFlags)


class Operations:
    """What can be done with `files`.  Words are as they came: every one may be a lie."""

    def __init__(self, exo: Exo, files: FileSystem, clients: Clients) -> None:
        self.files = files
        self.tree = Tree(files, umask=0)
        self._exo = exo
        self._clients = clients
        self._names = Section(exo)

    async def answer(self, client: Client, operation: int, words: tuple[int, int, int]) -> int:
        """The result of an operation.  Raises FileSystemError, ENOSYS for one that is not known."""
        answer = self._answers.get(operation)
        if answer is None:
            raise FileSystemError(Errno.ENOSYS)
        return await answer(self, client, *words)

    async def _path(self, client: Client, size: int, place: int = DATA) -> bytes:
        """A path in the window.  Raises ENAMETOOLONG, and EINVAL for one with a zero in it."""
        if size > PATH_MAXIMUM:
            raise FileSystemError(Errno.ENAMETOOLONG)
        path = await self._clients.load(client, place, size) if size else b""
        if b"\0" in path:
            raise FileSystemError(Errno.EINVAL)
        return path

    async def _paths(self, client: Client, first: int, second: int) -> tuple[bytes, bytes]:
        one = await self._path(client, first)
        return one, await self._path(client, second, DATA + first)

    async def _open(self, client: Client, size: int, flags: int, mode: int) -> int:
        path = await self._path(client, size)
        if flags & ~_FLAGS or flags & 3 == 3:
            raise FileSystemError(Errno.EINVAL)
        client.free_handle()
        async with _Inside(self._names):
            file = await self.tree.open(path, OpenFlags(flags), mode & _MODE)
        try:
            handle = client.free_handle()
        except FileSystemError:
            await file.close()
            raise
        client.handles[handle] = OpenFile(self._exo, file)
        return handle

    async def _close(self, client: Client, handle: int, *_: int) -> int:
        opened = client.opened(handle)
        del client.handles[handle]
        await opened.let_go()
        return 0

    async def _read(self, client: Client, handle: int, contents: int, _: int) -> int:
        async with client.using(handle) as opened, _Inside(opened.section):
            data = await opened.file.read(_size(contents))
            try:
                await self._clients.store(client, contents >> PLACE_SHIFT, data)
            except FileSystemError:
                await opened.file.seek(opened.file.position - len(data))
                raise
            return len(data)

    async def _write(self, client: Client, handle: int, contents: int, _: int) -> int:
        data = await self._clients.load(client, contents >> PLACE_SHIFT, _size(contents))
        async with client.using(handle) as opened, _Inside(opened.section):
            if not opened.file.flags & OpenFlags.APPEND:
                return await self._write_within(opened, opened.file.position, data)
            async with _Inside(self._names):
                return await opened.file.write(data)

    async def _write_within(self, opened: OpenFile, offset: int, data: bytes) -> int:
        if offset + len(data) > _OFFSET_MAXIMUM:
            raise FileSystemError(Errno.EFBIG)
        done = await opened.file.write_at(offset, data)
        opened.file.position = offset + done
        return done

    async def _read_at(self, client: Client, handle: int, contents: int, offset: int) -> int:
        if offset > _OFFSET_MAXIMUM:
            raise FileSystemError(Errno.EINVAL)
        async with client.using(handle) as opened:
            data = await opened.file.read_at(offset, _size(contents))
            await self._clients.store(client, contents >> PLACE_SHIFT, data)
            return len(data)

    async def _write_at(self, client: Client, handle: int, contents: int, offset: int) -> int:
        data = await self._clients.load(client, contents >> PLACE_SHIFT, _size(contents))
        if offset + len(data) > _OFFSET_MAXIMUM:
            raise FileSystemError(Errno.EFBIG)
        async with client.using(handle) as opened:
            return await opened.file.write_at(offset, data)

    async def _seek(self, client: Client, handle: int, distance: int, whence: int) -> int:
        async with client.using(handle) as opened, _Inside(opened.section):
            if whence == Whence.START:
                begin = 0
            elif whence == Whence.HERE:
                begin = opened.file.position
            elif whence == Whence.END:
                begin = (await opened.file.attributes()).size
            else:
                raise FileSystemError(Errno.EINVAL)
            position = begin + (distance - (1 << 64) if distance & _SIGN else distance)
            if position > _OFFSET_MAXIMUM:
                raise FileSystemError(Errno.EOVERFLOW)
            await opened.file.seek(position)
            opened.listing = None
            return position

    async def _sync(self, client: Client, handle: int, data_only: int, _: int) -> int:
        if handle == EVERYTHING:
            await self.files.sync()
            return 0
        async with client.using(handle) as opened:
            await opened.file.sync(data_only=bool(data_only))
        return 0

    async def _truncate(self, client: Client, handle: int, size: int, _: int) -> int:
        if size > _OFFSET_MAXIMUM:
            raise FileSystemError(Errno.EFBIG)
        async with client.using(handle) as opened:
            await opened.file.truncate(size)
        return 0

    async def _status(self, client: Client, size: int, follow: int, _: int) -> int:
        it = await self.tree.find(await self._path(client, size), follow=bool(follow))
        fields = {part.name: getattr(it, part.name) for part in FileStatus.subcons}
        await self._clients.store(client, DATA, FileStatus.build(fields))
        return 0

    async def _list(self, client: Client, handle: int, most: int, _: int) -> int:
        async with client.using(handle) as opened, _Inside(opened.section):
            if opened.listing is None:
                opened.listing = (await self.files.entries(opened.file.inode))[::-1]
            entries = opened.listing[: -min(most, ENTRIES_AT_ONCE) - 1 : -1] if most else []
            rows = [
                DirectoryEntry.build({"inode": entry.inode, "kind": entry.kind, "name": entry.name.ljust(NAME_SIZE, b"\0")})
                for entry in entries
            ]
            await self._clients.store(client, DATA, b"".join(rows))
            del opened.listing[len(opened.listing) - len(entries) :]
            return len(entries)

    async def _make_directory(self, client: Client, size: int, mode: int, _: int) -> int:
        path = await self._path(client, size)
        async with _Inside(self._names):
            await self.tree.mkdir(path, mode & _MODE)
        return 0

    async def _remove(self, client: Client, size: int, *_: int) -> int:
        path = await self._path(client, size)
        async with _Inside(self._names):
            it = await self.tree.lstat(path)
            await (self.tree.rmdir(path) if it.kind is Kind.DIRECTORY else self.tree.unlink(path))
        return 0

    async def _rename(self, client: Client, first: int, second: int, _: int) -> int:
        path, new = await self._paths(client, first, second)
        async with _Inside(self._names):
            await self.tree.rename(path, new)
        return 0

    async def _link(self, client: Client, first: int, second: int, _: int) -> int:
        path, new = await self._paths(client, first, second)
        async with _Inside(self._names):
            await self.tree.link(path, new)
        return 0

    async def _symlink(self, client: Client, first: int, second: int, _: int) -> int:
        target, path = await self._paths(client, first, second)
        async with _Inside(self._names):
            await self.tree.symlink(target, path)
        return 0

    async def _read_link(self, client: Client, size: int, most: int, _: int) -> int:
        target = await self.tree.readlink(await self._path(client, size))
        await self._clients.store(client, DATA, target[:most])
        return len(target)

    async def _set_mode(self, client: Client, size: int, mode: int, _: int) -> int:
        path = await self._path(client, size)
        async with _Inside(self._names):
            await self.tree.chmod(path, mode & _MODE)
        return 0

    _answers: Final[Mapping[int, Callable[..., Awaitable[int]]]] = {
        Operation.OPEN: _open,
        Operation.CLOSE: _close,
        Operation.READ: _read,
        Operation.WRITE: _write,
        Operation.READ_AT: _read_at,
        Operation.WRITE_AT: _write_at,
        Operation.SEEK: _seek,
        Operation.SYNC: _sync,
        Operation.TRUNCATE: _truncate,
        Operation.STATUS: _status,
        Operation.LIST: _list,
        Operation.MAKE_DIRECTORY: _make_directory,
        Operation.REMOVE: _remove,
        Operation.RENAME: _rename,
        Operation.LINK: _link,
        Operation.SYMLINK: _symlink,
        Operation.READ_LINK: _read_link,
        Operation.SET_MODE: _set_mode,
    }


class _Inside(AbstractAsyncContextManager[None]):
    """A section as an `async with`."""

    def __init__(self, section: Section) -> None:
        self._section = section

    async def __aenter__(self) -> None:
        await self._section.enter()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._section.leave()


def _size(contents: int) -> int:
    """How many bytes a word asks for, at most what a window holds."""
    return min(contents & _SIZE_MASK, DATA_SIZE)
