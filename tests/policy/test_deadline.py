"""Earliest deadline first: admitted promises are kept, whatever the others do."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exokernel.policy.deadline import Deadline
from exokernel.policy.processor import SliceEnd
from tests.machine_kit import examples
from tests.policy.simulator import Job, Simulation, hog, periodic, scripted, sleeper, yielder

QUANTUM = 1000


@dataclass(frozen=True)
class Task:
    """So many cycles in every period, first wanted at `offset`."""

    cycles: int
    period: int
    offset: int


tasks = st.builds(
    lambda permille, period, offset: Task(max(1, period * permille // 1000), period, offset),
    st.integers(5, 700),
    st.integers(300, 8000),
    st.integers(0, 8000),
)
task_sets = st.lists(tasks, min_size=1, max_size=8)
noise = st.lists(st.sampled_from(["hog", "yields", "sleeps", "overruns", "overruns and sleeps"]), max_size=4)


def admitted(policy: Deadline, wanted: Sequence[Task]) -> list[tuple[int, Task]]:
    """Those of the tasks that are promised what they want, with their numbers."""
    return [(n, task) for n, task in enumerate(wanted, 1) if policy.reserve(n, task.cycles, task.period, 0)]


def add_noise(simulation: Simulation, kinds: list[str]) -> None:
    """Neighbours: in the background, or with a reservation of which they want more than they have."""
    for number, kind in enumerate(kinds, 100):
        if kind.startswith("overruns"):
            simulation.policy.reserve(number, 37, 977 + number, 0)
        program = {"hog": hog(), "overruns": hog(), "yields": yielder(70)}.get(kind, sleeper(333, 90))
        simulation.start(number, program)


@pytest.mark.parametrize("cpus", [1, 2, 3])
@given(task_sets, noise)
@examples(60)
def test_every_admitted_job_meets_its_deadline(cpus: int, wanted: list[Task], kinds: list[str]) -> None:
    policy = Deadline(QUANTUM, cpus=cpus)
    simulation = Simulation(policy, cpus)
    jobs: dict[int, list[Job]] = {}
    periods = {}
    for number, task in admitted(policy, wanted):
        jobs[number], periods[number] = [], task.period
        simulation.start(number, periodic(task.cycles, task.period, task.offset, jobs[number]))
    add_noise(simulation, kinds)
    end = 60_000
    simulation.run(end)
    for number, released in jobs.items():
        for job in released:
            if job.released + periods[number] < end:
                assert job.done <= job.released + periods[number], (number, job)


@given(task_sets, noise)
@examples(60)
def test_who_always_computes_has_at_least_its_cycles_in_every_period(wanted: list[Task], kinds: list[str]) -> None:
    """All overrun their reservations all the time, beside others: each has its own, period by period from its waking."""
    policy = Deadline(QUANTUM)
    simulation = Simulation(policy)
    promised = admitted(policy, wanted)
    for number, task in promised:
        simulation.start(number, hog(), at=task.offset)
    add_noise(simulation, kinds)
    simulation.run(50_000)
    for number, task in promised:
        for start in range(task.offset, 50_000 - task.period - 10 * QUANTUM, task.period):
            assert simulation.used(number, start, start + task.period) >= task.cycles


@given(task_sets)
@examples(60)
def test_the_bound_is_nine_tenths_of_the_processor(wanted: list[Task]) -> None:
    policy = Deadline(QUANTUM)
    total = 0.0
    for number, task in enumerate(wanted, 1):
        fits = total + task.cycles / task.period
        if abs(fits - 0.9) > 1e-9:
            assert policy.reserve(number, task.cycles, task.period, 0) == (fits < 0.9)
        elif not policy.reserve(number, task.cycles, task.period, 0):
            continue
        total = fits if fits < 0.9 else total


def test_the_bound_on_several_processors_is_that_of_goossens_funk_and_baruah() -> None:
    """On three: 0.9 * (3 - 2 * largest)."""
    policy = Deadline(QUANTUM, cpus=3)
    assert policy.reserve(1, 500, 1000, 0)
    assert policy.reserve(2, 500, 1000, 0)
    assert policy.reserve(3, 500, 1000, 0)
    assert policy.reserve(4, 300, 1000, 0)
    assert not policy.reserve(5, 1, 1000, 0)
    assert not policy.reserve(4, 301, 1000, 0)
    assert policy.reserve(1, 400, 1000, 0)
    assert not policy.reserve(5, 101, 1000, 0)
    assert policy.reserve(5, 100, 1000, 0)
    one = Deadline(QUANTUM)
    assert all(one.reserve(number, 100, 1000, 0) for number in range(1, 10))
    assert not one.reserve(10, 1, 1000, 0)


@pytest.mark.parametrize(("cycles", "period"), [(-1, 100), (101, 100), (10, 0), (10, -5), (95, 100)])
def test_a_promise_nobody_could_keep_is_refused(cycles: int, period: int) -> None:
    policy = Deadline(QUANTUM)
    assert not policy.reserve(1, cycles, period, 0)
    assert policy.reserve(1, 90, 100, 0), "and nothing is left of it"


def test_an_overrun_goes_on_in_the_background_and_the_background_has_the_rest() -> None:
    """One that always computes with 300 of every 1000 against two without: it has its 300 and a third of the rest."""
    policy = Deadline(QUANTUM)
    policy.reserve(1, 300, 1000, 0)
    simulation = Simulation(policy)
    for number in (1, 2, 3):
        simulation.start(number, hog())
    simulation.run(300 * QUANTUM)
    for number, share in ((1, 0.3 + 0.7 / 3), (2, 0.7 / 3), (3, 0.7 / 3)):
        assert abs(simulation.used(number) / (300 * QUANTUM) - share) < 0.03


def test_the_background_has_a_tenth_though_all_the_rest_is_promised_and_used() -> None:
    policy = Deadline(QUANTUM)
    for number in range(1, 10):
        assert policy.reserve(number, 100 * number, 1000 * number, 0)
    simulation = Simulation(policy)
    for number in range(1, 10):
        simulation.start(number, scripted([(100 * number, 900 * number)]))
    for number in (20, 21):
        simulation.start(number, hog())
    simulation.run(200 * QUANTUM)
    assert simulation.used(20) + simulation.used(21) >= 0.1 * 200 * QUANTUM - 2 * QUANTUM
    assert abs(simulation.used(20) - simulation.used(21)) <= 2 * QUANTUM


def test_a_background_turn_that_was_interrupted_goes_on() -> None:
    """Whoever is interrupted just after its turn began is not passed over for that."""
    policy = Deadline(QUANTUM)
    policy.reserve(1, 400, 1100, 0)
    simulation = Simulation(policy)
    simulation.start(1, scripted([(400, 700)]))
    for number in (2, 3):
        simulation.start(number, hog())
    simulation.run(220 * QUANTUM)
    assert abs(simulation.used(2) - simulation.used(3)) <= QUANTUM


def test_a_turn_is_kept_by_one_that_is_not_queued_while_it_runs() -> None:
    """The kernel may say of one that runs that it has nothing for another processor."""
    policy = Deadline(QUANTUM)
    for number in (1, 2):
        policy.runnable(number, False, 0)
    assert (choice := policy.next(0)) is not None
    assert choice.environment == 1
    policy.not_runnable(1)
    policy.ran(1, 400, SliceEnd.EXPIRED, 400)
    policy.runnable(1, False, 400)
    assert (choice := policy.next(400)) is not None
    assert (choice.environment, choice.cycles) == (1, 600)


def test_who_yields_gives_the_rest_of_its_period_away() -> None:
    policy = Deadline(QUANTUM)
    policy.reserve(1, 500, 1000, 0)
    simulation = Simulation(policy)
    simulation.start(1, yielder(10))
    simulation.start(2, hog())
    simulation.run(100 * QUANTUM)
    assert simulation.used(1) < 5 * QUANTUM


def test_a_reservation_cannot_be_had_twice_in_a_period_by_giving_it_back() -> None:
    policy = Deadline(QUANTUM)

    def use(environment: int, now: int) -> int:
        policy.runnable(environment, False, now)
        choice = policy.next(now)
        assert choice is not None
        policy.ran(environment, choice.cycles, SliceEnd.BLOCKED, now + choice.cycles)
        policy.not_runnable(environment)
        return choice.cycles

    assert policy.reserve(1, 900, 1000, 0)
    assert use(1, 0) == 900
    assert policy.reserve(1, 0, 1, 900)
    assert not policy.reserve(1, 900, 1000, 901), "the same one again"
    assert not policy.reserve(2, 100, 1000, 999), "or somebody else"
    policy.ended(1)
    assert not policy.reserve(2, 100, 1000, 999)
    assert policy.reserve(2, 900, 1000, 1000)
    assert use(2, 1000) == 900
    assert policy.reserve(2, 800, 900, 1900), "a smaller one, from the next period on"
    policy.runnable(2, False, 1901)
    policy.runnable(3, False, 1901)
    assert [choice.cycles for _ in range(2) if (choice := policy.next(1901))] == [99, 1000], "until then, the background"
    assert policy.reserve(2, 0, 1, 1950)
    policy.ended(2)
    assert policy.reserve(4, 900, 1000, 2000)
    policy.ended(4)
    assert policy.reserve(5, 900, 1000, 2000), "one that was not used is free at once"


def test_what_a_slice_ran_beyond_its_budget_is_taken_off_the_next() -> None:
    policy = Deadline(QUANTUM)
    policy.reserve(1, 300, 1000, 0)
    policy.runnable(1, False, 0)
    policy.runnable(2, False, 0)
    granted = []
    now = 0
    for beyond in (100, 0):
        choice = policy.next(now)
        assert choice is not None
        assert choice.environment == 1
        granted.append(choice.cycles)
        policy.ran(1, choice.cycles + beyond, SliceEnd.EXPIRED, now + choice.cycles + beyond)
        policy.runnable(1)
        now += 1000
    assert granted == [300, 200]


def test_an_environment_on_two_processors_has_its_budget_once() -> None:
    policy = Deadline(QUANTUM, cpus=2)
    policy.reserve(1, 300, 1000, 0)
    policy.runnable(9, False, 0)
    policy.runnable(1, False, 0)
    first = policy.next(0)
    assert first is not None
    assert (first.environment, first.cycles) == (1, 300)
    policy.runnable(1, False, 0)
    second = policy.next(0)
    assert second is not None
    assert second.environment == 9, "its second context is in the background"
    policy.ran(1, 300, SliceEnd.EXPIRED, 300)
    third = policy.next(300)
    assert third is not None
    assert (third.environment, third.cycles) == (1, 700)


def test_nobody_sleeps_to_have_two_budgets_in_a_row() -> None:
    """One that wakes just before its deadline with its budget unused begins a period of its own (rule 3)."""
    policy = Deadline(QUANTUM)
    assert policy.reserve(1, 450, 1000, 0)
    assert policy.reserve(2, 45, 100, 0)
    simulation = Simulation(policy)
    jobs: list[Job] = []
    simulation.start(2, periodic(45, 100, 0, jobs))
    simulation.start(1, scripted([(1, 548), (10_000, None)]))
    simulation.run(5 * QUANTUM)
    assert all(job.done <= job.released + 100 for job in jobs[:-1])


def test_an_earlier_deadline_preempts_and_the_background_never_does() -> None:
    policy = Deadline(QUANTUM)
    policy.reserve(1, 100, 5000, 0)
    policy.reserve(2, 100, 1000, 0)
    policy.runnable(1, False, 10)
    policy.runnable(3, False, 10)
    assert policy.preempts(1, 7), "somebody in the background"
    assert policy.next(10)
    policy.runnable(2, False, 20)
    assert policy.preempts(2, 1)
    assert not policy.preempts(1, 2)
    assert not policy.preempts(3, 1)


def test_an_urgent_one_without_a_promise_waits_for_the_promised_only() -> None:
    policy = Deadline(QUANTUM)
    policy.reserve(1, 100, 1000, 0)
    for number in (1, 2, 3):
        policy.runnable(number, False, 0)
    policy.runnable(3, True, 0)
    assert [choice.environment for _ in range(3) if (choice := policy.next(0))] == [1, 3, 2]


def test_one_that_waits_with_a_budget_waits() -> None:
    policy = Deadline(QUANTUM)
    assert not policy.anybody_waits()
    assert policy.reserve(1, 10, 100, 0)
    policy.runnable(1, False, 0)
    assert policy.anybody_waits()
    choice = policy.next(0)
    assert choice is not None
    assert not policy.anybody_waits()
