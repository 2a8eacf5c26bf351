"""Files for programs in Python: the functions of the interface, with values in place of addresses.

Paths are bytes, or text that is taken as UTF-8.  What goes wrong is a `FileSystemError`, whose `errno` says what.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from libos.files.protocol import EVERYTHING, Operation, Whence
from libos.filesystems.handles import OpenFlags
from libos.filesystems.interface import Attributes, Entry, FileSystemError

if TYPE_CHECKING:
    from libos.base import LibraryOS

Path = bytes | str


def _encoded(path: Path) -> bytes:
    return path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path


class LinkedFiles:
    """The functions about files of `libos.files.functions`."""

    _library: "LibraryOS"

    async def os_open(self, path: Path, flags: int = OpenFlags.READ, mode: int = 0o644) -> int:
        """Open a file, or for reading a directory; gives its number.  `flags` are OpenFlags."""
        return await self._library.files.by_path(Operation.OPEN, _encoded(path), words=(flags, mode))

    async def os_close(self, file: int) -> None:
        """Close a file."""
        await self._library.files.by_handle(Operation.CLOSE, file)

    async def os_read_file(self, file: int, size: int) -> bytes:
        """Up to `size` bytes from the position on, which moves; fewer only at the end."""
        contents = b""
        while len(contents) < size:
            part = await self._library.files.read(file, size - len(contents))
            if not part:
                break
            contents += part
        return contents

    async def os_write_file(self, file: int, contents: bytes) -> int:
        """Store at the position, which moves, or with APPEND at the end; gives how many bytes, fewer only if there is no
        space left.  Raises ENOSPC if there is none for a single one."""
        done = await self._library.files.write(file, contents)
        with suppress(FileSystemError):
            while 0 < done < len(contents) and (stored := await self._library.files.write(file, contents[done:])):
                done += stored
        return done

    async def os_seek(self, file: int, distance: int, whence: int = Whence.START) -> int:
        """Go to a position, so many bytes from where `whence` says; gives it."""
        return await self._library.files.seek(file, distance, whence)

    async def os_sync(self, file: int | None = None, data_only: bool = False) -> None:
        """Wait until what was written is on the medium; None for a file means all of them."""
        await self._library.files.by_handle(Operation.SYNC, EVERYTHING if file is None else file, int(data_only))

    async def os_truncate(self, file: int, size: int) -> None:
        """Cut a file off, or make it longer by zeros."""
        await self._library.files.by_handle(Operation.TRUNCATE, file, size)

    async def os_stat(self, path: Path, follow: bool = True) -> Attributes:
        """What is known of what a path leads to; of a symbolic link at its end itself unless `follow`."""
        return await self._library.files.status(_encoded(path), follow)

    async def os_list(self, directory: int) -> Sequence[Entry]:
        """The entries of an open directory from where it is read to on, in no particular order."""
        entries: list[Entry] = []
        while part := await self._library.files.entries(directory):
            entries += part
        return entries

    async def os_make_directory(self, path: Path, mode: int = 0o755) -> None:
        """A new directory."""
        await self._library.files.by_path(Operation.MAKE_DIRECTORY, _encoded(path), words=(mode,))

    async def os_remove(self, path: Path) -> None:
        """Take the name of a file away, or remove an empty directory."""
        await self._library.files.by_path(Operation.REMOVE, _encoded(path))

    async def os_rename(self, path: Path, new_path: Path) -> None:
        """Another name, in one step, over an existing one that fits."""
        await self._library.files.by_path(Operation.RENAME, _encoded(path), _encoded(new_path))

    async def os_link(self, path: Path, new_path: Path) -> None:
        """One more name for what is not a directory."""
        await self._library.files.by_path(Operation.LINK, _encoded(path), _encoded(new_path))

    async def os_symlink(self, target: Path, path: Path) -> None:
        """A new symbolic link."""
        await self._library.files.by_path(Operation.SYMLINK, _encoded(target), _encoded(path))

    async def os_read_link(self, path: Path) -> bytes:
        """The target of a symbolic link."""
        return (await self._library.files.read_link(_encoded(path)))[1]

    async def os_set_mode(self, path: Path, mode: int) -> None:
        """Other permissions."""
        await self._library.files.by_path(Operation.SET_MODE, _encoded(path), words=(mode,))
