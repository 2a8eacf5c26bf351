"""Calls between environments, by protected control transfer, for native programs over a Python library OS.

The context that said os_rpc_serve is kept.  A call arrives as the up-call `call`, whose handler lets that context go on at
the program's handler, with the call's words as its arguments and an address to return to at which nothing is ever mapped.
So the return is a page fault, in which the result is found and the context is kept again.  Calls that come meanwhile wait
for their turn.
"""

from typing import Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import ANYONE, SELF, Access, Event
from exokernel.abi.layout import OWN_PAGE, RED_ZONE
from exokernel.abi.pages import OwnPage, offset_of
from libos.interface import RPC_ERRORS
from libos.section import Section

NOBODY: Final = RPC_ERRORS["OS_RPC_NOBODY"][0]
LATE: Final = RPC_ERRORS["OS_RPC_LATE"][0]
PATIENCE: Final = 50_000_000
RETURN: Final = 0
"""Where handlers return to; page 0 is never mapped."""
_RDI, _RSI, _RDX, _RCX, _RSP, _R8, _RIP = 5, 4, 3, 2, 7, 8, 16
_ARGUMENTS: Final = (_RDI, _RSI, _RDX, _RCX, _R8)
_WOKEN: Final = OWN_PAGE + offset_of(OwnPage, "events") + 8 * Event.WOKEN
_TRY_AGAIN: Final = frozenset((Error.BUSY, Error.NOT_SERVING))


class Server:
    """The program's context that answers calls: `handler` is the address of its function, `stack_pointer` the stack's
    where it said that it serves."""

    def __init__(self, exo: Exo, context: int, handler: int, stack_pointer: int) -> None:
        self._exo = exo
        self._context = context
        self._handler = handler
        self._stack_pointer = (stack_pointer - RED_ZONE & -16) - 8
        self._section = Section(exo)
        self._calling = False
        self._result = 0

    async def begin(self) -> None:
        """Keep the context, which is stopped in its call of os_rpc_serve."""
        await self._exo.write(self._stack_pointer, RETURN.to_bytes(8, "little"))
        await self._exo.keep(self._context)

    async def call(self, context: int, caller: int, a: int, b: int, c: int, d: int, awaited: int) -> None:
        """The up-call: run the program's handler, and reply with what it returns."""
        await self._section.enter()
        for register, word in zip(_ARGUMENTS, (caller, a, b, c, d), strict=True):
            await self._exo.set_register(self._context, register, word)
        await self._exo.set_register(self._context, _RSP, self._stack_pointer)
        await self._exo.set_register(self._context, _RIP, self._handler)
        self._calling = True
        await self._exo.resume(self._context)
        while self._calling:
            seen = int.from_bytes(await self._exo.read(_WOKEN, 8), "little")
            if self._calling:
                await self._exo.block(Event.WOKEN, seen)
        result = self._result
        await self._section.leave()
        await self._exo.reply(result)

    def is_return(self, context: int, va: int, access: int, registers: tuple[int, ...]) -> bool:
        """Whether a page fault is the handler's return."""
        there = va == RETURN and bool(access & Access.FETCH) and registers[_RSP] == self._stack_pointer + 8
        return there and self._calling and context == self._context

    async def returned(self, result: int) -> None:
        """Keep the context again, and let the handler of the call go on with the result."""
        await self._exo.keep(self._context)
        self._result, self._calling = result, False
        await self._exo.wake(SELF)


async def call(exo: Exo, server: int, words: tuple[int, int, int, int]) -> tuple[int, int]:
    """Call another environment: 0 and the first word of its reply, or why there is none.  Whoever is busy, or has not
    come to serve yet, is given the rest of the slice and tried again until patience is at an end."""
    deadline = await exo.time() + PATIENCE
    while True:
        try:
            return 0, (await exo.call(server, deadline, *words))[0]
        except Refused as refused:
            if refused.error not in _TRY_AGAIN:
                return LATE if refused.error is Error.TIMED_OUT else NOBODY, 0
        try:
            await exo.yield_(server or ANYONE)
        except Refused:
            return NOBODY, 0
