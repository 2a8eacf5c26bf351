"""What must be true of the machine between any two traps, read off the page tables by a walk of its own.

`audit(kernel)` walks every root in physical memory and compares what it finds with what the kernel believes, with what
the kernel exposes, and with the rules. It uses none of the kernel's functions, only its data.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exokernel.abi import layout, pages
from exokernel.abi.flags import Rights
from exokernel.abi.layout import PAGE_SHIFT, PAGE_SIZE, USER_END

PRESENT, WRITABLE, USER, NX = 1, 2, 4, 1 << 63
ADDRESS = 0x000F_FFFF_FFFF_F000
USER_SLOTS = USER_END >> 39
SUPERVISOR_SLOT = 256
EVERYTHING = 15


@dataclass(frozen=True)
class Leaf:
    """One present page: what the processor allows in the end, over all four levels."""

    va: int
    frame: int
    writable: bool
    executable: bool
    user: bool


def _entries(words: Any, table: int) -> Iterator[tuple[int, int]]:
    for index, entry in enumerate(words[table >> 3 : (table >> 3) + 512].tolist()):
        if entry:
            yield index, entry


def walk(words: Any, root: int, slots: range) -> tuple[list[Leaf], list[int]]:
    """Every page reachable through these slots of a root, and every table on the way below the root."""
    leaves, tables = [], []
    for i4, e4 in _entries(words, root):
        if i4 not in slots:
            continue
        assert e4 & PRESENT, "an entry of a table is neither empty nor present"
        tables.append((e4 & ADDRESS) >> PAGE_SHIFT)
        for i3, e3 in _entries(words, e4 & ADDRESS):
            assert e3 & PRESENT
            tables.append((e3 & ADDRESS) >> PAGE_SHIFT)
            for i2, e2 in _entries(words, e3 & ADDRESS):
                assert e2 & PRESENT
                assert not e2 & 0x80, "a large page"
                tables.append((e2 & ADDRESS) >> PAGE_SHIFT)
                for i1, e1 in _entries(words, e2 & ADDRESS):
                    assert e1 & PRESENT
                    every, some = e4 & e3 & e2 & e1, e4 | e3 | e2 | e1
                    leaves.append(
                        Leaf(
                            i4 << 39 | i3 << 30 | i2 << 21 | i1 << 12,
                            (e1 & ADDRESS) >> PAGE_SHIFT,
                            bool(every & WRITABLE),
                            not some & NX,
                            bool(every & USER),
                        )
                    )
    return leaves, tables


def _dominates(ring: Any, access: Any) -> int:
    allowed = 0
    for capability in ring:
        for entry in access or ():
            if capability and entry and entry.name[: len(capability.name)] == capability.name:
                allowed |= capability.permissions & entry.permissions
    return allowed


def justified(environment: Any, frame: Any) -> int:
    """The rights that hold, loan, capability or control of a holder give."""
    if environment in frame.holders:
        return EVERYTHING
    allowed = 0
    for (lender, borrower), rights in frame.loans.items():
        assert lender in frame.holders, "a loan by somebody who does not hold the frame"
        allowed |= rights if borrower is environment else 0
    access = frame.access if isinstance(frame.access, dict) else {None: frame.access}
    for entries in access.values():
        allowed |= _dominates(environment.ring, entries)
    if any(_dominates(environment.ring, holder.access) & Rights.CONTROL for holder in frame.holders):
        allowed = EVERYTHING
    return allowed


def _exposed_half(kernel: Any, environment: Any) -> None:
    """What the kernel puts into every root: read-only to ring 3 but the own page, and nothing of it executable."""
    words, exposed = kernel.memory.words, kernel.exposed
    entries = dict(_entries(words, environment.root))
    assert set(entries) <= set(range(USER_SLOTS)) | {layout.EXPOSED_SLOT, layout.SELF_MAP_SLOT, SUPERVISOR_SLOT}
    window = entries[layout.SELF_MAP_SLOT]
    assert window & ADDRESS == environment.root
    assert window & NX
    assert not window & WRITABLE
    assert not entries[SUPERVISOR_SLOT] & USER
    leaves, tables = walk(words, environment.root, range(layout.EXPOSED_SLOT, layout.EXPOSED_SLOT + 1))
    expected = {
        layout.EXPOSED: exposed.machine_frame,
        layout.OWN_PAGE: environment.own >> PAGE_SHIFT,
        layout.DISK_QUEUE: exposed.queue_frame,
        layout.SLICE_TABLE: exposed.slice_frame,
        **{layout.ENVIRONMENT_TABLE + i * PAGE_SIZE: number for i, number in enumerate(exposed.environment_frames)},
        **{layout.FRAME_TABLE + i * PAGE_SIZE: number for i, number in enumerate(exposed.frame_table_frames)},
    }
    assert {leaf.va: leaf.frame for leaf in leaves} == expected
    for leaf in leaves:
        assert leaf.user
        assert not leaf.executable
        assert leaf.writable == (leaf.va == layout.OWN_PAGE)
    own = {number for number in tables if number >= kernel.frames.first}
    assert own <= set(environment.tables)


def _exposed_numbers(kernel: Any, environment: Any, held: set[int], tables: set[int], own: bool) -> None:
    expected = {
        "environment": environment.number,
        "held": len(held),
        "table_frames": len(tables),
        "quota": environment.quota,
        "reserved": len(environment.reserved),
        "taken_total": environment.taken_total,
    }
    for name, value in expected.items() if own else ():
        assert kernel.memory.words[environment.own + pages.offset_of(pages.OwnPage, name) >> 3] == value, name
    size = pages.EnvironmentRow.sizeof()
    at = (kernel.exposed.environment_frames.start << PAGE_SHIFT) + environment.number % layout.MAXIMUM_ENVIRONMENTS * size
    row = pages.EnvironmentRow.parse(bytes(kernel.memory.view[at : at + size]))
    assert (row.number, row.state, row.parent) == (environment.number, environment.state, environment.parent)
    assert (row.held, row.table_frames, row.quota) == (len(held), len(tables), environment.quota)


def _frame_word(kernel: Any, number: int) -> int:
    word: int = kernel.memory.words[(kernel.exposed.frame_table_frames.start << 9) + number]
    return word


def audit(kernel: Any, own_pages: bool = True) -> None:
    """Raises AssertionError naming the first rule that is broken.  An environment may scribble in its own page: then what
    stands there is not compared."""
    frames, words = kernel.frames, kernel.memory.words
    mappings: dict[int, dict[tuple[Any, int], Leaf]] = {}
    table_owner: dict[int, Any] = {}
    for environment in kernel.environments.values():
        leaves, tables = walk(words, environment.root, range(USER_SLOTS))
        _exposed_half(kernel, environment)
        for number in environment.tables:
            assert number not in table_owner, f"table {number} belongs to two environments"
            table_owner[number] = environment
        assert set(tables) <= set(environment.tables)
        assert len(tables) == len(set(tables)), "one table is used at two places"
        assert len(environment.tables) == len(tables) + 5, "a table is kept that nothing leads to"
        for leaf in leaves:
            assert layout.USER_BEGIN <= leaf.va < USER_END
            assert leaf.user
            mappings.setdefault(leaf.frame, {})[environment, leaf.va] = leaf
        held = {number for number, frame in frames.used.items() if environment in frame.holders and not frame.table}
        assert held == set(environment.held)
        assert environment.reserved <= held
        _exposed_numbers(kernel, environment, held, set(environment.tables), own_pages)
    machine = set(range(frames.first))
    held = {number for number, frame in frames.used.items() if frame.holders and not frame.table}
    lost = {number for number, frame in frames.used.items() if frame.lost}
    parts = [machine, set(frames.free), held, set(table_owner), lost]
    assert sum(map(len, parts)) == kernel.memory.frames, "a frame is in two states, or in none"
    assert set().union(*parts) == set(range(kernel.memory.frames))
    assert {number for number, frame in frames.used.items() if frame.table} == set(table_owner)
    assert words[kernel.exposed.machine + 4] == len(frames.free)
    reading = Counter(
        request.frame.number for request in kernel.disk.queue.values() if request.frame is not None and not request.write
    )
    using = Counter(request.frame.number for request in kernel.disk.queue.values() if request.frame is not None)
    for number in range(kernel.memory.frames):
        word = _frame_word(kernel, number)
        found = mappings.get(number, {})
        if number in machine:
            assert word == pages.MACHINE_FRAME
        if number in frames.free:
            assert word == 0
        if number in table_owner:
            assert word & pages.FRAME_HOLDER_MASK == table_owner[number].number
            assert word & pages.FRAME_TABLE_FLAG
        if number not in held:
            assert not found, f"frame {number} is nobody's and mapped at {found}"
            continue
        frame = frames.used[number]
        assert word & pages.FRAME_HOLDER_MASK == frame.holders[0].number
        assert word >> pages.FRAME_HOLDERS_SHIFT & 0xFF == len(frame.holders)
        assert bool(word & pages.FRAME_IO_FLAG) == bool(using[number])
        assert bool(word & pages.FRAME_RESERVED_FLAG) == any(number in holder.reserved for holder in frame.holders)
        assert not word & (pages.FRAME_TABLE_FLAG | pages.FRAME_LOST_FLAG)
        assert len(set(map(id, frame.holders))) == len(frame.holders)
        assert set(frame.mappings) == set(found)
        for (environment, _), leaf in found.items():
            needed = Rights.READ | (Rights.WRITE if leaf.writable else 0) | (Rights.EXECUTE if leaf.executable else 0)
            assert not needed & ~justified(environment, frame), f"{leaf} of {environment.number} without a right"
        writable = sum(leaf.writable for leaf in found.values()) + reading[number]
        executable = sum(leaf.executable for leaf in found.values())
        assert not (writable and executable), f"frame {number} is writable and executable"
        assert (frame.writable, frame.executable) == (writable, executable)
    assert sum(len(environment.tables) for environment in kernel.environments.values()) == len(table_owner)
