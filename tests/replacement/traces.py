"""Reference strings to judge strategies on."""

from itertools import accumulate
from random import Random

from hypothesis import strategies as st

from libos.replay import Trace


def zipf(seed: int, pages: int, length: int) -> list[int]:
    """Few pages are popular, most are rare."""
    weights = list(accumulate(1 / rank for rank in range(1, pages + 1)))
    return Random(seed).choices(range(pages), cum_weights=weights, k=length)


def uniform(seed: int, pages: int, length: int) -> list[int]:
    """All pages are equally likely."""
    dice = Random(seed)
    return [dice.randrange(pages) for _ in range(length)]


def loop(seed: int, pages: int, length: int) -> list[int]:
    """Round and round, with a stray reference now and then."""
    dice = Random(seed)
    return [index % pages if dice.random() < 0.98 else dice.randrange(pages) for index in range(length)]


def phased(seed: int, pages: int, length: int) -> list[int]:
    """A small working set that is exchanged for another, four times."""
    dice = Random(seed)
    return [index * 4 // length * pages // 2 + int(dice.expovariate(4 / pages)) % pages for index in range(length)]


def scanned(seed: int, pages: int, length: int) -> list[int]:
    """A working set, swept over by scans of pages used once."""
    dice = Random(seed)
    return [10_000 + index if index // pages % 3 == 2 else dice.randrange(pages) for index in range(length)]


FAMILIES = (zipf, uniform, loop, phased, scanned)

SEEDED = [family(seed, pages, 700) for family in FAMILIES for seed, pages in ((1, 12), (2, 60), (3, 150))]
"""Fixed traces of each family."""

short_traces = st.integers(1, 12).flatmap(
    lambda pages: st.lists(st.integers(0, pages), min_size=1, max_size=80),
)
"""Traces that Hypothesis can shrink."""

written_traces = st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=80).map(
    lambda references: Trace([page for page, _ in references], bytes(write for _, write in references))
)
"""The same with reads and writes."""
