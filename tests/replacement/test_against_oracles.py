"""Our strategies evict the same pages in the same order as slow and obvious versions of them."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libos.replacement import (
    Ageing,
    Belady,
    Clock,
    Lirs,
    Lru,
    Mru,
    Nfu,
    RandomChoice,
    S3Fifo,
    SecondChance,
    Strategy,
    WSClock,
)
from libos.replay import Trace, replay

from . import oracles
from .recording import recorded
from .traces import SEEDED, short_traces, written_traces

some_frames = st.integers(1, 8)
quickly = settings(max_examples=150, deadline=None, database=None)


def evicted(trace: Trace | list[int], strategy: Strategy) -> list[int]:
    return recorded(trace, strategy, strategy.frames)[0].evicted


@quickly
@given(short_traces, some_frames)
def test_second_chance(trace: list[int], frames: int) -> None:
    assert evicted(trace, SecondChance(frames)) == oracles.second_chance(trace, frames)


@quickly
@given(short_traces, some_frames)
def test_clock(trace: list[int], frames: int) -> None:
    assert evicted(trace, Clock(frames)) == oracles.clock(trace, frames)


@quickly
@given(short_traces, some_frames, st.integers(1, 9), st.integers(1, 8))
def test_ageing(trace: list[int], frames: int, every: int, width: int) -> None:
    ours = evicted(trace, Ageing(frames, sample_every=every, width=width))
    assert ours == oracles.ageing(trace, frames, every, width)


@quickly
@given(short_traces, some_frames, st.integers(1, 9))
def test_nfu(trace: list[int], frames: int, every: int) -> None:
    assert evicted(trace, Nfu(frames, sample_every=every)) == oracles.nfu(trace, frames, every)


@quickly
@given(short_traces, some_frames, st.integers(1, 9), st.integers(0, 4))
def test_mru(trace: list[int], frames: int, every: int, spare: int) -> None:
    ours = evicted(trace, Mru(frames, sample_every=every, spare=spare))
    assert ours == oracles.mru(trace, frames, every, spare)


@quickly
@given(written_traces, some_frames, st.integers(0, 12), st.integers(0, 3))
def test_wsclock(trace: Trace, frames: int, window: int, writes: int) -> None:
    ours = evicted(trace, WSClock(frames, window=window, writes=writes))
    assert ours == oracles.wsclock(trace, frames, window, writes)


@quickly
@given(short_traces, some_frames, st.sampled_from([0.01, 0.3, 0.6]), st.sampled_from([None, 1.5, 2.0]))
def test_lirs(trace: list[int], frames: int, ratio: float, limit: float | None) -> None:
    ours = evicted(trace, Lirs(frames, hir_ratio=ratio, stack_limit=limit))
    assert ours == oracles.lirs(trace, frames, ratio, limit)[0]


@quickly
@given(short_traces, some_frames, st.integers(1, 4))
def test_s3_fifo_as_in_the_paper(trace: list[int], frames: int, tenths: int) -> None:
    small = max(1, int(frames * tenths / 10))
    ours = S3Fifo(frames, small_ratio=tenths / 10, ghost_ratio=2.0)
    assert evicted(trace, ours) == oracles.s3_fifo(trace, frames, small, 2 * frames)


@pytest.mark.parametrize("frames", [7, 40])
def test_all_of_them_on_longer_traces(frames: int) -> None:
    for pages in SEEDED:
        trace = Trace(pages, bytes(page % 3 == 0 for page in pages))
        assert evicted(trace, SecondChance(frames)) == oracles.second_chance(pages, frames)
        assert evicted(trace, Clock(frames)) == oracles.clock(pages, frames)
        assert evicted(trace, Ageing(frames, sample_every=frames)) == oracles.ageing(pages, frames, frames)
        assert evicted(trace, Nfu(frames, sample_every=frames)) == oracles.nfu(pages, frames, frames)
        assert evicted(trace, Mru(frames, sample_every=frames)) == oracles.mru(pages, frames, frames, spare=8)
        assert evicted(trace, WSClock(frames, window=frames, writes=2)) == oracles.wsclock(trace, frames, frames, 2)
        assert evicted(trace, Lirs(frames)) == oracles.lirs(pages, frames)[0]
        assert evicted(trace, Lirs(frames, hir_ratio=0.4)) == oracles.lirs(pages, frames, 0.4)[0]


@quickly
@given(st.lists(st.integers(0, 6), min_size=1, max_size=25), st.integers(1, 5))
def test_beladys_choices_are_as_good_as_the_best_of_all_choices(trace: list[int], frames: int) -> None:
    assert replay(trace, Belady(frames, future=trace), frames).misses == oracles.fewest_misses(trace, frames)


@quickly
@given(short_traces, some_frames)
def test_lru_misses_by_stack_distance(trace: list[int], frames: int) -> None:
    assert replay(trace, Lru(frames), frames).misses == oracles.lru_misses_by_stack_distance(trace, frames)


def test_random_evicts_every_page_equally_often() -> None:
    strategy = RandomChoice(10, seed=7)
    for page in range(12):
        strategy.admit(page)
    strategy.forget(3)
    strategy.forget(11)
    draws = Counter(strategy.victim(NO_BITS) for _ in range(10_000))
    assert sorted(draws) == [0, 1, 2, 4, 5, 6, 7, 8, 9, 10]
    # Five standard deviations of a binomial distribution about 1000.
    assert all(abs(count - 1000) < 150 for count in draws.values())


def test_random_is_decided_by_its_seed() -> None:
    trace = SEEDED[5]
    runs = [evicted(trace, RandomChoice(9, seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


class _NoBits:
    """For strategies that must not look."""

    @property
    def now(self) -> int:
        raise AssertionError

    def accessed(self, page: int) -> bool:
        raise AssertionError

    def dirty(self, page: int) -> bool:
        raise AssertionError

    def clear_accessed(self, page: int) -> None:
        raise AssertionError

    def schedule_write(self, page: int) -> None:
        raise AssertionError


NO_BITS = _NoBits()
