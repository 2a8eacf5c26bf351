"""Runs a coroutine over an extent of a disk: the real kernel is booted, one environment holds the extent, and all the
coroutine does to it is down-calls.

    with DiskSession(Disk(path=Path("disk.img"))) as session:
        names = session.run(main)                  # async def main(volume: Volume) -> anything

Every run is a boot: a new kernel over the same disk, nothing left in memory.  With `power_cut` the power fails at that
cycle: PowerCut is raised, and the next run finds on the disk what a disk keeps then.
"""

import signal
from collections.abc import Awaitable, Callable
from random import Random
from types import FrameType, TracebackType
from typing import Final, Self, TypeVar

from exokernel.abi.downcalls import Exo
from exokernel.kernel import calls
from exokernel.kernel.capabilities import EVERY_RIGHT
from exokernel.kernel.kernel import Kernel, Outcome, Settings
from exokernel.machine.clock import NEVER
from exokernel.machine.cpu import FastCpu
from exokernel.machine.disk import Disk
from exokernel.machine.memory import PhysicalMemory
from exokernel.observe import explain
from exokernel.policy.memory import LargestHolder
from exokernel.policy.round_robin import RoundRobin
from libos.storage.volume import Volume

MEMORY: Final = 64 << 20
WATCHDOG_SECONDS: Final = 86_400.0
"""Coroutines that a user runs read pipes of the host, from which nothing may come for long."""

T = TypeVar("T")

assert calls.complete()


class PowerCut(Exception):
    """The power failed before the coroutine had ended; `cycle` is when."""

    def __init__(self, cycle: int) -> None:
        super().__init__(f"The power failed at cycle {cycle:,}.")
        self.cycle = cycle


class EnvironmentEnded(Exception):
    """The kernel ended the environment; the message says why."""


class Interrupted(Exception):
    """The user pressed Ctrl-C; raised by `DiskSession.check` where the coroutine can stop."""


class DiskSession:
    """A machine with `memory` bytes and one disk, on which coroutines run one after another.

    With `stop_at_interrupt` the first Ctrl-C only makes `check` raise Interrupted, so that a coroutine stops where what it
    does is whole; a second one is a KeyboardInterrupt at once, and leaves the disk as a power cut would.  `cycles` is how
    long the last run took in virtual time.
    """

    def __init__(
        self, disk: Disk, memory: int = MEMORY, settings: Settings | None = None, stop_at_interrupt: bool = False
    ) -> None:
        self.disk = disk
        self.cycles = 0
        self.interrupted = False
        self._memory = memory
        self._settings = settings or Settings(watchdog_seconds=WATCHDOG_SECONDS)
        self._stop_at_interrupt = stop_at_interrupt

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the disk."""
        self.disk.close()

    def check(self) -> None:
        """Raise Interrupted if the user pressed Ctrl-C; for coroutines, between two steps that are whole."""
        if self.interrupted:
            raise Interrupted

    def run(
        self,
        main: Callable[[Volume], Awaitable[T]],
        extent: tuple[int, int] | None = None,
        power_cut: int = NEVER,
        seed: int = 0,
    ) -> T:
        """Boot, run `main` to its end over a volume, and switch off.

        `extent` is the first sector and the number of sectors of the volume; without it, the whole disk.  Of an image it
        has to be a partition, or all of an image without any.  Gives what `main` gave and raises what it raised; also
        PowerCut when the clock came to `power_cut` (cycles) first, when `seed` decides what the disk keeps of what was
        volatile; and EnvironmentEnded.
        """
        start, sectors = extent or (0, self.disk.sectors)
        results: list[T] = []
        errors: list[Exception] = []

        async def first() -> None:
            try:
                results.append(await main(Volume(Exo(), start, sectors)))
            except Exception as error:
                errors.append(error)

        memory = PhysicalMemory(self._memory)
        policy = RoundRobin(self._settings.quantum, cpus=self._settings.cpus)
        kernel = Kernel(memory, FastCpu, self.disk, LargestHolder(), policy, settings=self._settings)
        previous = signal.signal(signal.SIGINT, self._on_interrupt) if self._stop_at_interrupt else None
        try:
            environment = kernel.boot_coroutine(first)
            if not self.disk.image_sectors:
                kernel.disk.attach(environment, start, sectors, EVERY_RIGHT)
            outcome = kernel.run(power_cut)
            if outcome is Outcome.TIME:
                kernel.disk.power_cut(Random(seed))
        finally:
            if previous is not None:
                signal.signal(signal.SIGINT, previous)
            self.cycles = kernel.clock.now
            kernel.close()
            memory.close()
            self.disk.switch_off()
        if outcome is Outcome.TIME:
            raise PowerCut(self.cycles)
        if errors:
            raise errors[0]
        if results:
            return results[0]
        raise EnvironmentEnded(" ".join(explain.death(death).partition("\n")[0] for death in kernel.deaths))

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True


__all__ = ["DiskSession", "EnvironmentEnded", "Interrupted", "PowerCut"]
