"""Stride scheduling: shares by tickets, with the errors that Waldspurger and Weihl (1995) bound."""

from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exokernel.policy.processor import SliceEnd
from exokernel.policy.stride import Stride
from tests.machine_kit import examples
from tests.policy.simulator import Simulation, hog, scripted, sleeper, yielder

QUANTUM = 1000
ROUNDING = Fraction(1, 1000)
tickets_of_clients = st.lists(st.integers(1, 1000), min_size=2, max_size=8)


def competing(tickets: list[int], parts: list[int] | None = None) -> Simulation:
    """Clients 0, 1, … with these tickets that always compute, or use `parts` of a thousand cycles and yield."""
    policy = Stride(QUANTUM)
    simulation = Simulation(policy)
    for number, weight in enumerate(tickets):
        policy.set_tickets(number, weight)
        simulation.start(number, yielder(parts[number]) if parts else hog())
    return simulation


def used_after_each_slice(simulation: Simulation, clients: int) -> list[list[int]]:
    """Cycles each client has had, after each slice."""
    so_far = [0] * clients
    rows = [list(so_far)]
    for one in simulation.slices:
        so_far[one.environment] += one.cycles
        rows.append(list(so_far))
    return rows


@given(tickets_of_clients, st.data())
@examples(60)
def test_over_any_interval_two_clients_are_a_quantum_from_their_ratio_at_most(
    tickets: list[int], data: st.DataObject
) -> None:
    """The relative error of the paper, also when slices are shorter than a quantum."""
    parts = data.draw(st.none() | st.lists(st.integers(100, QUANTUM), min_size=len(tickets), max_size=len(tickets)))
    simulation = competing(tickets, parts)
    simulation.run(100 * QUANTUM)
    rows = used_after_each_slice(simulation, len(tickets))
    for a, b in combinations(range(len(tickets)), 2):
        # (n_a - (n_a + n_b) * share) * (tickets of both)
        errors = [row[a] * tickets[b] - row[b] * tickets[a] for row in rows]
        assert max(errors) - min(errors) <= (1 + ROUNDING) * QUANTUM * (tickets[a] + tickets[b])


@given(tickets_of_clients)
@examples(60)
def test_nobody_is_ahead_of_its_share_by_a_quantum_or_behind_by_more_than_one_for_each_other(tickets: list[int]) -> None:
    """The absolute error of the paper is of the order of the number of clients, and what that order is here."""
    simulation = competing(tickets)
    simulation.run(300 * QUANTUM)
    for turns, row in enumerate(used_after_each_slice(simulation, len(tickets))):
        for used, weight in zip(row, tickets, strict=True):
            share = Fraction(weight, sum(tickets))
            ahead = Fraction(used, QUANTUM) - turns * share
            assert -(len(tickets) - 1) * share - ROUNDING <= ahead <= 1 + ROUNDING


@given(tickets_of_clients)
@examples(60)
def test_it_chooses_whom_the_algorithm_on_paper_chooses(tickets: list[int]) -> None:
    simulation = competing(tickets)
    simulation.run(200 * QUANTUM)
    passes = [(Fraction(0), number, number) for number in range(len(tickets))]
    for turn, chosen in enumerate(simulation.order()):
        smallest = min(passes)
        # Rounding of strides decides between passes that are equal on paper.
        mine = next(row for row in passes if row[2] == chosen)
        assert mine[0] - smallest[0] <= Fraction(1, 10**6)
        passes.remove(mine)
        passes.append((mine[0] + Fraction(1, tickets[chosen]), len(tickets) + turn, chosen))


@given(st.integers(1, 1000), st.integers(1, 1000), st.integers(1, 100), st.integers(1, 60))
@examples(40)
def test_sleep_neither_saves_up_nor_loses(sleeping: int, awake: int, pause: int, burst: int) -> None:
    """Somebody that slept long has its share from its waking on, no more and no less."""
    policy = Stride(QUANTUM)
    simulation = Simulation(policy)
    for number, weight in ((1, sleeping), (2, awake), (3, 100)):
        policy.set_tickets(number, weight)
    wakes = (burst + pause) * QUANTUM
    simulation.start(1, scripted([(burst * QUANTUM // 7 + 1, wakes), (1 << 40, None)]))
    simulation.start(2, hog())
    simulation.start(3, hog())
    turns_apart = (sleeping + awake + 100) // sleeping + 2
    simulation.run(wakes + (400 + (burst // 7 + 3) * turns_apart) * QUANTUM)
    slept = next(s.stop for s in simulation.slices if s.environment == 1 and s.end is SliceEnd.BLOCKED)
    back = slept + wakes
    simulation.run(back + 200 * QUANTUM)
    ideal = Fraction(200 * QUANTUM * sleeping, sleeping + awake + 100)
    assert abs(simulation.used(1, back, back + 200 * QUANTUM) - ideal) <= 4 * QUANTUM


@given(st.lists(st.integers(1, 500), min_size=2, max_size=5), st.integers(10, 1000), st.integers(1, 300))
@examples(40)
def test_short_sleeps_do_not_pay(tickets: list[int], burst: int, pause: int) -> None:
    """Who sleeps after every burst gets no more than its share, and the rest is divided as ever."""
    policy = Stride(QUANTUM)
    simulation = Simulation(policy)
    for number, weight in enumerate(tickets):
        policy.set_tickets(number, weight)
        simulation.start(number, hog() if number else sleeper(burst, pause))
    simulation.run(300 * QUANTUM)
    n = len(tickets)
    assert simulation.used(0) <= Fraction(300 * QUANTUM * tickets[0], sum(tickets)) + (n + 1) * QUANTUM
    for a, b in combinations(range(1, n), 2):
        share = Fraction(tickets[a], tickets[a] + tickets[b])
        both = simulation.used(a) + simulation.used(b)
        assert abs(simulation.used(a) - both * share) <= 1.01 * QUANTUM


def test_a_change_of_tickets_counts_from_now_on() -> None:
    policy = Stride(QUANTUM)
    simulation = Simulation(policy)
    simulation.start(1, hog())
    simulation.start(2, hog())
    simulation.at(100 * QUANTUM, lambda: policy.set_tickets(1, 900))
    simulation.run(200 * QUANTUM)
    assert abs(simulation.used(1, 0, 100 * QUANTUM) - 50 * QUANTUM) <= QUANTUM
    assert abs(simulation.used(1, 100 * QUANTUM, 200 * QUANTUM) - 90 * QUANTUM) <= 2 * QUANTUM


@pytest.mark.parametrize("cpus", [2, 3, 4])
def test_several_processors_are_shared_by_tickets(cpus: int) -> None:
    policy = Stride(QUANTUM, cpus=cpus)
    simulation = Simulation(policy, cpus)
    tickets = [50, 100, 150, 200, 250, 100, 150]
    for number, weight in enumerate(tickets):
        policy.set_tickets(number, weight)
        simulation.start(number, hog(), at=number * 137)
    simulation.run(1000 * QUANTUM)
    for number, weight in enumerate(tickets):
        if weight * cpus <= sum(tickets):
            assert abs(simulation.used(number) / QUANTUM - 1000 * cpus * weight / sum(tickets)) <= 2 * len(tickets)


@given(st.integers(100, 10_000), st.lists(st.integers(1, 20), min_size=2, max_size=5))
@examples(20)
def test_more_tickets_than_one_processor_is_worth_are_no_claim_for_later(heavy: int, light: list[int]) -> None:
    """It has one of two processors all the time, and the others divide the other; whoever comes later, finds its share."""
    policy = Stride(QUANTUM, cpus=2)
    simulation = Simulation(policy, 2)
    for number, weight in enumerate([heavy, *light]):
        policy.set_tickets(number, weight)
        simulation.start(number, hog())
    policy.set_tickets(50, heavy)
    policy.set_tickets(51, heavy)
    simulation.start(50, hog(), at=2000 * QUANTUM)
    simulation.start(51, hog(), at=2000 * QUANTUM)
    simulation.run(2000 * QUANTUM)
    assert simulation.used(0) >= 1990 * QUANTUM
    for number, weight in enumerate(light, 1):
        assert abs(simulation.used(number) / QUANTUM - 2000 * weight / sum(light)) <= 4 * len(light)
    simulation.run(2400 * QUANTUM)
    for number in (0, 50, 51):
        ideal = 400 * 2 * heavy / (3 * heavy + sum(light))
        used = simulation.used(number, 2000 * QUANTUM) / QUANTUM
        assert abs(used - ideal) <= 0.03 * ideal + 4 * (len(light) + 3)


def test_an_urgent_turn_is_paid_for() -> None:
    policy = Stride(QUANTUM)
    simulation = Simulation(policy)
    simulation.start(1, hog())
    simulation.start(2, hog())
    for cycle in range(0, 400 * QUANTUM, 3 * QUANTUM // 2):
        simulation.at(cycle, lambda: simulation.urge(1))
    simulation.run(400 * QUANTUM)
    assert abs(simulation.used(1) - 200 * QUANTUM) <= 2 * QUANTUM
