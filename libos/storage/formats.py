"""`struct` formats derived from construct's declarations, for what is read and written thousands of times.

A structure inside another is spread out (`header.magic`), an array too (`block.0`).
"""

import struct
from typing import Any

from construct import Array, Bytes, FormatField, Renamed, Struct


def derive(structure: Any) -> tuple[struct.Struct, tuple[str, ...]]:
    """The `struct` format of a construct structure of integers, bytes, arrays and structures, and the names of its values.

    Raises TypeError for a part that has no fixed format, or if little- and big-endian parts are mixed.
    """
    parts: list[tuple[str, str]] = []
    orders: set[str] = set()
    _spread("", structure, parts, orders)
    if len(orders) > 1:
        raise TypeError("The structure mixes byte orders.")
    order = orders.pop() if orders else "<"
    return struct.Struct(order + "".join(part for _, part in parts)), tuple(name for name, _ in parts)


def _spread(name: str, part: Any, parts: list[tuple[str, str]], orders: set[str]) -> None:
    if isinstance(part, Renamed):
        _spread(f"{name}.{part.name}" if name else part.name, part.subcon, parts, orders)
    elif isinstance(part, Struct):
        for inner in part.subcons:
            _spread(name, inner, parts, orders)
    elif isinstance(part, Array):
        for index in range(part.count):
            _spread(f"{name}.{index}", part.subcon, parts, orders)
    elif isinstance(part, FormatField):
        if part.length > 1:
            orders.add(part.fmtstr[0])
        parts.append((name, part.fmtstr[1:]))
    elif isinstance(part, Bytes):
        parts.append((name, f"{part.length}s"))
    else:
        raise TypeError(f"{name} has no fixed format.")


def offsets(structure: Any) -> dict[str, int]:
    """At which byte of a structure each of its values lies, by the names that `derive` gives."""
    form, names = derive(structure)
    where: dict[str, int] = {}
    at = 0
    for name, part in zip(names, _parts(form.format), strict=True):
        where[name] = at
        at += struct.calcsize("<" + part)
    return where


def _parts(form: str) -> list[str]:
    """The single formats of a whole one, without its byte order: `<I16sH` is I, 16s, H."""
    found: list[str] = []
    count = ""
    for character in form[1:]:
        count += character
        if not character.isdigit():
            found.append(count)
            count = ""
    return found
