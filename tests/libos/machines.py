"""A machine in which programs run over the native library OS, for tests: small, and all of it visible."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from exokernel.abi.downcalls import Exo
from exokernel.abi.flags import FOREVER, Event
from exokernel.abi.pages import OwnPage
from exokernel.build import guests
from exokernel.kernel import calls
from exokernel.kernel.death import Death
from exokernel.kernel.environment import Accounts
from exokernel.kernel.kernel import Kernel, Outcome, Settings
from exokernel.machine.cpu import FastCpu
from exokernel.machine.disk import Attachment, Disk
from exokernel.machine.memory import PhysicalMemory
from exokernel.policy.memory import LargestHolder, MemoryPolicy
from exokernel.policy.round_robin import RoundRobin
from libos.files.server import FileServer, finish_server, start_server
from libos.filesystems.interface import FileSystem
from libos.interface import SONAME
from libos.loader import Loader
from libos.plan import Program

assert calls.complete()
LIMIT = 20_000_000_000
Beside = Callable[[Exo, list[int]], Awaitable[None]]


@dataclass
class Ended:
    """What a program left behind."""

    status: int
    output: str
    evictions: int = 0
    swap_in: int = 0
    swap_out: int = 0
    accounts: Accounts = field(default_factory=Accounts)


@dataclass
class Machine:
    """Memory and disk sizes in frames and sectors.  `run` starts programs together and gives what became of each."""

    frames: int = 1024
    sectors: int = 200_000
    policy: MemoryPolicy = field(default_factory=LargestHolder)
    settings: Settings = field(default_factory=Settings)
    kernel: Any = None
    deaths: Sequence[Death] = ()
    children: dict[int, str] = field(default_factory=dict)
    mount: Callable[[Exo], Awaitable[FileSystem]] | None = None
    """Makes the file system that an environment serves to the programs, if one does."""
    serving: int = 0
    """The number of that environment."""

    def run(self, programs: Sequence[Program], beside: Beside | None = None) -> list[Ended]:
        """Programs name their images, libraries and files by host paths, which are attached here; `beside` is what the
        first environment does when they have been started."""
        memory, disk = PhysicalMemory(self.frames << 12), Disk(self.sectors)
        known: dict[str, Attachment] = {}

        def attach(path: Any) -> Attachment:
            if str(path) not in known:
                known[str(path)] = disk.attach(Path(path), Path(path).name)
            return known[str(path)]

        ready = [
            replace(
                p,
                image=attach(p.image),
                libraries={name: attach(path) for name, path in p.libraries.items()},
                files=tuple(attach(path) for path in p.files),
            )
            for p in programs
        ]
        kernel = self.kernel = Kernel(
            memory, FastCpu, disk, self.policy, RoundRobin(self.settings.quantum), settings=self.settings
        )
        numbers: list[int] = []
        statuses: list[int] = []
        own: dict[int, Any] = {}
        end = kernel.end

        def ending(environment: Any, status: int) -> None:
            own[environment.number] = OwnPage.parse(bytes(memory.view[environment.own : environment.own + 4096]))
            end(environment, status)

        kernel.end = ending  # type: ignore[method-assign]

        async def init() -> None:
            exo = Exo()
            loader = Loader(exo)
            if self.mount is not None:
                self.serving = await exo.create_environment()
                await start_server(exo, self.serving, FileServer(first.number, self.mount))
            for program in ready:
                numbers.append(await loader.load(replace(program, file_server=self.serving)))
            if beside is not None:
                await beside(exo, numbers)
            for number in numbers:
                statuses.append(await exo.block(Event.EXIT, number, FOREVER))
            if self.serving:
                await finish_server(exo, self.serving)

        first = kernel.boot_coroutine(init)
        for attachment in disk.attachments:
            kernel.disk.attach(first, attachment.sector, max(attachment.sectors, 1))
        outcome = kernel.run(LIMIT)
        self.deaths = kernel.deaths
        if kernel.python_errors:
            raise kernel.python_errors[0]
        assert outcome is Outcome.ALL_ENDED, (outcome, kernel.deaths, kernel.environments)
        self.children = {
            number: kernel.console.written.get(number, bytearray()).decode()
            for number in kernel.ended
            if number not in numbers and number != first.number
        }
        return [
            Ended(
                status,
                kernel.console.written.get(number, bytearray()).decode(),
                own[number].evictions,
                own[number].swap_in,
                own[number].swap_out,
                kernel.ended[number].accounts,
            )
            for number, status in zip(numbers, statuses, strict=True)
        ]


def native(application: str | Path, *arguments: object, pager: str | Path = "fifo", **options: Any) -> Program:
    """A program over the native base with a pager, to be run by a Machine."""
    source = Path(application) if isinstance(application, Path) else guests.applications()[application].path
    part = guests.native_parts()[pager].path if isinstance(pager, str) else pager
    libraries: Any = {SONAME: guests.build_native_base(), guests.PAGER_SONAME: guests.build_pager(part)}
    image: Any = guests.build_application(source)
    return Program(source.stem, image, libraries, tuple(map(str, arguments)), **options)
