"""The multi-level feedback queue: short bursts first, no gain by gaming, and a boost."""

from itertools import pairwise

from exokernel.policy.feedback import BOOST_QUANTA, LEVELS, Feedback
from exokernel.policy.processor import SliceEnd
from tests.policy.simulator import Program, Simulation, hog, sleeper, yielder

QUANTUM = 1000
BOOST = BOOST_QUANTA * QUANTUM


def test_a_new_one_goes_down_level_by_level_and_each_slice_is_twice_as_long() -> None:
    simulation = Simulation(Feedback(QUANTUM))
    simulation.start(1, hog())
    simulation.run(40 * QUANTUM)
    assert [s.granted // QUANTUM for s in simulation.slices] == [1, 2, 4, 8, 8, 8, 8]


def test_short_bursts_do_not_wait_for_those_that_compute() -> None:
    """The one that sleeps most of the time runs the moment it wakes, though three others always compute."""
    simulation = Simulation(Feedback(QUANTUM))
    for number in (1, 2, 3):
        simulation.start(number, hog())
    simulation.start(4, sleeper(100, 5000), at=30 * QUANTUM)
    simulation.run(BOOST)
    bursts = [s for s in simulation.slices if s.environment == 4]
    # Ten bursts are its allotment at the highest level; at the second there is nobody else either.
    assert len(bursts) >= 12
    for earlier, later in pairwise(bursts):
        assert later.start - earlier.stop == 5000
    simulation = Simulation(Feedback(QUANTUM))
    simulation.policy.preempts = lambda environment, running: False  # type: ignore[method-assign]
    for number in (1, 2, 3):
        simulation.start(number, hog())
    simulation.start(4, sleeper(100, 5000), at=30 * QUANTUM)
    simulation.run(BOOST)
    bursts = [s for s in simulation.slices if s.environment == 4]
    assert any(later.start - earlier.stop > 5000 for earlier, later in pairwise(bursts))


def share_against_two_hogs(program: Program, quanta: int) -> float:
    simulation = Simulation(Feedback(QUANTUM))
    simulation.start(1, program)
    simulation.start(2, hog())
    simulation.start(3, hog())
    simulation.run(quanta * QUANTUM)
    return simulation.used(1) / (quanta * QUANTUM)


def test_yielding_just_before_the_end_does_not_pay() -> None:
    honest = share_against_two_hogs(hog(), 400)
    for used in (990, 999, 500, 100, 10):
        assert share_against_two_hogs(yielder(used), 400) <= honest + 0.05
    for used in (990, 999):
        assert share_against_two_hogs(sleeper(used, 1), 400) <= honest + 0.05


def test_all_of_an_allotment_used_in_parts_leads_one_level_down() -> None:
    policy = Feedback(QUANTUM)
    policy.runnable(1)
    granted = []
    now = 0
    for _ in range(8):
        choice = policy.next(now)
        assert choice is not None
        granted.append(choice.cycles)
        now += 600
        policy.ran(1, 600, SliceEnd.YIELDED, now)
        policy.runnable(1)
    # 1200 of 1000 used: down with 200 on account; three more make 2000; then 4000.
    assert granted == [1000, 1000, 2000, 2000, 2000, 4000, 4000, 4000]


def test_yielding_at_once_for_ever_leads_down_too() -> None:
    policy = Feedback(QUANTUM)
    policy.runnable(1)
    granted = set()
    for _ in range(800):
        choice = policy.next(0)
        assert choice is not None
        granted.add(choice.cycles)
        policy.ran(1, 0, SliceEnd.YIELDED, 0)
        policy.runnable(1)
    assert max(granted) == QUANTUM << (LEVELS - 1)


def test_those_who_always_come_anew_do_not_starve_who_is_at_the_bottom() -> None:
    """A new environment every quantum, always at the highest level: after the boost the old one waits a turn of each."""
    simulation = Simulation(Feedback(QUANTUM))
    simulation.start(1, hog())
    for number in range(2, 400):
        simulation.start(number, hog(), at=20 * QUANTUM + (number - 2) * QUANTUM)
    simulation.run(400 * QUANTUM)
    mine = [s.start for s in simulation.slices if s.environment == 1 and s.cycles]
    after = [start for start in mine if start > 20 * QUANTUM]
    assert after, "boosted"
    assert after[0] <= BOOST + 90 * QUANTUM
    assert not [start for start in mine if 24 * QUANTUM < start < BOOST], "and not before"


def test_after_the_boost_a_reformed_one_is_interactive_again() -> None:
    policy = Feedback(QUANTUM)
    simulation = Simulation(policy)
    simulation.start(1, hog())
    simulation.start(2, hog())
    simulation.run(BOOST - 1)
    assert {s.granted for s in simulation.slices[-4:]} == {8 * QUANTUM}
    before = len(simulation.slices)
    simulation.run(BOOST + 20 * QUANTUM)
    assert QUANTUM in {s.granted for s in simulation.slices[before:]}


def test_the_higher_level_preempts_and_the_same_does_not() -> None:
    policy = Feedback(QUANTUM)
    for number in (1, 2):
        policy.runnable(number)
    policy.next(0)
    assert not policy.preempts(2, 1)
    policy.ran(1, QUANTUM, SliceEnd.EXPIRED, QUANTUM)
    policy.runnable(1)
    assert policy.preempts(2, 1)
    assert not policy.preempts(1, 2)
