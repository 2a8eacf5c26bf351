"""The multi-level feedback queue: learns from the past who needs the processor soon and for a short time.

Corbato, Merwin-Daggett and Daley, An Experimental Time-Sharing System, 1962; the rules as in Arpaci-Dusseau,
Operating Systems: Three Easy Pieces, chapter 8:

1. the highest level that has somebody runs, in turn within the level;
2. a new environment begins at the highest level;
3. who has used up its allotment at a level, in however many slices, goes one level down, where slices are twice as long:
   yielding just before the end does not help, and what was used beyond the allotment counts at the level below;
4. after some time everybody is at the highest level again, so that nobody starves and who changes its ways is noticed.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass

from exokernel.policy.scheduling import LEAST_PART, Choice, CpuPolicy, SliceEnd

LEVELS = 4
BOOST_QUANTA = 100
"""Quanta of the highest level from one boost to the next: a second if a quantum were 10 ms, as the book suggests."""


@dataclass(slots=True)
class Entrant:
    """One environment: its level (0 is the highest) and what it has used there, as of the boost `epoch`."""

    slices: tuple[Choice, ...]
    epoch: int
    level: int = 0
    used: int = 0
    queue: OrderedDict[int, None] | None = None
    """The queue it waits in."""


class Feedback(CpuPolicy):
    """Short bursts first.  `quantum` is that of the highest level, and each level below has twice that of the one above.

    Who waits at the lowest level waits at most until the next boost and then for one turn of each of the others.
    """

    name = "feedback"
    summary = "those that run in short bursts first (multi-level feedback queue)"
    preempting = True

    def __init__(self, quantum: int = 100_000, seed: int = 0, cpus: int = 1) -> None:
        super().__init__(quantum, seed, cpus)
        self._least = max(1, quantum // LEAST_PART)
        self._entrants: dict[int, Entrant] = {}
        self._levels: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(LEVELS)]
        self._boosted: deque[OrderedDict[int, None]] = deque()
        self._epoch = 0
        self._boost_at = BOOST_QUANTA * quantum

    def ended(self, environment: int) -> None:
        super().ended(environment)
        self._entrants.pop(environment, None)

    def ran(self, environment: int, cycles: int, end: SliceEnd, now: int) -> None:
        entrant = self._entrants.get(environment)
        if entrant is None:
            return
        if entrant.epoch != self._epoch:
            self._refresh(entrant)
        entrant.used += cycles if cycles > self._least else self._least
        if entrant.used < self.quantum << entrant.level:
            return
        while entrant.level < LEVELS - 1 and entrant.used >= self.quantum << entrant.level:
            entrant.used -= self.quantum << entrant.level
            entrant.level += 1
        if entrant.level == LEVELS - 1:
            entrant.used = 0
        if entrant.queue is not None:
            self._leave(environment)
            self._enter(environment)

    def preempts(self, environment: int, running: int) -> bool:
        """The higher level does."""
        return self._level(environment) < self._level(running)

    def _level(self, environment: int) -> int:
        entrant = self._entrants.get(environment)
        return entrant.level if entrant is not None and entrant.epoch == self._epoch else 0

    def _enter(self, environment: int) -> None:
        entrant = self._entrants.get(environment) or self._entrant(environment)
        if entrant.queue is None:
            if entrant.epoch != self._epoch:
                self._refresh(entrant)
            entrant.queue = queue = self._levels[entrant.level]
            queue[environment] = None

    def _leave(self, environment: int) -> None:
        entrant = self._entrants.get(environment)
        if entrant is not None and entrant.queue is not None:
            del entrant.queue[environment]
            entrant.queue = None

    def _choose(self, now: int) -> Choice | None:
        if now >= self._boost_at:
            self._boost(now)
        while self._boosted:
            if self._boosted[0]:
                return self._take(self._boosted[0])
            self._boosted.popleft()
        for queue in self._levels:
            if queue:
                return self._take(queue)
        return None

    def _take(self, queue: OrderedDict[int, None]) -> Choice:
        environment, _ = queue.popitem(last=False)
        entrant = self._entrants[environment]
        entrant.queue = None
        if entrant.epoch != self._epoch:
            self._refresh(entrant)
        return entrant.slices[entrant.level]

    def _favour(self, environment: int, now: int) -> Choice:
        entrant = self._entrant(environment)
        if entrant.epoch != self._epoch:
            self._refresh(entrant)
        return entrant.slices[entrant.level]

    def _boost(self, now: int) -> None:
        """Everybody to the highest level: the queues as they are, one behind the other, before whoever comes later; each
        environment finds out by the epoch."""
        self._boost_at = now + BOOST_QUANTA * self.quantum
        self._epoch += 1
        self._boosted.extend(queue for queue in self._levels if queue)
        self._levels = [OrderedDict() for _ in range(LEVELS)]

    def _refresh(self, entrant: Entrant) -> None:
        entrant.epoch, entrant.level, entrant.used = self._epoch, 0, 0

    def _entrant(self, environment: int) -> Entrant:
        entrant = self._entrants.get(environment)
        if entrant is None:
            slices = tuple(Choice(environment, self.quantum << level) for level in range(LEVELS))
            entrant = self._entrants[environment] = Entrant(slices, self._epoch)
        return entrant


class ForcedFeedback(Feedback):
    """The multi-level feedback queue that takes the processor without asking."""

    name = "forced-feedback"
    summary = "those that run in short bursts first, stopped by force (a monolithic kernel)"
    forced = True
