"""Clients of the file server that speak its protocol themselves, and need not keep to it; for tests."""

from collections.abc import Awaitable, Callable
from typing import Any

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import Rights, Sharing
from exokernel.abi.layout import PAGE_SIZE
from exokernel.kernel.kernel import Kernel, Settings
from exokernel.machine.cpu import FastCpu
from exokernel.machine.disk import Disk
from exokernel.machine.memory import PhysicalMemory
from exokernel.policy.memory import LargestHolder
from exokernel.policy.round_robin import RoundRobin
from libos.files.protocol import DATA, DATA_SIZE, PLACE_SHIFT, WINDOW_PAGES, Operation
from libos.files.server import FileServer, finish_server, start_server
from libos.filesystems.interface import FileSystem
from libos.filesystems.memory import MemoryFileSystem
from tests.libos.machines import LIMIT

WINDOW = 0x100_0000
READ_WRITE = int(Rights.READ | Rights.WRITE)
SIGN = 1 << 63


class Slow(MemoryFileSystem):
    """A file system in memory whose contents come and go after a while, as from a disk."""

    def __init__(self) -> None:
        super().__init__()
        self.cycles = 0
        self.under_way = self.most_under_way = 0

    async def _wait(self) -> None:
        from exokernel.abi.flags import Event

        if self.cycles:
            self.under_way += 1
            self.most_under_way = max(self.most_under_way, self.under_way)
            exo = Exo()
            await exo.block(Event.TIME, 0, await exo.time() + self.cycles)
            self.under_way -= 1

    async def read(self, inode: int, offset: int, size: int) -> bytes:
        await self._wait()
        return await super().read(inode, offset, size)

    async def write(self, inode: int, offset: int, contents: bytes) -> int:
        await self._wait()
        return await super().write(inode, offset, contents)


class Raw:
    """The environment of `exo` as a client of `server`."""

    def __init__(self, exo: Exo, server: int) -> None:
        self.exo = exo
        self.server = server
        self.frames: list[int] = []

    async def attach(self, pages: int = WINDOW_PAGES) -> None:
        """Make a window and lend it."""
        for page in range(pages):
            frame = await self.exo.alloc_page()
            await self.exo.create_mapping(WINDOW + page * PAGE_SIZE, frame, READ_WRITE)
            await self.exo.share_page(frame, self.server, Sharing.LOAN, READ_WRITE)
            self.frames.append(frame)
            assert await self.call(Operation.ATTACH, page, frame) == 0

    async def call(self, operation: int, *words: int) -> int:
        """The result of a call, negative for an error; comes again while the server is busy."""
        while True:
            try:
                word = (await self.exo.call(self.server, a=operation, **dict(zip("bcd", words, strict=False))))[0]
                return word - (1 << 64) if word & SIGN else word
            except Refused as refused:
                if refused.error is not Error.BUSY:
                    raise
                await self.exo.yield_(self.server)

    async def path(self, operation: int, *paths: bytes, words: tuple[int, ...] = ()) -> int:
        """A call with paths."""
        await self.exo.write(WINDOW + DATA, b"".join(paths))
        return await self.call(operation, *map(len, paths), *words)

    async def open(self, path: bytes, flags: int = 0, mode: int = 0o644) -> int:
        return await self.path(Operation.OPEN, path, words=(flags, mode))

    async def read(self, handle: int, size: int = DATA_SIZE) -> bytes | int:
        done = await self.call(Operation.READ, handle, size | DATA << PLACE_SHIFT)
        return done if done < 0 else await self.exo.read(WINDOW + DATA, done)

    async def write(self, handle: int, contents: bytes) -> int:
        await self.exo.write(WINDOW + DATA, contents)
        return await self.call(Operation.WRITE, handle, len(contents) | DATA << PLACE_SHIFT)


Client = Callable[[Raw], Awaitable[Any]]


class World:
    """A machine with a file server over `files`.  `main` runs in the first environment, and may `spawn` clients."""

    def __init__(self, files: FileSystem | None = None, frames: int = 1024, cpus: int = 1) -> None:
        self.files = files or Slow()
        settings = Settings(cpus=cpus)
        self.kernel = Kernel(
            PhysicalMemory(frames << 12), FastCpu, Disk(64), LargestHolder(), RoundRobin(settings.quantum, cpus=cpus),
            settings=settings,
        )  # fmt: skip
        self.server = 0
        self.service: FileServer | None = None
        self.results: dict[int, Any] = {}

    async def spawn(self, exo: Exo, client: Client) -> int:
        """Start a client in an environment of its own; gives its number.  What it gives stands in `results`."""
        environment = await exo.create_environment()

        async def run() -> None:
            self.results[environment] = await client(Raw(Exo(), self.server))

        await exo.start_coroutine(environment, run())
        return environment

    def run(self, main: Callable[[Exo, Raw], Awaitable[Any]]) -> Any:
        """Run `main` with a client's means, then have the server finish; gives what `main` gave."""
        results: list[Any] = []

        async def mount(exo: Exo) -> FileSystem:
            return self.files

        async def first() -> None:
            exo = Exo()
            self.service = FileServer(environment.number, mount)
            self.server = await exo.create_environment()
            await start_server(exo, self.server, self.service)
            results.append(await main(exo, Raw(exo, self.server)))
            await finish_server(exo, self.server)

        environment = self.kernel.boot_coroutine(first)
        self.kernel.run(LIMIT)
        if self.kernel.python_errors:
            raise self.kernel.python_errors[0]
        assert results, self.kernel.deaths
        return results[0]
