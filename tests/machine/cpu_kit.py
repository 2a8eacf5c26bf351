"""A machine by hand for tests of CPUs: memory, address spaces, programs in assembly, and random programs."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from hypothesis import strategies as st
from keystone import KS_ARCH_X86, KS_MODE_64, Ks

from exokernel.machine.context import MachineContext, Register, TrapKind
from exokernel.machine.cpu import SUPERVISOR_INDEX, Cpu, FastCpu, prepare_supervisor
from exokernel.machine.memory import PAGE_SIZE, PhysicalMemory
from exokernel.machine.paging import ADDRESS, NX, PRESENT, USER, WRITABLE, entry_address
from exokernel.machine.reference import ReferenceCpu

CODE: Final = 0x400000
DATA: Final = 0x500000
DATA_PAGES: Final = 2
READ_ONLY: Final = 0x510000
HOLE: Final = 0x700000
STACK: Final = DATA + DATA_PAGES * PAGE_SIZE
SUPERVISOR: Final = PAGE_SIZE
TABLE: Final = PRESENT | WRITABLE | USER
_ASSEMBLER: Final = Ks(KS_ARCH_X86, KS_MODE_64)


class Machine:
    """Memory with two CPUs of each kind over it, and address spaces made by hand."""

    def __init__(self) -> None:
        self.memory = PhysicalMemory(4 << 20)
        self.entry = prepare_supervisor(self.memory, SUPERVISOR)
        self.fast = FastCpu(self.memory, SUPERVISOR)
        self.reference = ReferenceCpu(self.memory, SUPERVISOR)
        self.reset()

    def reset(self) -> None:
        """Forget all address spaces."""
        self.next = 2 * PAGE_SIZE
        self.fast.flush_tlb()
        self.fast.flush_code()

    def frame(self) -> int:
        self.next += PAGE_SIZE
        self.memory.zero(self.next // PAGE_SIZE)
        return self.next

    def space(self) -> int:
        root = self.frame()
        self.memory.words[(root >> 3) + SUPERVISOR_INDEX] = self.entry
        return root

    def map(self, root: int, va: int, entry: int) -> None:
        words, table = self.memory.words, root
        for shift in (39, 30, 21):
            at = (table >> 3) + (va >> shift & 511)
            if not words[at] & PRESENT:
                words[at] = self.frame() | TABLE
            table = words[at] & ADDRESS
        words[(table >> 3) + (va >> 12 & 511)] = entry

    def put(self, root: int, va: int, content: bytes, rights: int) -> int:
        """Map one new frame with `content` at its start."""
        frame = self.frame()
        self.memory.view[frame : frame + len(content)] = content
        self.map(root, va, frame | rights)
        return frame

    def program(self, code: bytes, at: int = CODE) -> int:
        """A space with `code` at `at`, readable and writable data, a read-only page and a stack."""
        root = self.space()
        first = at & -PAGE_SIZE
        image = bytes(at - first) + code
        for offset in range(0, len(image), PAGE_SIZE):
            self.put(root, first + offset, image[offset : offset + PAGE_SIZE], PRESENT | USER)
        for page in range(DATA_PAGES):
            content = bytes((7 * i + page) & 0xFF for i in range(PAGE_SIZE))
            self.put(root, DATA + page * PAGE_SIZE, content, PRESENT | USER | WRITABLE | NX)
        self.put(root, READ_ONLY, b"\x11" * PAGE_SIZE, PRESENT | USER | NX)
        return root


def assembled(source: str, at: int = CODE) -> bytes:
    return bytes(_ASSEMBLER.asm(source, at)[0])


def context_at(rip: int = CODE, **words: int) -> MachineContext:
    context = MachineContext()
    context.words[Register.RIP] = rip
    context.words[Register.RSP] = STACK - 256
    context.words[Register.RDI] = DATA
    context.words[Register.RSI] = DATA + 64
    for name, value in words.items():
        context.words[Register[name.upper()]] = value
    return context


@dataclass(frozen=True)
class Outcome:
    """A trap and where it left rip, kept beyond the next run."""

    kind: TrapKind
    cycles: int
    code: int
    address: int
    rip: int


def run(cpu: Cpu, context: MachineContext, root: int, budget: int = 1000) -> Outcome:
    trap = cpu.run(context, root, budget)
    return Outcome(trap.kind, trap.cycles, trap.code, trap.address, context.words[Register.RIP])


REGISTERS: Final = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r11", "r15")
register = st.sampled_from(REGISTERS)
small = st.integers(0, 6)
place = st.sampled_from(
    [
        f"[{DATA + 16}]",
        f"[{DATA + PAGE_SIZE - 3}]",
        f"[{STACK - 4}]",
        f"[{READ_ONLY}]",
        f"[{HOLE}]",
        "[rdi]",
        "[rsi + 8]",
        "[rsp - 16]",
        "[rbp]",
        f"[{CODE}]",
    ]
)
instruction = st.one_of(
    st.builds("mov {}, {}".format, register, register),
    st.builds("mov {}, {}".format, register, small),
    st.builds("{} {}, {}".format, st.sampled_from(["add", "sub", "xor", "cmp", "adc", "imul", "test"]), register, register),
    st.builds("mov {}, qword ptr {}".format, register, place),
    st.builds("{} qword ptr {}, {}".format, st.sampled_from(["mov", "add", "xchg", "lock xadd"]), place, register),
    st.builds("{} byte ptr {}".format, st.sampled_from(["setz", "setl", "seta", "inc", "neg"]), place),
    st.builds("{} qword ptr {}, 1".format, st.sampled_from(["rcl", "rcr", "shl", "adc"]), place),
    st.builds("{} {}".format, st.sampled_from(["push", "pop", "inc", "not", "bswap", "div", "idiv", "mul"]), register),
    st.builds("mov ecx, {}".format, small),
    st.builds(
        "mov ecx, {}; {}".format,
        small,
        st.sampled_from(["rep movsb", "rep stosq", "repe cmpsb", "repne cmpsb", "repne scasb", "repe scasb", "rep lodsb"]),
    ),
    st.builds("mov edi, {}".format, st.sampled_from([DATA, DATA + PAGE_SIZE - 5, STACK - 9, READ_ONLY, HOLE - 3])),
    st.builds("mov esi, {}".format, st.sampled_from([DATA, DATA + PAGE_SIZE - 5, STACK - 9, READ_ONLY, HOLE - 3])),
    st.builds(
        "{} {}".format,
        st.sampled_from(["jnz", "jz", "jmp", "loop", "jc", "jrcxz", "call"]),
        st.sampled_from([f"{CODE + n}" for n in (0, 3, 17, 40, 64)]),
    ),
    st.sampled_from(
        [
            "rep movsb",
            "repne scasb",
            "std",
            "cld",
            "cmc",
            "pushfq",
            "popfq",
            "push 0x302; popfq",
            "push 0x202; popfq",
            "push 0x4ad7; popfq",
            "pushfq; pop rax",
            "syscall",
            "int 0x21",
            "int 14",
            "int 1",
            "int3",
            "ud2",
            "cpuid",
            "rdtsc",
            "hlt",
            "in al, dx",
            "xor ecx, ecx; div ecx",
            "fld1",
            "fldpi",
            "faddp",
            "fstp qword ptr [rdi]",
            "cvtsi2sd xmm1, rdi",
            "addsd xmm0, xmm1",
            "movups [rdi], xmm0",
            "ldmxcsr [rsi]",
            "fldcw [rsi]",
            "fwait",
            "ret",
            "iretq",
            "iretd",
            "push 0x1b; push 0x501000; push 0x302; push 0x23; push 0x400003; iretq",
            "push 0x1b; push 0x501000; push 0x202; push 0x23; push 0x400007; iretq",
            "leave",
            "wrfsbase rdi",
            "rdgsbase rax",
            "mov ax, ds",
            "push fs",
            "lahf",
            "sahf",
            "andn rax, rbx, rcx",
            "cmpxchg16b [rdi]",
            "nop",
            "clflush [rdi]",
        ]
    ),
)
source = st.lists(instruction, min_size=1, max_size=40).map("\n".join).map(assembled)
noise = st.binary(min_size=1, max_size=80)
biased_noise = (
    st.lists(
        st.one_of(
            noise,
            st.sampled_from([b"\x0f", b"\xf3", b"\x66", b"\x48", b"\x9c", b"\x9d", b"\xcf", b"\xc4\xe2", b"\x67"]),
        ),
        max_size=30,
    )
    .map(b"".join)
    .map(lambda code: code or b"\x90")
)
budgets = st.lists(st.one_of(st.integers(1, 12), st.integers(1, 400)), min_size=1, max_size=8)
starts = st.sampled_from([CODE, CODE, CODE + PAGE_SIZE - 11, CODE + PAGE_SIZE - 64])


def observed(machine: Machine, cpu: Cpu, code: bytes, at: int, turns: list[int], missing: bool) -> Iterator[object]:
    """Everything a kernel could see of a program: each trap, the context after it, and the data it leaves."""
    machine.reset()
    root = machine.program(code, at)
    if missing:
        machine.map(root, CODE + PAGE_SIZE, 0)
    context = context_at(at, rbp=DATA + 512, rdx=3)
    for budget in turns:
        yield run(cpu, context, root, budget)
        yield context.to_bytes()
    for va in range(DATA, STACK, PAGE_SIZE):
        entry = entry_address(machine.memory.words, root, va)
        assert entry is not None
        frame = machine.memory.words[entry >> 3] & ADDRESS
        yield bytes(machine.memory.view[frame : frame + PAGE_SIZE])
