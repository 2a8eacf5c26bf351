"""Address spaces: the page tables, which are the only place where a right to memory is enforced.

Every environment has a root whose slots for the exposed pages, for the window onto its own tables and for the supervisor
page are filled by the kernel, and whose tables are frames charged to it.  An entry is only ever written here, so: no table
is mapped writable, page 0 and everything from USER_END on belong to the kernel, data is never executable unless asked for,
and a frame is never writable and executable at once over all its mappings.  Whatever takes a right away also has every
TLB flushed before another instruction runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from exokernel.abi import layout
from exokernel.abi.errors import Error
from exokernel.abi.flags import PageBits, Rights
from exokernel.abi.layout import PAGE_SHIFT, PAGE_SIZE
from exokernel.kernel.refusal import AccessFault, Refusal
from exokernel.machine import paging
from exokernel.machine.cpu import SUPERVISOR_INDEX, Cpu
from exokernel.machine.memory import PhysicalMemory

if TYPE_CHECKING:
    from exokernel.kernel.environment import Environment
    from exokernel.kernel.exposed import ExposedPages
    from exokernel.kernel.frames import Frame, FrameTable

TABLE = paging.PRESENT | paging.WRITABLE | paging.USER
WRITTEN = paging.ACCESSED | paging.DIRTY
READ_ONLY = paging.PRESENT | paging.USER | paging.NX
ADDRESS = 0x000F_FFFF_FFFF_F000
BYTES_MAXIMUM = 1 << 20
WRITE, EXECUTE = int(Rights.WRITE), int(Rights.EXECUTE)
DIRTY = int(PageBits.DIRTY)
ACCESSED_BEFORE = int(PageBits.ACCESSED_BEFORE)
LIBRARY_BITS = int(PageBits.ACCESSED | PageBits.DIRTY | PageBits.ACCESSED_BEFORE)


class AddressSpaces:
    """Makes, changes and reads every environment's page tables."""

    def __init__(self, memory: PhysicalMemory, cpus: Sequence[Cpu], supervisor_entry: int) -> None:
        self.memory = memory
        self.frames: FrameTable
        self.exposed: ExposedPages
        self._words = memory.words
        self._cpus = cpus
        self._supervisor_entry = supervisor_entry

    def make(self, environment: Environment) -> None:
        """Fill the root of a new environment.  Raises Refusal (NO_FRAME, OVER_QUOTA) having taken nothing."""
        taken: list[int] = []
        try:
            for _ in range(5):
                frame = self.frames.take_free(environment, table=True)
                if frame is None:
                    raise Refusal(Error.NO_FRAME)
                taken.append(frame.number)
        except Refusal:
            for number in taken:
                self.frames.give_back_table(environment, number)
            raise
        root, upper, middle, lower, own = (number << PAGE_SHIFT for number in taken)
        words, exposed = self._words, self.exposed
        words[(root >> 3) + layout.EXPOSED_SLOT] = upper | TABLE
        words[(root >> 3) + layout.SELF_MAP_SLOT] = root | READ_ONLY
        words[(root >> 3) + SUPERVISOR_INDEX] = self._supervisor_entry
        words[upper >> 3] = middle | TABLE
        words[middle >> 3] = lower | TABLE
        for index, table in enumerate(self._frame_table_tables()):
            words[(middle >> 3) + 1 + index] = table << PAGE_SHIFT | TABLE
        words[lower >> 3] = exposed.machine_frame << PAGE_SHIFT | READ_ONLY
        words[(lower >> 3) + 1] = own | TABLE | paging.NX
        words[(lower >> 3) + 2] = exposed.queue_frame << PAGE_SHIFT | READ_ONLY
        words[(lower >> 3) + 3] = exposed.slice_frame << PAGE_SHIFT | READ_ONLY
        for index, number in enumerate(exposed.environment_frames):
            words[(lower >> 3) + 16 + index] = number << PAGE_SHIFT | READ_ONLY
        for number in taken:
            environment.tables[number] = PAGE_SIZE
        environment.root, environment.own = root, own

    def _frame_table_tables(self) -> Sequence[int]:
        """The machine's page tables for the frame table, shared by all."""
        return self.shared_tables

    def switch_on(self, tables: Sequence[int]) -> None:
        """Fill the shared page tables that map the frame table; `tables` are machine frames, one for each 2 MiB."""
        self.shared_tables = tables
        for index, number in enumerate(self.exposed.frame_table_frames):
            slot = (tables[index >> 9] << PAGE_SHIFT >> 3) + (index & 511)
            self._words[slot] = number << PAGE_SHIFT | READ_ONLY

    @staticmethod
    def tables_needed(frames: int) -> int:
        """Machine frames for the shared page tables."""
        return -(-frames * 8 // (PAGE_SIZE * 512))

    def destroy(self, environment: Environment) -> None:
        """Give every table of an environment back; its mappings must be gone from the frames already."""
        for number in list(environment.tables):
            self.frames.give_back_table(environment, number)
        environment.leaves.clear()
        self.flush()

    def flush(self) -> None:
        """No processor may use a translation it has cached."""
        for cpu in self._cpus:
            cpu.flush_tlb()

    def _code_changed(self) -> None:
        for cpu in self._cpus:
            cpu.code_changed()

    def _leaf(self, environment: Environment, va: int) -> int:
        """Physical address of the last-level table for `va`, made if missing.  Raises Refusal having kept nothing."""
        leaf = environment.leaves.get(va >> 21)
        if leaf is not None:
            return leaf
        words, table = self._words, environment.root
        made: list[tuple[int, int]] = []
        for shift in (39, 30, 21):
            slot = (table >> 3) + (va >> shift & 511)
            if not words[slot] & paging.PRESENT:
                try:
                    frame = self.frames.take_free(environment, table=True)
                    if frame is None:
                        raise Refusal(Error.NO_FRAME)
                except Refusal:
                    for parent_slot, number in reversed(made):
                        words[parent_slot] = 0
                        environment.tables[parent_slot << 3 >> PAGE_SHIFT] -= 1
                        self.frames.give_back_table(environment, number)
                    raise
                words[slot] = frame.number << PAGE_SHIFT | TABLE
                environment.tables[table >> PAGE_SHIFT] += 1
                made.append((slot, frame.number))
            table = words[slot] & ADDRESS
        environment.leaves[va >> 21] = table
        return table

    def _drop_empty_tables(self, environment: Environment, va: int) -> None:
        """After an entry has gone: give back the tables on the way to `va` that are empty now."""
        words, path = self._words, [environment.root]
        for shift in (39, 30, 21):
            path.append(words[(path[-1] >> 3) + (va >> shift & 511)] & ADDRESS)
        for level, shift in ((3, 21), (2, 30), (1, 39)):
            number = path[level] >> PAGE_SHIFT
            if environment.tables[number]:
                return
            if level == 3:
                del environment.leaves[va >> 21]
            words[(path[level - 1] >> 3) + (va >> shift & 511)] = 0
            environment.tables[path[level - 1] >> PAGE_SHIFT] -= 1
            self.frames.give_back_table(environment, number)

    def map(self, environment: Environment, va: int, frame: Frame, rights: int) -> None:
        """Map `frame` at `va` with `rights`, replacing what is there.  Raises Refusal (NO_FRAME, OVER_QUOTA for a page
        table; WRITE_XOR_EXECUTE) having changed nothing."""
        write, execute = rights & WRITE, rights & EXECUTE
        replaced = frame.mappings.get((environment, va), 0)
        if (write and (execute or frame.executable - bool(replaced & EXECUTE))) or (
            execute and frame.writable - bool(replaced & WRITE)
        ):
            raise Refusal(Error.WRITE_XOR_EXECUTE)
        leaf = self._leaf(environment, va)
        slot = (leaf >> 3) + (va >> PAGE_SHIFT & 511)
        old = self._words[slot]
        if old & paging.PRESENT:
            self._forget(environment, va, self.frames.used[(old & ADDRESS) >> PAGE_SHIFT], old)
        else:
            environment.tables[leaf >> PAGE_SHIFT] += 1
        entry = frame.number << PAGE_SHIFT | paging.PRESENT | paging.USER
        if write:
            entry |= paging.WRITABLE
            frame.writable += 1
        if execute:
            frame.executable += 1
            self._code_changed()
        else:
            entry |= paging.NX
        frame.mappings[environment, va] = rights
        self._words[slot] = entry

    def _forget(self, environment: Environment, va: int, frame: Frame, entry: int) -> None:
        """An entry is going: what it knew of the frame is kept, its rights are counted off, and no TLB may know it."""
        rights = frame.mappings.pop((environment, va))
        if entry & paging.DIRTY:
            frame.clean.clear()
        frame.used = frame.used or bool(entry & paging.ACCESSED)
        if rights & WRITE:
            frame.writable -= 1
        if rights & EXECUTE:
            frame.executable -= 1
            self._code_changed()
            if not frame.executable:
                for cpu in self._cpus:
                    cpu.flush_code()
        self.flush()

    def unmap(self, environment: Environment, va: int, frame: Frame | None = None) -> int:
        """Remove the mapping at `va`.  Gives its PageBits as they were in the end.  Raises Refusal (NOT_MAPPED)."""
        leaf = environment.leaves.get(va >> 21)
        slot = (leaf >> 3) + (va >> PAGE_SHIFT & 511) if leaf is not None else 0
        entry = self._words[slot] if leaf is not None else 0
        if leaf is None or not entry & paging.PRESENT:
            raise Refusal(Error.NOT_MAPPED)
        self._forget(environment, va, frame or self.frames.used[(entry & ADDRESS) >> PAGE_SHIFT], entry)
        self._words[slot] = 0
        environment.tables[leaf >> PAGE_SHIFT] -= 1
        if not environment.tables[leaf >> PAGE_SHIFT]:
            self._drop_empty_tables(environment, va)
        return entry & LIBRARY_BITS

    def unmap_everything(self, environment: Environment) -> None:
        """Remove every mapping of an environment that ends."""
        for va21, leaf in list(environment.leaves.items()):
            for index in range(512):
                if self._words[(leaf >> 3) + index] & paging.PRESENT:
                    self.unmap(environment, va21 << 21 | index << PAGE_SHIFT)

    def _slot(self, environment: Environment, va: int) -> int | None:
        leaf = environment.leaves.get(va >> 21)
        return None if leaf is None else (leaf >> 3) + (va >> PAGE_SHIFT & 511)

    def any_dirty(self, frame: Frame) -> bool:
        """Whether a mapping of the frame has its dirty bit set."""
        slots = (self._slot(environment, va) for environment, va in frame.mappings)
        return any(self._words[slot] & paging.DIRTY for slot in slots if slot is not None)

    def clear_bits(self, environment: Environment, va: int, count: int, bits: int) -> int:
        """Clear accessed and dirty bits of `count` pages from `va` on; gives how many pages had one."""
        cleared = 0
        for page in range(va, va + count * PAGE_SIZE, PAGE_SIZE):
            slot = self._slot(environment, page)
            entry = self._words[slot] if slot is not None else 0
            if slot is None or not entry & paging.PRESENT:
                continue
            frame = self.frames.used[(entry & ADDRESS) >> PAGE_SHIFT]
            if bits & DIRTY:
                if entry & paging.DIRTY:
                    frame.clean.clear()
                if environment in frame.holders:
                    frame.clean.add(environment)
            if entry & bits:
                frame.used = frame.used or bool(entry & paging.ACCESSED)
                self._words[slot] = entry & ~bits
                cleared += 1
        self.flush()
        return cleared

    def sample_accessed(self, frame: Frame) -> bool:
        """Whether the frame was used since the last sample: moves ACCESSED to ACCESSED_BEFORE in each of its entries.  The
        caller flushes the TLBs when it has sampled all."""
        used, frame.used = frame.used, False
        for environment, va in frame.mappings:
            slot = self._slot(environment, va)
            if slot is not None and self._words[slot] & paging.ACCESSED:
                self._words[slot] = self._words[slot] & ~paging.ACCESSED | ACCESSED_BEFORE
                used = True
        return used

    def address(self, environment: Environment, va: int, write: bool) -> int:
        """Physical address (bytes) behind `va` with the environment's own rights.  Raises AccessFault."""
        leaf = environment.leaves.get(va >> 21)
        if leaf is not None:
            slot = (leaf >> 3) + (va >> PAGE_SHIFT & 511)
            entry = self._words[slot]
            if entry & TABLE == TABLE or (entry & paging.PRESENT and not write):
                self._words[slot] = entry | (WRITTEN if write else paging.ACCESSED)
                return entry & ADDRESS | va & PAGE_SIZE - 1
        if not paging.is_canonical(va):
            raise Refusal(Error.BAD_ARGUMENT)
        result = paging.translate(self._words, environment.root, va, write)
        if isinstance(result, paging.Fault):
            raise AccessFault(va, result.code)
        return result

    def frame_at(self, environment: Environment, va: int) -> int | None:
        """The frame mapped at `va`, read-only or not; nothing is marked as accessed."""
        slot = self._slot(environment, va)
        entry = self._words[slot] if slot is not None else 0
        if slot is None and va >= layout.EXPOSED:
            result = paging.translate(self._words, environment.root, va, False)
            return None if isinstance(result, paging.Fault) else result >> PAGE_SHIFT
        return (entry & ADDRESS) >> PAGE_SHIFT if entry & paging.PRESENT else None

    def read(self, environment: Environment, va: int, size: int) -> bytes:
        """Load bytes as the environment would.  Raises AccessFault, and Refusal for more than a mebibyte."""
        if not 0 <= size <= BYTES_MAXIMUM:
            raise Refusal(Error.BAD_ARGUMENT)
        offset = va & PAGE_SIZE - 1
        if offset + size <= PAGE_SIZE:
            physical = self.address(environment, va, False) if size else 0
            return bytes(self.memory.view[physical : physical + size])
        parts = []
        while size:
            length = min(size, PAGE_SIZE - (va & PAGE_SIZE - 1))
            physical = self.address(environment, va, False)
            parts.append(bytes(self.memory.view[physical : physical + length]))
            va, size = va + length, size - length
        return b"".join(parts)

    def write(self, environment: Environment, va: int, data: bytes | memoryview) -> None:
        """Store bytes as the environment would; nothing is stored if any of it faults.  Raises AccessFault, Refusal."""
        size = len(data)
        if size > BYTES_MAXIMUM:
            raise Refusal(Error.BAD_ARGUMENT)
        if size <= PAGE_SIZE - (va & PAGE_SIZE - 1):
            physical = self.address(environment, va, True) if size else 0
            self.memory.view[physical : physical + size] = data
            return
        places, done = [], 0
        while done < size:
            length = min(size - done, PAGE_SIZE - (va + done & PAGE_SIZE - 1))
            places.append((self.address(environment, va + done, True), done, length))
            done += length
        for physical, start, length in places:
            self.memory.view[physical : physical + length] = data[start : start + length]
