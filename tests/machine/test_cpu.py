"""What a CPU promises, judged on hand-written cases and, on random programs, by the CPU that takes single steps."""

import struct
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from exokernel.machine.context import MachineContext, MachineError, Register, TrapKind
from exokernel.machine.cpu import SUPERVISOR_VA, Cpu, FastCpu
from exokernel.machine.memory import PAGE_SIZE
from exokernel.machine.paging import ACCESSED, ADDRESS, NX, PRESENT, USER, WRITABLE, entry_address
from tests.machine.cpu_kit import (
    CODE,
    DATA,
    DATA_PAGES,
    HOLE,
    READ_ONLY,
    SUPERVISOR,
    Machine,
    Outcome,
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


@pytest.fixture(scope="module")
def _machine() -> Machine:
    return Machine()


@pytest.fixture
def machine(_machine: Machine) -> Machine:
    _machine.reset()
    return _machine


@pytest.fixture(params=["fast", "reference"])
def cpu(request: pytest.FixtureRequest, machine: Machine) -> Cpu:
    return machine.fast if request.param == "fast" else machine.reference


def test_a_fresh_context_is_zero_but_for_the_defaults() -> None:
    context = MachineContext()
    words = [0] * 20
    words[Register.RFLAGS] = 0x202
    assert list(context.words) == words
    assert bytes(context.vector) == struct.pack("<H22xI", 0x37F, 0x1F80) + bytes(484)
    context.words[Register.RAX] = 5
    context.vector[200] = 1
    assert context != MachineContext()
    assert context.copy() == context == MachineContext.from_bytes(context.to_bytes())
    context.clear()
    assert context == MachineContext()


def test_a_downcall_leaves_every_register_and_rip_after_it(machine: Machine, cpu: Cpu) -> None:
    context = context_at(rcx=0x1111, r11=0x2222)
    assert run(cpu, context, machine.program(b"\x90\x0f\x05")) == Outcome(TrapKind.DOWNCALL, 2, 0, 0, CODE + 3)
    assert (context.words[Register.RCX], context.words[Register.R11]) == (0x1111, 0x2222)


@pytest.mark.parametrize("budget", [1, 2, 3, 7, 100])
def test_a_budget_ends_at_exactly_its_instruction(machine: Machine, cpu: Cpu, budget: int) -> None:
    root = machine.program(b"\x48\xff\xc0" * 200 + b"\x0f\x05")
    context = context_at()
    for turn in range(1, 4):
        run(cpu, context, root, budget)
        assert context.words[Register.RAX] == min(turn * budget, 200)


def test_the_instruction_beyond_the_budget_is_not_even_fetched(machine: Machine, cpu: Cpu) -> None:
    root = machine.program(assembled("nop; jmp 0x700000"))
    context = context_at()
    assert run(cpu, context, root, 2) == Outcome(TrapKind.BUDGET, 2, 0, 0, HOLE)
    assert run(cpu, context, root, 2) == Outcome(TrapKind.PAGE_FAULT, 0, 0x14, HOLE, HOLE)


@pytest.mark.parametrize(
    ("source", "code", "address"),
    [
        (f"mov rax, [{HOLE}]", 4, HOLE),
        (f"mov [{HOLE + 8}], rax", 6, HOLE + 8),
        (f"mov [{READ_ONLY}], rax", 7, READ_ONLY),
        (f"mov rcx, {SUPERVISOR_VA}; mov rax, [rcx]", 5, SUPERVISOR_VA),
        (f"mov rcx, {DATA}; jmp rcx", 0x15, DATA),
        ("xor ecx, ecx; jmp rcx", 0x14, 0),
        ("mov rsp, 0x700000; iretq", 4, HOLE),
    ],
)
def test_page_faults_come_again_and_again_with_address_and_code(
    machine: Machine, cpu: Cpu, source: str, code: int, address: int
) -> None:
    root = machine.program(assembled(source))
    context = context_at()
    for _ in range(4):
        outcome = run(cpu, context, root)
        assert (outcome.kind, outcome.code, outcome.address) == (TrapKind.PAGE_FAULT, code, address)
    assert outcome.cycles == 0


def test_a_faulting_instruction_continues_when_its_page_is_there(machine: Machine, cpu: Cpu) -> None:
    root = machine.program(assembled(f"mov rcx, 3\nmov rdi, {HOLE - 1}\nrep stosb\nnop\nsyscall"))
    machine.put(root, HOLE - PAGE_SIZE, b"", PRESENT | USER | WRITABLE | NX)
    context = context_at()
    first = run(cpu, context, root)
    assert (first.kind, first.cycles, first.address) == (TrapKind.PAGE_FAULT, 3, HOLE)
    machine.put(root, HOLE, b"", PRESENT | USER | WRITABLE | NX)
    cpu.flush_tlb()
    assert run(cpu, context, root).cycles == 2 + 1 + 2


def test_a_block_that_reaches_into_a_missing_page_runs_up_to_it(machine: Machine, cpu: Cpu) -> None:
    at = CODE + PAGE_SIZE - 7
    root = machine.program(b"\x9c" + b"\x48\xff\xc0" * 2 + b"\x48\xff\xc0\x0f\x05", at)
    missing = entry_address(machine.memory.words, root, CODE + PAGE_SIZE)
    assert missing is not None
    entry, machine.memory.words[missing >> 3] = machine.memory.words[missing >> 3], 0
    context = context_at(at)
    outcome = run(cpu, context, root)
    assert outcome == Outcome(TrapKind.PAGE_FAULT, 3, 0x14, CODE + PAGE_SIZE, CODE + PAGE_SIZE)
    machine.memory.words[missing >> 3] = entry
    cpu.flush_tlb()
    assert run(cpu, context, root) == Outcome(TrapKind.DOWNCALL, 2, 0, 0, CODE + PAGE_SIZE + 5)
    assert context.words[Register.RAX] == 3


@pytest.mark.parametrize("vector", [0, 1, 3, 6, 8, 13, 14, 0x80, 255])
def test_a_software_interrupt_is_not_taken_for_an_exception(machine: Machine, cpu: Cpu, vector: int) -> None:
    root = machine.program(bytes([0x90, 0xCD, vector]) * 3)
    context = context_at()
    for turn in range(3):
        assert run(cpu, context, root) == Outcome(TrapKind.INTERRUPT, 2, vector, 0, CODE + 3 * turn + 3)


@pytest.mark.parametrize(("code", "vector"), [("cc", 3), ("f1", 1)])
def test_one_byte_interrupts(machine: Machine, cpu: Cpu, code: str, vector: int) -> None:
    root = machine.program(bytes.fromhex("90" + code))
    assert run(cpu, context_at(), root) == Outcome(TrapKind.INTERRUPT, 2, vector, 0, CODE + 2)


@pytest.mark.parametrize(
    "code",
    [
        "0fa2",
        "0f31",
        "0f01f9",
        "0fc7f0",
        "480fc7f8",
        "f30fc7f8",
        "0f34",
        "0f35",
        "0f32",
        "0f30",
        "0f33",
        "f4",
        "fa",
        "fb",
        "ec",
        "ed",
        "ee",
        "ef",
        "e410",
        "e510",
        "e610",
        "e710",
        "6c",
        "6d",
        "6e",
        "6f",
        "f36c",
        "f36f",
        "0f20d8",
        "0f22d8",
        "0f21c0",
        "0f23c0",
        "0f0107",
        "0f010f",
        "0f0117",
        "0f011f",
        "0f01e0",
        "0f0137",
        "0f013f",
        "0f01f8",
        "0f01c8",
        "0f01c9",
        "0f01cb",
        "0f01d8",
        "0f01d9",
        "0f0007",
        "0f000f",
        "0f0017",
        "0f001f",
        "0f06",
        "480f07",
        "0f08",
        "0f09",
        "8ed8",
        "8ed0",
        "8ee0",
        "0fa1",
        "0fa9",
        "0fb207",
        "0fb407",
        "0fb507",
    ],
)
def test_privileged_instructions_and_sources_of_chance_trap(machine: Machine, cpu: Cpu, code: str) -> None:
    root = machine.program(b"\x90" + bytes.fromhex(code) + b"\x90")
    context = context_at()
    before = context.copy()
    for cycles in (1, 0, 0):
        assert run(cpu, context, root) == Outcome(TrapKind.PRIVILEGED, cycles, 0, 0, CODE + 1)
    before.words[Register.RIP] = CODE + 1
    assert context == before


@pytest.mark.parametrize(
    ("source", "vector"),
    [
        ("ud2", 6),
        (".byte 0xc5, 0xf0, 0x58, 0xc2", 6),
        (".byte 0xc5, 0xf8, 0xa2", 6),
        (".byte 0x0f, 0x01, 0xd0", 6),
        ("xor ecx, ecx; div ecx", 0),
        ("mov rcx, 0x8000000000000000; mov rax, [rcx]", 13),
        ("mov rcx, 0x8000000000000000; jmp rcx", 13),
        ("iretd", 13),
        (".byte 0x66, 0xcf", 13),
        (".byte 0xcb", 13),
        (".byte 0xff, 0x2f", 13),
        ("push 0x1b; push rsp; push 0x202; push 0x10; push 0x400000; iretq", 13),
        ("mov word ptr [rdi], 0; fldcw [rdi]; fldz; fldz; fdivp; fwait", 16),
    ],
)
def test_exceptions_come_again_and_again(machine: Machine, cpu: Cpu, source: str, vector: int) -> None:
    root = machine.program(assembled(source))
    context = context_at()
    for _ in range(4):
        outcome = run(cpu, context, root)
        assert (outcome.kind, outcome.code) == (TrapKind.EXCEPTION, vector)
    assert outcome.cycles == 0


def test_the_trap_flag_of_the_budget_is_never_seen(machine: Machine, cpu: Cpu) -> None:
    root = machine.program(assembled("pushfq; pop rax; push rax; popfq; pushfq; pop rbx; syscall"))
    context = context_at()
    while run(cpu, context, root, 1).kind is TrapKind.BUDGET:
        pass
    assert context.words[Register.RAX] == context.words[Register.RBX] == context.words[Register.RFLAGS] == 0x202


@pytest.mark.parametrize("budget", [1, 2, 1000])
def test_a_guest_may_trace_itself(machine: Machine, cpu: Cpu, budget: int) -> None:
    root = machine.program(assembled("mov rcx, 2; push 0x302; popfq; nop; rep stosb; nop; syscall"))
    context = context_at()
    outcomes = [run(cpu, context, root, budget) for _ in range(12)]
    traced = [o.rip - CODE for o in outcomes if o.kind is TrapKind.EXCEPTION and o.code == 1]
    assert traced[:5] == [14, 14, 14, 16, 17]
    assert sum(o.cycles for o in outcomes) == 3 + 1 + 3 + 1 + 1


def test_what_the_supervisor_bits_of_given_flags_say_is_ignored(machine: Machine, cpu: Cpu) -> None:
    context = context_at(rflags=(1 << 64) - 1 & ~0x100)
    run(cpu, context, machine.program(b"\x90" * 5), 2)
    assert context.words[Register.RFLAGS] == 0x244DD5 & ~0x100 | 0x202


@pytest.mark.parametrize(
    ("prefix_and_opcode", "cycles"), [("f3a4", 6), ("f3aa", 6), ("f348ab", 6), ("f3a6", 1), ("f2ae", 6), ("67f3aa", 6)]
)
def test_rep_takes_one_cycle_more_than_its_iterations(
    machine: Machine, cpu: Cpu, prefix_and_opcode: str, cycles: int
) -> None:
    root = machine.program(bytes.fromhex(prefix_and_opcode) + b"\x0f\x05")
    for budget in (1, 2, 1000):
        context = context_at(rcx=5, rax=0xAA, rdi=DATA, rsi=DATA + 65)
        outcomes = [run(cpu, context, root, budget)]
        while outcomes[-1].kind is TrapKind.BUDGET:
            outcomes.append(run(cpu, context, root, budget))
        assert sum(o.cycles for o in outcomes) == cycles + 1


def test_nothing_of_a_context_reaches_another(machine: Machine, cpu: Cpu) -> None:
    root = machine.program(
        assembled("fld1; fldpi; cvtsi2sd xmm7, rdi; ldmxcsr [rsi]; wrfsbase rdi; std; cmp al, 1; syscall")
    )
    frame = entry_address(machine.memory.words, root, DATA)
    assert frame is not None
    at = machine.memory.words[frame >> 3] & ADDRESS
    machine.memory.view[at + 64 : at + 68] = struct.pack("<I", 0x7F80)
    first, other_root = context_at(), machine.program(b"\x0f\x05")
    run(cpu, first, root)
    for other_space in (root, other_root):
        second = context_at(CODE if other_space == other_root else first.words[Register.RIP] - 2)
        expected = second.copy()
        run(cpu, second, other_space)
        expected.words[Register.RIP] = second.words[Register.RIP]
        assert second == expected
    vector = bytes(first.vector)
    assert struct.unpack_from("<I", vector, 24)[0] == 0x7F80
    assert vector[32:42] == bytes.fromhex("35c26821a2da0fc90040")
    assert vector[48:58] == bytes.fromhex("0000000000000080ff3f")
    assert struct.unpack_from("<d", vector, 160 + 7 * 16)[0] == DATA
    assert first.words[Register.FS_BASE] == DATA
    assert first.words[Register.RFLAGS] & 0x401 == 0x401


def test_vector_registers_written_from_outside_are_used_and_survive_a_switch(machine: Machine, cpu: Cpu) -> None:
    root = machine.program(assembled("addsd xmm0, xmm1; syscall; jmp 0x400000"))
    one, two = context_at(), context_at()
    for context, value in ((one, 1.0), (two, 10.0)):
        context.vector[176:184] = struct.pack("<d", value)
    for _ in range(3):
        run(cpu, one, root)
        run(cpu, two, root)
    assert [struct.unpack_from("<d", c.vector, 160)[0] for c in (one, two)] == [3.0, 30.0]
    one.vector[160:168] = struct.pack("<d", -1.0)
    run(cpu, one, root)
    assert struct.unpack_from("<d", one.vector, 160)[0] == 0.0


def test_a_context_may_move_between_cpus(machine: Machine) -> None:
    root = machine.program(assembled("addsd xmm0, xmm1; syscall; jmp 0x400000"))
    context, another = context_at(), FastCpu(machine.memory, SUPERVISOR)
    context.vector[176:184] = struct.pack("<d", 1.0)
    for cpu in (machine.fast, another, machine.reference, machine.fast, another):
        run(cpu, context, root)
    another.close()
    another.close()
    assert struct.unpack_from("<d", context.vector, 160)[0] == 5.0
    with pytest.raises(MachineError, match="closed"):
        another.run(context, root, 1)


def test_a_context_kept_in_one_cpu_brings_its_newest_registers_from_another(machine: Machine) -> None:
    root = machine.program(assembled("addsd xmm0, xmm1; fld1; faddp; syscall; jmp 0x400000"))
    context, rival, another = context_at(), context_at(), FastCpu(machine.memory, SUPERVISOR)
    context.vector[176:184] = struct.pack("<d", 1.0)
    for cpu in (machine.fast, another, another, machine.fast, machine.fast, another):
        run(cpu, context, root)
        run(cpu, rival, root)
    machine.fast.run(context, machine.program(assembled("addsd xmm0, xmm1; syscall")), 1)
    run(another, rival, root)
    run(another, context, root)
    run(another, rival, root)
    another.close()
    assert struct.unpack_from("<d", context.vector, 160)[0] == 7.0
    assert struct.unpack_from("<d", rival.vector, 160)[0] == 0.0


def test_a_cleared_context_forgets_what_the_cpu_kept_for_it(machine: Machine, cpu: Cpu) -> None:
    root = machine.program(assembled("addsd xmm0, xmm1; fld1; syscall; jmp 0x400000"))
    context = context_at()
    context.vector[176:184] = struct.pack("<d", 1.0)
    run(cpu, context, root)
    run(cpu, context_at(), root)
    context.clear()
    assert context == MachineContext()
    context.words[Register.RIP] = CODE + 6
    run(cpu, context, root)
    assert bytes(context.vector)[160:] == bytes(352)


def test_many_contexts_leave_no_memory_behind() -> None:
    script = """
import resource
from exokernel.machine.context import MachineContext
from exokernel.machine.cpu import FastCpu, prepare_supervisor
from exokernel.machine.memory import PhysicalMemory
memory = PhysicalMemory(1 << 20)
prepare_supervisor(memory, 4096)
cpu = FastCpu(memory, 4096)
peaks = []
for part in range(4):
    alive = []
    for _ in range(5000):
        alive = alive[-2:] + [MachineContext()]
        for context in alive:
            cpu.run(context, 4096, 5)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
many = [MachineContext() for _ in range(1000)]
for context in many:
    cpu.run(context, 4096, 5)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peaks[-1]
assert peaks[-1] - peaks[0] < 2000, peaks
assert grown < 10000, grown
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_removed_page_is_gone_after_the_flush(machine: Machine, cpu: Cpu) -> None:
    root = machine.program(assembled(f"mov rax, [{DATA}]; syscall; jmp 0x400000"))
    context = context_at()
    assert run(cpu, context, root).kind is TrapKind.DOWNCALL
    entry = entry_address(machine.memory.words, root, DATA)
    assert entry is not None
    machine.memory.words[entry >> 3] = 0
    cpu.flush_tlb()
    assert run(cpu, context, root).kind is TrapKind.PAGE_FAULT


def test_other_code_at_the_same_address_is_counted_anew(machine: Machine, cpu: Cpu) -> None:
    short, long = machine.program(b"\x48\x89\xc0\x0f\x05"), machine.program(b"\x90\x90\x90\x0f\x05")
    for _ in range(2):
        assert run(cpu, context_at(), short).cycles == 2
        assert run(cpu, context_at(), long).cycles == 4
    a, b = (entry_address(machine.memory.words, root, CODE) for root in (short, long))
    assert a is not None
    assert b is not None
    machine.memory.words[a >> 3] = machine.memory.words[b >> 3]
    cpu.flush_tlb()
    cpu.code_changed()
    assert run(cpu, context_at(), short).cycles == 4


def test_code_written_by_the_host_is_executed_after_the_flush(machine: Machine, cpu: Cpu) -> None:
    root = machine.program(b"\x90\x0f\x05")
    run(cpu, context_at(), root)
    entry = entry_address(machine.memory.words, root, CODE)
    assert entry is not None
    frame = machine.memory.words[entry >> 3] & ADDRESS
    assert machine.memory.executed[frame // PAGE_SIZE]
    machine.memory.view[frame : frame + 3] = b"\x0f\x05\x90"
    cpu.flush_code()
    assert run(cpu, context_at(), root).cycles == 1


def test_a_block_that_goes_on_in_a_remapped_page_is_translated_anew(machine: Machine, cpu: Cpu) -> None:
    at = CODE + PAGE_SIZE - 2
    root = machine.program(b"\x90\x90\x90\x0f\x05", at)
    loop = context_at(at)
    assert run(cpu, loop, root).cycles == 4
    machine.put(root, CODE + PAGE_SIZE, b"\x48\xff\xc0\x0f\x05", PRESENT | USER)
    cpu.flush_tlb()
    cpu.code_changed()
    assert run(cpu, again := context_at(at), root).cycles == 4
    assert again.words[Register.RAX] == 1


def test_page_tables_that_lead_beyond_memory_are_reported_and_survived(machine: Machine) -> None:
    root = machine.program(assembled(f"mov rax, [{HOLE}]"))
    machine.map(root, HOLE, machine.memory.size | PRESENT | USER | NX)
    with pytest.raises(MachineError, match="beyond physical memory"):
        run(machine.fast, context_at(), root)
    assert run(machine.fast, context_at(), machine.program(b"\x0f\x05")).kind is TrapKind.DOWNCALL


@pytest.mark.parametrize(("root", "budget"), [(0x123, 1), (1 << 40, 1), (PAGE_SIZE, 0)])
def test_a_wrong_root_or_budget_is_refused(machine: Machine, cpu: Cpu, root: int, budget: int) -> None:
    with pytest.raises(ValueError, match="budget"):
        cpu.run(MachineContext(), root, budget)


def test_references_are_recorded_once_for_each_change_of_page(machine: Machine) -> None:
    source = f"mov rax, [{DATA}]; mov rax, [{DATA + 8}]; mov [{DATA}], rax; mov rax, [{DATA}]; mov [{READ_ONLY}], rax"
    code = assembled(f"mov rax, [{DATA + PAGE_SIZE - 4}]\n{source}")
    root = machine.program(code)
    recorder = FastCpu(machine.memory, SUPERVISOR, record=(DATA, DATA + DATA_PAGES * PAGE_SIZE))
    context = context_at()
    plain, recorded = run(machine.fast, context_at(), root), run(recorder, context, root)
    assert plain == recorded
    page = DATA // PAGE_SIZE
    references = struct.unpack("<4Q", recorder.drain_references())
    assert references == (page << 1, page + 1 << 1, page << 1, page << 1 | 1)
    assert recorder.drain_references() == b""
    recorder.close()


def test_contexts_and_cpus_may_die_in_any_order() -> None:
    script = """
import gc
from exokernel.machine.context import MachineContext
from exokernel.machine.cpu import FastCpu, prepare_supervisor
from exokernel.machine.memory import PhysicalMemory
memory = PhysicalMemory(1 << 20)
prepare_supervisor(memory, 4096)
for turn in range(20):
    cpus = [FastCpu(memory, 4096) for _ in range(3)]
    contexts = [MachineContext() for _ in range(3)]
    for cpu in cpus:
        for context in contexts:
            cpu.run(context, 4096, 5)
    if turn % 2:
        del cpus, cpu
    else:
        del contexts, context
    gc.collect()
kept = FastCpu(memory, 4096)
kept.run(last := MachineContext(), 4096, 5)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(code=st.one_of(source, noise, biased_noise), at=starts, turns=budgets, missing=st.booleans())
def test_the_fast_cpu_does_what_the_reference_does(
    machine: Machine, code: bytes, at: int, turns: list[int], missing: bool
) -> None:
    fast = list(observed(machine, machine.fast, code, at, turns, missing))
    reference = list(observed(machine, machine.reference, code, at, turns, missing))
    assert fast == reference


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(code=st.one_of(source, noise), at=starts, budget=st.integers(1, 60), missing=st.booleans())
def test_a_budget_in_one_piece_ends_like_its_instructions_one_by_one(
    machine: Machine, code: bytes, at: int, budget: int, missing: bool
) -> None:
    machine.reset()
    whole = context_at(at)
    root = machine.program(code, at)
    if missing:
        machine.map(root, CODE + PAGE_SIZE, 0)
    end = run(machine.fast, whole, root, budget)
    machine.reset()
    root = machine.program(code, at)
    if missing:
        machine.map(root, CODE + PAGE_SIZE, 0)
    pieces, cycles = context_at(at), 0
    while cycles < budget:
        part = run(machine.fast, pieces, root, 1)
        cycles += part.cycles
        if part.kind is not TrapKind.BUDGET:
            break
    assert pieces == whole
    assert (part.kind, cycles, part.code, part.address) == (end.kind, end.cycles, end.code, end.address)


@pytest.mark.parametrize("store", ["setl byte ptr", "setz byte ptr", "rcl qword ptr"])
@pytest.mark.parametrize("setter", ["add rax, rdx", "cmp rax, rdx", "shl rax, 3"])
@pytest.mark.parametrize("budget", [1, 10])
def test_flags_survive_the_fault_of_an_instruction_that_reads_them(
    machine: Machine, setter: str, store: str, budget: int
) -> None:
    operand = f"{store} [{HOLE}]" + (", 1" if "rcl" in store else "")
    flags = set()
    for cpu in (machine.fast, machine.reference):
        root = machine.program(assembled(f"{setter}; {operand}; syscall"))
        context = context_at(rax=(1 << 64) - 1, rdx=1)
        while run(cpu, context, root, budget).kind is TrapKind.BUDGET:
            pass
        flags.add(context.words[Register.RFLAGS])
    assert len(flags) == 1


def test_the_supervisor_frame_is_out_of_reach(machine: Machine, cpu: Cpu) -> None:
    before = bytes(machine.memory.view[SUPERVISOR : SUPERVISOR + PAGE_SIZE])
    for attack in ("mov [rdi], rax", "push rax", "mov rax, [rdi]", "jmp rdi"):
        root = machine.program(assembled(attack))
        for offset in (0, 0x900, 0xA20):
            outcome = run(cpu, context_at(rdi=SUPERVISOR_VA + offset, rsp=SUPERVISOR_VA + offset + 8), root)
            assert (outcome.kind, outcome.code & 5) == (TrapKind.PAGE_FAULT, 5)
    after = bytes(machine.memory.view[SUPERVISOR : SUPERVISOR + PAGE_SIZE])
    assert [b & ~ACCESSED for b in before] == [b & ~ACCESSED for b in after]
