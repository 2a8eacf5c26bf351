"""One run of a scenario: the machine is put together, `init` loads the programs, and all is watched to the end."""

import gc
import os
import signal
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from types import FrameType, TracebackType
from typing import Any, TypeVar

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from exokernel.abi.flags import Event
from exokernel.abi.layout import OWN_PAGE, PAGE_SIZE, SECTOR_SIZE
from exokernel.abi.pages import OwnPage, offset_of
from exokernel.build import guests
from exokernel.kernel import calls
from exokernel.kernel.environment import Environment
from exokernel.kernel.kernel import Kernel, Outcome, Settings
from exokernel.libraries import Library, PythonLibrary, find_application, find_library
from exokernel.machine.clock import NEVER
from exokernel.machine.console import Console
from exokernel.machine.cpu import FastCpu
from exokernel.machine.disk import Attachment, Disk
from exokernel.machine.memory import PhysicalMemory
from exokernel.machine.models import DRIVES
from exokernel.observe.references import PROGRAM_END, ReferenceFile, lent_pages
from exokernel.observe.timeline import Timeline
from exokernel.observe.watch import Watch
from exokernel.policy.disk import DISK_POLICIES
from exokernel.policy.memory import MEMORY_POLICIES
from exokernel.policy.processor import CPU_POLICIES
from exokernel.results import ProgramResult, Results
from exokernel.scenario import ProgramSpec, Scenario, ScenarioError, digest_of
from exokernel.serving import TITLE, FileService
from libos.image import LARGEST, LoadError, parse
from libos.loader import Loader
from libos.plan import Program
from libos.python_programs import Main, bring_in, program_from_file

FRAMES_TO_BEGIN = 48
"""More than a program needs before it has touched a page: page tables and its library's own pages."""
ALLOCATIONS_BETWEEN_COLLECTIONS = 200_000
"""A kernel holds very many objects and makes hardly any garbage in cycles, which Python would look for all the time."""
CHUNK = 20_000_000
"""Cycles between looks at the progress line."""

_CHILDREN_ENDED = OWN_PAGE + offset_of(OwnPage, "events") + 8 * Event.CHILD

Part = TypeVar("Part")

assert calls.complete()


@dataclass
class _Loaded:
    spec: ProgramSpec
    library: Library
    application: Path
    main: Main | None = None
    """Of a program in Python: what it does."""
    coroutine: Coroutine[Any, Any, None] | None = None
    """Of a program in Python that has been brought in: what is to be started."""
    environment: int = 0
    began: int = 0
    """When its loading began, in cycles."""


class Session:
    """A machine with a scenario on it.  `console` gets (program name, bytes) as they come; `progress` is called now and
    then with a sentence.  Ctrl-C is a KeyboardInterrupt as anywhere; with `stop_at_interrupt` the first one ends the run
    with what it came to."""

    def __init__(
        self,
        scenario: Scenario,
        console: Callable[[str, bytes], None] | None = None,
        progress: Callable[[str], None] | None = None,
        stop_at_interrupt: bool = False,
    ) -> None:
        scenario.check()
        self.scenario = scenario
        self._sink, self._progress, self._stop_at_interrupt = console, progress, stop_at_interrupt
        self._names: dict[int, str] = {}
        self.explanation = ""
        self._held: dict[int, list[tuple[int, int]]] = {}
        self._load_error: Exception | None = None
        self._programs = [self._find(program) for program in scenario.programs]
        self.images: dict[str, str] = {}
        self.memory = _on_this_computer("--memory", scenario.memory, PhysicalMemory)
        self.disk = self._open_disk()
        self._files = FileService(scenario, self.disk) if scenario.fs else None
        self._attached: dict[Path, Attachment] = {}
        settings: dict[str, Any] = {**scenario.settings, "cpus": scenario.cpus}
        if scenario.quantum:
            settings["quantum"] = scenario.quantum
        policy = MEMORY_POLICIES[scenario.global_policy]()
        self._seize = policy.seize
        numbers = Settings(**settings)
        cpu_policy = CPU_POLICIES[scenario.cpu_policy](quantum=numbers.quantum, seed=scenario.seed, cpus=scenario.cpus)
        disk_policy = DISK_POLICIES[scenario.disk_policy](
            self.disk.sectors, numbers.disk_read_expiry, numbers.disk_write_expiry
        )
        self.kernel = Kernel(
            self.memory, self._make_cpu, self.disk, policy, cpu_policy, Console(self._write), numbers, disk_policy
        )
        self._watch = Watch(self.kernel, scenario.stop_on, self._names)
        self._timeline: Timeline | None = None

    @property
    def deaths(self) -> dict[int, str]:
        """How environments died, in words."""
        return self._watch.deaths

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close every file and let go of the machine."""
        timeline, self._timeline = self._timeline, None
        try:
            if timeline is not None:
                timeline.close()
        finally:
            self.kernel.close()
            self.disk.close()
            self.memory.close()

    def _open_disk(self) -> Disk:
        image, drive = self.scenario.disk, DRIVES[self.scenario.disk_model]
        return _on_this_computer(
            "--disk-size", self.scenario.disk_size, lambda size: Disk(size // SECTOR_SIZE, image, drive)
        )

    @staticmethod
    def _find(spec: ProgramSpec) -> _Loaded:
        source = find_application(spec.app)
        library = find_library(spec.libos)
        image = guests.build_application(source) if source.suffix == ".c" else source
        if source.suffix != ".py":
            return _Loaded(spec, library, image)
        if not isinstance(library, PythonLibrary):
            library = find_library("python+clock")
        return _Loaded(spec, library, image, program_from_file(source).main)

    def _make_cpu(self, memory: PhysicalMemory, supervisor: int) -> FastCpu:
        recording = self.scenario.record_references is not None
        several = self.scenario.cpus > 1
        self._cpu = FastCpu(memory, supervisor, record=(PAGE_SIZE, PROGRAM_END) if recording else None, split=several)
        return self._cpu

    def _write(self, environment: int, text: bytes) -> None:
        if self._sink is not None:
            self._sink(self._title(environment), text)

    def _title(self, environment: int) -> str:
        """The title of the program an environment is, or is a descendant of."""
        everybody = {**self.kernel.ended, **self.kernel.environments}
        while environment not in self._names and environment in everybody:
            environment = everybody[environment].parent
        return self._names.get(environment, "")

    def _attach(self, path: Path, name: str) -> Attachment:
        """A host file as an extent of sectors, one extent however often it is named."""
        key = path.resolve()
        known = self._attached.get(key)
        if known is None:
            attachment = self.disk.attach(path, name)
            known = self._attached[key] = attachment
        return Attachment(name, known.sector, known.size)

    def _attach_image(self, path: Path) -> Attachment:
        attachment = self._attach(path, path.name)
        if attachment.size > LARGEST:
            raise LoadError(f"{path} has {attachment.size >> 20} MiB, which is too much for a program; name another.")
        self.images[path.name] = digest_of(path)
        return attachment

    def _program(self, loaded: _Loaded) -> Program:
        spec, library = loaded.spec, loaded.library
        files = tuple(self._attach(Path(word), word) for word in spec.arguments if os.path.isfile(word))
        python = None
        if isinstance(library, PythonLibrary):
            python = library.make(frames=spec.frames, seed=self.scenario.seed)
        return Program(
            name=spec.title,
            image=self._attach_image(loaded.application),
            libraries={soname: self._attach_image(path) for soname, path in library.images.items()},
            arguments=spec.arguments,
            files=files,
            frames=spec.frames,
            seed=self.scenario.seed,
            register_backing=self._seize,
            python_library=python,
            heap_pages=-(-spec.heap // PAGE_SIZE),
            quota=spec.quota or None,
        )

    async def _init(self, programs: list[Program]) -> None:
        """The first environment: loads and starts every program, and waits for each."""
        exo = Exo()
        try:
            if self._files is not None:
                programs = await self._serve_files(exo, self._files, programs)
            waiting = list(zip(self._programs, programs, strict=True))
            if self.scenario.depth:
                await self._start_in_turn(exo, Loader(exo), waiting)
            else:
                await self._start_together(exo, Loader(exo), waiting)
        except LoadError as error:
            self._load_error = error
            for loaded in self._programs:
                if loaded.coroutine is not None:
                    loaded.coroutine.close()
            await exo.exit(1)
        for loaded in self._programs:
            await exo.block(Event.EXIT, loaded.environment)
        if self._files is not None:
            try:
                await self._files.finish(exo)
            except LoadError as error:
                self._load_error = error

    async def _serve_files(self, exo: Exo, files: FileService, programs: list[Program]) -> list[Program]:
        """Mount the file system; gives the programs that know who serves it.  They name backing for their pages: who waits
        for the reply to a call hears no request for frames, and must lose nothing when they are taken meanwhile."""
        await files.begin(exo, self.kernel.first_environment, exo.create_environment)
        self._names[files.environment] = TITLE
        if self._timeline is not None:
            self._timeline.name(files.environment, TITLE)
        number = files.environment
        return [
            replace(program, file_server=number, file_pages=program.heap_pages, register_backing=True)
            for program in programs
        ]

    async def _start_together(self, exo: Exo, init: Loader, waiting: list[tuple[_Loaded, Program]]) -> None:
        """Start all programs together if memory has room for all, else each when it is loaded, since only programs that
        run give memory back."""
        room = self.memory.frames - self.kernel.frames.first
        together = FRAMES_TO_BEGIN * len(waiting) <= room
        for loaded, program in waiting:
            await self._bring_in(exo, init, loaded, program)
            if not together and loaded.main is None:
                await self._start(exo, init, loaded)
        for loaded, _ in waiting:
            if together or loaded.main is not None:
                await self._start(exo, init, loaded)

    async def _start_in_turn(self, exo: Exo, init: Loader, waiting: list[tuple[_Loaded, Program]]) -> None:
        """Start programs in their order, each as soon as fewer than `depth` of those before it are still running."""
        running: list[_Loaded] = []
        for loaded, program in waiting:
            while len(running) >= self.scenario.depth:
                seen = int.from_bytes(await exo.read(_CHILDREN_ENDED, 8), "little")
                running = [one for one in running if not await _has_ended(exo, one.environment)]
                if len(running) >= self.scenario.depth:
                    await exo.block(Event.CHILD, seen)
            await self._bring_in(exo, init, loaded, program)
            await self._start(exo, init, loaded)
            running.append(loaded)

    async def _bring_in(self, exo: Exo, init: Loader, loaded: _Loaded, program: Program) -> None:
        loaded.began = self.kernel.clock.now
        if loaded.main is not None:
            loaded.environment, loaded.coroutine = await bring_in(exo, loaded.main, program, init.make_environment)
        else:
            loaded.environment = await init.bring_in(program)
        await self._promise(exo, loaded)
        self._names[loaded.environment] = loaded.spec.title
        if self._timeline is not None:
            self._timeline.name(loaded.environment, loaded.spec.title)

    @staticmethod
    async def _start(exo: Exo, init: Loader, loaded: _Loaded) -> None:
        if loaded.coroutine is None:
            await init.start(loaded.environment)
        else:
            coroutine, loaded.coroutine = loaded.coroutine, None
            await exo.start_coroutine(loaded.environment, coroutine)

    async def _promise(self, exo: Exo, loaded: _Loaded) -> None:
        """What the scenario promises a program, and bounds it by."""
        spec = loaded.spec
        await exo.set_limits(loaded.environment, spec.environments, spec.slices)
        await exo.set_tickets(loaded.environment, spec.tickets)
        cycles, period = spec.reserve
        try:
            if cycles:
                await exo.reserve_cpu(loaded.environment, cycles, period)
        except Refused:
            raise LoadError(
                f"{spec.title} cannot be promised {cycles:,} cycles in every {period:,} by the CPU policy "
                f"{self.scenario.cpu_policy}; promise less, or use --cpu-policy deadline."
            ) from None
        if not spec.guarantee:
            return
        try:
            await exo.set_quota(loaded.environment, spec.quota or self.memory.frames, spec.guarantee)
        except Refused:
            raise LoadError(
                f"{spec.title} cannot be promised {spec.guarantee} frames, as so many are not free; "
                "promise fewer or use a larger --memory."
            ) from None

    def run(self) -> Results:
        """Run to the end, to a stop, or to Ctrl-C.  Raises LoadError, DiskError, OutputError."""
        programs = [self._program(loaded) for loaded in self._programs]
        references = self._open_references()
        if self.scenario.trace is not None:
            header = {"images": self.images, "seed": self.scenario.seed, "quantum": self.kernel.settings.quantum}
            header |= {"cpus": self.scenario.cpus, "window": self.kernel.settings.window}
            self._timeline = Timeline(self.scenario.trace, header)
            self._timeline.attach(self.kernel)
        first = self.kernel.boot_coroutine(lambda: self._init(programs))
        self._names[first.number] = "init"
        for attachment in self.disk.attachments:
            self.kernel.disk.attach(first, attachment.sector, max(attachment.sectors, 1))
        interrupted = False

        def on_interrupt(number: int, frame: FrameType | None) -> None:
            nonlocal interrupted
            if interrupted:
                raise KeyboardInterrupt
            interrupted = self.kernel.stop_requested = True

        previous = signal.signal(signal.SIGINT, on_interrupt) if self._stop_at_interrupt else None
        step = min(CHUNK, self.scenario.sample_held or CHUNK)
        thresholds = gc.get_threshold()
        gc.set_threshold(ALLOCATIONS_BETWEEN_COLLECTIONS, *thresholds[1:])
        try:
            outcome, cut = Outcome.TIME, self.scenario.power_cut or NEVER
            while outcome is Outcome.TIME and not interrupted and self.kernel.clock.now < cut:
                outcome = self.kernel.run(min(self.kernel.clock.now + step, cut))
                if references is not None:
                    references.add(self._cpu)
                self._sample()
                if self._progress is not None:
                    self._progress(self._status())
        finally:
            gc.set_threshold(*thresholds)
            if previous is not None:
                signal.signal(signal.SIGINT, previous)
            if references is not None:
                references.close()
        if self._load_error is not None:
            raise self._load_error
        if first.number in self.deaths:
            raise ScenarioError(f"The programs could not be started. {self.deaths[first.number]}")
        self.explanation = self._status() if interrupted else self._watch.explanation
        if outcome is Outcome.TIME and self.kernel.clock.now >= cut:
            self.kernel.disk.power_cut(Random(self.scenario.seed))
            return self._results(f"the power was cut at cycle {cut:,}")
        return self._results("interrupted" if interrupted else "stopped" if self.explanation else outcome.value)

    def _open_references(self) -> ReferenceFile | None:
        path = self.scenario.record_references
        if path is None:
            return None
        only = self._programs[0]
        if only.main is not None:
            raise ScenarioError(f"{only.spec.title} is written in Python; references are recorded of machine code alone.")
        image = parse(only.application.name, only.application.read_bytes())
        return ReferenceFile(path, self.images, lent_pages(image))

    def _status(self) -> str:
        faults = sum(e.accounts.faults for e in [*self.kernel.environments.values(), *self.kernel.ended.values()])
        programs = [loaded for loaded in self._programs if loaded.environment in self.kernel.environments]
        running = ", ".join(loaded.spec.title for loaded in programs) or "nothing"
        return f"{self.kernel.clock.now / 1e6:,.0f} million cycles, {faults:,} page faults, running: {running}"

    def _sample(self) -> None:
        if self.scenario.sample_held:
            for loaded in [one for one in self._programs if one.environment]:
                environment = self.kernel.environments.get(loaded.environment)
                held = len(environment.held) if environment is not None else 0
                self._held.setdefault(loaded.environment, []).append((self.kernel.clock.now, held))

    def _results(self, outcome: str) -> Results:
        kernel = self.kernel
        for environment in kernel.environments.values():
            kernel.exposed.library_counts(environment)
        everybody = {**kernel.ended, **kernel.environments}
        named = {loaded.environment: loaded for loaded in self._programs}
        order = [number for number in named if number in everybody]
        order += sorted(number for number in everybody if number not in named and number != kernel.first_environment)
        rows = []
        for number in order:
            environment = everybody[number]
            root = named.get(number) or named.get(self._ancestor(environment, everybody, named))
            accounts = environment.accounts
            serves = self._files is not None and number == self._files.environment
            title = TITLE if serves else root.spec.title if root is not None else str(number)
            rows.append(
                ProgramResult(
                    name=title if serves or number in named else f"{title} (child)",
                    environment=number,
                    library=root.library.name if root is not None else "",
                    exit_status=environment.exit_status,
                    instructions=accounts.instructions,
                    cycles=accounts.cycles,
                    finished_at=accounts.ended_at,
                    faults=accounts.faults,
                    evictions=accounts.evictions,
                    swap_in=accounts.swap_in,
                    swap_out=accounts.swap_out,
                    taken=accounts.taken,
                    downcalls=accounts.downcalls,
                    upcalls=accounts.upcalls,
                    sectors_read=accounts.sectors_read,
                    sectors_written=accounts.sectors_written,
                    frames_held=accounts.held_peak,
                    overruns=accounts.overruns,
                    output=bytes(kernel.console.written.get(number, b"")),
                    death=self.deaths.get(number, ""),
                    began_at=root.began if root is not None and number in named else 0,
                )
            )
        return Results(
            outcome,
            kernel.clock.now,
            self.scenario.seed,
            self.scenario.global_policy,
            self.scenario.cpu_policy,
            self.scenario.cpus,
            self.memory.frames,
            tuple(rows),
            self.images,
            self._held,
        )

    @staticmethod
    def _ancestor(environment: Environment, everybody: dict[int, Environment], named: dict[int, _Loaded]) -> int:
        number = environment.parent
        while number in everybody and number not in named:
            number = everybody[number].parent
        return number


async def _has_ended(exo: Exo, child: int) -> bool:
    try:
        await exo.block(Event.EXIT, child, 0)
    except Refused:
        return False
    return True


def _on_this_computer(option: str, size: int, make: Callable[[int], Part]) -> Part:
    """A part of the machine that takes `size` bytes of the host's memory.  Raises ScenarioError if that is too much."""
    try:
        return make(size)
    except (OSError, OverflowError) as error:
        raise ScenarioError(f"This computer has no room for {option} {size >> 20}M ({error}); use a smaller one.") from None
