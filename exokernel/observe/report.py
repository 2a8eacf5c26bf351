"""Tables for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from exokernel.abi.downcalls import TABLE
from exokernel.abi.upcalls import UPCALLS
from exokernel.results import ProgramResult, Results


def _console() -> Console:
    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 160
    return console


def table(results: Results) -> None:
    """What each environment did and had: a row for each, or a column for each where the terminal is too narrow."""
    headings = ["program", "library OS", "exit", "instructions", "cycles", "faults", "evictions", "swap in", "swap out"]
    headings += ["taken", "down-calls", "up-calls", "frames held"]
    rows = [headings, *(_cells(one) for one in results.programs)]
    console = _console()
    if console.width < sum(max(len(row[i]) for row in rows) + 2 for i in range(len(headings))):
        rows = [list(column) for column in zip(*rows, strict=True)]
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for index, heading in enumerate(rows[0]):
        text = index == 0 or heading == "library OS"
        shown.add_column(heading, justify="left" if text else "right", overflow="fold")
    for row in rows[1:]:
        shown.add_row(*row)
    console.print()
    console.print(shown)
    console.print(
        f"{results.outcome}; virtual time {results.cycles:,} cycles, {results.memory_frames:,} frames of memory, "
        f"global policy {results.global_policy}, {_processors(results)}seed {results.seed}",
        soft_wrap=True,
    )
    if any(one.library.startswith("python") or ".py" in one.library for one in results.programs):
        console.print(
            "A coroutine is charged a fixed cost for each resumption: do not compare its cycles with machine code's.",
            soft_wrap=True,
        )


def _processors(results: Results) -> str:
    """Only what is not as it always is."""
    many = f"{results.cpus} processors, " if results.cpus > 1 else ""
    return many + (f"CPU policy {results.cpu_policy}, " if results.cpu_policy != "round-robin" else "")


def _cells(one: ProgramResult) -> list[str]:
    numbers = (
        one.exit_status, one.instructions, one.cycles, one.faults, one.evictions, one.swap_in, one.swap_out, one.taken,
        one.downcalls, one.upcalls, one.frames_held,
    )  # fmt: skip
    return [one.name, one.library, *(f"{number:,}" for number in numbers)]


def listing(groups: Mapping[str, Mapping[str, str]]) -> None:
    """Names with one line each, by group."""
    console = _console()
    for title, names in groups.items():
        console.print(f"[bold]{title}[/bold]")
        rows = Table(box=None, show_header=False, pad_edge=False)
        for name, summary in names.items():
            rows.add_row(f"  {name}", summary)
        console.print(rows)
        console.print()


def downcall_table() -> None:
    """The down-calls and up-calls, a line each."""
    console = _console()
    rows = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("number", "down-call", "right", "what it does"):
        rows.add_column(heading)
    for row in TABLE.values():
        arguments = ", ".join(argument.name for argument in row.arguments)
        rows.add_row(f"{row.number:#x}", f"{row.name}({arguments})", row.right, row.summary)
    console.print(rows)
    console.print()
    rows = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("number", "up-call", "what it says"):
        rows.add_column(heading)
    for entry in UPCALLS:
        arguments = ", ".join(name for name, _ in entry.arguments)
        rows.add_row(str(entry.upcall.value), f"{entry.name}({arguments})", entry.summary)
    console.print(rows)


def partition_table(partitions: Sequence[Mapping[str, Any]]) -> None:
    """The partitions of a disk image, a row each."""
    rows = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("number", "label", "first sector", "sectors", "MiB", "kind", "may use it"):
        rows.add_column(heading, justify="left" if heading in ("label", "kind", "may use it") else "right", overflow="fold")
    for one in partitions:
        access = [f"{'.'.join(map(str, entry['name']))} ({entry['permissions'].lower()})" for entry in one["access"]]
        numbers = [f"{one['first_sector']:,}", f"{one['sectors']:,}", f"{one['bytes'] / (1 << 20):,.1f}"]
        rows.add_row(str(one["number"]), one["label"], *numbers, one["kind"], ", ".join(access))
    _console().print(rows)


def replay_table(results: Mapping[str, Any], frames: int) -> None:
    """Misses by policy, fewest first."""
    rows = Table(box=None, header_style="bold", pad_edge=False)
    rows.add_column("policy")
    for heading in ("references", "misses", "miss ratio", "evictions"):
        rows.add_column(heading, justify="right")
    for name, one in sorted(results.items(), key=lambda item: (item[1].misses, item[0])):
        ratio = one.misses / one.references if one.references else 0.0
        rows.add_row(name, f"{one.references:,}", f"{one.misses:,}", f"{ratio:.4f}", f"{one.evictions:,}")
    console = _console()
    console.print(f"{frames} frames")
    console.print(rows)


def bench_table(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Each figure with its reference."""
    rows = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("figure", "value", "unit", "reference", "ratio", "what"):
        rows.add_column(heading, justify="left" if heading in ("figure", "unit", "what") else "right")
    for name, one in results.items():
        rows.add_row(
            name, f"{one['value']:,.2f}", one["unit"], f"{one['reference']:,.2f}", f"{one['ratio']:.2f}", one["what"]
        )
    _console().print(rows)
