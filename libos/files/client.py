"""A program's side of the file server, for library OSes in Python: the window, and the calls by way of it.

The window lies below the pages that stay shared at a fork, and is the same there in every environment, but its frames are
each environment's own: a forked child makes itself another.

    0   where a frame is looked at while it is filled     the library's own, never lent
    1   a page of a mapped file                           the window, page 0
    2   everything else                                   the window, from page 1 on
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from exokernel.abi.flags import Rights, Sharing
from exokernel.abi.layout import PAGE_SIZE
from libos.files.calling import call_server
from libos.files.protocol import (
    DATA,
    DATA_SIZE,
    ENTRIES_AT_ONCE,
    PLACE_SHIFT,
    WINDOW_PAGES,
    DirectoryEntry,
    FileStatus,
    Operation,
    Whence,
)
from libos.filesystems.interface import Attributes, Entry, Errno, FileSystemError, Kind
from libos.filesystems.paths import PATH_MAXIMUM
from libos.section import Section
from libos.shared import SharedPages, resident_page
from libos.startup import Region
from libos.transfers import GONE

if TYPE_CHECKING:
    from libos.paging import Paging

_READ_WRITE: Final = int(Rights.READ | Rights.WRITE)


class FileClient:
    """The files of one environment.  Everything raises FileSystemError; `server` is the number of the environment that
    serves them, 0 if none does, which is ENOSYS."""

    def __init__(self, exo: Exo, paging: "Paging", shared: SharedPages, server: int) -> None:
        self._exo = exo
        self._paging = paging
        self._server = server
        self._look = shared.address(0) - (WINDOW_PAGES + 1) * PAGE_SIZE
        self._window = self._look + PAGE_SIZE
        self._frames: list[int] = []
        """Of the window, as far as it has been made."""
        self._attached = 0
        self._used = False
        self._section = Section(exo)
        """One call at a time has the window."""

    def copy(self, paging: "Paging", shared: SharedPages) -> Self:
        """The client of a child with this paging: the same files, another window."""
        child = type(self)(self._exo, paging, shared, self._server)
        child._used = self._used
        return child

    async def give(self, child: int) -> None:
        """Let a child of this environment, which has not been started, have the same files."""
        if self._used:
            await self._call(Operation.INHERIT, child)

    async def be_born(self) -> None:
        """In a child that runs for the first time: make a window, which the page-fault handler cannot do."""
        if self._used:
            with suppress(FileSystemError):
                await self._make_window()

    # Calls.

    async def _call(self, operation: Operation, *words: int) -> int:
        """The result of a call."""
        if not self._server:
            raise FileSystemError(Errno.ENOSYS)
        return await call_server(self._exo, self._server, operation, *words)

    async def _make_window(self) -> None:
        """Lend the server the frames of the window, once.  Raises ENOMEM."""
        if not self._server:
            raise FileSystemError(Errno.ENOSYS)
        while self._attached < WINDOW_PAGES:
            page = self._attached
            if page == len(self._frames):
                frame = await resident_page(self._exo, self._paging, self._window + page * PAGE_SIZE)
                if frame is None:
                    raise FileSystemError(Errno.ENOMEM)
                self._frames.append(frame)
            try:
                await self._exo.share_page(self._frames[page], self._server, Sharing.LOAN, _READ_WRITE)
            except Refused:
                raise FileSystemError(Errno.EIO) from None
            await self._call(Operation.ATTACH, page, self._frames[page])
            self._attached += 1
        self._used = True

    async def _with_paths(self, operation: Operation, paths: tuple[bytes, ...], *words: int) -> int:
        """A call with paths in the window, whose sizes are its first words; inside the section."""
        await self._make_window()
        if any(len(path) > PATH_MAXIMUM for path in paths):
            raise FileSystemError(Errno.ENAMETOOLONG)
        await self._exo.write(self._window + DATA, b"".join(paths))
        return await self._call(operation, *map(len, paths), *words)

    async def by_path(self, operation: Operation, *paths: bytes, words: tuple[int, ...] = ()) -> int:
        """A call that is given paths and words, and gives a number: OPEN, REMOVE and so on."""
        await self._section.enter()
        try:
            return await self._with_paths(operation, paths, *words)
        finally:
            await self._section.leave()

    async def by_handle(self, operation: Operation, *words: int) -> int:
        """A call that is given a handle and words: CLOSE, TRUNCATE, SYNC."""
        await self._section.enter()
        try:
            await self._make_window()
            return await self._call(operation, *words)
        finally:
            await self._section.leave()

    async def read(self, handle: int, size: int) -> bytes:
        """Up to `size` bytes, at most DATA_SIZE, from the position on."""
        await self._section.enter()
        try:
            await self._make_window()
            done = await self._call(Operation.READ, handle, min(size, DATA_SIZE) | DATA << PLACE_SHIFT)
            return await self._exo.read(self._window + DATA, done)
        finally:
            await self._section.leave()

    async def write(self, handle: int, contents: bytes) -> int:
        """Store at most DATA_SIZE bytes at the position; gives how many."""
        contents = contents[:DATA_SIZE]
        await self._section.enter()
        try:
            await self._make_window()
            await self._exo.write(self._window + DATA, contents)
            return await self._call(Operation.WRITE, handle, len(contents) | DATA << PLACE_SHIFT)
        finally:
            await self._section.leave()

    async def seek(self, handle: int, distance: int, whence: int) -> int:
        """Go to a position; gives it."""
        return await self.by_handle(Operation.SEEK, handle, distance, whence)

    async def status(self, path: bytes, follow: bool) -> Attributes:
        """What is known of what a path leads to."""
        await self._section.enter()
        try:
            await self._with_paths(Operation.STATUS, (path,), int(follow))
            row = FileStatus.parse(await self._exo.read(self._window + DATA, FileStatus.sizeof()))
            fields = {part.name: row[part.name] for part in FileStatus.subcons}
            return Attributes(**(fields | {"kind": Kind(row.kind)}))
        finally:
            await self._section.leave()

    async def entries(self, handle: int, most: int = ENTRIES_AT_ONCE) -> list[Entry]:
        """The next entries of a directory, at most ENTRIES_AT_ONCE."""
        await self._section.enter()
        try:
            await self._make_window()
            count = await self._call(Operation.LIST, handle, most)
            size = DirectoryEntry.sizeof()
            rows = await self._exo.read(self._window + DATA, count * size)
            parsed = [DirectoryEntry.parse(rows[begin : begin + size]) for begin in range(0, len(rows), size)]
            return [Entry(row.name.partition(b"\0")[0], row.inode, Kind(row.kind)) for row in parsed]
        finally:
            await self._section.leave()

    async def read_link(self, path: bytes, most: int = DATA_SIZE) -> tuple[int, bytes]:
        """How many bytes the target of a symbolic link has, and at most `most` of them."""
        await self._section.enter()
        try:
            size = await self._with_paths(Operation.READ_LINK, (path,), most)
            return size, await self._exo.read(self._window + DATA, min(size, most, DATA_SIZE))
        finally:
            await self._section.leave()

    # Mapped files.

    async def map(self, path: bytes) -> Region | None:
        """Address space for a file as read-only pages; None if there is no such file, or no address space for it."""
        try:
            handle = await self.by_path(Operation.OPEN, path, words=(0, 0))
        except FileSystemError:
            return None
        region = None
        try:
            size = await self.seek(handle, 0, Whence.END)
            await self.seek(handle, 0, Whence.START)
            if (await self.status(path, True)).kind is Kind.FILE:
                region = self._paging.regions.serve_file(handle, size)
        except FileSystemError:
            region = None
        if region is None or not region.size:
            await self.by_handle(Operation.CLOSE, handle)
        return region

    async def fill(self, handle: int, offset: int, frame: int) -> bool:
        """Put a page of a file into a frame of zeros, for the page-fault handler; False if the frame was taken meanwhile.
        Raises FileSystemError if it cannot be read."""
        if not self._attached:
            raise FileSystemError(Errno.ENOMEM)
        size = await self._call(Operation.READ_AT, handle, PAGE_SIZE, offset)
        contents = await self._exo.read(self._window, size)
        try:
            await self._paging.map(self._look, frame, _READ_WRITE)
            filled = await self._exo.write_if_mapped(self._look, contents)
            await self._exo.remove_mapping(self._look)
        except Refused as refused:
            if refused.error not in GONE:
                raise
            return False
        await self._exo.charge(PAGE_SIZE // 8)
        return filled
