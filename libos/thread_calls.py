"""The functions of the interface that are about threads, as methods of a Python library OS."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from libos.ending import BROKEN_LIBRARY, end
from libos.locks import Locks
from libos.scheduling import ThreadStrategy, TurnEnd
from libos.threads import Threads

if TYPE_CHECKING:
    from exokernel.abi.downcalls import Exo
    from libos.base import LibraryOS

_SIGN: Final = 1 << 63


class ThreadCalls:
    """What a thread asks for.  A function that makes its thread wait gives no result; who ends the wait sets it."""

    exo: "Exo"
    seed: int
    scheduler: Callable[[int], ThreadStrategy]
    threads: Threads
    locks: Locks

    def begin_threads(self, library: "LibraryOS") -> None:
        """The program has one thread."""
        self.threads = Threads(library, self.scheduler(self.seed))
        self.locks = Locks(self.threads.wake)

    def fork_threads(self, child: "LibraryOS") -> None:
        """Give a forked environment's library its thread, and the locks as they are."""
        child.threads = self.threads.fork(child, self.scheduler(self.seed))
        child.locks = self.locks.copy(child.threads.wake)

    def born_thread(self, rsp: int) -> None:
        """A forked environment runs for the first time, with this stack pointer."""
        self.locks.inherit(self.threads.born(rsp), self.threads.first)

    async def os_thread_create(self, context: int, entry: int, argument: int) -> int:
        """A thread that calls `entry` with `argument`: its number, or -1."""
        return await self.threads.create(entry, argument)

    async def os_thread_exit(self, context: int, result: int) -> None:
        """End the calling thread."""
        await self.threads.exit(self.threads.at(context), result)

    async def os_thread_join(self, context: int, thread: int) -> int | None:
        """Wait until a thread has ended: its result, or -1."""
        return await self.threads.join(self.threads.at(context), thread)

    async def os_thread_self(self, context: int) -> int:
        """The number of the calling thread."""
        return self.threads.at(context).number

    async def os_thread_yield(self, context: int) -> None:
        """Let other threads run."""
        self.threads.at(context).turn_over = TurnEnd.YIELDED

    async def os_processors(self, context: int, count: int) -> int:
        """Let up to `count` threads run at a time; gives how many can."""
        return await self.threads.use(0 if count & _SIGN else count)

    async def os_mutex_lock(self, context: int, mutex: int) -> None:
        """Hold a mutex, or wait for it."""
        self.locks.lock(self.threads.at(context), mutex)

    async def os_mutex_unlock(self, context: int, mutex: int) -> None:
        """Let go of a mutex; the program ends if the thread does not hold it."""
        if not self.locks.unlock(self.threads.at(context), mutex):
            await end(self.exo, f"The lock at {mutex:#x} is not held by the thread that lets go of it.", BROKEN_LIBRARY)

    async def os_condition_wait(self, context: int, condition: int, mutex: int) -> None:
        """Let go of a mutex until a condition is signalled."""
        if not self.locks.wait(self.threads.at(context), condition, mutex):
            await end(self.exo, f"The lock at {mutex:#x} is not held by the thread that waits with it.", BROKEN_LIBRARY)

    async def os_condition_signal(self, context: int, condition: int) -> None:
        """Let one thread go on."""
        self.locks.signal(condition)

    async def os_condition_broadcast(self, context: int, condition: int) -> None:
        """Let all threads go on that wait for a condition."""
        self.locks.signal(condition, everybody=True)

    async def os_barrier_wait(self, context: int, barrier: int, count: int) -> int:
        """Wait for the others: 1 for the last, 0 for them."""
        return int(self.locks.meet(self.threads.at(context), barrier, count))

    async def os_spin_lock(self, context: int, lock: int) -> None:
        """Hold a lock, or wait for it: here no other than a mutex."""
        await self.os_mutex_lock(context, lock)

    async def os_spin_unlock(self, context: int, lock: int) -> None:
        """Let go of a lock."""
        await self.os_mutex_unlock(context, lock)

    async def os_critical_enter(self, context: int) -> None:
        """Keep the processor, as far as other threads are concerned."""
        self.threads.at(context).critical += 1

    async def os_critical_leave(self, context: int) -> None:
        """Let others have the processor again."""
        thread = self.threads.at(context)
        if not thread.critical:
            await end(self.exo, "os_critical_leave: the thread is in no critical section.", BROKEN_LIBRARY)
        thread.critical -= 1
