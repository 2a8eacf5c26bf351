"""What words at the command line mean: sizes, and near names for wrong ones."""

import difflib
from collections.abc import Iterable


class UnknownName(Exception):
    """No such application, library OS or policy; the message names the near ones."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """The error for a wrong name, with the nearest right one, or all if none is near."""
    names = sorted(set(known))
    near = difflib.get_close_matches(name, names, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(names)}."
    return UnknownName(f"There is no {kind} called {name or repr(name)}; {hint}")


SIZES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size_in_bytes(text: str, what: str) -> int:
    """`64M`, `512K`, `1G` or a number of bytes.  Raises ValueError with a sentence."""
    digits, unit = text.rstrip("KMGkmg"), text[len(text.rstrip("KMGkmg")) :].upper()
    if not digits.isdecimal() or unit not in SIZES:
        raise ValueError(f"{text!r} is no size for the {what}; write a whole number with K, M or G behind it, such as 64M.")
    return int(digits) * SIZES[unit]
