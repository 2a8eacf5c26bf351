"""Proportional shares: three programs that count, with 300, 200 and 100 tickets.

What each is given between two moments, by how far it counts, beside what its tickets are worth.  Stride scheduling keeps to
the shares within a quantum or so, a lottery within what chance allows, and round robin knows no tickets.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table

from exokernel.scenario import ProgramSpec, Scenario, ScenarioError

TICKETS = (300, 200, 100)
POLICIES = ("stride", "lottery", "round-robin")
QUANTUM = 20_000
BEGIN = 5_000_000
"""The cycle from which on is counted: all three have been loaded."""
SLICES = 300
"""Slices of each processor that are counted."""
DEVIATIONS = 4
"""Standard deviations that a lottery may be off: more than that happens once in 16,000 times."""
TOLERANCE = {"stride": 2, "round-robin": 2}
"""Quanta that a program may be off: one, and one because the two moments are anywhere in a slice."""
DISK = 256 << 20


@dataclass(frozen=True)
class Share:
    """What one program wanted and got: parts of all that was counted.  `off` in quanta, `bound` what it may be."""

    tickets: int
    wanted: float
    got: float
    off: float
    bound: float


@dataclass(frozen=True)
class Shares:
    """One policy on so many processors."""

    policy: str
    cpus: int
    shares: tuple[Share, ...]

    @property
    def within(self) -> bool:
        """Whether each is within its bound."""
        return all(abs(share.off) <= share.bound for share in self.shares)


def scenario(policy: str, cpus: int, seed: int, tickets: Sequence[int] = TICKETS, quantum: int = QUANTUM) -> Scenario:
    """The programs side by side."""
    moments = (str(BEGIN), str(BEGIN + SLICES * quantum))
    programs = tuple(
        ProgramSpec("spin", arguments=moments, tickets=count, heap=1 << 20, name=f"spin {count}") for count in tickets
    )
    return Scenario(programs, disk_size=DISK, cpus=cpus, cpu_policy=policy, quantum=quantum, seed=seed)


def wanted_shares(policy: str, cpus: int, tickets: Sequence[int]) -> list[float]:
    """Parts of all processors' time, in the order of `tickets`: nobody can use more than one processor, and what is left
    over goes to the others in proportion."""
    if policy == "round-robin":
        tickets = [1] * len(tickets)
    parts = [0.0] * len(tickets)
    left, open_places = 1.0, set(range(len(tickets)))
    while open_places:
        total = sum(tickets[place] for place in open_places)
        full = {place for place in open_places if tickets[place] / total * left >= 1 / cpus}
        for place in full or open_places:
            parts[place] = 1 / cpus if full else tickets[place] / total * left
        if not full:
            break
        left -= len(full) / cpus
        open_places -= full
    return parts


def measure(policy: str, cpus: int, seed: int, tickets: Sequence[int] = TICKETS, quantum: int = QUANTUM) -> Shares:
    """Run it.  Raises ScenarioError if a program has not counted."""
    results = scenario(policy, cpus, seed, tickets, quantum).run()
    if results.programs and any(one.exit_status for one in results.programs):
        raise ScenarioError(f"A program has not counted to its end: {results.programs[0].death or 'see its output'}.")
    turns = [int(one.output.split()[1]) for one in results.programs]
    slices = SLICES * cpus
    shares = []
    for count, part, own in zip(turns, wanted_shares(policy, cpus, tickets), tickets, strict=True):
        got = count / sum(turns)
        chance = DEVIATIONS * math.sqrt(slices * part * (1 - part))
        shares.append(Share(own, part, got, (got - part) * slices, TOLERANCE.get(policy, chance)))
    return Shares(policy, cpus, tuple(shares))


def conclusion(results: Sequence[Shares]) -> list[str]:
    """What the numbers say."""
    sentences = []
    for one in results:
        worst = max(one.shares, key=lambda share: abs(share.off))
        where = f"{one.policy} on {one.cpus} processor{'s' if one.cpus > 1 else ''}"
        sentences.append(
            f"{where}: at most {abs(worst.off):.1f} quanta from what was wanted, within the bound of {worst.bound:.1f}."
            if one.within
            else f"Against us: {where} is {abs(worst.off):.1f} quanta from what was wanted; the bound is {worst.bound:.1f}."
        )
    return sentences


def show(seed: int, cpus: Sequence[int], as_json: bool) -> None:
    """Run and print."""
    results = [measure(policy, count, seed) for count in cpus for policy in POLICIES]
    if as_json:
        rows = [asdict(one) | {"within": one.within} for one in results]
        data = {"runs": rows, "conclusion": conclusion(results), "seed": seed, "quantum": QUANTUM, "slices": SLICES}
        print(json.dumps(data, indent=2, sort_keys=True))
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("policy", "CPUs", "tickets", "wanted", "got", "off (quanta)", "bound"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for one in results:
        for share in one.shares:
            table.add_row(
                one.policy,
                str(one.cpus),
                str(share.tickets),
                f"{share.wanted:.4f}",
                f"{share.got:.4f}",
                f"{share.off:+.2f}",
                f"{share.bound:.1f}",
            )
    console = Console(highlight=False)
    console.print(f"Three programs that count, {SLICES} slices of {QUANTUM:,} cycles on each processor, seed {seed}.\n")
    console.print(table)
    console.print("\n" + "\n".join(conclusion(results)), soft_wrap=True)
