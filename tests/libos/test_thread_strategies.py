"""What thread schedulers owe their driver, for every one of them and for each what it promises."""

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libos.scheduling import SCHEDULERS, FairShare, Feedback, Lottery, Priority, RoundRobin, ThreadStrategy, TurnEnd

every = pytest.mark.parametrize("make", SCHEDULERS.values(), ids=SCHEDULERS)
ACTIONS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 40), st.integers(1, 100_000)), max_size=200)


class Driver:
    """Drives a scheduler as `libos.threads` does, on `processors` processors, by actions out of a list."""

    def __init__(self, scheduler: ThreadStrategy, processors: int = 1) -> None:
        self.scheduler = scheduler
        self.processors = processors
        self.ready: set[int] = set()
        self.running: list[int] = []
        self.waiting: list[int] = []
        self.named: list[int | None] = []
        self._created = 0

    def create(self) -> None:
        self.scheduler.admit(self._created)
        self.make_ready(self._created)
        self._created += 1

    def make_ready(self, thread: int) -> None:
        self.ready.add(thread)
        self.scheduler.ready(thread)

    def dispatch(self) -> None:
        while len(self.running) < self.processors:
            thread = self.scheduler.next()
            self.named.append(thread)
            assert (thread is None) == (not self.ready)
            if thread is None:
                return
            assert thread in self.ready
            self.ready.remove(thread)
            self.running.append(thread)

    def end_turn(self, place: int, cycles: int, end: TurnEnd, over: bool = False) -> None:
        thread = self.running.pop(place % len(self.running))
        self.scheduler.ran(thread, cycles, end)
        if over:
            self.scheduler.forget(thread)
        elif end is TurnEnd.WAITS:
            self.waiting.append(thread)
        else:
            self.make_ready(thread)

    def act(self, kind: int, place: int, cycles: int) -> None:
        if kind == 0:
            self.create()
        elif kind in (1, 2, 3, 4) and self.running:
            self.end_turn(place, cycles, tuple(TurnEnd)[min(kind - 1, 2)], over=kind == 4)
        elif kind == 5 and self.waiting:
            self.make_ready(self.waiting.pop(place % len(self.waiting)))
        self.dispatch()


def turns(
    scheduler: ThreadStrategy, threads: int, count: int, cycles: Callable[[int], int] = lambda thread: 1000
) -> list[int]:
    """The first turns of threads that are always ready, each as long as `cycles` says."""
    driver = Driver(scheduler)
    for _ in range(threads):
        driver.create()
    for _ in range(count):
        driver.dispatch()
        driver.end_turn(0, cycles(driver.running[0]), TurnEnd.EXPIRED)
    return [thread for thread in driver.named if thread is not None]


@every
@given(actions=ACTIONS, processors=st.integers(1, 4), seed=st.integers(0, 99))
def test_only_who_is_ready_is_named_and_nobody_only_if_nobody_is(
    make: type[ThreadStrategy], actions: list[tuple[int, int, int]], processors: int, seed: int
) -> None:
    driver = Driver(make(seed), processors)
    for action in actions:
        driver.act(*action)


@every
@given(actions=ACTIONS, seed=st.integers(0, 99))
def test_the_same_calls_and_seed_give_the_same_answers(
    make: type[ThreadStrategy], actions: list[tuple[int, int, int]], seed: int
) -> None:
    first, second = Driver(make(seed)), Driver(make(seed))
    for action in actions:
        first.act(*action)
        second.act(*action)
    assert first.named == second.named


@every
@given(actions=ACTIONS)
def test_no_two_preempt_each_other(make: type[ThreadStrategy], actions: list[tuple[int, int, int]]) -> None:
    driver = Driver(make(0))
    for action in actions:
        driver.act(*action)
    living = [*driver.ready, *driver.running, *driver.waiting]
    for one in living:
        for other in living:
            assert not (driver.scheduler.preempts(one, other) and driver.scheduler.preempts(other, one))


@pytest.mark.parametrize("make", [RoundRobin, FairShare, Feedback])
@given(threads=st.integers(1, 12), lengths=st.lists(st.integers(1, 50_000), min_size=12, max_size=12))
def test_nobody_starves(make: type[ThreadStrategy], threads: int, lengths: list[int]) -> None:
    count = 64 * 4 * threads
    named = turns(make(), threads, count, lambda thread: 50_000 + lengths[thread])
    assert set(named[count // 2 :]) == set(range(threads))


@given(threads=st.integers(1, 9))
def test_round_robin_gives_everybody_a_turn_before_anybody_two(threads: int) -> None:
    assert turns(RoundRobin(), threads, 5 * threads) == list(range(threads)) * 5


@given(actions=ACTIONS, processors=st.integers(1, 3))
def test_priority_names_the_first_in_rank(actions: list[tuple[int, int, int]], processors: int) -> None:
    class Backwards(Priority):
        def rank(self, thread: int) -> int:
            return -thread // 2

    scheduler = Backwards()
    driver = Driver(scheduler, processors)
    for action in actions:
        before, seen = driver.ready.copy(), len(driver.named)
        driver.act(*action)
        candidates = driver.ready | set(driver.running) | before
        for thread in driver.named[seen:]:
            if thread is not None:
                assert all(scheduler.rank(thread) <= scheduler.rank(other) for other in driver.ready)
                assert thread in candidates


class Weighted(FairShare):
    """One ticket for the first thread, two for the second …"""

    def tickets(self, thread: int) -> int:
        return 10 * (thread + 1)


class WeightedLottery(Lottery):
    tickets = Weighted.tickets


def test_fair_share_gives_time_in_proportion_to_tickets_however_long_turns_are() -> None:
    def length(thread: int) -> int:
        return (7000, 20_000, 1000, 3000)[thread]

    time: Counter[int] = Counter()
    for thread in turns(Weighted(), 4, 4000, length):
        time[thread] += length(thread)
    total = sum(time.values())
    for thread in range(4):
        assert time[thread] / total == pytest.approx((thread + 1) / 10, rel=0.02)


def test_who_has_slept_is_not_owed_the_time() -> None:
    driver = Driver(FairShare())
    driver.create()
    driver.create()
    driver.dispatch()
    driver.end_turn(0, 10, TurnEnd.WAITS)
    for _ in range(100):
        driver.dispatch()
        driver.end_turn(0, 1000, TurnEnd.EXPIRED)
    driver.make_ready(driver.waiting.pop())
    del driver.named[:]
    for _ in range(100):
        driver.dispatch()
        driver.end_turn(0, 1000, TurnEnd.EXPIRED)
    assert Counter(driver.named)[0] == pytest.approx(50, abs=1)


def test_the_lottery_gives_turns_in_proportion_to_tickets() -> None:
    drawn = Counter(turns(WeightedLottery(seed=3), 4, 8000))
    for thread in range(4):
        assert drawn[thread] / 8000 == pytest.approx((thread + 1) / 10, rel=0.1)
    assert turns(Lottery(1), 3, 50) != turns(Lottery(2), 3, 50)


def test_feedback_prefers_who_waits_to_who_computes() -> None:
    driver = Driver(Feedback())
    driver.create()
    driver.create()
    driver.dispatch()
    driver.end_turn(0, 10, TurnEnd.WAITS)
    for _ in range(3):
        driver.dispatch()
        driver.end_turn(0, 1000, TurnEnd.EXPIRED)
    driver.dispatch()
    driver.make_ready(driver.waiting.pop())
    assert driver.scheduler.preempts(0, 1)
    assert not driver.scheduler.preempts(1, 0)
    driver.end_turn(0, 10, TurnEnd.EXPIRED)
    driver.dispatch()
    assert driver.running == [0]


def test_every_scheduler_has_a_name_and_a_sentence() -> None:
    assert all(name == scheduler.name and scheduler.summary for name, scheduler in SCHEDULERS.items())
