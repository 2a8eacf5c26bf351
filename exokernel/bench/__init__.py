"""Speed on this host, each figure beside plain Unicorn, or for files plain Python, measured in the same run.

Host time is noisy, so every figure is the best of several rounds, and figure and reference take turns.  What counts is the
ratio: it hardly depends on the computer.
"""

from collections.abc import Callable, Iterator
from typing import Any

from exokernel.bench import machine, many, processors, programs, storage, transfer

ROUNDS = 5


def run_all(rounds: int = ROUNDS) -> dict[str, dict[str, Any]]:
    """Every figure by name: `value`, `unit`, `reference`, `ratio` (value over reference) and `what` was measured."""
    return {name: figure(rounds) for name, figure in _figures()}


def _figures() -> Iterator[tuple[str, Callable[[int], dict[str, Any]]]]:
    yield "guest_speed", machine.guest_speed
    yield "null_downcall", machine.null_downcall
    yield "switch", machine.switch
    yield "yield_round_trip", transfer.yield_round_trip
    yield "yield_instructions", transfer.yield_instructions
    yield "transfer_round_trip", transfer.transfer_round_trip
    yield "transfer_instructions", transfer.transfer_instructions
    yield "choice", many.choice
    yield "crowd_start", many.crowd_start
    yield "crowd_memory", many.crowd_memory
    for cycles in processors.WINDOWS:
        yield f"window_{cycles}", processors.window(cycles)
    yield "page_fault_native", programs.page_fault_native
    yield "page_fault_python", programs.page_fault_python
    yield "help", programs.help_text
    yield "hello", programs.hello
    yield from storage.figures()
