"""Plain read-modify-write instructions are no longer atomic where several processors share memory; locked ones are."""

from collections.abc import Iterator
from typing import Final, NamedTuple

import capstone
import pytest
from capstone import x86 as capstone_x86
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exokernel.machine.context import MachineContext, Register, TrapKind
from exokernel.machine.cpu import FastCpu
from exokernel.machine.memory import PAGE_SIZE
from exokernel.machine.paging import ADDRESS, NX, PRESENT, USER, WRITABLE, entry_address
from tests.machine.cpu_kit import (
    CODE,
    DATA,
    DATA_PAGES,
    HOLE,
    READ_ONLY,
    STACK,
    SUPERVISOR,
    Machine,
    assembled,
    biased_noise,
    budgets,
    context_at,
    noise,
    observed,
    run,
    source,
    starts,
)

COUNT: Final = 300
_DISASSEMBLER: Final = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
_DISASSEMBLER.detail = True


class Processors(NamedTuple):
    """Two CPUs that split instructions and one that does not, over one memory."""

    machine: Machine
    one: FastCpu
    two: FastCpu

    @property
    def whole(self) -> FastCpu:
        return self.machine.fast

    def reset(self) -> None:
        self.machine.reset()
        for cpu in (self.one, self.two):
            cpu.flush_tlb()
            cpu.flush_code()

    def frame_at(self, root: int, va: int) -> int:
        entry = entry_address(self.machine.memory.words, root, va)
        assert entry is not None
        return self.machine.memory.words[entry >> 3] & ADDRESS

    def data(self, root: int) -> bytearray:
        parts = (self.machine.memory.view[at : at + PAGE_SIZE] for at in self._data_frames(root))
        return bytearray(b"".join(parts))

    def set_data(self, root: int, content: bytes) -> None:
        for page, at in enumerate(self._data_frames(root)):
            self.machine.memory.view[at : at + PAGE_SIZE] = content[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]

    def _data_frames(self, root: int) -> list[int]:
        return [self.frame_at(root, DATA + page * PAGE_SIZE) for page in range(DATA_PAGES)]


@pytest.fixture(scope="module")
def _processors() -> Iterator[Processors]:
    machine = Machine()
    made = Processors(
        machine, FastCpu(machine.memory, SUPERVISOR, split=True), FastCpu(machine.memory, SUPERVISOR, split=True)
    )
    yield made
    for cpu in (made.one, made.two, made.whole):
        cpu.close()


@pytest.fixture
def processors(_processors: Processors) -> Processors:
    _processors.reset()
    return _processors


def counted(processors: Processors, body: str, turn: int) -> int:
    """What two processors have counted to in the word at rdi when each has run `body` COUNT times, `turn` cycles a turn."""
    root = processors.machine.program(assembled(f"again: {body}\ndec ebx\njnz again\nsyscall"))
    processors.set_data(root, bytes(DATA_PAGES * PAGE_SIZE))
    contexts = [context_at(rbx=COUNT, rdx=1), context_at(rbx=COUNT, rdx=1)]
    running = list(zip((processors.one, processors.two), contexts, strict=True))
    while running:
        running = [(cpu, context) for cpu, context in running if run(cpu, context, root, turn).kind is TrapKind.BUDGET]
    return int.from_bytes(processors.data(root)[:8], "little")


@pytest.mark.parametrize("turn", [1, 3, 5, 7])
@pytest.mark.parametrize(
    "body",
    [
        "inc qword ptr [rdi]",
        "add [rdi], rdx",
        "add dword ptr [rdi], 1",
        "adc word ptr [rdi], 1",
        "sub qword ptr [rdi], -1",
        "mov rcx, rdx; xadd [rdi], rcx",
    ],
)
def test_an_unlocked_count_of_two_processors_loses_updates(processors: Processors, body: str, turn: int) -> None:
    assert COUNT <= counted(processors, body, turn) < 2 * COUNT


@pytest.mark.parametrize("turn", [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize(
    "body",
    [
        "lock inc qword ptr [rdi]",
        "lock add [rdi], rdx",
        "mov rcx, rdx; lock xadd [rdi], rcx",
        "retry: mov rax, [rdi]; lea rcx, [rax + 1]; lock cmpxchg [rdi], rcx; jnz retry",
        "retry: mov ecx, 1; xchg [rdi + 8], ecx; test ecx, ecx; jnz retry; inc qword ptr [rdi]; mov dword ptr [rdi + 8], 0",
    ],
)
def test_a_locked_count_of_two_processors_is_exact(processors: Processors, body: str, turn: int) -> None:
    assert counted(processors, body, turn) == 2 * COUNT


OPERATIONS: Final = (
    "add {m}, {r}",
    "or {m}, {r}",
    "adc {m}, 3",
    "sbb {m}, {r}",
    "and {m}, {r}",
    "sub {m}, {r}",
    "xor {m}, -2",
    "inc {m}",
    "dec {m}",
    "not {m}",
    "neg {m}",
    "rol {m}, 1",
    "ror {m}, cl",
    "rcl {m}, 3",
    "rcr {m}, 1",
    "shl {m}, cl",
    "shr {m}, 5",
    "sar {m}, 1",
    "xadd {m}, {r}",
    "cmpxchg {m}, {r}",
    "bts {m}, {r}",
    "btr {m}, {r}",
    "btc {m}, 5",
    "shld {m}, {r}, 3",
    "shrd {m}, {r}, cl",
)
CHANGING: Final = frozenset(operation.split()[0] for operation in OPERATIONS) | {"cmpxchg8b", "sal"}
ATOMIC: Final = (
    "lock add {m}, {r}",
    "lock neg {m}",
    "lock cmpxchg {m}, {r}",
    "lock bts {m}, {r}",
    "xchg {m}, {r}",
    "cmp {m}, {r}",
    "test {m}, {r}",
    "mov {m}, {r}",
    "add {r}, {m}",
    "bt {m}, {r}",
    "push {m}",
)
PLACES: Final = (
    "[rdi]",
    "[rdi + 0x10]",
    "[rdi - 0x10]",
    "[rdi + 0x155]",
    "[rdi + rsi*8 + 0x24]",
    "[rbp + rsi*2]",
    "[r13]",
    "[r12 + r14*4 - 8]",
    "[rsp + 8]",
    "[r14*8 + 0x500040]",
    "[rip + 0x100100]",
    "[edi + esi*4]",
    "[eax + 0x3]",
    "fs:[rsi]",
    "gs:[r13d + 0x7]",
)
SIZES: Final = (("byte", "dl"), ("word", "r9w"), ("dword", "edx"), ("qword", "r9"))


def example() -> MachineContext:
    """A context under which every one of PLACES lies in the data pages."""
    made = context_at()
    for name, value in {
        "rdi": DATA + 0x400, "rsi": 0x24, "rbp": DATA + 0x80, "r12": DATA + 0x60, "r13": DATA + 0x333, "r14": 9,
        "rsp": DATA + 0x700, "rax": 0xABCD_0000_0000 + DATA + 0x100, "rcx": 0x1105, "rdx": 0x7FFF_0123_0000_0213,
        "r9": -0x123 & 2**64 - 1, "fs_base": DATA + 0x900, "gs_base": 0x200, "rflags": 0x203,
    }.items():  # fmt: skip
        made.words[Register[name.upper()]] = value
    return made


def interfered(processors: Processors, cpu: FastCpu, code: bytes, context: MachineContext) -> tuple[bytes, bytes, bytes]:
    """Data before, interference, and data after: the turn ends in front of the instruction behind a nop, another processor
    stores everywhere, and the instruction is executed."""
    processors.reset()
    root = processors.machine.program(b"\x90" + code)
    before = bytes(processors.data(root))
    assert run(cpu, context, root, 1).kind is TrapKind.BUDGET
    other = bytes(b ^ 0xA5 for b in before)
    processors.set_data(root, other)
    cpu.run(context, root, 1)
    return before, other, bytes(processors.data(root))


def executed_on(processors: Processors, code: bytes, context: MachineContext) -> bytes:
    """The data after the instruction alone."""
    processors.reset()
    root = processors.machine.program(b"\x90" + code)
    run(processors.whole, context, root, 2)
    return bytes(processors.data(root))


def possible(case: str) -> bytes | None:
    try:
        return assembled(case, CODE + 1)
    except Exception:
        return None


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operation=st.sampled_from(OPERATIONS), size=st.sampled_from(SIZES), place=st.sampled_from(PLACES))
def test_a_split_instruction_stores_what_it_made_of_the_old_operand_and_nothing_else(
    processors: Processors, operation: str, size: tuple[str, str], place: str
) -> None:
    code = possible(operation.format(m=f"{size[0]} ptr {place}", r=size[1]))
    if code is None:
        return
    split, alone = example(), example()
    before, other, after = interfered(processors, processors.one, code, split)
    expected = executed_on(processors, code, alone)
    touched = {at for at in range(len(after)) if after[at] != other[at]}
    changed = {at for at in range(len(after)) if expected[at] != before[at]}
    assert all(after[at] == expected[at] for at in touched | changed)
    assert max(touched | changed) - min(touched | changed) < 1 << SIZES.index(size)
    assert split == alone


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(operation=st.sampled_from(ATOMIC), size=st.sampled_from(SIZES), place=st.sampled_from(PLACES))
def test_an_atomic_instruction_sees_what_others_stored(
    processors: Processors, operation: str, size: tuple[str, str], place: str
) -> None:
    code = possible(operation.format(m=f"{size[0]} ptr {place}", r=size[1]))
    if code is None:
        return
    split, whole = example(), example()
    assert interfered(processors, processors.one, code, split) == interfered(processors, processors.whole, code, whole)
    assert split == whole


def plain_size(code: bytes) -> int:
    """Bytes of the operand in memory that the instruction changes without a lock, as Capstone understands it, or 0."""
    found = next(_DISASSEMBLER.disasm(code.ljust(15, b"\0"), CODE + 1, 1), None)
    if found is None or 0xF0 in found.prefix or found.mnemonic not in CHANGING:
        return 0
    operand = found.operands[0]
    return int(operand.size) if operand.type == capstone_x86.X86_OP_MEM else 0


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(code=st.one_of(noise, biased_noise, st.binary(min_size=3, max_size=9)))
def test_noise_is_split_only_where_it_changes_an_operand(processors: Processors, code: bytes) -> None:
    split, whole = example(), example()
    _, _, after_split = interfered(processors, processors.one, code, split)
    _, _, after_whole = interfered(processors, processors.whole, code, whole)
    touched = [at for at, (a, b) in enumerate(zip(after_split, after_whole, strict=True)) if a != b]
    assert not touched or max(touched) - min(touched) < plain_size(code)


def half_done(processors: Processors, source: str, **words: int) -> tuple[int, MachineContext]:
    """A program and its context, with the first instruction half done by the first processor and its operand then
    stored to by another."""
    root = processors.machine.program(assembled("nop\n" + source))
    processors.set_data(root, bytes(DATA_PAGES * PAGE_SIZE))
    context = context_at(**words)
    run(processors.one, context, root, 1)
    processors.set_data(root, b"\x64" * DATA_PAGES * PAGE_SIZE)
    return root, context


INCREMENT: Final = "inc byte ptr [rdi]\nsyscall"


def test_a_half_done_increment_is_completed_with_the_old_value(processors: Processors) -> None:
    root, context = half_done(processors, INCREMENT)
    run(processors.one, context, root)
    assert processors.data(root)[:2] == b"\x01\x64"


def test_by_default_every_instruction_is_whole(processors: Processors) -> None:
    for code in (assembled("inc byte ptr [rdi]"), assembled("xadd [rdi], edx")):
        _, other, after = interfered(processors, processors.whole, code, context_at(rdx=1))
        assert after[0] == other[0] + 1
        assert after[1:] == other[1:]


def test_another_address_for_the_operand_begins_the_instruction_anew(processors: Processors) -> None:
    root, context = half_done(processors, INCREMENT)
    context.words[Register.RDI] = DATA + 1
    run(processors.one, context, root)
    assert processors.data(root)[:3] == b"\x64\x65\x64"


def test_an_upcall_in_between_begins_the_instruction_anew(processors: Processors) -> None:
    root, context = half_done(processors, f"{INCREMENT}\nhandler: nop\nsyscall")
    interrupted = context.words[Register.RIP]
    context.words[Register.RIP] = interrupted + 4
    assert run(processors.one, context, root).kind is TrapKind.DOWNCALL
    context.words[Register.RIP] = interrupted
    run(processors.one, context, root)
    assert processors.data(root)[:2] == b"\x65\x64"


def test_another_root_begins_the_instruction_anew(processors: Processors) -> None:
    root, context = half_done(processors, INCREMENT)
    other = processors.machine.program(assembled("nop\n" + INCREMENT))
    processors.machine.map(other, DATA, processors.frame_at(root, DATA) | PRESENT | USER | WRITABLE | NX)
    run(processors.one, context, other)
    assert processors.data(root)[:2] == b"\x65\x64"


def test_another_frame_under_the_operand_begins_the_instruction_anew(processors: Processors) -> None:
    root, context = half_done(processors, INCREMENT)
    old = processors.frame_at(root, DATA)
    new = processors.machine.put(root, DATA, b"\x20", PRESENT | USER | WRITABLE | NX)
    processors.one.flush_tlb()
    run(processors.one, context, root)
    assert processors.machine.memory.view[new] == 0x21
    assert processors.machine.memory.view[old] == 0x64


@pytest.mark.parametrize("rights", [0, PRESENT | WRITABLE, PRESENT | USER])
def test_an_instruction_that_faults_instead_puts_nothing_back(processors: Processors, rights: int) -> None:
    root, context = half_done(processors, INCREMENT)
    frame = processors.frame_at(root, DATA)
    processors.machine.map(root, DATA, frame | rights | NX if rights else 0)
    processors.one.flush_tlb()
    assert run(processors.one, context, root).kind is TrapKind.PAGE_FAULT
    assert processors.machine.memory.view[frame] == 0x64
    processors.machine.map(root, DATA, frame | PRESENT | USER | WRITABLE | NX)
    processors.one.flush_tlb()
    run(processors.one, context, root)
    assert processors.machine.memory.view[frame] == 0x65


@pytest.mark.parametrize("entry", [0, NX])
def test_an_instruction_that_cannot_be_fetched_any_more_puts_nothing_back(processors: Processors, entry: int) -> None:
    root, context = half_done(processors, INCREMENT)
    processors.machine.map(root, CODE, processors.frame_at(root, CODE) | PRESENT | USER | NX if entry else 0)
    processors.one.flush_tlb()
    assert run(processors.one, context, root).kind is TrapKind.PAGE_FAULT
    assert processors.data(root)[:1] == b"\x64"


def test_other_code_at_the_place_begins_anew(processors: Processors) -> None:
    root, context = half_done(processors, INCREMENT)
    frame = processors.frame_at(root, CODE)
    code = assembled("dec byte ptr [rdi]")
    processors.machine.memory.view[frame + 1 : frame + 1 + len(code)] = code
    processors.one.flush_code()
    run(processors.one, context, root)
    assert processors.data(root)[:2] == b"\x63\x64"


def test_an_interrupted_instruction_was_not_half_done(processors: Processors) -> None:
    """On one processor, whatever comes in between, each instruction is atomic."""
    root, context = half_done(processors, INCREMENT)
    other = context_at(CODE, rdi=DATA + 64)
    run(processors.one, other, root)
    run(processors.one, context, root)
    assert processors.data(root)[:2] == b"\x65\x64"


def test_an_instruction_is_not_completed_by_another_processor(processors: Processors) -> None:
    root, context = processors.machine.program(assembled("nop\n" + INCREMENT)), context_at()
    processors.set_data(root, bytes(DATA_PAGES * PAGE_SIZE))
    begins, goes_on = (FastCpu(processors.machine.memory, SUPERVISOR, split=True) for _ in range(2))
    run(begins, context, root, 1)
    run(goes_on, context_at(), root, 1)
    processors.set_data(root, b"\x64" * DATA_PAGES * PAGE_SIZE)
    run(goes_on, context, root)
    assert processors.data(root)[:2] == b"\x65\x64"
    for cpu in (begins, goes_on):
        cpu.close()


def test_the_same_instruction_elsewhere_begins_anew(processors: Processors) -> None:
    root, context = half_done(processors, "inc byte ptr [rdi]\n" + INCREMENT)
    context.words[Register.RIP] += 2
    run(processors.one, context, root)
    assert processors.data(root)[:2] == b"\x65\x64"


def test_a_cleared_context_has_nothing_half_done(processors: Processors) -> None:
    root, context = half_done(processors, INCREMENT)
    words = list(context.words)
    context.clear()
    for register, word in enumerate(words):
        context.words[register] = word
    run(processors.one, context, root)
    assert processors.data(root)[:2] == b"\x65\x64"


def test_looking_at_the_context_in_between_changes_nothing(processors: Processors) -> None:
    root, context = half_done(processors, INCREMENT)
    assert context.to_bytes()
    run(processors.one, context, root)
    assert processors.data(root)[:2] == b"\x01\x64"


@pytest.mark.parametrize("va", [READ_ONLY, HOLE, 0, 1 << 63, 1 << 48 | DATA, DATA + PAGE_SIZE - 1, STACK - 2])
def test_operands_that_cannot_be_stored_or_lie_in_two_pages_are_left_alone(processors: Processors, va: int) -> None:
    root, context = half_done(processors, "inc dword ptr [rdi]\nsyscall", rdi=va)
    run(processors.one, context, root)
    data = processors.data(root)
    expected = bytearray(b"\x64" * DATA_PAGES * PAGE_SIZE)
    if va == DATA + PAGE_SIZE - 1:
        expected[PAGE_SIZE - 1] = 0x65
    assert data == expected


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(code=st.one_of(source, noise, biased_noise), at=starts, turns=budgets, missing=st.booleans())
def test_a_processor_that_is_alone_does_what_an_undivided_one_does(
    processors: Processors, code: bytes, at: int, turns: list[int], missing: bool
) -> None:
    machine = processors.machine
    processors.reset()
    split = list(observed(machine, processors.one, code, at, turns, missing))
    processors.reset()
    assert split == list(observed(machine, processors.whole, code, at, turns, missing))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(code=st.one_of(source, noise), at=starts, budget=st.integers(1, 60))
def test_a_budget_split_at_every_instruction_ends_like_one_in_one_piece(
    processors: Processors, code: bytes, at: int, budget: int
) -> None:
    ends = []
    for cpu, piece in ((processors.whole, budget), (processors.one, 1)):
        processors.reset()
        root, context, cycles, kind = processors.machine.program(code, at), context_at(at), 0, TrapKind.BUDGET
        while cycles < budget and kind is TrapKind.BUDGET:
            end = run(cpu, context, root, piece)
            cycles, kind = cycles + end.cycles, end.kind
        ends.append((context.to_bytes(), cycles, kind, end.code, end.address, bytes(processors.data(root))))
    assert ends[0] == ends[1]
