"""What a decision costs: the same, or nearly, however many wait."""

import gc
from time import perf_counter

import pytest

from exokernel.policy.processor import CPU_POLICIES, SliceEnd

TURNS = 1500


def seconds(name: str, environments: int) -> float:
    """The shortest time of some for as many whole cycles of next, ran and runnable."""
    policy = CPU_POLICIES[name](seed=1)
    for number in range(environments):
        policy.set_tickets(number, 50 + number % 97)
        policy.reserve(number, 100, 100_000 * environments, 0)
        policy.runnable(number)
    shortest, now = 1e9, 0
    gc.disable()
    try:
        for _ in range(9):
            start = perf_counter()
            for _ in range(TURNS):
                choice = policy.next(now)
                assert choice is not None
                now += choice.cycles
                policy.ran(choice.environment, choice.cycles, SliceEnd.EXPIRED, now)
                policy.runnable(choice.environment, False, now)
            shortest = min(shortest, perf_counter() - start)
    finally:
        gc.enable()
    return shortest


@pytest.mark.parametrize("name", [name for name in CPU_POLICIES if not name.startswith("forced-")])
def test_choosing_among_a_thousand_costs_no_more_than_twice_as_much_as_among_ten(name: str) -> None:
    """The better of a few tries, because the machine has other things to do."""
    assert min(seconds(name, 1000) / seconds(name, 10) for _ in range(3)) <= 2
