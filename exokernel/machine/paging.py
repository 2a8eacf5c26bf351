"""x86-64 page tables as pure functions over physical memory.

Every function takes `words`, the physical memory as a memoryview of 64-bit words (index = physical address >> 3), and
`root`, the physical address of the top table. Four levels of 512 entries translate 9 bits of a virtual address each,
from bit 39 down to bit 12; only 4 KiB pages exist here. An entry holds a frame's address and the bits named below. The
functions see the tables, not a CPU's TLB: after changing an entry, or clearing its accessed or dirty bit, the TLBs have
to be flushed.
"""

from typing import Final, NamedTuple

PRESENT: Final = 1 << 0
WRITABLE: Final = 1 << 1
USER: Final = 1 << 2
ACCESSED: Final = 1 << 5
DIRTY: Final = 1 << 6
SOFT_0: Final = 1 << 9
SOFT_1: Final = 1 << 10
SOFT_2: Final = 1 << 11
NX: Final = 1 << 63
"""Bits of an entry. The SOFT ones mean nothing to the processor; NX forbids fetching instructions."""

ADDRESS: Final = 0x000F_FFFF_FFFF_F000
"""The bits of an entry that hold the physical address of a frame."""

FAULT_PRESENT: Final = 1 << 0
FAULT_WRITE: Final = 1 << 1
FAULT_USER: Final = 1 << 2
FAULT_FETCH: Final = 1 << 4
"""Bits of a page-fault error code."""

LEVELS: Final = 4
ENTRIES: Final = 512


class Step(NamedTuple):
    """One entry met on a walk: level 4 is the top table, level 1 holds the page; `address` is where the entry lies."""

    level: int
    address: int
    entry: int


class Fault(NamedTuple):
    """A translation that failed, with the error code the processor would report."""

    code: int


def is_canonical(va: int) -> bool:
    """Whether the processor accepts the 64-bit number `va` as a virtual address."""
    return va < 1 << 47 or (1 << 64) - (1 << 47) <= va < 1 << 64


def entry_address(words: "memoryview[int]", root: int, va: int) -> int | None:
    """Physical address of the page-table entry of `va`, or None where a table on the way is missing."""
    entry = words[(root >> 3) + (va >> 39 & 511)]
    if not entry & 1:
        return None
    entry = words[((entry & ADDRESS) >> 3) + (va >> 30 & 511)]
    if not entry & 1:
        return None
    entry = words[((entry & ADDRESS) >> 3) + (va >> 21 & 511)]
    if not entry & 1:
        return None
    return (entry & ADDRESS) + (va >> 9 & 0xFF8)


def walk(words: "memoryview[int]", root: int, va: int) -> tuple[Step, ...]:
    """The entries that translate `va`, from the top; the last is the first that is not present, or the page's own."""
    steps = []
    table = root
    for level in range(LEVELS, 0, -1):
        address = table + (va >> (3 + 9 * level) & 511) * 8
        entry = words[address >> 3]
        steps.append(Step(level, address, entry))
        if not entry & PRESENT:
            break
        table = entry & ADDRESS
    return tuple(steps)


def translate(
    words: "memoryview[int]", root: int, va: int, write: bool, execute: bool = False, user: bool = True
) -> int | Fault:
    """Physical address of byte `va` for one access, or the fault that access would cause.

    Like the processor, this sets the accessed bit of every table it passes, also on the way to a fault; that of the
    page, and its dirty bit for a write, only when the access succeeds. `va` must be canonical.
    """
    code = (FAULT_WRITE if write else 0) | (FAULT_USER if user else 0) | (FAULT_FETCH if execute else 0)
    i4 = (root >> 3) + (va >> 39 & 511)
    e4 = words[i4]
    if not e4 & 1:
        return Fault(code)
    if not e4 & 32:
        words[i4] = e4 | ACCESSED
    i3 = ((e4 & ADDRESS) >> 3) + (va >> 30 & 511)
    e3 = words[i3]
    if not e3 & 1:
        return Fault(code)
    if not e3 & 32:
        words[i3] = e3 | ACCESSED
    i2 = ((e3 & ADDRESS) >> 3) + (va >> 21 & 511)
    e2 = words[i2]
    if not e2 & 1:
        return Fault(code)
    if not e2 & 32:
        words[i2] = e2 | ACCESSED
    i1 = ((e2 & ADDRESS) >> 3) + (va >> 12 & 511)
    e1 = words[i1]
    if not e1 & 1:
        return Fault(code)
    rights = e4 & e3 & e2 & e1
    if (user and not rights & USER) or (write and not rights & WRITABLE) or (execute and (e4 | e3 | e2 | e1) & NX):
        return Fault(code | FAULT_PRESENT)
    used = e1 | (ACCESSED | DIRTY if write else ACCESSED)
    if used != e1:
        words[i1] = used
    return (e1 & ADDRESS) | (va & 0xFFF)
