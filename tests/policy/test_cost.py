"""What a decision costs: the same, or nearly, however many wait.  Counted in lines of Python executed, which is the same on
every machine; `exo bench` has the time (`choice`)."""

import sys
from types import FrameType
from typing import Any

import pytest

from exokernel.policy.processor import CPU_POLICIES, SliceEnd

TURNS = 1500


def lines(name: str, environments: int) -> int:
    """Lines executed by so many whole cycles of next, ran and runnable."""
    policy = CPU_POLICIES[name](seed=1)
    for number in range(environments):
        policy.set_tickets(number, 50 + number % 97)
        policy.reserve(number, 100, 100_000 * environments, 0)
        policy.runnable(number)
    executed = now = 0

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal executed
        executed += event == "line"
        return count

    previous = sys.gettrace()
    sys.settrace(count)
    try:
        for _ in range(TURNS):
            choice = policy.next(now)
            assert choice is not None
            now += choice.cycles
            policy.ran(choice.environment, choice.cycles, SliceEnd.EXPIRED, now)
            policy.runnable(choice.environment, False, now)
    finally:
        sys.settrace(previous)
    return executed


@pytest.mark.parametrize("name", [name for name in CPU_POLICIES if not name.startswith("forced-")])
def test_choosing_among_a_thousand_costs_no_more_than_twice_as_much_as_among_ten(name: str) -> None:
    assert lines(name, 1000) <= 2 * lines(name, 10)
