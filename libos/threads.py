"""Threads of a program over a Python library OS: who exists, who runs, and how another is put in its place.

A thread is a machine context and a stack.  Which one runs is the scheduler's to say (`libos.scheduling`); here it is done.
The rules:

 1. A thread runs, is ready, or waits.  Exactly the contexts of those that run are ready for the kernel, one for each
    processor the program asked for; the others are stopped.  The scheduler knows those that are ready.
 2. The library changes who runs only in a handler: at a call of the program, before a handler waits, at a handler's end,
    and when the kernel says please_release_cpu.  Then it keeps the interrupted context and resumes another.
 3. While a handler waits for the disk, for memory or for an environment, its thread does not run, and another does.  When
    the wait is over, the thread is handed back to the scheduler.
 4. A down-call is made in the instant in which it is awaited, but until its answer comes other handlers go on, on this
    processor or another.  So what is decided is written down before the down-call that makes it so.

Until the program makes its first thread, nothing here costs anything.
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, NoReturn

from exokernel.abi.errors import Refused
from exokernel.abi.flags import Begin
from exokernel.abi.layout import EXPOSED, PAGE_SIZE
from exokernel.abi.pages import MachinePage, offset_of
from libos.activation import watched
from libos.ending import BROKEN_LIBRARY, end
from libos.scheduling import ThreadStrategy, TurnEnd

if TYPE_CHECKING:
    from libos.base import LibraryOS

THREADS: Final = 16
"""How many a program may have at a time."""
HANDLED: Final = 8
"""How many of them run or have a handler.  The other contexts are for the handlers of requests."""
STACK_PAGES: Final = 16
"""Of a thread's stack, the lowest of which is never there."""
_CPUS: Final = EXPOSED + offset_of(MachinePage, "cpus")
_RAX: Final = 0
_RSP: Final = 7
"""In the order of `get_registers`."""
RETURN_ADDRESS: Final = 0
"""What lies where a thread's entry returns to: a page that is never mapped, so the fault tells."""


@dataclass(slots=True, eq=False)
class Thread:
    """A thread.  `stack` is the address behind its stack, 0 for the program's first."""

    number: int
    context: int
    stack: int = 0
    began: int | None = None
    """While it runs: since when, in cycles."""
    handled: bool = False
    """Whether a handler of its own has begun and not come to its end."""
    kept: bool = False
    """Whether somebody keeps its context, or is about to."""
    waits: bool = False
    """Whether it waits for another thread."""
    turn_over: TurnEnd | None = None
    """Why another should have its turn now, if one should."""
    critical: int = 0
    """How many critical sections it is in."""
    joined_by: "Thread | None" = None
    ended: bool = False
    result: int = 0


class Threads:
    """The threads of one program, whose first is context 0."""

    def __init__(self, library: "LibraryOS", scheduler: ThreadStrategy) -> None:
        self._library = library
        self._exo = library.exo
        self.scheduler = scheduler
        self.first = Thread(0, 0, began=0)
        self.all: dict[int, Thread] = {0: self.first}
        self.processors = 1
        self._at: dict[int, Thread] = {0: self.first}
        self._ready: set[int] = set()
        self._stacks: list[int] = []
        """The ends of stacks that nobody uses now."""
        self._guards: set[int] = set()
        self._graves: list[Thread] = []
        """Threads that have ended, with contexts that have not."""
        self._coming = 0
        """Threads that are being made."""
        self._last = 0
        self._elders: list[Thread] = []
        """In an environment that has been forked and has not run yet: the parent's threads."""
        self._page_fault: Callable[[int, int, int], Coroutine[Any, Any, None]] = library.page_fault
        self._begun = False
        vars(library)["trap"] = self._watch(library.trap)

    def fork(self, child: "LibraryOS", scheduler: ThreadStrategy) -> "Threads":
        """Those of a forked environment, in which the thread that forked is the only one."""
        for name in ("trap", "page_fault", "please_release_cpu"):
            vars(child).pop(name, None)
        threads = Threads(child, scheduler)
        threads._stacks, threads._guards = self._stacks.copy(), self._guards.copy()
        threads._elders = list(self._at.values())
        return threads

    def born(self, rsp: int) -> Thread:
        """The only thread of a forked environment is the one with this stack pointer; gives what it was in the parent."""
        for elder in self._elders:
            if elder.stack - STACK_PAGES * PAGE_SIZE <= rsp < elder.stack:
                break
        else:
            elder = next(one for one in self._elders if one.number == 0)
        self.first.stack, self._elders = elder.stack, []
        return elder

    def at(self, context: int) -> Thread:
        """The thread of a context."""
        return self._at.get(context, self.first)

    # Beginning and ending.

    async def create(self, entry: int, argument: int) -> int:
        """A thread that calls `entry` with `argument`; gives its number, -1 if there are too many or there is no room for
        a stack."""
        while self._graves:
            dead = self._graves.pop()
            del self._at[dead.context]
            self._stacks.append(dead.stack)
            await self._exo.end_context(dead.context)
        stack = self._new_stack() if len(self._at) + self._coming < THREADS else None
        if stack is None:
            return -1
        self._coming += 1
        await self._begin()
        try:
            await self._exo.write(stack - 8, RETURN_ADDRESS.to_bytes(8, "little"))
            context = await self._exo.create_context(entry, stack - 8, argument, Begin.STOPPED)
        except Refused:
            self._stacks.append(stack)
            return -1
        finally:
            self._coming -= 1
        self._last += 1
        thread = self._at[context] = self.all[self._last] = Thread(self._last, context, stack)
        self.scheduler.admit(thread.number)
        self._make_ready(thread)
        if self._may_run_another():
            await self._dispatch(await self._exo.time())
        return thread.number

    async def _begin(self) -> None:
        """From the first thread that the program makes on, see to its handlers, and be asked for the processor."""
        if self._begun:
            return
        self._begun = self._library.paging.has_threads = True
        vars(self._library)["page_fault"] = self._watch(self._page_fault)
        vars(self._library)["please_release_cpu"] = self.please_release_cpu
        first = self.first
        self.scheduler.admit(first.number)
        self.scheduler.ready(first.number)
        self.scheduler.next()
        first.began = await self._exo.time()

    def _new_stack(self) -> int | None:
        if self._stacks:
            return self._stacks.pop()
        begin = self._library.paging.regions.grow(STACK_PAGES * PAGE_SIZE)
        if begin is None:
            return None
        self._guards.add(begin)
        return begin + STACK_PAGES * PAGE_SIZE

    def is_guard(self, va: int) -> bool:
        """Whether an address lies below a thread's stack, where it must not grow."""
        return va & -PAGE_SIZE in self._guards

    async def has_returned(self, context: int, va: int) -> bool:
        """Whether a fault at `va` is the end of a thread's entry; then that is the thread's end."""
        thread = self.at(context)
        if va != RETURN_ADDRESS or not thread.stack:
            return False
        registers = await self._library.registers(context)
        if registers[_RSP] != thread.stack:
            return False
        await self.exit(thread, registers[_RAX])
        return True

    async def exit(self, thread: Thread, result: int) -> None:
        """A thread is over; with the last one the program is."""
        thread.ended, thread.result = True, result
        if all(one.ended for one in self._at.values()):
            await self._exo.exit(0)
        if thread.joined_by is not None:
            await self.answer(thread.joined_by, result)
            self._forget(thread)

    async def answer(self, thread: Thread, result: int) -> None:
        """What a thread waits for is here: let it go on with `result` in rax."""
        await self._exo.set_register(thread.context, _RAX, result)
        self.wake(thread)

    async def join(self, thread: Thread, number: int) -> int | None:
        """Wait for a thread's end; gives its result, or None if it is still to come; -1 if it cannot be waited for."""
        other = self.all.get(number)
        if other is None or other is thread or other.joined_by is not None:
            return -1
        if other.ended:
            self._forget(other)
            return other.result
        other.joined_by = thread
        thread.waits = True
        return None

    def _forget(self, thread: Thread) -> None:
        del self.all[thread.number]

    # Between running, ready and waiting.

    def wake(self, thread: Thread) -> None:
        """A thread that waited for another need not any more."""
        thread.waits = False
        if not thread.handled:
            self._make_ready(thread)

    async def use(self, count: int) -> int:
        """Let up to `count` threads run at a time, on as many processors; gives how many can."""
        cpus = int.from_bytes(await self._exo.read(_CPUS, 8), "little")
        self.processors = max(1, min(count, cpus, HANDLED))
        return self.processors

    @property
    def _running(self) -> list[Thread]:
        return [thread for thread in self._at.values() if thread.began is not None]

    def _make_ready(self, thread: Thread) -> None:
        self._ready.add(thread.number)
        self.scheduler.ready(thread.number)
        running = self._running
        if len(running) >= self.processors:
            last: Thread | None = None
            for one in running:
                if self.scheduler.preempts(thread.number, (one if last is None else last).number) and (
                    last is None or self.scheduler.preempts(last.number, one.number)
                ):
                    last = one
            if last is not None and last.turn_over is None:
                last.turn_over = TurnEnd.EXPIRED

    def _stop(self, thread: Thread, now: int, how: TurnEnd) -> None:
        """A thread does not run any more."""
        if thread.began is not None:
            self.scheduler.ran(thread.number, max(0, now - thread.began), how)
            thread.began = thread.turn_over = None

    def _may_run_another(self) -> bool:
        return (
            bool(self._ready)
            and len(self._running) < self.processors
            and sum(thread.handled or thread.began is not None for thread in self._at.values()) < HANDLED
        )

    async def _dispatch(self, now: int) -> None:
        """Give free processors to threads that are ready."""
        while self._may_run_another():
            number = self.scheduler.next()
            if number is None or number not in self._ready:
                await self._wrong_choice(number)
            self._ready.remove(number)
            thread = self.all[number]
            thread.began, thread.turn_over, thread.kept = now, None, False
            await self._exo.resume(thread.context)

    async def _check(self) -> None:
        """End the program if none of its threads can ever go on; one with a handler still can."""
        if all((thread.waits or thread.ended) and not thread.handled for thread in self._at.values()):
            await end(self._exo, "Every thread waits for another one.", BROKEN_LIBRARY)

    async def _wrong_choice(self, number: int | None) -> NoReturn:
        what = f"named thread {number!r}, which is not ready"
        if number is None:
            what = f"named no thread, although {len(self._ready)} are ready"
        await end(self._exo, f"The scheduler '{self.scheduler.name}' {what}.", BROKEN_LIBRARY)

    # Handlers.

    def _watch(self, method: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
        """A handler that gives the processor away while it waits, and sees to whose turn it is when it ends."""

        @wraps(method)
        def handler(context: int, *arguments: int) -> Coroutine[Any, Any, None]:
            thread = self._at.get(context)
            if thread is None:
                return method(context, *arguments)
            # The kernel asks for the coroutine in the instant in which it stops the context.
            thread.handled = True
            return self._handle(thread, lambda: method(context, *arguments))

        return handler

    async def _handle(self, thread: Thread, handler: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async def before_waiting() -> None:
            if self._begun and thread.began is not None:
                now = await self._exo.time()
                self._stop(thread, now, TurnEnd.WAITS)
                await self._dispatch(now)

        async def fault(va: int, access: int) -> None:
            if self._library.paging.forbids(va, access):
                # The program's handler cannot run: the thread's context is inside a call, or in a fault of its own.
                await self._library.segmentation_fault(thread.context, va, access)
            await self._page_fault(thread.context, va, access)

        await watched(handler(), before_waiting, fault if self._begun else None)
        await self._settle(thread)

    async def _settle(self, thread: Thread) -> int | None:
        """The end of a handler of `thread`: it goes on, or another does.  Gives when that was decided, None if nothing had
        to be."""
        if not self._begun:
            thread.handled, thread.turn_over = False, None
            await self._check()
            return None
        over = thread.turn_over is not None and not thread.critical
        stays = thread.began is not None and not (thread.waits or thread.ended or thread.kept or over)
        if stays and len(self._running) <= self.processors:
            if self._ready:
                await self._give_away(None)
            thread.handled = False
            return None
        thread.kept = True
        await self._exo.keep(thread.context)
        now = await self._exo.time()
        ended, waits = thread.ended, thread.waits
        self._stop(thread, now, TurnEnd.WAITS if ended or waits else thread.turn_over or TurnEnd.EXPIRED)
        thread.handled = False
        if ended:
            self.scheduler.forget(thread.number)
        elif not waits:
            self._make_ready(thread)
        await self._give_away(now)
        # By now a thread that had not ended may have, in a handler of its own.
        if ended:
            self._graves.append(thread)
        return now

    async def _give_away(self, now: int | None) -> None:
        """Give free processors to threads that are ready, and those of threads whose turn is over; one that runs on another
        processor than this keeps it until its next call."""
        for one in self._running:
            runs = one.began is not None and not (one.handled or one.kept)
            if not runs or one.turn_over is None or one.critical or not self._ready:
                continue
            one.kept = True
            try:
                await self._exo.keep(one.context)
            except Refused:
                one.kept = False
                continue
            now = await self._exo.time()
            self._stop(one, now, one.turn_over or TurnEnd.EXPIRED)
            self._make_ready(one)
        if self._may_run_another():
            await self._dispatch(now or await self._exo.time())
        await self._check()

    def please_release_cpu(self, context: int, deadline: int) -> Coroutine[Any, Any, None]:
        """The environment's slice is over, and with it the turn of the thread that was interrupted.

        If that was a handler, its thread's turn is over when it ends.
        """
        thread = self._at.get(context)
        if thread is None:
            for one in self._running:
                if one.handled:
                    one.turn_over = TurnEnd.EXPIRED
        else:
            thread.handled = True
            thread.turn_over = TurnEnd.EXPIRED
        return self._release(thread)

    async def _release(self, thread: Thread | None) -> None:
        decided = None if thread is None else await self._settle(thread)
        await self._exo.yield_()
        if decided is not None:
            # What others had of the processor meanwhile is not this thread's time.
            now = await self._exo.time()
            for one in self._running:
                if one.began == decided:
                    one.began = now
