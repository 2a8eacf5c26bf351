"""How long a disk takes: models of drives, without their contents.

A drive is told of each request when its turn comes, with the time in cycles (1 cycle = 1 ns), and answers how long it
takes.  One request is served at a time.  With a volatile write cache a write ends when the cache has it; the drive says in
`settled` what it has moved from there to the medium by itself, and when.  All of it is arithmetic on the requests and their
times: the same requests take the same time on every computer.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from exokernel.machine import costs


@dataclass(frozen=True, slots=True)
class Settled:
    """At `cycle` the latest contents of these sectors have reached the medium."""

    cycle: int
    sector: int
    count: int


class Drive(ABC):
    """A model of a drive with so many `sectors`.  `position` is the sector behind the last one moved, where the head is."""

    name: ClassVar[str]
    summary: ClassVar[str]
    volatile: ClassVar[bool] = True
    """Whether a write that is not forced ends before it is on the medium."""

    def __init__(self, sectors: int) -> None:
        self.sectors = sectors
        self.position = 0
        self.settled: list[Settled] = []

    @abstractmethod
    def transfer(self, now: int, write: bool, sector: int, count: int, forced: bool, through: Sequence[int]) -> int:
        """Cycles a transfer that begins at `now` takes.  `forced`: a write ends on the medium.  `through`: sectors over
        which the head goes first, without moving data."""

    @abstractmethod
    def flush(self, now: int) -> int:
        """Cycles until everything in the write cache is on the medium."""

    def idle_until(self, now: int) -> None:
        """Nothing is asked before `now`: what the drive does by itself until then."""
        return


class Ideal(Drive):
    """No latency worth the name, and what is written is on the medium: shows what a program costs without its disk."""

    name = "ideal"
    summary = "one cycle a request, nothing volatile"
    volatile = False

    def transfer(self, now: int, write: bool, sector: int, count: int, forced: bool, through: Sequence[int]) -> int:
        self.position = sector + count
        return 1

    def flush(self, now: int) -> int:
        return 1


@dataclass(frozen=True)
class SolidStateFigures:
    """What a solid-state disk takes, in cycles."""

    latency: int = costs.DISK_LATENCY
    """Until the first sector moves."""
    sector: int = costs.DISK_SECTOR
    """For each sector."""
    program: int = costs.DISK_PROGRAM
    """More for a forced write: programming a flash page."""
    flush: int = costs.DISK_FLUSH
    """Emptying the write cache, however much is in it."""
    cache: int = 32_768
    """Sectors in the write cache, 16 MiB: our choice.  The oldest make room for more, at no cost."""


class SolidState(Drive):
    """A fixed latency, a fixed bandwidth, a volatile write cache and a fixed price for emptying it."""

    name = "ssd"
    summary = "fixed latency (50 us) and bandwidth (512 MB/s), volatile write cache, flush in 500 us"

    def __init__(self, sectors: int, figures: SolidStateFigures | None = None) -> None:
        super().__init__(sectors)
        self.figures = figures or SolidStateFigures()
        self._latency, self._sector = self.figures.latency, self.figures.sector
        self._cache: deque[tuple[int, int]] = deque()
        self._cached = 0

    def transfer(self, now: int, write: bool, sector: int, count: int, forced: bool, through: Sequence[int]) -> int:
        self.position = sector + count
        cycles = self._latency + self._sector * count
        if forced and write:
            cycles += self.figures.program
        elif write:
            self._cache.append((sector, count))
            self._cached += count
            while self._cached > self.figures.cache:
                oldest, size = self._cache.popleft()
                self._cached -= size
                self.settled.append(Settled(now, oldest, size))
        return cycles

    def flush(self, now: int) -> int:
        self._cache.clear()
        self._cached = 0
        return self.figures.flush
