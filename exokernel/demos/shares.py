"""Proportional shares: three programs that count, with 300, 200 and 100 tickets.

What each is given between two moments, by how far it counts, beside what its tickets are worth.  Stride scheduling keeps to
the shares within a quantum or so, a lottery within what chance allows, and round robin knows no tickets.  On several
processors who runs takes no part in the draw for another processor, so that a lottery gives those with many tickets less
than they are worth; what is to be expected of it is computed.
"""

import itertools
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
TOLERANCE = 1
"""Quanta that a program may be off without chance; on several processors as many for each program, since their slices end
at different times."""
STEPS = 200
"""Of the chain of draws, until its chances do not change any more."""
DISK = 256 << 20


@dataclass(frozen=True)
class Share:
    """What one program wanted by its tickets, was to expect and got: parts of all that was counted.  `off` is how far what
    it got is from what was to be expected, in quanta, `bound` how far it may be."""

    tickets: int
    wanted: float
    expected: float
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


def expected_shares(policy: str, cpus: int, tickets: Sequence[int]) -> list[float]:
    """Parts of all processors' time that the policy gives in the long run.  They differ from what is wanted for a lottery
    on several processors: whose slices end in turn, each draws among those that do not run on another."""
    if policy != "lottery" or not 1 < cpus < len(tickets):
        return wanted_shares(policy, cpus, tickets)
    states = list(itertools.permutations(range(len(tickets)), cpus))
    chances = dict.fromkeys(states, 1 / len(states))
    for _ in range(STEPS):
        after = dict.fromkeys(states, 0.0)
        for (_, *others), chance in chances.items():
            waiting = [place for place in range(len(tickets)) if place not in others]
            total = sum(tickets[place] for place in waiting)
            for place in waiting:
                after[(*others, place)] += chance * tickets[place] / total
        chances = {state: (chances[state] + after[state]) / 2 for state in states}
    return [sum(chance for state, chance in chances.items() if place in state) / cpus for place in range(len(tickets))]


def measure(policy: str, cpus: int, seed: int, tickets: Sequence[int] = TICKETS, quantum: int = QUANTUM) -> Shares:
    """Run it.  Raises ScenarioError if a program has not counted."""
    results = scenario(policy, cpus, seed, tickets, quantum).run()
    if results.programs and any(one.exit_status for one in results.programs):
        raise ScenarioError(f"A program has not counted to its end: {results.programs[0].death or 'see its output'}.")
    turns = [int(one.output.split()[1]) for one in results.programs]
    slices = SLICES * cpus
    shares = []
    wanted, expected = (shares_of(policy, cpus, tickets) for shares_of in (wanted_shares, expected_shares))
    for place, own in enumerate(tickets):
        part, got = expected[place], turns[place] / sum(turns)
        bound: float = TOLERANCE if cpus == 1 else TOLERANCE * len(tickets)
        if policy == "lottery":
            bound += DEVIATIONS * math.sqrt(slices * part * (1 - part))
        shares.append(Share(own, wanted[place], part, got, (got - part) * slices, bound))
    return Shares(policy, cpus, tuple(shares))


def conclusion(results: Sequence[Shares]) -> list[str]:
    """What the numbers say."""
    sentences = []
    for one in results:
        worst = max(one.shares, key=lambda share: abs(share.off))
        where = f"{one.policy} on {one.cpus} processor{'s' if one.cpus > 1 else ''}"
        off = f"{abs(worst.off):.1f} quanta from what was to be expected"
        if one.within:
            sentences.append(f"{where}: at most {off}, within the bound of {worst.bound:.1f}.")
        else:
            sentences.append(f"Against us: {where} is {off}; the bound is {worst.bound:.1f}.")
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
    for heading in ("policy", "CPUs", "tickets", "wanted", "expected", "got", "off (quanta)", "bound"):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for one in results:
        for share in one.shares:
            table.add_row(
                one.policy,
                str(one.cpus),
                str(share.tickets),
                f"{share.wanted:.4f}",
                f"{share.expected:.4f}",
                f"{share.got:.4f}",
                f"{share.off:+.2f}",
                f"{share.bound:.1f}",
            )
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    console.print(f"Three programs that count, {SLICES} slices of {QUANTUM:,} cycles on each processor, seed {seed}.\n")
    console.print(table)
    console.print("\n" + "\n".join(conclusion(results)), soft_wrap=True)
