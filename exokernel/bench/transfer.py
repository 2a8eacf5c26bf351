"""Figures of going to another environment and back: by directed yield, and by protected control transfer.

Each is beside a null down-call measured in the same run, and in guest instructions beside the null down-call's two.  The
guests are the least there can be: the loop around the call is not counted among the instructions.
"""

from collections.abc import Callable
from typing import Any, Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.flags import Event
from exokernel.abi.layout import PAGE_SIZE
from exokernel.abi.upcalls import Upcall
from exokernel.bench.machine import CALLS, CODE, DATA, _call, _Machine, _repeat, figure, in_turns

ROUND_TRIPS: Final = CALLS // 2
LOOP_INSTRUCTIONS: Final = 2
SERVER: Final = CODE + 0x100
ENTRY: Final = SERVER + 0x20
_FOREVER: Final = b"\x48\xc7\xc6\xff\xff\xff\xff"  # mov rsi, -1
_BEGIN_TO_SERVE: Final = (
    b"\xbf" + int(Upcall.CALL).to_bytes(4, "little")  # mov edi, CALL
    + b"\xbe" + ENTRY.to_bytes(4, "little")  #         mov esi, entry
    + b"\x31\xd2"  #                                    xor edx, edx
    + _call("set_upcall")
    + _call("serve")
)  # fmt: skip
_SERVER: Final = _BEGIN_TO_SERVE.ljust(ENTRY - SERVER, b"\x90") + _call("reply")
_YIELD: Final = _repeat(_call("yield"), ROUND_TRIPS)
_TRANSFER: Final = _FOREVER + _repeat(_call("call"), ROUND_TRIPS)
_NULL: Final = _repeat(_call("null"), CALLS)


class _Pair(_Machine):
    """A client whose code begins at CODE and a server whose code begins at SERVER and has run until it had nothing more to
    do; rdi names the other one."""

    async def _init(self) -> None:
        exo = Exo()
        self._started = False
        for _ in range(self._guests):
            await self._environment(exo)
        client, server = self.numbers
        await exo.start(server, SERVER, DATA + PAGE_SIZE)
        await exo.yield_(server)
        await exo.start(client, CODE, DATA + PAGE_SIZE, server)
        self._started = True
        await exo.block(Event.EXIT, client)
        await exo.destroy(server)


def _pair() -> _Machine:
    return _Pair(_TRANSFER.ljust(SERVER - CODE, b"\x90") + _SERVER, 2)


def _yielding() -> _Machine:
    return _Machine(_YIELD, 2)


def _null() -> _Machine:
    return _Machine(_NULL)


def _microseconds(make: Callable[[], _Machine], count: int) -> float:
    machine = make()
    try:
        return machine.seconds() / count * 1e6
    finally:
        machine.close()


def _instructions(make: Callable[[], _Machine], count: int, loops: int) -> int:
    """Guest instructions of one of `count`, all guests together; what `loops` loops around it take is not counted."""
    machine = make()
    try:
        machine.kernel.run()
        all_of_them = sum(machine.kernel.ended[number].accounts.instructions for number in machine.numbers)
    finally:
        machine.close()
    return all_of_them // count - LOOP_INSTRUCTIONS * loops


def _beside_null(make: Callable[[], _Machine], rounds: int, what: str) -> dict[str, Any]:
    ours, null = in_turns(rounds, lambda: _microseconds(make, ROUND_TRIPS), lambda: _microseconds(_null, CALLS))
    return figure(ours, "us", null, what)


def yield_round_trip(rounds: int) -> dict[str, Any]:
    """A directed yield to another environment, and one back."""
    return _beside_null(_yielding, rounds, "a directed yield and one back, beside an empty down-call")


def transfer_round_trip(rounds: int) -> dict[str, Any]:
    """A protected control transfer: a call with four words, and its reply."""
    return _beside_null(_pair, rounds, "a protected control transfer and its reply, beside an empty down-call")


def yield_instructions(rounds: int) -> dict[str, Any]:
    """The same in guest instructions, which are the same in every run."""
    ours, null = _instructions(_yielding, ROUND_TRIPS, 2), _instructions(_null, CALLS, 1)
    return figure(ours, "instructions", null, "guest instructions of a directed yield and one back, beside the same")


def transfer_instructions(rounds: int) -> dict[str, Any]:
    """The same in guest instructions, which are the same in every run."""
    ours, null = _instructions(_pair, ROUND_TRIPS, 1), _instructions(_null, CALLS, 1)
    return figure(ours, "instructions", null, "guest instructions of a protected control transfer and its reply")
