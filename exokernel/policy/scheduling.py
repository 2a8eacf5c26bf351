"""What a global CPU policy is: who runs next, and for how long at most.

The kernel tells a policy who is runnable and what each has used; the policy never learns what they run.  What to save,
and when to let go before the end, is the application's choice.  All times are cycles.  The rules of the conversation:

1. `runnable` queues an environment; queued again, it stays where it is.  `next` takes one *off* the queue.
2. Every choice of `next` is answered by one `ran` when that slice is over, and `ran` is called before the `runnable` or
   `not_runnable` that says how it goes on.  A choice that was of no use is a slice of 0 cycles that has expired.  A slice
   nobody chose (a directed yield) is reported by `ran` all the same.
3. An environment with several contexts may be queued while it runs, and may run on several processors at once.
4. The order depends on the calls and on `seed` and on nothing else.
5. An urgent environment comes first, but only once until somebody has had an ordinary turn: environments that keep each
   other urgent do not shut out the rest.

A policy orders its own queue by `_enter`, `_leave` and `_choose`; what is urgent waits here, in the order it was asked.
In *forced* mode (`forced = True`) the kernel does not ask with `please_release_cpu` but takes the processor at once and
saves everything, as a monolithic kernel does; that is the baseline applications are compared with.
"""

from abc import ABC, abstractmethod
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

DEFAULT_TICKETS = 100
MOST_TICKETS = 10_000
LEAST_PART = 100
"""Where use is charged, a slice counts as at least one part in so many of a quantum: who yields at once, again and again,
must not look as if it had run for nothing."""


class SliceEnd(Enum):
    """How a slice came to its end."""

    EXPIRED = "expired"
    """Its time was up, or it was preempted; it can run on."""
    YIELDED = "yielded"
    """It let go and can run on."""
    BLOCKED = "blocked"
    """Nothing in it can run, or it has ended."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Who runs now, and for how many cycles at most."""

    environment: int
    cycles: int


class CpuPolicy(ABC):
    """A global CPU policy.

    `quantum`: cycles of an ordinary slice; `seed`: of every random choice; `cpus`: processors it chooses for.  Raises
    ValueError if there is no quantum or no processor.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """One line that a newcomer understands."""
    forced: bool = False
    """Preempt by force, with everything saved, never by asking."""
    preempting: ClassVar[bool] = False
    """Whether `preempts` is ever true; if not, the kernel need not ask."""

    def __init__(self, quantum: int = 100_000, seed: int = 0, cpus: int = 1) -> None:
        if quantum < 1 or cpus < 1:
            raise ValueError("a CPU policy needs a quantum of at least one cycle and at least one processor")
        self.quantum = quantum
        self.seed = seed
        self.cpus = cpus
        self._turns: dict[int, Choice] = {}
        self._urgent: OrderedDict[int, None] = OrderedDict()
        self._hurried: set[int] = set()
        self._waiting: set[int] = set()

    def runnable(self, environment: int, urgent: bool = False, now: int = 0) -> None:
        """`environment` can run and has no processor: it goes into the queue, unless it is there.

        `urgent`: it has been asked for something and should hear of it soon.  `now` in cycles; 0 if unknown, which is as
        good as the latest moment the policy has heard of.  Only promises made by `reserve` depend on it.
        """
        self._waiting.add(environment)
        if urgent and environment not in self._hurried:
            if environment not in self._urgent:
                self._leave(environment)
                self._urgent[environment] = None
        elif environment not in self._urgent:
            self._enter(environment)

    def not_runnable(self, environment: int) -> None:
        """`environment` has nothing to run: it leaves the queue, if it is there."""
        self._waiting.discard(environment)
        if environment in self._urgent:
            del self._urgent[environment]
        else:
            self._leave(environment)

    def ended(self, environment: int) -> None:
        """`environment` is no more: forget everything about it.  A `ran` that still comes for it changes nothing."""
        self.not_runnable(environment)
        self._hurried.discard(environment)
        self._turns.pop(environment, None)

    def next(self, now: int) -> Choice | None:
        """Who runs at cycle `now`; it leaves the queue.  None only if the queue is empty."""
        if self._urgent:
            environment, _ = self._urgent.popitem(last=False)
            self._hurried.add(environment)
            self._waiting.discard(environment)
            return self._favour(environment, now)
        choice = self._choose(now)
        if choice is not None:
            self._waiting.discard(choice.environment)
            if self._hurried:
                self._hurried.clear()
        return choice

    def anybody_waits(self) -> bool:
        """Whether somebody is queued: if not, whoever runs may as well go on."""
        return bool(self._waiting)

    def ran(self, environment: int, cycles: int, end: SliceEnd, now: int) -> None:  # noqa: B027 - doing nothing is right for many
        """`environment` has had a processor for `cycles`, until `now`.  By default what one used does not matter."""

    def preempts(self, environment: int, running: int) -> bool:
        """Whether `environment`, just queued, has such precedence over `running` that the latter's slice should end now.

        The kernel asks after *every* `runnable`, once free processors have chosen and if `environment` is still queued,
        about each that runs: one that was preempted, or whose slice is over, may in turn preempt another.
        """
        return False

    def set_tickets(self, environment: int, tickets: int) -> None:
        """The weight of `environment` among all: 1 to 10,000, at first 100.  Raises ValueError if it is something else.

        A policy without weights remembers nothing.
        """
        if not 1 <= tickets <= MOST_TICKETS:
            raise ValueError(f"{tickets} is no number of tickets; it must be from 1 to {MOST_TICKETS}")

    def reserve(self, environment: int, cycles: int, period: int, now: int) -> bool:
        """Promise `environment` so many `cycles` in every `period`, from cycle `now` on; 0 cycles ends the reservation.

        False, and nothing has changed, if the promise could not be kept or the policy makes none.
        """
        return False

    @abstractmethod
    def _enter(self, environment: int) -> None:
        """Put `environment`, which is not among the urgent, into the ordinary queue, unless it is there."""

    @abstractmethod
    def _leave(self, environment: int) -> None:
        """Take `environment` out of the ordinary queue, if it is there, in no more than logarithmic time."""

    @abstractmethod
    def _choose(self, now: int) -> Choice | None:
        """Take the one whose ordinary turn it is off the queue; None only if the ordinary queue is empty."""

    def _favour(self, environment: int, now: int) -> Choice:
        """The slice of an urgent `environment`, which is in no queue any more.  It is charged like any other."""
        return self._turn(environment)

    def _turn(self, environment: int) -> Choice:
        """A slice of one quantum, made once per environment because it is wanted at every switch."""
        turn = self._turns.get(environment)
        if turn is None:
            turn = self._turns[environment] = Choice(environment, self.quantum)
        return turn
