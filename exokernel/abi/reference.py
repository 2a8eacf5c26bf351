"""The reference manual, derived from the tables: as data for programs and as Markdown for people."""

from collections.abc import Iterator
from typing import Any

from exokernel.abi.downcalls import TABLE, DownCall, Kind
from exokernel.abi.errors import Error
from exokernel.abi.upcalls import UPCALLS


def as_data() -> dict[str, Any]:
    """The tables as plain data, for `--json`."""
    return {
        "downcalls": [
            {
                "number": row.number,
                "name": row.name,
                "group": row.group,
                "arguments": [{"name": one.name, "kind": one.kind.name.lower()} for one in row.arguments],
                "returns": row.returns,
                "right": row.right,
                "errors": [error.name for error in row.errors],
                "summary": row.summary,
                "python_only": row.python_only,
            }
            for row in TABLE.values()
        ],
        "upcalls": [
            {"number": one.upcall.value, "name": one.name, "arguments": dict(one.arguments), "summary": one.summary}
            for one in UPCALLS
        ],
        "errors": {error.name: {"value": int(error), "summary": error.summary} for error in Error},
    }


def _row(row: DownCall) -> Iterator[str]:
    arguments = ", ".join(one.name for one in row.arguments)
    yield f"### `{row.name}({arguments})`"
    yield ""
    yield row.summary
    yield ""
    yield f"- number: `{row.number:#x}`" + ("; from Python only" if row.python_only else "")
    for one in row.arguments:
        yield f"- `{one.name}`: {one.kind.value}"
    yield f"- needs: {row.right}"
    yield f"- returns: {row.returns}"
    if row.errors:
        yield f"- errors: {', '.join(f'`{error.name}`' for error in row.errors)}"
    yield ""


def as_markdown() -> str:
    """The whole manual."""
    lines = [
        "# Reference",
        "",
        "Derived from `exokernel/abi` by `exo downcalls --markdown`. The number goes into rax, the arguments into rdi,",
        "rsi, rdx, r10, r8, r9; the result is in rax, negative for an error. From Python: `await exo.NAME(...)`, and an",
        "error is raised as `Refused`.",
        "",
    ]
    group = ""
    for row in TABLE.values():
        if row.group != group:
            group = row.group
            lines += [f"## Down-calls: {group}", ""]
        lines += _row(row)
    lines += ["## Up-calls", ""]
    for entry in UPCALLS:
        lines += [f"### `{entry.name}({', '.join(name for name, _ in entry.arguments)})`", "", entry.summary, ""]
        lines += [f"- `{name}`: {meaning}" for name, meaning in entry.arguments]
        waits = "waits" if entry.queued else "does not wait"
        lines += [f"- number: {entry.upcall.value}; {waits} while one of its kind runs", ""]
    lines += ["## Errors", "", "| value | name | meaning |", "| --- | --- | --- |"]
    lines += [f"| {-int(error)} | `{error.name}` | {error.summary} |" for error in Error]
    lines += ["", "## Kinds of arguments", "", "| kind | meaning |", "| --- | --- |"]
    lines += [f"| {kind.name.lower()} | {kind.value} |" for kind in Kind]
    return "\n".join([*lines, ""])
