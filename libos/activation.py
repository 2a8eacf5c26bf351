"""Running a handler and seeing what it asks of the kernel: what a thread needs so that others run while it waits.

A handler of a Python library OS is a coroutine, and whatever it awaits passes through whoever steps it.  `watched` stands
in between.  Where the handler would block, a function of the caller's is awaited first: the processor is the library's,
and it gives it to another thread.  That is a scheduler activation, without a new up-call: the one that brought the fault
is still there.  (Anderson, Bershad, Lazowska and Levy, Scheduler Activations, SOSP 1991.)

Where the handler's own load or store would page-fault, the fault is handled within the handler.  So a thread never takes
more than two contexts, its own and its handler's, and it is known whose fault it is.
"""

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import replace
from typing import Any, Final

from exokernel.abi.downcalls import BY_NAME, Exo
from exokernel.abi.errors import Error
from exokernel.abi.flags import Access
from exokernel.abi.layout import PAGE_SHIFT
from exokernel.abi.traps import DownCallTrap, ReadTrap, WriteTrap
from libos.page_tables import frame_in, read_entry

WAITING_CALLS: Final = frozenset(BY_NAME[name].number for name in ("block", "block_until", "call"))
_WRITABLE: Final = 2


async def watched(
    handler: Coroutine[Any, Any, None],
    before_waiting: Callable[[], Awaitable[None]],
    fault: Callable[[int, int], Awaitable[None]] | None,
) -> None:
    """Run `handler` to its end.  `before_waiting()` comes before each down-call that waits, and `fault(va, access)` for
    each page that it touches and cannot; without, it faults itself."""
    await _step(handler, before_waiting, fault)


@types.coroutine
def _step(
    handler: Coroutine[Any, Any, None],
    before_waiting: Callable[[], Awaitable[None]],
    fault: Callable[[int, int], Awaitable[None]] | None,
) -> Generator[Any, Any, None]:
    answer: Any = None
    try:
        while True:
            try:
                request = handler.send(answer)
            except StopIteration:
                return
            if type(request) is DownCallTrap and request.number in WAITING_CALLS:
                yield from before_waiting().__await__()
            elif fault is not None and type(request) in (ReadTrap, WriteTrap) and not request.or_refused:
                careful = replace(request, or_refused=True)
                while (answer := (yield careful)) is Error.NOT_MAPPED:
                    inner = _bring_in(request, fault)
                    yield from _step(inner, before_waiting, fault)
                continue
            answer = yield request
    finally:
        handler.close()


async def _bring_in(request: ReadTrap | WriteTrap, fault: Callable[[int, int], Awaitable[None]]) -> None:
    """Handle the faults of a load or a store of a handler, as the processor would raise them."""
    writing = isinstance(request, WriteTrap)
    size = len(request.data) if isinstance(request, WriteTrap) else request.size
    for number in range(request.va >> PAGE_SHIFT, (request.va + size - 1 >> PAGE_SHIFT) + 1):
        entry = await read_entry(Exo(), number)
        present = frame_in(entry) is not None
        if not present or (writing and not entry & _WRITABLE):
            access = Access.USER | (Access.WRITE if writing else 0) | (Access.PRESENT if present else 0)
            await fault(max(request.va, number << PAGE_SHIFT), int(access))
