"""What is known of replacement in general, and what each strategy is for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libos.replacement import STRATEGIES, Ageing, Bits, Mru, Nfu, Sieve, Strategy, UnknownName, WSClock, strategy_named
from libos.replay import Trace, replay, replay_named

from .recording import recorded
from .traces import SEEDED, short_traces, written_traces

CLASSIC = [1, 2, 3, 4, 1, 2, 5, 1, 2, 3, 4, 5]


@settings(max_examples=200, deadline=None, database=None)
@given(short_traces, st.integers(1, 8), st.integers(0, 3))
def test_no_strategy_misses_less_often_than_the_optimum(trace: list[int], frames: int, seed: int) -> None:
    fewest = replay_named(trace, "belady", frames).misses
    for name in STRATEGIES:
        assert fewest <= replay_named(trace, name, frames, seed).misses, name


@pytest.mark.parametrize("frames", [4, 11, 50])
def test_no_strategy_misses_less_often_than_the_optimum_on_longer_traces(frames: int) -> None:
    for trace in SEEDED:
        fewest = replay_named(trace, "belady", frames).misses
        for name in STRATEGIES:
            assert fewest <= replay_named(trace, name, frames).misses, name


@pytest.mark.parametrize("name", ["lru", "belady"])
@settings(max_examples=100, deadline=None, database=None)
@given(trace=short_traces)
def test_a_stack_algorithm_never_misses_more_with_more_frames(name: str, trace: list[int]) -> None:
    misses = [replay_named(trace, name, frames).misses for frames in range(1, 14)]
    assert misses == sorted(misses, reverse=True)


def test_first_in_first_out_misses_more_with_more_frames_on_beladys_string() -> None:
    assert replay_named(CLASSIC, "fifo", 3).misses == 9
    assert replay_named(CLASSIC, "fifo", 4).misses == 10
    assert replay_named(CLASSIC, "belady", 3).misses == 7
    assert replay_named(CLASSIC, "belady", 4).misses == 6


@settings(max_examples=60, deadline=None, database=None)
@given(written_traces, st.integers(1, 8), st.sampled_from(sorted(STRATEGIES)))
def test_the_figures_of_a_replay_add_up(trace: Trace, frames: int, name: str) -> None:
    result = replay_named(trace, name, frames)
    distinct = len(set(trace.pages))
    assert result.references == len(trace) == result.hits + result.misses
    assert result.cold == distinct <= result.misses
    assert result.evictions == result.misses - min(frames, distinct)
    assert result.dirty_evictions <= result.evictions
    assert result.dirty_evictions + result.cleaned <= sum(trace.writes)
    assert (result.policy, result.frames) == (name, frames)


@pytest.mark.parametrize("name", STRATEGIES)
def test_with_a_frame_for_every_page_only_first_references_miss(name: str) -> None:
    for trace in SEEDED[:6]:
        result = replay_named(trace, name, len(set(trace)))
        assert result.misses == result.cold == len(set(trace))
        assert result.evictions == 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_replay_comes_out_the_same_each_time(name: str) -> None:
    assert replay_named(SEEDED[7], name, 9, seed=3) == replay_named(SEEDED[7], name, 9, seed=3)


def test_on_a_loop_mru_misses_a_third_as_often_as_the_clock() -> None:
    trace = list(range(20)) * 30
    assert replay_named(trace, "clock", 15).misses == len(trace)
    assert replay_named(trace, "belady", 15).misses <= replay_named(trace, "mru", 15).misses < len(trace) * 0.36


@pytest.mark.parametrize("name", sorted(name for name in STRATEGIES if not STRATEGIES[name].needs_every_reference))
def test_an_instruction_that_needs_eight_pages_at_once_gets_them(name: str) -> None:
    # It is begun anew after each fault until all are resident. A strategy that evicts what it has just been given
    # would go on for ever.
    frames = 16
    strategy = strategy_named(name)(frames)
    bits = _AllAccessed()
    resident = set(range(100, 100 + frames))
    for page in sorted(resident):
        strategy.admit(page)
    for _ in range(400):
        missing = [page for page in range(8) if page not in resident]
        if not missing:
            return
        page = strategy.victim(bits)
        resident.remove(page)
        strategy.forget(page)
        resident.add(missing[0])
        strategy.admit(missing[0])
    pytest.fail(f"{name} still faults")


def test_ageing_lets_a_page_go_that_nfu_keeps_for_its_past() -> None:
    busy_once = [0] * 40
    afterwards = [1, 2, 3] * 10
    new = [4]
    trace = busy_once + afterwards + new
    assert recorded(trace, Ageing(4, sample_every=2), 4)[0].evicted == [0]
    assert recorded(trace, Nfu(4, sample_every=2), 4)[0].evicted != [0]


def test_wsclock_has_an_old_dirty_page_cleaned_and_evicts_the_next_old_clean_one() -> None:
    strategy, bits = WSClock(4, window=50), _Settable({1, 2, 3, 4}, dirty=set())
    for page in (1, 2, 3, 4):
        strategy.admit(page)
    strategy.victim(bits)
    bits.now, bits.accessed_pages, bits.dirty_pages = 100, {2}, {1}
    assert strategy.victim(bits) == 3
    assert bits.scheduled == [1]
    assert bits.accessed_pages == set()


def test_wsclock_spares_the_working_set_while_anything_else_is_left() -> None:
    strategy, bits = WSClock(3, window=50), _Settable({1, 2, 3}, dirty=set())
    for page in (1, 2, 3):
        strategy.admit(page)
    strategy.victim(bits)
    bits.now, bits.accessed_pages = 40, {1}
    strategy.victim(bits)
    bits.now, bits.accessed_pages = 60, {3}
    assert strategy.victim(bits) == 2


def test_wsclock_takes_the_oldest_clean_page_if_memory_is_smaller_than_the_working_set() -> None:
    strategy, bits = WSClock(3, window=1000), _Settable({1, 2, 3}, dirty={1})
    for page in (1, 2, 3):
        strategy.admit(page)
    strategy.victim(bits)
    bits.now, bits.accessed_pages = 40, {2}
    assert strategy.victim(bits) == 3
    assert bits.scheduled == []
    bits.dirty_pages = {1, 2, 3}
    assert strategy.victim(bits) == 3


def test_wsclock_asks_for_no_more_writes_at_once_than_it_may() -> None:
    strategy, bits = WSClock(5, window=50, writes=2), _Settable({1, 2, 3, 4, 5}, dirty={1, 2, 3, 4, 5})
    for page in (1, 2, 3, 4, 5):
        strategy.admit(page)
    strategy.victim(bits)
    bits.now = 100
    strategy.victim(bits)
    assert len(bits.scheduled) == 2


def test_a_replay_counts_what_was_cleaned_and_what_had_to_be_written_at_eviction() -> None:
    trace = Trace([1, 2, 2, 2, 2, 2, 3, 2, 2, 2, 2, 2, 4], bytes([1] + 12 * [0]))
    assert replay(trace, WSClock(2, window=2), 2).dirty_evictions == 0
    assert replay(trace, strategy_named("fifo")(2), 2).dirty_evictions == 1
    old_and_dirty = Trace([1, 2, 3, 1, 2, 3, 9, 3, 3, 3, 3, 3, 8, 3, 3, 3, 3, 7], bytes([1, 1] + 16 * [0]))
    result = replay(old_and_dirty, WSClock(4, window=3), 4)
    assert (result.cleaned, result.dirty_evictions) == (2, 0)


def test_sieve_keeps_its_working_set_through_a_scan() -> None:
    trace = [*range(8)] * 4 + [*range(100, 140)] + [*range(8)]
    assert replay(trace, Sieve(12), 12).misses == 8 + 40
    assert replay_named(trace, "lru", 12).misses == 8 + 40 + 8


def test_a_replay_ticks_every_so_many_references_and_says_when() -> None:
    ticks = []

    class Listener(Ageing):
        def sample(self, bits: Bits) -> None:
            ticks.append(bits.now)

    replay([1, 2, 3] * 4, Listener(2, sample_every=4), 2)
    assert ticks == [4, 8]


def test_an_mru_pager_spares_what_it_admitted_last() -> None:
    history, _ = recorded(list(range(20)), Mru(12, spare=8), 12)
    assert history.evicted == [3, 4, 5, 6, 7, 8, 9, 10]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clok", "There is no replacement policy called 'clok'; did you mean 'clock'?"),
        ("LRU", "There is no replacement policy called 'LRU'; did you mean 'lru'?"),
        ("s3fifo", "There is no replacement policy called 's3fifo'; did you mean 's3-fifo'?"),
    ],
)
def test_a_misspelt_policy_is_answered_with_the_near_name(name: str, message: str) -> None:
    with pytest.raises(UnknownName) as caught:
        strategy_named(name)
    assert str(caught.value) == message


def test_an_unknown_policy_is_answered_with_all_names() -> None:
    with pytest.raises(UnknownName, match="choose one of fifo, second-chance, clock"):
        replay_named([1], "zzzzzz", 1)


def test_every_strategy_has_a_name_of_its_own_and_a_one_line_description() -> None:
    for name, strategy in STRATEGIES.items():
        assert strategy.name == name
        assert strategy.summary
        assert "\n" not in strategy.summary
        assert len(strategy.summary) <= 90
    assert len({strategy.summary for strategy in STRATEGIES.values()}) == len(STRATEGIES)


@pytest.mark.parametrize("frames", [0, -1])
def test_no_frames_is_refused(frames: int) -> None:
    with pytest.raises(ValueError, match="at least 1 frame"):
        replay_named([1, 2], "fifo", frames)
    with pytest.raises(ValueError, match="at least 1 frame"):
        replay([1, 2], strategy_named("fifo")(1), frames)


def test_a_future_that_is_not_the_trace_is_noticed() -> None:
    strategy: Strategy = strategy_named("belady").for_trace([1, 2, 3], 2)
    with pytest.raises(ValueError, match="not what the future"):
        replay([1, 3, 2], strategy, 2)


class _AllAccessed:
    """Every page was used and none written."""

    now = 0

    def accessed(self, page: int) -> bool:
        return True

    def dirty(self, page: int) -> bool:
        return False

    def clear_accessed(self, page: int) -> None:
        pass

    def schedule_write(self, page: int) -> None:
        pass


class _Settable(_AllAccessed):
    """Bits and a clock that the test sets."""

    def __init__(self, accessed: set[int], dirty: set[int]) -> None:
        self.accessed_pages = accessed
        self.dirty_pages = dirty
        self.scheduled: list[int] = []

    def accessed(self, page: int) -> bool:
        return page in self.accessed_pages

    def dirty(self, page: int) -> bool:
        return page in self.dirty_pages

    def clear_accessed(self, page: int) -> None:
        self.accessed_pages.discard(page)

    def schedule_write(self, page: int) -> None:
        self.scheduled.append(page)
