"""Our strategies miss exactly the same references as libcachesim 0.3.5's, parameter for parameter.

Every object has size 1 and metadata is not counted, so a cache of n bytes holds n pages. Where the two can be made the
same only by parameters that are not our defaults, or only in part, the table and the tests say so.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libos.replacement import Arc, Belady, Clock, Fifo, Lfu, Lirs, Lru, S3Fifo, SecondChance, Sieve, Strategy, TwoQueue
from libos.replacement.optimum import next_uses
from libos.replay import replay

from . import oracles
from .recording import recorded
from .traces import SEEDED, short_traces

libcachesim = pytest.importorskip("libcachesim")

NEVER = 2**63 - 1


def missed_by_judge(cache: str, trace: Sequence[int], frames: int, **parameters: float) -> list[bool]:
    """For each reference, whether libcachesim's cache of that class misses it."""
    judge = getattr(libcachesim, cache)(frames, hashpower=8, consider_obj_metadata=False, **parameters)
    request = libcachesim.Request()
    request.obj_size = 1
    missed = []
    for page, next_use in zip(trace, next_uses(trace), strict=True):
        request.obj_id = page
        request.next_access_vtime = next_use if next_use < len(trace) else NEVER
        missed.append(not judge.get(request))
    return missed


@dataclass(frozen=True)
class Pair:
    """A cache of libcachesim and how to build our equal of it for a trace and a number of frames."""

    cache: str
    parameters: dict[str, float]
    ours: Callable[[Sequence[int], int], Strategy]
    least_frames: int = 1
    accessed_on_admission: bool = True

    def agree(self, trace: Sequence[int], frames: int) -> None:
        missed = missed_by_judge(self.cache, trace, frames, **self.parameters)
        theirs = [page for page, miss in zip(trace, missed, strict=True) if miss]
        history, result = recorded(
            trace, self.ours(trace, frames), frames, accessed_on_admission=self.accessed_on_admission
        )
        assert history.admitted == theirs
        assert result.misses == len(theirs)


PAIRS = {
    "fifo": Pair("FIFO", {}, lambda trace, frames: Fifo(frames)),
    "lru": Pair("LRU", {}, lambda trace, frames: Lru(frames)),
    # Its Clock does not count the reference that missed as a use unless told to; hardware does.
    "clock, first use counts": Pair("Clock", {"n_bit_counter": 1, "init_freq": 1}, lambda trace, frames: Clock(frames)),
    "clock, first use does not count": Pair(
        "Clock", {"n_bit_counter": 1, "init_freq": 0}, lambda trace, frames: Clock(frames), accessed_on_admission=False
    ),
    "second chance": Pair("Clock", {"n_bit_counter": 1, "init_freq": 1}, lambda trace, frames: SecondChance(frames)),
    # Ties in both go to the page that reached the count first; counts begin anew when a page returns.
    "lfu": Pair("LFU", {}, lambda trace, frames: Lfu(frames)),
    # Its A1in cannot hold a page if its share of the frames rounds down to 0, and it then caches nothing at all.
    "2q, as in the paper": Pair(
        "TwoQ", {"a_in_size_ratio": 0.25, "a_out_size_ratio": 0.5}, lambda trace, frames: TwoQueue(frames), 4
    ),
    "2q, long first queue": Pair(
        "TwoQ",
        {"a_in_size_ratio": 0.5, "a_out_size_ratio": 0.3},
        lambda trace, frames: TwoQueue(frames, in_ratio=0.5, out_ratio=0.3),
        2,
    ),
    "arc": Pair("ARC", {}, lambda trace, frames: Arc(frames)),
    # Its small queue refuses every page if its size is below 2. It fills the main queue before the first eviction,
    # which the paper does not; for the paper's way see the oracle.
    "s3-fifo, main filled first": Pair(
        "S3FIFO",
        {"small_size_ratio": 0.1, "ghost_size_ratio": 0.9, "move_to_main_threshold": 2},
        lambda trace, frames: S3Fifo(frames, fill_main=True),
        20,
    ),
    "s3-fifo, other sizes": Pair(
        "S3FIFO",
        {"small_size_ratio": 0.5, "ghost_size_ratio": 2.0, "move_to_main_threshold": 1},
        lambda trace, frames: S3Fifo(frames, small_ratio=0.5, ghost_ratio=2.0, uses_to_move=1, fill_main=True),
        4,
    ),
    "sieve": Pair("Sieve", {}, lambda trace, frames: Sieve(frames)),
    # Which of several pages never used again is evicted is open, and makes no difference to what misses.
    "belady": Pair("Belady", {}, lambda trace, frames: Belady(frames, future=trace)),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_the_same_references_miss_on_seeded_traces(pair: Pair) -> None:
    for frames in (1, 2, 3, 4, 5, 8, 13, 20, 33, 60, 100):
        for trace in SEEDED if frames >= pair.least_frames else []:
            pair.agree(trace, frames)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_the_same_references_miss_on_any_trace(pair: Pair) -> None:
    @settings(max_examples=60, deadline=None, database=None)
    @given(trace=short_traces, extra=st.integers(0, 8))
    def check(trace: list[int], extra: int) -> None:
        frames = pair.least_frames + extra
        # As many different pages as make the frames scarce.
        pair.agree([page * (1 + index % 3) for index, page in enumerate(trace)] * 2, frames)

    check()


@pytest.mark.parametrize("frames", [2, 3, 5, 10, 20, 50, 150, 250])
def test_lirs_misses_the_same_until_libcachesim_leaves_the_paper(frames: int) -> None:
    # On a hit to a page in the queue but not in the stack, its LIRS also demotes a LIR page, which the paper does only
    # when a page becomes one. From then on the two are compared no more. Its stack is limited to twice the frames.
    compared = 0
    for trace in SEEDED:
        _, until = oracles.lirs(trace, frames, stack_limit=2.0)
        trace = trace[:until]
        missed = missed_by_judge("LIRS", trace, frames)
        history, result = recorded(trace, Lirs(frames, stack_limit=2.0), frames)
        assert history.admitted == [page for page, miss in zip(trace, missed, strict=True) if miss]
        compared += result.evictions
    assert compared > 100


def test_libcachesims_lirs_misses_less_often_than_is_possible() -> None:
    # Why it is no judge beyond that: the demotion can evict the page just hit, which is then taken for resident.
    trace, frames = [0, 2, 0, 2, 1, 0, 2], 2
    assert oracles.fewest_misses(trace, frames) == 4
    assert sum(missed_by_judge("LIRS", trace, frames)) == 3
    assert replay(trace, Lirs(frames), frames).misses >= 4
