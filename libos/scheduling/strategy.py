"""What a thread scheduler is: which of the threads that are ready runs next.

A strategy moves nothing itself; `libos.threads` drives it and knows the machine.  Threads are numbers, the program's first
is 0.  The rules between driver and strategy:

1. `admit(thread)` when a thread begins to exist, `forget(thread)` when it has ended.  Between the two it runs, is ready, or
   waits.  When it is forgotten it is not ready.
2. `ready(thread)`: it can run and waits for its turn.  `next` names such a thread, and from then on it runs and is not
   ready: it is made ready again only after `ran` has told how that turn ended.
3. `next` is work-conserving: it names nobody only if nobody is ready.  With several processors several threads run at a
   time, each of them named once.
4. What a strategy answers depends on the calls made to it and on `seed`, and on nothing else.

Only `ready` and `next` must be written.  A strategy that names a thread that is not ready, or nobody while somebody is,
ends the program with a sentence.
"""

from abc import ABC, abstractmethod
from enum import Enum
from typing import ClassVar


class TurnEnd(Enum):
    """Why a thread's turn ended."""

    EXPIRED = "the environment's slice was over, or a thread with precedence came; it can run on"
    YIELDED = "it let go and can run on"
    WAITS = "it waits for another thread, for the disk or for memory, or has ended"


class ThreadStrategy(ABC):
    """Which thread runs next.  `seed` settles every random choice."""

    name: ClassVar[str] = "unnamed"
    summary: ClassVar[str] = ""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def admit(self, thread: int) -> None:  # noqa: B027 - many strategies rightly do nothing here
        """A thread begins to exist; it is not ready yet."""

    def forget(self, thread: int) -> None:  # noqa: B027 - likewise
        """A thread has ended; its number may be another's later."""

    @abstractmethod
    def ready(self, thread: int) -> None:
        """The thread, which is not ready now, can run and waits for its turn."""

    @abstractmethod
    def next(self) -> int | None:
        """Take the thread whose turn it is from among those that are ready; None only if none is."""

    def ran(self, thread: int, cycles: int, end: TurnEnd) -> None:  # noqa: B027 - likewise
        """The turn that `next` began is over: it took `cycles` of virtual time and ended in this way."""

    def preempts(self, thread: int, running: int) -> bool:
        """Whether `thread`, just made ready, has such precedence over one that runs that the latter's turn should end.

        It ends at the latter's next call of the library or at the end of the environment's slice, whichever is first.
        """
        return False
