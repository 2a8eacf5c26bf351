"""Lottery scheduling: right on average, and as far off as chance is."""

from math import sqrt
from statistics import mean, variance

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exokernel.policy.lottery import Lottery, Weights
from exokernel.policy.stride import Stride
from tests.machine_kit import examples
from tests.policy.simulator import Simulation, hog, yielder

QUANTUM = 1000
TICKETS = [10, 40, 150, 300, 500]


def wins(policy: Lottery | Stride, turns: int) -> list[int]:
    """Who has had the turns, of five that always compute."""
    simulation = Simulation(policy)
    for number, weight in enumerate(TICKETS):
        policy.set_tickets(number, weight)
        simulation.start(number, hog())
    simulation.run((turns + 1) * QUANTUM)
    return simulation.order()[:turns]


@pytest.mark.parametrize("seed", range(8))
def test_everybody_wins_as_often_as_its_tickets_say_within_four_standard_deviations(seed: int) -> None:
    order = wins(Lottery(QUANTUM, seed), 4000)
    for number, weight in enumerate(TICKETS):
        p = weight / sum(TICKETS)
        assert abs(order.count(number) - 4000 * p) <= 4 * sqrt(4000 * p * (1 - p))


def dispersion(order: list[int], number: int) -> float:
    """Variance of the wins in a hundred turns, as a multiple of that of independent draws."""
    p = TICKETS[number] / sum(TICKETS)
    counts = [order[start : start + 100].count(number) for start in range(0, len(order), 100)]
    return variance(counts) / (100 * p * (1 - p))


@pytest.mark.parametrize("number", range(1, 5))
def test_its_error_is_that_of_independent_draws_not_that_of_stride(number: int) -> None:
    """With 200 samples the ratio of variances is within 0.6 and 1.4 by four standard deviations."""
    assert 0.6 < dispersion(wins(Lottery(QUANTUM, 42), 20_000), number) < 1.4
    assert dispersion(wins(Stride(QUANTUM), 20_000), number) < 0.1


@pytest.mark.parametrize("part", [50, 200, 500])
def test_compensation_gives_one_that_yields_early_its_share_of_time(part: int) -> None:
    """Without it, a client that uses a fifth of its quantum would have a sixth of the time instead of half."""
    simulation = Simulation(Lottery(QUANTUM, 7))
    simulation.start(1, yielder(part))
    simulation.start(2, hog())
    simulation.run(4000 * QUANTUM)
    assert abs(simulation.used(1) / (4000 * QUANTUM) - 0.5) < 0.05


def test_a_slice_of_nothing_does_not_win_every_draw() -> None:
    """Compensation ends at a hundredfold."""
    simulation = Simulation(Lottery(QUANTUM, 7))
    simulation.start(1, yielder(1))
    simulation.start(2, hog())
    simulation.run(300 * QUANTUM)
    order = simulation.order()
    assert 50 < order.count(1) / order.count(2) < 150


def test_an_urgent_turn_is_on_account_of_the_next_win() -> None:
    simulation = Simulation(Lottery(QUANTUM, 3))
    for number in (1, 2, 3, 4):
        simulation.start(number, hog())
    for cycle in range(0, 8000 * QUANTUM, 20 * QUANTUM + 500):
        simulation.at(cycle, lambda: simulation.urge(1))
    simulation.run(8000 * QUANTUM)
    others = mean(simulation.used(number) for number in (2, 3, 4))
    # Three quarters of 390 turns would be too many, 15 % of its own.
    assert abs(simulation.used(1) / others - 1) < 0.08


def test_tickets_changed_while_waiting_count_at_the_next_draw() -> None:
    first = []
    for seed in range(100):
        policy = Lottery(QUANTUM, seed)
        policy.runnable(1)
        policy.runnable(2)
        policy.set_tickets(1, 10_000)
        policy.set_tickets(2, 1)
        choice = policy.next(0)
        assert choice is not None
        first.append(choice.environment)
    assert first.count(1) >= 99


def test_the_places_of_those_who_ended_are_used_again() -> None:
    policy = Lottery(QUANTUM)
    for number in range(1000):
        policy.runnable(number)
        policy.ended(number)
    assert len(policy._weights._tree) < 100


@given(
    st.lists(st.tuples(st.sampled_from(["take", "give back", "add"]), st.integers(0, 60), st.integers(0, 50)), max_size=150)
)
@examples(60)
def test_a_position_falls_on_the_place_where_a_sum_over_all_would_find_it(events: list[tuple[str, int, int]]) -> None:
    weights = Weights()
    # So many that the tree has grown and will grow again.
    reference = {weights.take(): 0 for _ in range(270)}
    for place in reference:
        reference[place] = 1 + place % 3
        weights.add(place, reference[place])
    for what, index, weight in events:
        if what == "take":
            place = weights.take()
            assert place not in reference
            reference[place] = 0
        elif reference:
            place = sorted(reference)[index % len(reference)]
            if what == "give back":
                weights.add(place, -reference.pop(place))
                weights.give_back(place)
            else:
                weights.add(place, weight - reference[place])
                reference[place] = weight
    laid_out = [place for place in sorted(reference) for _ in range(reference[place])]
    assert [weights.at(position) for position in range(weights.total)] == laid_out
