"""Global performance: a random mix of jobs with at most so many of them running at the same time.

The experiment of Kaashoek et al., Application Performance and Flexibility on Exokernel Systems (SOSP 1997, section 8):
the same list of jobs is run at growing depths, as that paper calls the number of jobs at a time, and what is reported is
how long all of them took and how long each.  A kernel that lets applications manage themselves must not pay for that when
many of them compete.  Two contestants run the same list in the same memory:

    own pagers, kernel asks       each job over the pager that suits it; the kernel asks the holders of the oldest pages,
                                  who choose what to give
    one default, kernel seizes    all over one pager; the kernel takes the oldest pages, as a monolithic kernel does

What a job prints must be what it prints when it is alone on the machine.  The sentences at the end are computed from the
numbers, and say so where these speak against us.
"""

import json
import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from exokernel.abi.layout import CYCLES_PER_SECOND
from exokernel.demos.paging import text
from exokernel.results import ProgramResult, Results
from exokernel.scenario import ProgramSpec, Scenario, ScenarioError

MEMORY = 3584 << 10
"""Enough for five jobs at a time, a little short for ten, and not for twenty."""
ALONE = 16 << 20
DEFAULT = "native+clock"
HEAP = 2 << 20
WORDS = 15_000
HARDLY = 0.02
"""A difference of so small a part is none worth a word."""
PROGRAMS = ("matmul", "quicksort", "hashjoin", "wordfreq", "sieve", "pagewalk")


@dataclass(frozen=True)
class Job:
    """A program with its arguments, and the pager that suits it."""

    app: str
    arguments: tuple[str, ...]
    own: str


@dataclass(frozen=True)
class Way:
    """One of the contestants."""

    title: str
    own: bool
    global_policy: str


WAYS = (Way("own pagers, kernel asks", True, "oldest"), Way("one default, kernel seizes", False, "seize-oldest"))


@dataclass(frozen=True)
class Row:
    """What one contestant reached at one depth: times in cycles, pages of 4 KiB that were read and written."""

    way: str
    depth: int
    total: int
    fastest: int
    mean: int
    slowest: int
    faults: int
    pages_in: int
    pages_out: int
    jobs: int
    wrong: tuple[str, ...] = ()
    """Jobs that did not print what they print alone, or did not end well."""

    @property
    def throughput(self) -> float:
        """Jobs in a second of virtual time, a cycle being a nanosecond."""
        return self.jobs / self.total * CYCLES_PER_SECOND


def jobs(count: int, seed: int, file: Path) -> list[Job]:
    """So many jobs at random, none of which needs more than half a mebibyte or so.  `file` is what is counted in."""
    source = random.Random(seed)

    def a_seed() -> str:
        return str(source.randrange(1 << 32))

    def matmul() -> Job:
        order = source.choice(("ijk", "ikj", "tiled"))
        return Job("matmul", (str(source.randrange(48, 88)), a_seed(), "--order", order), "native+clock")

    def quicksort() -> Job:
        return Job("quicksort", (str(source.randrange(10_000, 50_000)), a_seed()), "native+clock")

    def hashjoin() -> Job:
        sizes = str(source.randrange(1_000, 4_000)), str(source.randrange(4_000, 16_000))
        return Job("hashjoin", (*sizes, a_seed()), "native+clock")

    def wordfreq() -> Job:
        return Job("wordfreq", (str(file),), "native+clock")

    def sieve() -> Job:
        return Job("sieve", (str(source.randrange(50_000, 250_000)),), "python+mru")

    def pagewalk() -> Job:
        pattern = source.choice(("loop", "zipf", "random", "phased"))
        pages, steps = str(source.randrange(40, 120)), str(source.randrange(5_000, 30_000))
        words = "--pattern", pattern, "--pages", pages, "--steps", steps, "--write", "30", "--seed", a_seed()
        return Job("pagewalk", words, "native+mru" if pattern == "loop" else "native+clock")

    kinds: Sequence[Callable[[], Job]] = (matmul, quicksort, hashjoin, wordfreq, sieve, pagewalk)
    return [source.choice(kinds)() for _ in range(count)]


def outputs(mix: Sequence[Job], seed: int) -> list[bytes]:
    """What each job prints when it is alone."""
    known: dict[tuple[str, ...], bytes] = {}
    for job in mix:
        key = job.app, *job.arguments
        if key not in known:
            alone = Scenario((ProgramSpec(job.app, DEFAULT, job.arguments, heap=HEAP),), memory=ALONE, seed=seed).run()
            known[key] = alone.programs[0].output
    return [known[job.app, *job.arguments] for job in mix]


def scenario(mix: Sequence[Job], way: Way, depth: int, seed: int) -> Scenario:
    """The jobs as one contestant runs them.  A job in Python needs a library OS in Python, whoever runs it."""
    programs = tuple(
        ProgramSpec(job.app, job.own if way.own else DEFAULT, job.arguments, heap=HEAP, name=f"{number} {job.app}")
        for number, job in enumerate(mix, 1)
    )
    return Scenario(programs, memory=MEMORY, global_policy=way.global_policy, seed=seed, depth=depth)


def row(way: Way, depth: int, results: Results, expected: Sequence[bytes]) -> Row:
    """The figures of one run."""
    times = [one.finished_at - one.began_at for one in results.programs]
    return Row(
        way=way.title,
        depth=depth,
        total=results.cycles,
        fastest=min(times),
        mean=round(mean(times)),
        slowest=max(times),
        faults=sum(one.faults for one in results.programs),
        pages_in=sum(one.sectors_read for one in results.programs) // 8,
        pages_out=sum(one.sectors_written for one in results.programs) // 8,
        wrong=tuple(
            one.name
            for one, output in zip(results.programs, expected, strict=True)
            if one.exit_status or one.output != output
        ),
        jobs=len(results.programs),
    )


def check(count: int, depths: Sequence[int]) -> None:
    """Raise ScenarioError for a mix that makes no sense."""
    if count < 1:
        raise ScenarioError(f"A mix of {count} jobs is none; ask for 1 or more with --jobs.")
    if not depths or min(depths) < 1:
        raise ScenarioError("A depth is how many jobs run at a time; give one or more, each at least 1, such as 1,5,20.")


def run(count: int, depths: Sequence[int], seed: int) -> tuple[list[Row], dict[tuple[str, int], tuple[ProgramResult, ...]]]:
    """Every contestant at every depth: the rows of the table, and each job's results by contestant and depth."""
    check(count, depths)
    rows, every = [], {}
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "text"
        file.write_text(text(seed, WORDS), encoding="ascii")
        mix = jobs(count, seed, file)
        expected = outputs(mix, seed)
        for depth in depths:
            for way in WAYS:
                results = scenario(mix, way, depth, seed).run()
                rows.append(row(way, depth, results, expected))
                every[way.title, depth] = results.programs
    return rows, every


def conclusion(rows: Sequence[Row]) -> list[str]:
    """What the numbers say, a sentence or two for each depth."""
    sentences = []
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        total, slowest = _compared(ours.total, theirs.total), _compared(ours.slowest, theirs.slowest)
        sentence = f"Depth {ours.depth}: with {ours.way}, all jobs took {total}, and the slowest {slowest}."
        against = [what for what, a, b in _measures(ours, theirs) if a > b * (1 + HARDLY)]
        sentences.append(f"{sentence} Against us: {', '.join(against)}." if against else sentence)
    wrong = [f"{row.way} at depth {row.depth}: {', '.join(row.wrong)}" for row in rows if row.wrong]
    if wrong:
        sentences.append(f"These jobs did not print what they print alone: {'; '.join(wrong)}.")
    else:
        sentences.append("Every job printed what it prints alone.")
    return sentences


def _measures(ours: Row, theirs: Row) -> list[tuple[str, int, int]]:
    return [
        ("time for all", ours.total, theirs.total),
        ("mean time of a job", ours.mean, theirs.mean),
        ("slowest job", ours.slowest, theirs.slowest),
        ("faults", ours.faults, theirs.faults),
        ("pages read", ours.pages_in, theirs.pages_in),
        ("pages written", ours.pages_out, theirs.pages_out),
    ]


def _compared(ours: int, theirs: int) -> str:
    share = ours / max(theirs, 1)
    return "as long" if abs(share - 1) <= HARDLY else f"{share:.0%} of the time"


def show(count: int, depths: Sequence[int], seed: int, as_json: bool) -> int:
    """Run and print; gives the exit status, 1 if a job did not print what it prints alone."""
    rows, every = run(count, depths, seed)
    status = 1 if any(row.wrong for row in rows) else 0
    if as_json:
        data = [
            {
                **{name: getattr(row, name) for name in Row.__dataclass_fields__},
                "throughput": row.throughput,
                "programs": [one.as_json() for one in every[row.way, row.depth]],
            }
            for row in rows
        ]
        print(json.dumps({"rows": data, "conclusion": conclusion(rows)}, indent=2, sort_keys=True))
        return status
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("depth", "contestant", "all (M)", "jobs/s", "fastest", "mean", "slowest", "faults", "pages in", "out"):
        table.add_column(heading, justify="left" if heading == "contestant" else "right")
    for one in rows:
        table.add_row(str(one.depth), one.way, *_figures(one))
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    console.print(f"{count} jobs in {MEMORY >> 12} frames, seed {seed}; times in million cycles.\n")
    console.print(table)
    console.print()
    for sentence in conclusion(rows):
        console.print(sentence, soft_wrap=True)
    if any(one.name.endswith("sieve") for one in every[rows[0].way, rows[0].depth]):
        console.print("The jobs called sieve are in Python: do not compare their cycles with machine code's.")
    return status


def _figures(row: Row) -> list[str]:
    times = [f"{cycles / 1e6:,.1f}" for cycles in (row.fastest, row.mean, row.slowest)]
    counts = [f"{count:,}" for count in (row.faults, row.pages_in, row.pages_out)]
    return [f"{row.total / 1e6:,.1f}", f"{row.throughput:,.1f}", *times, *counts]
