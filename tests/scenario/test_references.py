"""What a run records is what its pager saw: a replay of the record misses exactly as often as the run faulted.

The record has the page changes of the program's own loads and stores.  It need not have more:

* Text and constants are lent to a program for as long as it runs, so no pager moves them; they are left out.
* A page is recorded when the access succeeds, so the access that faulted is in the record once, where it is repeated.
* The library's own pages lie above 4 GiB and never fault; where its code touches a page of the program's, as when it
  fills a new one with zeros, that page is the one that faulted and is resident.
* The kernel reads the text that a program prints; it has just been written, so it is resident and used.
* Accesses to one page between two page changes are one line.  None of these policies can tell: they look at faults,
  and at accessed bits that are set already.

FIFO, second chance and Clock need nothing but the record.  The other two are matched where live and replay differ:

* Random takes its numbers from the seed; the pager in C has a generator of its own, so it is repeated here.
* MRU in a replay spares no page and ticks by references.  A live one spares the newest eight, and the one in C never
  ticks; the one in Python ticks by cycles, which no record has, so it is run here without a tick.
"""

from itertools import pairwise
from pathlib import Path

import pytest

from exokernel.results import ProgramResult
from exokernel.scenario import ProgramSpec, Scenario
from libos.replacement import STRATEGIES, RandomChoice, Strategy
from libos.replacement.ageing import Mru
from libos.replay import read_trace, replay, replay_named
from tests.apps.oracles import random_numbers

SEED = 5
PROGRAMS = {
    "zipf": ("pagewalk", "--pattern", "zipf", "--pages", "60", "--steps", "1500"),
    "loop": ("pagewalk", "--pattern", "loop", "--pages", "40", "--steps", "400", "--write", "50"),
    "quicksort": ("quicksort", "15000"),
    "hashjoin": ("hashjoin", "500", "1500"),
}
UNTICKED = """
from libos.replacement.ageing import Mru

class Unticked(Mru):
    def __init__(self, frames, seed=0):
        super().__init__(frames, seed)
        self.sample_every = None
"""


class RandomInC(RandomChoice):
    """Random with the generator of `pager_random.c`."""

    def __init__(self, frames: int, seed: int = 0) -> None:
        super().__init__(frames, seed)
        self._numbers = random_numbers(seed)

    def victim(self, bits: object) -> int:
        return self._pages[(next(self._numbers) >> 32) * len(self._pages) >> 32]


def recorded(directory: Path, argv: tuple[str, ...], libos: str, frames: int) -> ProgramResult:
    program = ProgramSpec(argv[0], libos, argv[1:], frames)
    return Scenario((program,), seed=SEED, record_references=directory / "references").run().programs[0]


@pytest.mark.parametrize("frames", [8, 13, 32])
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("libos", ["native+fifo", "native+clock", "python+fifo", "python+second-chance", "python+clock"])
def test_a_replay_of_the_record_misses_as_often_as_the_run_faulted(
    tmp_path: Path, libos: str, name: str, frames: int
) -> None:
    live = recorded(tmp_path, PROGRAMS[name], libos, frames)
    trace = read_trace(tmp_path / "references")
    result = replay_named(trace, libos.partition("+")[2], frames)
    assert (result.misses, result.evictions) == (live.faults, live.evictions)


@pytest.mark.parametrize("frames", [8, 13, 32])
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("libos", ["native+random", "python+random", "native+mru", "unticked"])
def test_so_does_one_of_random_and_mru_with_the_live_pagers_seed_and_settings(
    tmp_path: Path, libos: str, name: str, frames: int
) -> None:
    (tmp_path / "mine.py").write_text(UNTICKED)
    live = recorded(tmp_path, PROGRAMS[name], str(tmp_path / "mine.py") if libos == "unticked" else libos, frames)
    strategy: Strategy
    if libos.endswith("random"):
        strategy = (RandomInC if libos.startswith("native") else STRATEGIES["random"])(frames, SEED)
    else:
        strategy = Mru(frames)
        strategy.sample_every = None
    result = replay(read_trace(tmp_path / "references"), strategy, frames)
    assert (result.misses, result.evictions) == (live.faults, live.evictions)


def test_the_record_does_not_depend_on_the_pager(tmp_path: Path) -> None:
    """As seen by the program; a library that clears pages with code of its own touches them once more."""
    records = set()
    for libos in ("python+fifo", "python+clock", "python+mru"):
        recorded(tmp_path, PROGRAMS["zipf"], libos, 16)
        records.add((tmp_path / "references").read_bytes())
    assert len(records) == 1


def test_a_line_of_the_record_is_another_page_or_the_first_write_to_it(tmp_path: Path) -> None:
    recorded(tmp_path, PROGRAMS["quicksort"], "native+fifo", 20)
    trace = read_trace(tmp_path / "references")
    lines = list(zip(trace.pages, trace.writes, strict=True))
    for (page, write), (next_page, next_write) in pairwise(lines):
        assert page != next_page or (not write and next_write)


def test_the_record_begins_with_the_hashes_of_the_images(tmp_path: Path) -> None:
    recorded(tmp_path, PROGRAMS["loop"], "native+fifo", 8)
    lines = (tmp_path / "references").read_text().splitlines()
    assert lines[0] == "# exo references 1"
    images = [line.split()[2] for line in lines if line.startswith("# image ")]
    assert [name.partition("-")[0] for name in images] == ["libos.so", "pager_fifo", "pagewalk"]
