"""A tiny machine that knows nothing but time: it drives a CPU policy with environments that compute, yield and sleep.

It keeps the policy's rules: `ran` before `runnable` or `not_runnable`, and `preempts` asked after every `runnable`.  A
program is a generator of actions; each `yield` in it gives the cycle at which the action was over.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from heapq import heappop, heappush

from exokernel.policy.processor import Choice, CpuPolicy, SliceEnd


@dataclass(frozen=True)
class Compute:
    """Use so many cycles."""

    cycles: int


@dataclass(frozen=True)
class LetGo:
    """Yield, and go on."""


@dataclass(frozen=True)
class SleepUntil:
    """Block until this cycle."""

    cycle: int


Action = Compute | LetGo | SleepUntil
Program = Generator[Action, int, None]
FOREVER = 1 << 60


def hog() -> Program:
    """Computes for ever."""
    while True:
        yield Compute(FOREVER)


def yielder(cycles: int) -> Program:
    """Computes so much, yields, and again."""
    while True:
        yield Compute(cycles)
        yield LetGo()


def sleeper(cycles: int, pause: int) -> Program:
    """Computes so much, sleeps so long, and again."""
    while True:
        yield SleepUntil((yield Compute(cycles)) + pause)


def scripted(steps: list[tuple[int, int | None]]) -> Program:
    """Round and round: so many cycles, then a yield (None) or a sleep of so long."""
    while True:
        for cycles, pause in steps:
            now = yield Compute(cycles)
            yield LetGo() if pause is None else SleepUntil(now + pause)


@dataclass
class Job:
    """One release of a periodic task: when, and when it was done."""

    released: int
    done: int


def periodic(cycles: int, period: int, offset: int, jobs: list[Job]) -> Program:
    """Every `period` from `offset` on a job of so many cycles; what became of each is written down."""
    release = offset
    while True:
        yield SleepUntil(release)
        jobs.append(Job(release, FOREVER))
        jobs[-1].done = yield Compute(cycles)
        release += period


@dataclass(frozen=True)
class Ran:
    """One slice that is over."""

    environment: int
    start: int
    cycles: int
    end: SliceEnd
    granted: int
    cpu: int

    @property
    def stop(self) -> int:
        return self.start + self.cycles


@dataclass
class Task:
    """An environment: its program, and what of the present action is left."""

    program: Program
    left: int = 0


@dataclass
class Simulation:
    """`cpus` processors, the policy, and the slices so far."""

    policy: CpuPolicy
    cpus: int = 1
    now: int = 0
    slices: list[Ran] = field(default_factory=list)
    tasks: dict[int, Task] = field(default_factory=dict)
    _timers: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    _count: int = 0

    def __post_init__(self) -> None:
        self._running: list[tuple[Choice, int] | None] = [None] * self.cpus
        self._woken: list[int] = []

    def start(self, environment: int, program: Program, at: int = 0) -> None:
        """A new environment, at cycle `at`."""
        self.at(at, lambda: self._begin(environment, program))

    def at(self, cycle: int, action: Callable[[], None]) -> None:
        """Do something at this cycle."""
        self._count += 1
        heappush(self._timers, (cycle, self._count, action))

    def urge(self, environment: int) -> None:
        """It is asked for something; if it is running it has heard of it already."""
        if environment in self.tasks and not self._is_running(environment) and self.tasks[environment].left:
            self._wake(environment, urgent=True)

    def run(self, until: int) -> None:
        """Go on until this cycle."""
        while True:
            self._choose()
            slice_ends = [self._end_of(cpu) for cpu in range(self.cpus)]
            self.now = min([*slice_ends, until, *(cycle for cycle, _, _ in self._timers[:1])])
            if self.now >= until:
                return
            for cpu, end in enumerate(slice_ends):
                if end == self.now:
                    self._stop(cpu)
            while self._timers and self._timers[0][0] <= self.now:
                heappop(self._timers)[2]()

    def used(self, environment: int, start: int = 0, stop: int = FOREVER) -> int:
        """Cycles it had from `start` to `stop`, of slices that are over."""
        return sum(max(0, min(s.stop, stop) - max(s.start, start)) for s in self.slices if s.environment == environment)

    def order(self) -> list[int]:
        """Who ran, one slice after the other."""
        return [s.environment for s in self.slices]

    def _begin(self, environment: int, program: Program) -> None:
        self.tasks[environment] = Task(program)
        self._advance(environment, None)

    def _advance(self, environment: int, end: SliceEnd | None) -> SliceEnd:
        """The program's next action; how the slice that has just finished one ends."""
        task = self.tasks[environment]
        action = next(task.program) if end is None else task.program.send(self.now)
        match action:
            case Compute(cycles):
                task.left = cycles
                if end is None:
                    self._wake(environment)
                return end or SliceEnd.EXPIRED
            case LetGo():
                return self._advance(environment, SliceEnd.YIELDED)
            case SleepUntil(cycle) if cycle <= self.now:
                return self._advance(environment, end)
            case SleepUntil(cycle):
                self.at(cycle, lambda: self._resume(environment))
                return SliceEnd.BLOCKED

    def _resume(self, environment: int) -> None:
        action = self.tasks[environment].program.send(self.now)
        assert isinstance(action, Compute), "a program computes when it has slept"
        self.tasks[environment].left = action.cycles
        self._wake(environment)

    def _wake(self, environment: int, urgent: bool = False) -> None:
        self.policy.runnable(environment, urgent, self.now)
        self._woken.append(environment)

    def _choose(self) -> None:
        """Free processors choose; then whoever has become runnable may take one that is not free, and so on."""
        for cpu in range(self.cpus):
            self._dispatch(cpu)
        while self._woken:
            environment = self._woken.pop(0)
            for cpu, running in enumerate(self._running):
                if (
                    running is not None
                    and not self._is_running(environment)
                    and self.policy.preempts(environment, running[0].environment)
                ):
                    self._stop(cpu)
                    self._dispatch(cpu)

    def _dispatch(self, cpu: int) -> None:
        if self._running[cpu] is None and (choice := self.policy.next(self.now)) is not None:
            assert choice.cycles > 0
            assert not self._is_running(choice.environment)
            self._running[cpu] = (choice, self.now)

    def _end_of(self, cpu: int) -> int:
        running = self._running[cpu]
        if running is None:
            return FOREVER
        choice, start = running
        return start + min(choice.cycles, self.tasks[choice.environment].left)

    def _stop(self, cpu: int) -> None:
        """The slice on this processor is over."""
        running = self._running[cpu]
        assert running is not None
        self._running[cpu] = None
        choice, start = running
        environment, cycles = choice.environment, self.now - start
        task = self.tasks[environment]
        task.left -= cycles
        end = SliceEnd.EXPIRED if task.left else self._advance(environment, SliceEnd.EXPIRED)
        self.slices.append(Ran(environment, start, cycles, end, choice.cycles, cpu))
        self.policy.ran(environment, cycles, end, self.now)
        if end is SliceEnd.BLOCKED:
            self.policy.not_runnable(environment)
        else:
            self._wake(environment)

    def _is_running(self, environment: int) -> bool:
        return any(running is not None and running[0].environment == environment for running in self._running)
