"""The price of the window: how fast two processors are emulated when each may run so far ahead of the other, beside one
processor that does the same work alone."""

from collections.abc import Callable
from typing import Any, Final

from exokernel.bench.machine import DATA, LOOP, TURNS, _call, _Machine, figure, in_turns

WINDOWS: Final = (100, 1_000, 10_000)
CPUS: Final = 2


def _millions_a_second(cpus: int, window: int) -> float:
    code = b"\xbf" + DATA.to_bytes(4, "little") + LOOP + _call("exit")  # mov edi, DATA
    machine = _Machine(code, CPUS, cpus=cpus, window=window)
    try:
        seconds = machine.seconds()
        instructions = sum(machine.kernel.ended[number].accounts.instructions for number in machine.numbers)
    finally:
        machine.close()
    assert instructions >= CPUS * 7 * TURNS
    return instructions / seconds / 1e6


def window(cycles: int) -> Callable[[int], dict[str, Any]]:
    """The figure for one window, in cycles."""

    def measured(rounds: int) -> dict[str, Any]:
        ours, alone = in_turns(
            rounds, lambda: 1 / _millions_a_second(CPUS, cycles), lambda: 1 / _millions_a_second(1, cycles)
        )
        what = f"two processors with a window of {cycles:,} cycles, beside one that does their work in turn"
        return figure(1 / ours, "million instructions/s", 1 / alone, what)

    return measured
