"""Files of an image as lines of text: names in columns, long listings, trees."""

import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from exokernel.image_files import Listed, Step, full_mode
from libos.filesystems.interface import Kind


def printable(name: str) -> str:
    """A name for a terminal: what would move the cursor, or is no text, as Python writes it."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)


def columns(names: Sequence[str]) -> list[str]:
    """Names in as many columns as the terminal has room for, downwards first."""
    if not names:
        return []
    width = max(map(len, names)) + 2
    across = max(1, shutil.get_terminal_size().columns // width)
    rows = -(-len(names) // across)
    return ["".join(name.ljust(width) for name in names[row::rows]).rstrip() for row in range(rows)]


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def long_lines(found: Iterable[Listed]) -> list[str]:
    """Mode, links, owner, group, size or device, time of modification (UTC), name, as `ls -l` has them."""
    rows = []
    for one in found:
        it = one.attributes
        device = it.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)
        size = f"{it.device >> 8}, {it.device & 0xFF}" if device else str(it.size)
        rows.append([stat.filemode(full_mode(it)), str(it.links), str(it.uid), str(it.gid), size, _moment(it.modified)])
        rows[-1].append(one.text + (f" -> {os.fsdecode(one.target)}" if it.kind is Kind.SYMLINK else ""))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(5)]
    return [" ".join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), *row[5:]]) for row in rows]


def details(one: dict[str, Any]) -> Iterator[str]:
    """What `stat` knows of a file, a line each."""
    for name, value in one.items():
        if name in ("accessed", "modified", "changed"):
            value = f"{_moment(value)} UTC"
        elif name == "device":
            value = f"{value >> 8}, {value & 0xFF}"
        elif name == "extended":
            for attribute, contents in value.items():
                yield f"{'attribute:':<12}{attribute} = {contents!r}"
            continue
        yield f"{name + ':':<12}{value}"


def nested(top: Listed, steps: Iterable[Step]) -> dict[str, Any]:
    """A walk as a tree: each directory has `entries`."""
    root = top.as_json() | {"entries": []}
    above = [root]
    for step in steps:
        if step.leaving:
            above.pop()
            continue
        node = step.listed.as_json()
        above[-1]["entries"].append(node)
        if step.listed.attributes.kind is Kind.DIRECTORY:
            node["entries"] = []
            above.append(node)
    return root


def tree_lines(root: dict[str, Any]) -> Iterator[str]:
    """The tree with lines drawn from each directory to what is in it."""
    yield root["name"]
    waiting = [(root.get("entries", []), "", 0)]
    while waiting:
        entries, indent, index = waiting.pop()
        if index == len(entries):
            continue
        node, last = entries[index], index == len(entries) - 1
        waiting.append((entries, indent, index + 1))
        target = f" -> {node['target']}" if "target" in node else ""
        yield f"{indent}{'└── ' if last else '├── '}{node['name']}{target}"
        waiting.append((node.get("entries", []), indent + ("    " if last else "│   "), 0))


__all__ = ["columns", "details", "long_lines", "nested", "printable", "tree_lines"]
