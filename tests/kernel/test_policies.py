"""Global policies by themselves: whom they name, for how many, on views made by hand."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exokernel.policy.memory import (
    MEMORY_POLICIES,
    Guaranteed,
    LargestHolder,
    Oldest,
    Proportional,
    SeizeLargest,
    SeizeOldest,
)
from exokernel.policy.views import EnvironmentView, FrameView
from tests.machine_kit import examples


@dataclass
class View:
    """A machine's memory, made by hand."""

    owners: Sequence[EnvironmentView]
    taken: Sequence[FrameView] = ()
    total: int = 1000
    free: int = 0

    def environments(self) -> Sequence[EnvironmentView]:
        return self.owners

    def frames(self) -> Iterable[FrameView]:
        return self.taken


def owner(number: int, held: int, releasable: int, guarantee: int = 0) -> EnvironmentView:
    return EnvironmentView(number, held, releasable, guarantee, 1000)


owners = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 60)), max_size=8).map(
    lambda rows: [owner(i + 1, max(h, r), r, g) for i, (h, r, g) in enumerate(rows)]
)


@pytest.mark.parametrize("name", MEMORY_POLICIES)
@given(owners, st.integers(1, 40), st.data())
@examples(60)
def test_no_policy_asks_for_more_than_can_be_released_or_names_one_twice(
    name: str, rows: list[EnvironmentView], count: int, data: st.DataObject
) -> None:
    frames = [
        FrameView(100 * e.number + i, (e.number,), data.draw(st.integers(0, 255)))
        for e in rows
        for i in range(e.releasable)
    ]
    asks = MEMORY_POLICIES[name]().choose(View(rows, frames), 1, count)
    assert len({ask.environment for ask in asks}) == len(asks)
    for ask in asks:
        assert 0 < ask.count <= next(e.releasable for e in rows if e.number == ask.environment)
    if name != "guaranteed" and sum(e.releasable for e in rows):
        assert asks, "somebody could have given"


@given(owners, st.integers(1, 40), st.integers(1, 16))
@examples(100)
def test_proportional_asks_for_exactly_what_is_wanted(rows: list[EnvironmentView], count: int, batch: int) -> None:
    asks = Proportional(batch).choose(View(rows), 1, count)
    assert sum(ask.count for ask in asks) == min(max(count, batch), sum(e.releasable for e in rows))


def test_proportional_follows_what_each_holds() -> None:
    rows = [owner(1, 10, 10), owner(2, 30, 30), owner(3, 60, 60)]
    assert {a.environment: a.count for a in Proportional(10).choose(View(rows), 1, 10)} == {1: 1, 2: 3, 3: 6}


@given(owners, st.integers(1, 40))
@examples(100)
def test_nobody_is_asked_below_its_guarantee(rows: list[EnvironmentView], count: int) -> None:
    for ask in Guaranteed().choose(View(rows), 1, count):
        named = next(e for e in rows if e.number == ask.environment)
        assert named.held - ask.count >= named.guarantee


def test_guaranteed_asks_whoever_is_furthest_above_its_own() -> None:
    rows = [owner(1, 90, 90, 85), owner(2, 30, 30, 5), owner(3, 50, 50, 40)]
    assert [ask.environment for ask in Guaranteed().choose(View(rows), 1, 1)] == [2]
    assert Guaranteed().choose(View([owner(1, 90, 90, 90)]), 1, 1) == []


def test_largest_names_the_largest_that_can_release_and_the_older_of_two() -> None:
    rows = [owner(1, 40, 0), owner(2, 30, 5), owner(3, 30, 30)]
    assert [(a.environment, a.count) for a in LargestHolder(8).choose(View(rows), 1, 1)] == [(2, 5)]


def test_oldest_asks_the_holders_of_the_oldest_frames() -> None:
    frames = [FrameView(1, (1,), 5), FrameView(2, (2,), 200), FrameView(3, (2,), 100), FrameView(4, (1,), 150)]
    rows = [owner(1, 2, 2), owner(2, 2, 2)]
    asks = Oldest(3).choose(View(rows, frames), 1, 1)
    assert {a.environment: a.count for a in asks} == {1: 1, 2: 2}
    assert SeizeOldest(3).pick(View(rows, frames), 1, 1) == [2, 4, 3]
    assert SeizeLargest(1).pick(View([owner(1, 9, 2), owner(2, 2, 2)], frames), 1, 1) == [4]
