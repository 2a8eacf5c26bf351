"""One run of a scenario: puts the machine together, boots `init`, which loads the programs, and watches until the end."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from exokernel.abi.downcalls import Exo
from exokernel.abi.flags import Event
from exokernel.abi.layout import PAGE_SIZE, SECTOR_SIZE
from exokernel.build import guests
from exokernel.kernel import calls
from exokernel.kernel.death import Cause, Death
from exokernel.kernel.environment import Context, Environment
from exokernel.kernel.kernel import Kernel, Outcome, Settings
from exokernel.libraries import Library, PythonLibrary, find_application, find_library
from exokernel.machine.console import Console
from exokernel.machine.cpu import FastCpu
from exokernel.machine.disk import Attachment, Disk
from exokernel.machine.memory import PhysicalMemory
from exokernel.observe import explain
from exokernel.observe.timeline import Timeline
from exokernel.policy.cpu import RoundRobin
from exokernel.policy.memory import MEMORY_POLICIES
from exokernel.results import ProgramResult, Results
from exokernel.scenario import ProgramSpec, Scenario, ScenarioError, digest_of
from libos.image import LoadError
from libos.loader import Loader
from libos.plan import Program
from libos.python_programs import Main, load_python_program, program_from_file

CHUNK = 20_000_000
"""Cycles between looks at the progress line."""
APPLICATION_END = 0x1_0000_0000
"""References are recorded below this address: the program's own pages, not its library's."""

assert calls.complete()


@dataclass
class _Loaded:
    spec: ProgramSpec
    library: Library
    application: Path
    main: Main | None = None
    """Of a program in Python: what it does."""
    environment: int = 0


class Session:
    """A machine with a scenario on it.  `console` gets (program name, bytes) as they come; `progress` is called now and
    then with a sentence."""

    def __init__(
        self,
        scenario: Scenario,
        console: Callable[[str, bytes], None] | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> None:
        scenario.check()
        self.scenario = scenario
        self._sink, self._progress = console, progress
        self.explanation = ""
        self.deaths: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._held: dict[int, list[tuple[int, int]]] = {}
        self._load_error: Exception | None = None
        self._programs = [self._find(program) for program in scenario.programs]
        self.images: dict[str, str] = {}
        self.memory = PhysicalMemory(scenario.memory)
        self.disk = Disk(0, scenario.disk) if scenario.disk else Disk(scenario.disk_size // SECTOR_SIZE)
        self._attached: dict[Path, Attachment] = {}
        settings = dict(scenario.settings)
        if scenario.quantum:
            settings["quantum"] = scenario.quantum
        policy = MEMORY_POLICIES[scenario.global_policy]()
        self._seize = policy.seize
        self.kernel = Kernel(
            self.memory, self._make_cpu, self.disk, policy, RoundRobin(), Console(self._write), Settings(**settings)
        )
        self._timeline: Timeline | None = None

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close every file and let go of the machine."""
        if self._timeline is not None:
            self._timeline.close()
            self._timeline = None
        self.kernel.close()
        self.disk.close()
        self.memory.close()

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
        self._cpu = FastCpu(memory, supervisor, record=(PAGE_SIZE, APPLICATION_END) if recording else None)
        return self._cpu

    def _write(self, environment: int, text: bytes) -> None:
        if self._sink is not None:
            self._sink(self._names.get(environment, f"environment {environment}"), text)

    def _attach(self, path: Path, name: str) -> Attachment:
        """A host file as an extent of sectors, one extent however often it is named."""
        key = path.resolve()
        known = self._attached.get(key)
        if known is None:
            attachment = self.disk.attach(path, name)
            known = self._attached[key] = attachment
            self.images[name] = digest_of(path)
        return Attachment(name, known.sector, known.size)

    def _program(self, loaded: _Loaded) -> Program:
        spec, library = loaded.spec, loaded.library
        files = tuple(self._attach(Path(word), word) for word in spec.arguments if Path(word).is_file())
        python = None
        if isinstance(library, PythonLibrary):
            python = library.make(frames=spec.frames, seed=self.scenario.seed)
        return Program(
            name=spec.title,
            image=self._attach(loaded.application, loaded.application.name),
            libraries={
                soname: self._attach(path, path.name) for soname, path in library.images.items()
            },
            arguments=spec.arguments,
            files=files,
            frames=spec.frames,
            seed=self.scenario.seed,
            register_backing=self._seize,
            python_library=python,
            heap_pages=spec.heap // PAGE_SIZE,
            quota=spec.quota or None,
        )

    async def _init(self, programs: list[Program]) -> None:
        """The first environment: loads every program, starts them together, waits for each."""
        exo = Exo()
        try:
            init = Loader(exo)
            for loaded, program in zip(self._programs, programs, strict=True):
                if loaded.main is not None:
                    loaded.environment = await load_python_program(exo, loaded.main, program)
                else:
                    loaded.environment = await init.load(program)
                spec = loaded.spec
                if spec.guarantee:
                    await exo.set_quota(loaded.environment, spec.quota or self.memory.frames, spec.guarantee)
                self._names[loaded.environment] = spec.title
                if self._timeline is not None:
                    self._timeline.name(loaded.environment, spec.title)
        except LoadError as error:
            self._load_error = error
            await exo.exit(1)
        for loaded in self._programs:
            await exo.block(Event.EXIT, loaded.environment)

    def _watch(self) -> None:
        """Put the observers in place."""
        kernel, scenario = self.kernel, self.scenario
        kill, push, start_handler = kernel.kill, kernel.upcalls.push, kernel.upcalls.start_handler

        def watched_kill(
            environment: Environment, context: Context | None, cause: Cause, detail: str = "", where: int | None = None,
            access: int = 0,
        ) -> None:
            before = len(kernel.deaths)
            text = ""
            if scenario.stop_on == "death":
                text = explain.moment(kernel, environment, context, cause.value, where, access)
            kill(environment, context, cause, detail, where, access)
            for death in kernel.deaths[before:]:
                self._note(death)
            if text and not self.explanation:
                self.explanation, kernel.stop_requested = text, True

        kernel.kill = watched_kill  # type: ignore[method-assign]
        if scenario.stop_on == "upcall":

            def stop(environment: Environment, context: Context | None, name: str, arguments: tuple[int, ...]) -> None:
                if not self.explanation:
                    fault = name == "page_fault"
                    headline = f"the kernel is about to make the up-call {name}{tuple(hex(a) for a in arguments)}"
                    self.explanation = explain.moment(
                        kernel, environment, context, headline.replace("'", ""), arguments[0] if fault else None,
                        arguments[1] if fault else 0,
                    )
                    kernel.stop_requested = True

            def watched_push(environment: Environment, context: Context, upcall: Any, arguments: tuple[int, ...]) -> None:
                stop(environment, context, upcall.name.lower(), arguments)
                push(environment, context, upcall, arguments)

            def watched_start(
                environment: Environment, context: Context | None, upcall: Any, arguments: tuple[int, ...]
            ) -> None:
                stop(environment, context, upcall.name.lower(), arguments)
                start_handler(environment, context, upcall, arguments)

            kernel.upcalls.push = watched_push  # type: ignore[method-assign]
            kernel.upcalls.start_handler = watched_start  # type: ignore[method-assign]

    def _note(self, death: Death) -> None:
        self.deaths[death.environment] = explain.death(death, self._names.get(death.environment, ""))

    def run(self) -> Results:
        """Run to the end, to a stop, or to Ctrl-C.  Raises LoadError, DiskError."""
        programs = [self._program(loaded) for loaded in self._programs]
        if self.scenario.trace is not None:
            header = {"images": self.images, "seed": self.scenario.seed, "quantum": self.kernel.settings.quantum}
            try:
                self._timeline = Timeline(self.scenario.trace, header)
            except OSError as error:
                raise ScenarioError(f"The trace {self.scenario.trace} cannot be written: {error.strerror}.") from None
            self._timeline.attach(self.kernel)
        self._watch()
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

        previous = signal.signal(signal.SIGINT, on_interrupt) if _in_main_thread() else None
        references = _ReferenceFile(self.scenario.record_references, self.images)
        step = min(CHUNK, self.scenario.sample_held or CHUNK)
        try:
            outcome = Outcome.TIME
            while outcome is Outcome.TIME and not interrupted:
                outcome = self.kernel.run(self.kernel.clock.now + step)
                references.add(self._cpu)
                self._sample()
                if self._progress is not None:
                    self._progress(self._status())
        finally:
            references.close()
            if previous is not None:
                signal.signal(signal.SIGINT, previous)
        if self._load_error is not None:
            raise self._load_error
        if first.number in self.deaths:
            raise ScenarioError(f"The programs could not be started. {self.deaths[first.number]}")
        why = "interrupted" if interrupted else "stopped" if self.explanation else outcome.value
        if interrupted:
            self.explanation = self._status()
        return self._results(why)

    def _status(self) -> str:
        faults = sum(e.accounts.faults for e in [*self.kernel.environments.values(), *self.kernel.ended.values()])
        running = ", ".join(self._names.get(n, str(n)) for n in self.kernel.environments if n in self._names and n != min(self._names))
        return f"{self.kernel.clock.now / 1e6:,.0f} million cycles, {faults:,} page faults, running: {running or 'nothing'}"

    def _sample(self) -> None:
        if self.scenario.sample_held:
            for loaded in self._programs:
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
            title = root.spec.title if root is not None else str(number)
            rows.append(
                ProgramResult(
                    name=title if number in named else f"{title} (child)",
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
                    output=bytes(kernel.console.written.get(number, b"")),
                    death=self.deaths.get(number, ""),
                )
            )
        return Results(
            outcome, kernel.clock.now, self.scenario.seed, self.scenario.global_policy, self.memory.frames, tuple(rows),
            self.images, self._held,
        )

    @staticmethod
    def _ancestor(environment: Environment, everybody: dict[int, Environment], named: dict[int, _Loaded]) -> int:
        number = environment.parent
        while number in everybody and number not in named:
            number = everybody[number].parent
        return number


class _ReferenceFile:
    """The file of `--record-references`: page changes as `exo replay` reads them."""

    def __init__(self, path: Path | None, images: dict[str, str]) -> None:
        self._file = None
        if path is not None:
            try:
                self._file = open(path, "w", encoding="ascii")  # noqa: SIM115 - open until close()
            except OSError as error:
                raise ScenarioError(f"The references cannot be written to {path}: {error.strerror}.") from None
            self._file.write("# exo references 1\n")
            self._file.writelines(f"# image {name} {digest}\n" for name, digest in sorted(images.items()))

    def add(self, cpu: FastCpu) -> None:
        """Write what the CPU has recorded since the last time."""
        if self._file is not None:
            words = memoryview(cpu.drain_references()).cast("Q")
            self._file.writelines(f"{word >> 1:x} {'w' if word & 1 else 'r'}\n" for word in words)

    def close(self) -> None:
        """End the file."""
        if self._file is not None:
            self._file.close()


def _in_main_thread() -> bool:
    import threading

    return threading.current_thread() is threading.main_thread()

