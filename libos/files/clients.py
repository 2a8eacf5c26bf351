"""Who calls the file server: the window and the open files of each environment.

Nothing here believes a client.  A frame is mapped as part of a window only if the kernel's tables say that the caller is
its one holder: else a client could name a frame of the server's own, and have it read and overwritten in its place.  What
is in the window is read once; a window that has gone is an error of the client's and nothing else.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from exokernel.abi.flags import Rights
from exokernel.abi.layout import ENVIRONMENT_TABLE, FRAME_TABLE, MAXIMUM_ENVIRONMENTS, PAGE_SIZE
from exokernel.abi.pages import FRAME_HOLDER_MASK, FRAME_HOLDERS_SHIFT, FRAME_TABLE_FLAG, EnvironmentRow
from libos.files.protocol import HANDLES, WINDOW_PAGES
from libos.filesystems.handles import File
from libos.filesystems.interface import Entry, Errno, FileSystemError
from libos.section import Section

CLIENTS: Final = 512
WINDOWS: Final = 0x2000_0000
"""Where the server maps windows, one behind the other, WINDOW_SPACE apart."""
_WINDOW_SPACE: Final = 16 * PAGE_SIZE
_ROW: Final[int] = EnvironmentRow.sizeof()
_LIVING: Final = (1, 2)
_HOLDERS_MASK: Final = 0xFF | FRAME_TABLE_FLAG >> FRAME_HOLDERS_SHIFT
_READ_WRITE: Final = int(Rights.READ | Rights.WRITE)

assert WINDOW_PAGES * PAGE_SIZE <= _WINDOW_SPACE


class OpenFile:
    """A file that environments have open, with one position for all of them.  `users` counts their handles and the calls
    under way; `listing` are the entries that are still to be told of a directory, None at its beginning."""

    def __init__(self, exo: Exo, file: File) -> None:
        self.file = file
        self.users = 1
        self.listing: list[Entry] | None = None
        self.section = Section(exo)
        """Whoever uses the position is in it."""

    async def let_go(self) -> None:
        """One user less; the last one closes the file."""
        self.users -= 1
        if not self.users:
            await self.file.close()


@dataclass
class Client:
    """An environment that has a window at `base`, or files open.  `attached` are the pages of the window."""

    number: int
    base: int
    attached: set[int] = field(default_factory=set)
    handles: dict[int, OpenFile] = field(default_factory=dict)

    def free_handle(self) -> int:
        """The lowest number that is no handle.  Raises EMFILE."""
        for handle in range(HANDLES):
            if handle not in self.handles:
                return handle
        raise FileSystemError(Errno.EMFILE)

    def opened(self, handle: int) -> OpenFile:
        """The file of a handle.  Raises EBADF."""
        if handle not in self.handles:
            raise FileSystemError(Errno.EBADF)
        return self.handles[handle]

    @asynccontextmanager
    async def using(self, handle: int) -> AsyncIterator[OpenFile]:
        """The file of a handle, which stays open meanwhile, whatever else the client does.  Raises EBADF."""
        opened = self.opened(handle)
        opened.users += 1
        try:
            yield opened
        finally:
            await opened.let_go()


class Clients:
    """All clients, by number; numbers of environments are never reused within a run."""

    def __init__(self, exo: Exo) -> None:
        self._exo = exo
        self._clients: dict[int, Client] = {}
        self._bases = [WINDOWS + place * _WINDOW_SPACE for place in reversed(range(CLIENTS))]

    def __iter__(self) -> Iterator[Client]:
        return iter(list(self._clients.values()))

    def of(self, number: int) -> Client:
        """The client of this number.  Raises EFAULT for one that has not attached a window."""
        if number not in self._clients:
            raise FileSystemError(Errno.EFAULT)
        return self._clients[number]

    async def admit(self, number: int) -> Client:
        """The client of this number, made if it is new.  Raises ENOMEM if there are too many."""
        if number not in self._clients:
            await self.bury()
        if number not in self._clients:
            if not self._bases:
                raise FileSystemError(Errno.ENOMEM)
            self._clients[number] = Client(number, self._bases.pop())
        return self._clients[number]

    async def bury(self, everybody: bool = False) -> None:
        """Close the files of clients that are no more, or of all of them."""
        for client in self:
            if everybody or not (await self._row(client.number))[0]:
                await self._bury(client)

    async def _bury(self, client: Client) -> None:
        if self._clients.pop(client.number, None) is None:
            return
        for page in client.attached:
            # Its mapping went with the loan, unless the client still lives.
            with suppress(Refused):
                await self._exo.remove_mapping(client.base + page * PAGE_SIZE)
        self._bases.append(client.base)
        handles, client.handles = client.handles, {}
        for opened in handles.values():
            await opened.let_go()

    async def _row(self, number: int) -> tuple[bool, int]:
        """Whether an environment lives, started or not, and the number of its parent."""
        words = await self._exo.read(ENVIRONMENT_TABLE + number % MAXIMUM_ENVIRONMENTS * _ROW, 12)
        there, state, parent = (int.from_bytes(words[place : place + 4], "little") for place in (0, 4, 8))
        return there == number and state in _LIVING, parent

    # Windows.

    async def attach(self, number: int, page: int, frame: int) -> None:
        """Map a frame of the client's as a page of its window.  Raises EINVAL for no page of a window, EFAULT for a frame
        that is not the client's alone or has not been lent."""
        if not 0 <= page < WINDOW_PAGES:
            raise FileSystemError(Errno.EINVAL)
        client = await self.admit(number)
        client.attached.discard(page)
        va = client.base + page * PAGE_SIZE
        if not await self._holds(number, frame):
            raise FileSystemError(Errno.EFAULT)
        try:
            await self._exo.create_mapping(va, frame, _READ_WRITE)
        except Refused:
            raise FileSystemError(Errno.EFAULT) from None
        # It may have changed hands in between; from now on that would end the mapping.
        if not await self._holds(number, frame):
            with suppress(Refused):
                await self._exo.remove_mapping(va)
            raise FileSystemError(Errno.EFAULT)
        client.attached.add(page)

    async def _holds(self, number: int, frame: int) -> bool:
        word_read = await self._exo.read_if_mapped(FRAME_TABLE + 8 * frame, 8) if frame < 1 << 32 else None
        word = int.from_bytes(word_read or b"", "little")
        return word & FRAME_HOLDER_MASK == number and word >> FRAME_HOLDERS_SHIFT & _HOLDERS_MASK == 1

    async def load(self, client: Client, place: int, size: int) -> bytes:
        """What is in the window; `place` and `size` in bytes.  Raises EFAULT if it is not there."""
        self._check(client, place, size)
        data = await self._exo.read_if_mapped(client.base + place, size)
        if data is None:
            raise FileSystemError(Errno.EFAULT)
        await self._exo.charge(size // 8)
        return data

    async def store(self, client: Client, place: int, data: bytes) -> None:
        """Put something into the window.  Raises EFAULT if it is not there."""
        self._check(client, place, len(data))
        if not await self._exo.write_if_mapped(client.base + place, data):
            raise FileSystemError(Errno.EFAULT)
        await self._exo.charge(len(data) // 8)

    def _check(self, client: Client, place: int, size: int) -> None:
        if size and (place + size > WINDOW_PAGES * PAGE_SIZE or not self._attached(client, place, size)):
            raise FileSystemError(Errno.EFAULT)

    @staticmethod
    def _attached(client: Client, place: int, size: int) -> bool:
        return all(page in client.attached for page in range(place // PAGE_SIZE, -(-(place + size) // PAGE_SIZE)))

    # Handles.

    async def inherit(self, number: int, child: int) -> None:
        """Let a child of a client's that has nothing yet have all its handles.  Raises EPERM if it is no such child."""
        lives, parent = await self._row(child)
        if not lives or parent != number or child in self._clients:
            raise FileSystemError(Errno.EPERM)
        client = await self.admit(child)
        for handle, opened in self.of(number).handles.items():
            opened.users += 1
            client.handles[handle] = opened
