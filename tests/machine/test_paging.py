"""Page-table functions, judged by the emulated processor's own walks."""

from typing import Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exokernel.machine.context import MachineContext, Register, TrapKind
from exokernel.machine.cpu import SUPERVISOR_INDEX, FastCpu, prepare_supervisor
from exokernel.machine.memory import PAGE_SIZE, PhysicalMemory
from exokernel.machine.paging import (
    ACCESSED,
    ADDRESS,
    DIRTY,
    NX,
    PRESENT,
    SOFT_0,
    SOFT_2,
    USER,
    WRITABLE,
    Fault,
    entry_address,
    is_canonical,
    translate,
    walk,
)

VA: Final = 0x1234_5678_9000
CODE: Final = 0x40_0000
TABLE: Final = PRESENT | WRITABLE | USER
ROOT, CODE_FRAME, DATA_FRAME = 0x10000, 0x20000, 0x21000


class Space:
    """One address space over its own memory, tables in the frames after ROOT, with a CPU."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory(1 << 20)
        self.supervisor = prepare_supervisor(self.memory, PAGE_SIZE)
        self.cpu = FastCpu(self.memory, PAGE_SIZE)

    def build(self, va: int, rights: tuple[int, int, int, int], code: bytes) -> None:
        for frame in range(ROOT // PAGE_SIZE, ROOT // PAGE_SIZE + 8):
            self.memory.zero(frame)
        words = self.memory.words
        words[(ROOT >> 3) + SUPERVISOR_INDEX] = self.supervisor
        self.next = ROOT
        for address, frame, levels in ((CODE, CODE_FRAME, (TABLE, TABLE, TABLE, TABLE)), (va, DATA_FRAME, rights)):
            table = ROOT
            for shift, right in zip((39, 30, 21), levels[:3], strict=True):
                at = (table >> 3) + (address >> shift & 511)
                if not words[at] & ADDRESS:
                    self.next += PAGE_SIZE
                    words[at] = self.next | right
                table = words[at] & ADDRESS
            words[(table >> 3) + (address >> 12 & 511)] = frame | levels[3]
        self.memory.view[CODE_FRAME : CODE_FRAME + len(code)] = code
        self.cpu.flush_tlb()
        self.cpu.flush_code()

    def tables(self) -> bytes:
        return bytes(self.memory.view[ROOT : ROOT + 8 * PAGE_SIZE])


@pytest.fixture(scope="module")
def space() -> Space:
    return Space()


LOAD, STORE, JUMP = b"\x48\x8b\x07\x0f\x05", b"\x48\x89\x07\x0f\x05", b"\xff\xe7"
right = st.tuples(
    st.sampled_from([0, PRESENT, PRESENT, PRESENT, PRESENT, PRESENT]),
    st.sampled_from([0, WRITABLE, WRITABLE, WRITABLE]),
    st.sampled_from([0, USER, USER, USER]),
    st.sampled_from([0, 0, 0, NX]),
    st.sampled_from([0, ACCESSED, ACCESSED | DIRTY]),
    st.sampled_from([0, SOFT_0, SOFT_2]),
).map(sum)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rights=st.tuples(right, right, right, right), code=st.sampled_from([LOAD, STORE, JUMP]))
def test_translate_does_what_the_processor_does(space: Space, rights: tuple[int, int, int, int], code: bytes) -> None:
    levels = (rights[0] & ~DIRTY, rights[1] & ~DIRTY, rights[2] & ~DIRTY, rights[3])
    space.build(VA, levels, code)
    mine = translate(space.memory.words, ROOT, VA + 8, write=code == STORE, execute=code == JUMP)
    expected = space.tables()
    space.build(VA, levels, code)
    space.memory.view[DATA_FRAME + 8 : DATA_FRAME + 10] = b"\x0f\x05"
    context = MachineContext()
    context.words[Register.RIP], context.words[Register.RDI] = CODE, VA + 8
    trap = space.cpu.run(context, ROOT, 10)
    if isinstance(mine, Fault):
        assert (trap.kind, trap.code, trap.address) == (TrapKind.PAGE_FAULT, mine.code, VA + 8)
    else:
        assert trap.kind is TrapKind.DOWNCALL
        assert mine == DATA_FRAME + 8
    visited = [step.address for step in walk(space.memory.words, ROOT, VA)]
    for address in visited:
        offset = address - ROOT
        assert space.tables()[offset : offset + 8] == expected[offset : offset + 8]


def test_entry_address_is_the_last_step_of_the_walk(space: Space) -> None:
    space.build(VA, (TABLE, TABLE, TABLE, PRESENT | NX), LOAD)
    steps = walk(space.memory.words, ROOT, VA + 5)
    assert [step.level for step in steps] == [4, 3, 2, 1]
    assert steps[-1].entry == DATA_FRAME | PRESENT | NX
    assert entry_address(space.memory.words, ROOT, VA + 5) == steps[-1].address
    assert entry_address(space.memory.words, ROOT, VA + PAGE_SIZE) == steps[-1].address + 8


@pytest.mark.parametrize("level", [4, 3, 2])
def test_a_walk_ends_at_the_first_missing_table(space: Space, level: int) -> None:
    space.build(VA, (TABLE, TABLE, TABLE, TABLE), LOAD)
    missing = walk(space.memory.words, ROOT, VA)[4 - level]
    space.memory.words[missing.address >> 3] = 0
    assert entry_address(space.memory.words, ROOT, VA) is None
    assert walk(space.memory.words, ROOT, VA)[-1] == missing._replace(entry=0)
    assert translate(space.memory.words, ROOT, VA, write=True) == Fault(6)


def test_canonical_addresses() -> None:
    assert all(map(is_canonical, (0, (1 << 47) - 1, 0xFFFF_8000_0000_0000, (1 << 64) - 1)))
    assert not any(map(is_canonical, (1 << 47, 0xFFFF_7FFF_FFFF_FFFF, 1 << 64)))


def test_memory_is_one_thing_seen_in_two_ways() -> None:
    memory = PhysicalMemory(2 * PAGE_SIZE)
    assert (memory.size, memory.frames) == (2 * PAGE_SIZE, 2)
    memory.words[PAGE_SIZE >> 3] = 0x0102
    assert bytes(memory.view[PAGE_SIZE : PAGE_SIZE + 2]) == b"\x02\x01"
    memory.zero(1)
    assert not any(memory.view)
    memory.close()
    memory.close()


@pytest.mark.parametrize("size", [0, -4096, 100, (1 << 32) + 4096])
def test_memory_of_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="physical memory"):
        PhysicalMemory(size)
