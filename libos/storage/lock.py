"""Many readers or one writer: a lock for the contexts of one environment.

Turns are in the order of arrival, and readers that stand next to one another go in together.  So a reader that comes
while a writer waits goes behind it, and nobody waits for ever.  (Courtois, Heymans and Parnas, Concurrent Control with
"Readers" and "Writers", CACM 1971, with one queue in place of a preference.)

    async with lock.shared():
        ...
    async with lock.exclusive():
        ...

A context must not ask again while it is inside.
"""

from collections import deque
from types import TracebackType

from exokernel.abi.downcalls import Exo
from libos.storage.frames import Sleepers


class _Turn:
    """One context's way in and out."""

    __slots__ = ("alone", "granted", "lock")

    def __init__(self, lock: "ReadersWriter", alone: bool) -> None:
        self.lock = lock
        self.alone = alone
        self.granted = False

    async def __aenter__(self) -> None:
        await self.lock.enter(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.lock.leave(self)


class ReadersWriter:
    """The lock.  Who waits for it sleeps until somebody leaves and lets him in."""

    def __init__(self, exo: Exo) -> None:
        self._sleepers = Sleepers(exo)
        self._queue: deque[_Turn] = deque()
        self.readers = 0
        """How many are inside and only look."""
        self.writing = False
        """Somebody is inside alone."""

    def shared(self) -> _Turn:
        """To look: together with others who do."""
        return _Turn(self, alone=False)

    def exclusive(self) -> _Turn:
        """To change: alone."""
        return _Turn(self, alone=True)

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return len(self._queue)

    async def enter(self, turn: _Turn) -> None:
        """Wait for one's turn; see `shared` and `exclusive`."""
        self._queue.append(turn)
        self._admit()
        while not turn.granted:
            await self._sleepers.sleep(lambda: not turn.granted)

    async def leave(self, turn: _Turn) -> None:
        """Be outside again, and let in whoever is next."""
        if turn.alone:
            self.writing = False
        else:
            self.readers -= 1
        if self._admit():
            await self._sleepers.wake()

    def _admit(self) -> bool:
        """Let in from the head of the queue whoever fits; gives whether there was one."""
        admitted = False
        while self._queue and not self.writing and not (self._queue[0].alone and self.readers):
            turn = self._queue.popleft()
            turn.granted = admitted = True
            if turn.alone:
                self.writing = True
            else:
                self.readers += 1
        return admitted


__all__ = ["ReadersWriter"]
