"""A convoy behind a spinlock: what asking for the processor is good for.

Threads share a lock for which they wait in a loop.  Two ways to take a processor from one of them:

    asks      the kernel asks by `please_release_cpu`, and a thread in its critical section lets go when that is over
    forces    the kernel takes the processor wherever the thread is, as a monolithic kernel does

Who is forced out of a critical section leaves the others to wait for the rest of the time until it runs again.  (Anderson,
Bershad, Lazowska and Levy, Scheduler Activations, SOSP 1991, section 3.3; Kontothanassis, Wisniewski and Scott,
Scheduler-Conscious Synchronization, TOCS 1997.)  The threads are the program's, see apps/convoy.c; under `forces` they keep
no account of their critical sections.  Both ways also run with a lock for each thread, where there is nothing to gain.
What is printed at the end is computed from the numbers.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from exokernel.abi.layout import MAXIMUM_CPUS
from exokernel.demos.switches import run_counting
from exokernel.scenario import ProgramSpec, Scenario, ScenarioError

THREADS_MAXIMUM = 24
"""As in apps/convoy.c."""
DEADLINE = 5_000
"""Cycles a thread has to let go; more where a critical section is longer, since the program would tell its kernel."""
WINDOW = 200
"""How far a processor may run ahead of the others: no more than a critical section, or nobody would see it held."""
DISK = 64 << 20
"""Bytes; hardly any are used, and less is faster to make."""
ALIKE = 0.02
"""Throughputs that differ by less count as the same."""


@dataclass(frozen=True)
class Sweep:
    """What is tried: threads, processors, cycles in the critical section and in a slice, each with each other.  `sections`
    in all are divided among the threads, `outside` is how many cycles a thread computes between two on average."""

    threads: tuple[int, ...] = (2, 4, 8)
    cpus: tuple[int, ...] = (1, 2, 4)
    section: tuple[int, ...] = (200, 2_000)
    quantum: tuple[int, ...] = (5_000, 20_000)
    outside: int = 4_000
    sections: int = 360
    seed: int = 1

    def check(self) -> None:
        """Raise ScenarioError if the numbers make no sense."""
        if not all(1 <= count <= MAXIMUM_CPUS for count in self.cpus):
            raise ScenarioError(f"--cpus are from 1 to {MAXIMUM_CPUS} each.")
        if not all(1 <= count <= THREADS_MAXIMUM for count in self.threads):
            raise ScenarioError(f"--threads are from 1 to {THREADS_MAXIMUM} each.")
        if min(self.section) < 0 or self.outside < 0 or max(*self.section, self.outside) > 1 << 24:
            raise ScenarioError(f"--section and --outside are cycles, from 0 to {1 << 24:,}.")
        if min(self.quantum) < 1:
            raise ScenarioError("--quantum is cycles, 1 or more.")
        if self.sections < max(self.threads):
            raise ScenarioError(f"--sections are to be divided among {max(self.threads)} threads; name more.")


@dataclass(frozen=True)
class Cell:
    """One set of circumstances.  `private`: a lock for each thread."""

    threads: int
    cpus: int
    section: int
    quantum: int
    private: bool = False


@dataclass(frozen=True)
class Outcome:
    """What came of it one way.  Times in cycles; `used` is processor time and `spun` time in
    loops, of all threads together; `longest` the longest wait for the lock, from beginning to
    end; `offered`: times a thread let go after a critical section because it had been asked."""

    exact: bool
    """No increment of the counter was lost."""
    sections: int
    cycles: int
    used: int
    spun: int
    longest: int
    waits: int
    asked: int
    offered: int
    switches: int
    overruns: int

    @property
    def throughput(self) -> float:
        """Critical sections in a million cycles."""
        return self.sections / self.cycles * 1e6


@dataclass(frozen=True)
class Pair:
    """A cell, both ways."""

    cell: Cell
    asks: Outcome
    forces: Outcome

    @property
    def gain(self) -> float:
        """How much more is done by asking: 0 for nothing, 1 for twice as much."""
        return self.asks.throughput / self.forces.throughput - 1

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        ways = {"asks": self.asks, "forces": self.forces}
        return asdict(self.cell) | {name: asdict(way) | {"throughput": way.throughput} for name, way in ways.items()}


def cells(sweep: Sweep) -> Iterator[Cell]:
    """Every cell with one lock for all."""
    for numbers in itertools.product(sweep.threads, sweep.cpus, sweep.section, sweep.quantum):
        yield Cell(*numbers)


def cells_without_contention(sweep: Sweep) -> Iterator[Cell]:
    """The cells with a lock for each, with the shortest section, where an account of it costs most."""
    for threads, cpus, quantum in itertools.product(sweep.threads, sweep.cpus, sweep.quantum):
        yield Cell(threads, cpus, min(sweep.section), quantum, private=True)


def scenario(cell: Cell, sweep: Sweep, forces: bool) -> Scenario:
    """One cell, one way."""
    words = [
        *("--threads", cell.threads, "--rounds", sweep.sections // cell.threads, "--section", cell.section),
        *("--outside", sweep.outside, "--seed", sweep.seed),
        *(["--private"] if cell.private else []),
        *(["--plain"] if forces else []),
    ]
    return Scenario(
        (ProgramSpec("convoy", arguments=tuple(map(str, words))),),
        disk_size=DISK,
        cpus=cell.cpus,
        cpu_policy="forced-round-robin" if forces else "round-robin",
        quantum=cell.quantum,
        seed=sweep.seed,
        settings={"cpu_release_deadline": max(DEADLINE, 2 * cell.section), "window": WINDOW},
    )


def outcome(cell: Cell, sweep: Sweep, forces: bool) -> Outcome:
    """Run one cell one way.  Raises ScenarioError if the program came to no end."""
    results, switches = run_counting(scenario(cell, sweep, forces), 1)
    program = results.programs[0]
    said = dict(line.rsplit(" ", 1) for line in program.output.decode().splitlines())
    try:
        numbers = {name: int(said[name]) for name in ("sections", "cycles", "spun", "longest", "waits", "asked", "offered")}
    except (KeyError, ValueError):
        raise ScenarioError(f"convoy did not come to its end with {cell}: {program.death or program.output!r}.") from None
    numbers["used"] = program.cycles
    return Outcome(program.exit_status == 0, switches=switches, overruns=program.overruns, **numbers)


def pair(cell: Cell, sweep: Sweep) -> Pair:
    """Run one cell both ways."""
    return Pair(cell, outcome(cell, sweep, forces=False), outcome(cell, sweep, forces=True))


def conclusion(shared: Sequence[Pair], private: Sequence[Pair]) -> list[str]:
    """What the numbers say, a sentence or two each."""
    crowded = [one for one in shared if one.cell.threads > one.cell.cpus]
    roomy = [one for one in shared if one.cell.threads <= one.cell.cpus]
    return [
        *_sums("With more threads than processors", crowded),
        *_sums("With a processor for each thread", roomy),
        *_waiting(crowded),
        *_costs(private),
        *_faults(shared, private),
    ]


def _sums(where: str, pairs: Sequence[Pair]) -> Iterator[str]:
    if not pairs:
        return
    better = [one for one in pairs if one.gain > ALIKE]
    worse = [one for one in pairs if one.gain < -ALIKE]
    yield (
        f"{where}, asking got more critical sections done in {len(better)} of {len(pairs)} cases, fewer in {len(worse)}, "
        f"as many (within {ALIKE:.0%}) in {len(pairs) - len(better) - len(worse)}."
    )
    best, worst = max(pairs, key=lambda one: one.gain), min(pairs, key=lambda one: one.gain)
    if better:
        yield f"It helped most with {_circumstances(best.cell)}: {best.gain + 1:.2f} times as many."
    if worse:
        yield f"It did most harm with {_circumstances(worst.cell)}: {worst.gain + 1:.2f} times as many."


def _waiting(pairs: Sequence[Pair]) -> Iterator[str]:
    if pairs:
        asks, forces = (sum(getattr(one, way).spun for one in pairs) for way in ("asks", "forces"))
        longest = [max(getattr(one, way).longest for one in pairs) for way in ("asks", "forces")]
        yield (
            f"With more threads than processors, {asks:,} cycles were spent waiting in loops when asked and {forces:,} "
            f"when forced; the longest wait for a lock was {longest[0]:,} and {longest[1]:,} cycles."
        )


def _costs(pairs: Sequence[Pair]) -> Iterator[str]:
    if not pairs:
        return
    costs = [one.asks.used / one.forces.used - 1 for one in pairs]
    yield (
        f"Where no lock is contended, asking costs {min(costs):.1%} to {max(costs):.1%} more processor time: the price of "
        "an account of each critical section, and at the end of each slice of an up-call and a yield instead of saving "
        "everything, also when nobody else waits."
    )


def _faults(shared: Sequence[Pair], private: Sequence[Pair]) -> Iterator[str]:
    everything = [way for one in (*shared, *private) for way in (one.asks, one.forces)]
    overruns = sum(way.overruns for way in everything)
    if overruns:
        yield f"Against us: {overruns} requests for a processor were not met in time."
    if not all(way.exact for way in everything):
        yield "Against us: increments were lost, so two threads were in the critical section at once."


def _circumstances(cell: Cell) -> str:
    processors = "one processor" if cell.cpus == 1 else f"{cell.cpus} processors"
    return f"{cell.threads} threads on {processors}, sections of {cell.section:,} cycles, slices of {cell.quantum:,}"


def draw(pairs: Sequence[Pair], picture: Path) -> None:
    """Throughput both ways for each cell, into a PNG; a row for each length of section and slice."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = sorted({(one.cell.section, one.cell.quantum) for one in pairs})
    figure, axes = pyplot.subplots(len(rows), 1, figsize=(9, 2.6 * len(rows) + 1), layout="constrained", squeeze=False)
    for (section, quantum), axis in zip(rows, axes[:, 0], strict=True):
        chosen = [one for one in pairs if (one.cell.section, one.cell.quantum) == (section, quantum)]
        places = range(len(chosen))
        axis.bar([place - 0.2 for place in places], [one.asks.throughput for one in chosen], 0.4, label="asks")
        axis.bar([place + 0.2 for place in places], [one.forces.throughput for one in chosen], 0.4, label="forces")
        axis.set_xticks(list(places), [f"{one.cell.threads} on {one.cell.cpus}" for one in chosen])
        axis.set_title(f"sections of {section:,} cycles, slices of {quantum:,}", loc="left", fontsize="medium")
        axis.set_ylabel("sections / M cycles")
    axes[0, 0].legend(title="the kernel", loc="upper left", fontsize="small")
    axes[-1, 0].set_xlabel("threads on processors")
    figure.savefig(picture, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _row(one: Pair) -> list[str]:
    cell, ways = one.cell, (one.asks, one.forces)
    return [
        *(f"{number:,}" for number in (cell.threads, cell.cpus, cell.section, cell.quantum)),
        *(f"{way.throughput:.1f}" for way in ways),
        f"{one.gain + 1:.2f}",
        *(f"{way.spun:,}" for way in ways),
        *(f"{way.longest:,}" for way in ways),
        *(f"{way.switches:,}" for way in ways),
        *(f"{way.overruns:,}" for way in ways),
    ]


def _table(title: str, pairs: Sequence[Pair]) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=None, header_style="bold", pad_edge=False)
    measured = ("sections/M", "spun", "longest wait", "switches", "overruns")
    doubled = [f"{name}\n{way}" for name in measured for way in ("asks", "forces")]
    for heading in ("threads", "CPUs", "section", "slice", *doubled[:2], "ratio", *doubled[2:]):
        table.add_column(heading, justify="right")
    for one in pairs:
        table.add_row(*_row(one))
    return table


def show(sweep: Sweep, picture: Path, as_json: bool) -> None:
    """Run, print, draw.  Raises ScenarioError."""
    sweep.check()
    shared = [pair(cell, sweep) for cell in cells(sweep)]
    private = [pair(cell, sweep) for cell in cells_without_contention(sweep)]
    draw(shared, picture)
    sentences = conclusion(shared, private)
    if as_json:
        data = {
            "sweep": asdict(sweep),
            "shared": [one.as_json() for one in shared],
            "private": [one.as_json() for one in private],
            "conclusion": sentences,
            "picture": str(picture),
        }
        print(json.dumps(data, indent=2, sort_keys=True))
        return
    console = Console(highlight=False)
    console.width = max(console.width, 150)
    console.print(_table("One lock for all.", shared))
    console.print()
    console.print(_table("A lock for each thread.", private))
    console.print("\n" + " ".join(sentences), soft_wrap=True)
    console.print(f"\nThe picture is {picture}.", soft_wrap=True)
