"""Local against global policy: three programs in less memory than they need, four ways.

A word count over a text, a hash join and a loop a little larger than its memory run side by side:

    own pagers, equal shares     each keeps to a third of the memory and replaces pages by the policy that suits it
    one default, equal shares    the same shares, and the same pager for all
    own pagers, kernel asks      no shares: the kernel asks the holders of the oldest pages, they choose what to give
    kernel seizes                no shares: the kernel takes the oldest pages and asks nobody, as a monolithic kernel does

The memory is the same each time.  What is printed at the end is computed from the numbers; nothing is left out because
it speaks against an exokernel.
"""

import json
import random
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from exokernel.results import ProgramResult, Results
from exokernel.scenario import ProgramSpec, Scenario

MEMORY = 1600 << 10
"""Enough for three shares and what each environment needs besides, so that a share is nobody else's business."""
SHARE = 80
DEFAULT = "native+clock"
OWN = ("native+clock", "native+clock", "native+mru")
SAMPLE = 500_000
WORDS, VOCABULARY = 60_000, 6_000
NAMES = ("wordfreq", "hashjoin", "pagewalk")


@dataclass(frozen=True)
class Way:
    """One of the ways to run the three."""

    title: str
    libraries: tuple[str, str, str]
    shares: bool
    global_policy: str


WAYS = (
    Way("own pagers, equal shares", OWN, True, "oldest"),
    Way("one default, equal shares", (DEFAULT,) * 3, True, "oldest"),
    Way("own pagers, kernel asks", OWN, False, "oldest"),
    Way("kernel seizes", (DEFAULT,) * 3, False, "seize-oldest"),
)


def text(seed: int, words: int = WORDS) -> str:
    """Words of a made-up language, as frequent as words are (Zipf's law), about 400 KiB of them unless told."""
    source = random.Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["".join(source.choices(letters, k=source.randint(2, 10))) for _ in range(VOCABULARY)]
    weights = [1 / rank for rank in range(1, VOCABULARY + 1)]
    return " ".join(source.choices(vocabulary, weights, k=words))


def scenario(way: Way, seed: int, file: Path) -> Scenario:
    """The three programs, run one way."""
    arguments = (
        (str(file),),
        ("10000", "100000", str(seed)),
        ("--pattern", "loop", "--pages", "100", "--steps", "60000", "--write", "30", "--seed", str(seed)),
    )
    share = SHARE if way.shares else 0
    programs = tuple(
        ProgramSpec(name, library, words, share)
        for name, library, words in zip(NAMES, way.libraries, arguments, strict=True)
    )
    return Scenario(programs, memory=MEMORY, global_policy=way.global_policy, seed=seed, sample_held=SAMPLE)


def run(seed: int) -> list[Results]:
    """All four ways."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "text"
        file.write_text(text(seed), encoding="ascii")
        return [scenario(way, seed, file).run() for way in WAYS]


def faults(results: Results) -> int:
    """Page faults of all programs together."""
    return sum(one.faults for one in results.programs)


def conclusion(results: Sequence[Results]) -> str:
    """What the numbers say."""
    own, default, asks, seizes = (faults(one) for one in results)
    times = [one.cycles for one in results]
    first = (
        f"With equal shares, the pager that suits each program took {own:,} faults and one default for all {default:,}: "
        f"{_compared(own, default)}."
    )
    second = (
        f"Without shares, own pagers under a kernel that asks took {asks:,} faults, a kernel that seizes took {seizes:,}: "
        f"{_compared(asks, seizes)}."
    )
    best = min(range(len(WAYS)), key=lambda index: times[index])
    third = f"Finished first of all: {WAYS[best].title}, after {times[best] / 1e6:,.0f} million cycles."
    losing = [
        f"{WAYS[0].title} took more faults than {WAYS[3].title}: a fixed share cannot grow when another program ends"
        for _ in range(1)
        if own > seizes
    ]
    return " ".join([first, second, third, *(f"Against us: {line}." for line in losing)])


def _compared(ours: int, theirs: int) -> str:
    if ours == theirs:
        return "no difference"
    low, high = sorted((ours, theirs))
    if high < 1.05 * low:
        return "hardly a difference"
    return f"{high / max(low, 1):.1f} times {'fewer' if ours < theirs else 'more'}"


def draw(results: Sequence[Results], picture: Path) -> None:
    """Frames held over time for each way, and the faults of all four as bars, into a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(WAYS) + 1, 1, figsize=(9, 13), layout="constrained")
    for way, result, axis in zip(WAYS, results, axes, strict=False):
        for program in result.programs:
            samples = result.held_over_time.get(program.environment, [])
            axis.step(
                [cycle / 1e6 for cycle, _ in samples], [held for _, held in samples], where="post", label=program.name
            )
        axis.set_title(f"{way.title}: {faults(result):,} faults", loc="left")
        axis.set_ylabel("frames held")
        axis.set_ylim(bottom=0)
        axis.legend(loc="upper right", fontsize="small")
    axes[len(WAYS) - 1].set_xlabel("virtual time (million cycles)")
    bars = axes[len(WAYS)]
    left = [0] * len(WAYS)
    for index, name in enumerate(NAMES):
        numbers = [result.programs[index].faults for result in results]
        bars.barh([way.title for way in WAYS], numbers, left=left, label=name)
        left = [a + b for a, b in zip(left, numbers, strict=True)]
    bars.invert_yaxis()
    bars.set_xlabel("page faults")
    bars.legend(loc="lower right", fontsize="small")
    figure.savefig(picture, dpi=110, metadata={"Software": None})
    pyplot.close(figure)


def _row(way: Way, program: ProgramResult) -> list[str]:
    return [
        way.title,
        program.name,
        program.library if way.global_policy != "seize-oldest" else "(not asked)",
        f"{program.faults:,}",
        f"{program.swap_in:,}",
        f"{program.sectors_written // 8:,}",
        f"{program.cycles:,}",
        f"{program.finished_at / 1e6:,.0f}",
        f"{program.frames_held:,}",
    ]


def show(seed: int, picture: Path, as_json: bool) -> None:
    """Run, print, draw."""
    results = run(seed)
    draw(results, picture)
    if as_json:
        rows = {way.title: result.as_json() for way, result in zip(WAYS, results, strict=True)}
        print(
            json.dumps({"ways": rows, "conclusion": conclusion(results), "picture": str(picture)}, indent=2, sort_keys=True)
        )
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("way", "program", "pager", "faults", "pages in", "pages out", "cycles", "done at (M)", "frames, most"):
        table.add_column(heading, justify="left" if heading in ("way", "program", "pager") else "right")
    for way, result in zip(WAYS, results, strict=True):
        for program in result.programs:
            table.add_row(*_row(way, program))
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    frames = MEMORY // 4096
    console.print(f"Three programs in {frames} frames, shares of {SHARE} pages where there are shares, seed {seed}.\n")
    console.print(table)
    console.print(f"\n{conclusion(results)}\n\nThe picture is {picture}.", soft_wrap=True)
