"""Only three registers: what a switch of the processor costs when the application knows what is worth saving.

Two workers share a processor.  Each computes in as many registers as it saves: 3, all 16, all with the vector state; or the
kernel saves everything, because it takes the processor by force or because the worker has no handler.  A worker that looks
itself, at a good place of its loop, whether the processor is wanted needs no up-call at all.

What a switch costs is taken from the accounts, without an assumption: everything is run twice, the second time with four
times as much to do, together and each worker alone in a slice that does not end.  What the workers cost more in the longer
run together, less what they cost more alone, is divided by the switches there are more.  A third program runs until both
have ended, so that there always is somebody to switch to.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace

from rich.console import Console
from rich.table import Table

from exokernel.demos.switches import run_counting
from exokernel.machine.costs import ADDRESS_SPACE_SWITCH
from exokernel.scenario import ProgramSpec, Scenario, ScenarioError

QUANTUM = 5_000
DISK = 256 << 20
WORKERS = 2
NO_END = 1 << 40
"""Cycles of a slice that lasts as long as the program."""
MORE = 4
"""Times as many turns in the longer run."""
LONG_ENOUGH = 12_000_000
"""The cycle by which both workers have ended."""


@dataclass(frozen=True)
class Way:
    """`work` and `save` as apps/registers.c takes them; `turns` of its loop that last about as long in each way."""

    title: str
    work: str
    save: str
    turns: int
    cpu_policy: str = "round-robin"


WAYS = (
    Way("asked, saves three registers", "3", "3", 30_000),
    Way("asked, saves all sixteen", "16", "16", 10_000),
    Way("asked, saves all and the vector registers", "vector", "vector", 5_000),
    Way("looks itself, saves three registers", "3", "polling", 22_000),
    Way("not asked, the kernel saves everything", "vector", "kernel", 5_000),
    Way("forced, the kernel saves everything", "vector", "kernel", 5_000, "forced-round-robin"),
)


@dataclass(frozen=True)
class Measured:
    """What one way came to.  `per_switch` in cycles; `instructions` of them are the worker's own, the rest is charged by
    the kernel, of which `address_space` for the page tables; `same`: every checksum equals the one the worker has alone."""

    title: str
    switches: int
    cycles: int
    per_switch: float
    instructions: float
    address_space: int
    overruns: int
    same: bool


@dataclass(frozen=True)
class _Run:
    switches: int
    cycles: int
    instructions: int
    overruns: int
    checksums: tuple[bytes, ...]


def scenario(way: Way, seeds: Sequence[int], quantum: int = QUANTUM) -> Scenario:
    """A worker for each seed, and beside several of them a program that outlasts them."""
    programs = [
        ProgramSpec("registers", arguments=(way.work, way.save, str(way.turns), str(seed)), heap=1 << 20) for seed in seeds
    ]
    if len(programs) > 1:
        programs.append(ProgramSpec("spin", arguments=("0", str(LONG_ENOUGH)), heap=1 << 20))
    return Scenario(tuple(programs), disk_size=DISK, cpu_policy=way.cpu_policy, quantum=quantum)


def _run(way: Way, seeds: Sequence[int], quantum: int) -> _Run:
    results, switches = run_counting(scenario(way, seeds, quantum), len(seeds))
    programs = results.programs[: len(seeds)]
    for one in programs:
        if one.exit_status or (len(seeds) > 1 and one.finished_at > LONG_ENOUGH):
            raise ScenarioError(f"registers came to no end in time: {one.death or one.output!r}.")
    return _Run(
        switches,
        sum(one.cycles for one in programs),
        sum(one.instructions for one in programs),
        sum(one.overruns for one in programs),
        tuple(one.output for one in programs),
    )


def measure(way: Way, seed: int, quantum: int = QUANTUM) -> Measured:
    """Run one way, alone and together, short and long.  Raises ScenarioError if a worker comes to no end or too soon."""
    seeds = range(seed, seed + WORKERS)
    longer = replace(way, turns=MORE * way.turns)
    together = [_run(one, seeds, quantum) for one in (way, longer)]
    alone = [[_run(one, [each], NO_END) for each in seeds] for one in (way, longer)]
    switches = together[1].switches - together[0].switches
    if switches <= 0:
        raise ScenarioError(f"There were no switches to measure in slices of {quantum:,} cycles; use shorter ones.")

    def more(field: str) -> int:
        one, two = (
            getattr(both, field) - sum(getattr(each, field) for each in singly)
            for both, singly in zip(together, alone, strict=True)
        )
        return int(two - one)

    same = all(
        both.checksums == tuple(each.checksums[0] for each in singly) for both, singly in zip(together, alone, strict=True)
    )
    return Measured(
        title=way.title,
        switches=together[1].switches,
        cycles=together[1].cycles,
        per_switch=more("cycles") / switches,
        instructions=more("instructions") / switches,
        address_space=ADDRESS_SPACE_SWITCH,
        overruns=sum(one.overruns for one in together),
        same=same,
    )


def conclusion(results: Sequence[Measured]) -> list[str]:
    """What the numbers say: the first is the cheapest way of its kind, the last is forced."""
    three, forced = results[0], results[-1]
    least = min(results, key=lambda one: one.per_switch)
    return [
        f"A switch costs {three.per_switch:,.1f} cycles with three registers and {forced.per_switch:,.1f} when the kernel "
        f"takes the processor and saves everything; {least.per_switch:,.1f} is the least ({least.title}).",
        *_against(three, forced),
        *(f"Against us: {one.title}: a checksum differs." for one in results if not one.same),
        *(f"Against us: {one.title}: {one.overruns} overruns." for one in results if one.overruns),
    ]


def _against(three: Measured, forced: Measured) -> Iterator[str]:
    if three.per_switch > forced.per_switch:
        yield (
            "So asking does not pay by what it saves: the up-call that asks and the down-call that answers cost more than "
            "storing the registers.  It pays by when the processor is given up: see exo demo convoy."
        )


def show(seed: int, quantum: int, as_json: bool) -> None:
    """Run and print.  Raises ScenarioError."""
    results = [measure(way, seed, quantum) for way in WAYS]
    sentences = conclusion(results)
    if as_json:
        data = {"ways": [asdict(one) for one in results], "conclusion": sentences, "quantum": quantum, "seed": seed}
        print(json.dumps(data, indent=2, sort_keys=True))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("way", "switches", "cycles each", "own", "page tables", "the rest", "overruns", "results"):
        table.add_column(heading, justify="left" if heading in ("way", "results") else "right")
    for one in results:
        rest = one.per_switch - one.instructions - one.address_space
        table.add_row(
            one.title,
            f"{one.switches:,}",
            f"{one.per_switch:,.1f}",
            f"{one.instructions:,.1f}",
            f"{one.address_space:,}",
            f"{rest:,.1f}",
            f"{one.overruns:,}",
            "the same" if one.same else "different",
        )
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    console.print(f"{WORKERS} workers on one processor, slices of {quantum:,} cycles, seed {seed}.\n")
    console.print(table)
    console.print(
        "\nOwn: the worker's instructions.  The rest: timer interrupt, up-call and down-call, or saving and loading."
    )
    console.print("\n" + " ".join(sentences), soft_wrap=True)
