"""The file server: an environment that mounts a file system and does with it what others ask by protected control transfer.

One environment has the cache, the journal and the locks, so programs share files without trusting one another with the
memory these lie in; what a program can spoil is what it may write.  The server is a library OS in Python: the kernel gives
every call a coroutine of its own, up to half of the contexts there can be, so calls wait for the disk side by side, and the
file system's locks keep them apart.  Whoever calls beyond that is told BUSY and comes again.

The rules:

 1. The caller's number comes from the kernel and is all that is believed (`libos.files.clients`).
 2. A call ends with one reply, whatever the client does meanwhile; nothing waits for a client.
 3. Programs act as the privileged user: on this machine there is one.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from exokernel.abi.flags import ANY, SELF, Event
from exokernel.abi.layout import OWN_PAGE
from exokernel.abi.pages import OwnPage, offset_of
from libos.files.calling import call_server
from libos.files.clients import Clients
from libos.files.operations import Operations
from libos.files.protocol import Operation
from libos.filesystems.interface import Errno, FileSystem, FileSystemError
from libos.storage.volume import VolumeError

CALLS_BETWEEN_BURIALS: Final = 64
_WOKEN: Final = OWN_PAGE + offset_of(OwnPage, "events") + 8 * Event.WOKEN
_WORD: Final = (1 << 64) - 1


@dataclass(frozen=True)
class Begun:
    """What a file system begins with beside what is on the disk: a file by its path, made anew."""

    path: bytes
    contents: bytes


class _Reserving(Exo):
    """The down-calls of the server.  As many of its frames as may be are never asked for, nor taken: the blocks of a
    transaction cannot be given back before it is committed, and a small cache may have few others."""

    async def alloc_page(self, frame: int = ANY, env: int = SELF) -> int:
        """A free frame, reserved if that is still possible."""
        taken = await super().alloc_page(frame, env)
        with suppress(Refused):
            await self.reserve_page(taken)
        return taken


class FileServer:
    """The library OS of the environment that serves what `mount` gives.  `creator` is the number of the environment that
    may end it; `files` are put there first.  `run` is what the environment's own context does."""

    def __init__(self, creator: int, mount: Callable[[Exo], Awaitable[FileSystem]], files: tuple[Begun, ...] = ()) -> None:
        self.failure = ""
        """In words, if it could not be mounted or begun."""
        self._exo = _Reserving()
        self._creator = creator
        self._mount = mount
        self._begun = files
        self._clients = Clients(self._exo)
        self._operations: Operations | None = None
        self._calls = 0
        self._served = 0
        self._finishing = self._finished = False

    async def run(self) -> None:
        """Mount the file system, let it be served until the creator has had enough, and end with 0; 1 if it could not be
        mounted."""
        try:
            files = await self._mount(self._exo)
            operations = Operations(self._exo, files, self._clients)
            for one in self._begun:
                await operations.tree.makedirs(one.path.rpartition(b"/")[0] or b"/", 0o755)
                await operations.tree.write_file(one.path, one.contents, 0o644)
                await self._exo.charge(len(one.contents) // 8)
        except (FileSystemError, VolumeError) as error:
            self.failure = str(error)
            await self._exo.exit(1)
            return
        self._operations = operations
        await self._exo.wake(SELF)
        await self._wait(lambda: self._finished)
        await self._exo.exit(0)

    async def _wait(self, ended: Callable[[], bool]) -> None:
        while not ended():
            seen = int.from_bytes(await self._exo.read(_WOKEN, 8), "little")
            if not ended():
                await self._exo.block(Event.WOKEN, seen)

    # Up-calls.

    async def please_release_page(self, context: int, count: int, frame: int, deadline: int) -> None:
        """Frames are wanted: those of the cache that it can do without."""
        if self._operations is not None:
            with suppress(FileSystemError, VolumeError):
                await self._operations.files.release(count)

    async def call(self, context: int, caller: int, a: int, b: int, c: int, d: int, awaited: int) -> None:
        """One call; the reply's first word is the result."""
        finishes = a == Operation.FINISH and caller == self._creator and not self._finishing
        self._calls += 1
        try:
            result = await self._answer(caller, a, (b, c, d))
        except FileSystemError as error:
            result = -int(error.errno)
        except VolumeError:
            result = -int(Errno.EIO)
        finally:
            self._calls -= 1
        await self._exo.reply(result & _WORD)
        # Not before: the server ends as soon as its own context looks.
        self._finished |= finishes and self._finishing
        if self._finishing:
            await self._exo.wake(SELF)

    async def _answer(self, caller: int, operation: int, words: tuple[int, int, int]) -> int:
        if operation == Operation.READY:
            await self._wait(lambda: self._operations is not None)
            return 0
        if self._operations is None or self._finishing:
            raise FileSystemError(Errno.EIO)
        if operation == Operation.FINISH:
            return await self._finish(caller, self._operations.files)
        self._served += 1
        if self._served % CALLS_BETWEEN_BURIALS == 0:
            await self._clients.bury()
        if operation == Operation.ATTACH:
            await self._clients.attach(caller, words[0], words[1])
            return 0
        if operation == Operation.INHERIT:
            await self._clients.inherit(caller, words[0])
            return 0
        return await self._operations.answer(self._clients.of(caller), operation, words)

    async def _finish(self, caller: int, files: FileSystem) -> int:
        if caller != self._creator:
            raise FileSystemError(Errno.EPERM)
        self._finishing = True
        await self._wait(lambda: self._calls == 1)
        await self._clients.bury(everybody=True)
        await files.unmount()
        return 0


async def start_server(exo: Exo, environment: int, server: FileServer) -> None:
    """Start a server in an environment made for it, and wait until its file system is mounted.

    Raises FileSystemError (EIO) with the reason if it cannot be.
    """
    await exo.set_library(environment, server)
    await exo.start_coroutine(environment, server.run())
    try:
        await call_server(exo, environment, Operation.READY)
    except FileSystemError as error:
        error.args = (server.failure or "its server ended",)
        raise


async def finish_server(exo: Exo, environment: int) -> None:
    """Have a server unmount and end.  Raises FileSystemError if it could not, or is no more."""
    await call_server(exo, environment, Operation.FINISH)
    await exo.block(Event.EXIT, environment)
