"""The CPU: a function from a context and a budget to a trap.

Rules every CPU keeps:
 * `run(context, root, budget)` executes at most `budget` ring-3 instructions of `context` under the page tables whose
   top one lies at physical address `root`, stores the registers back and says why it stopped. The returned `Trap` is
   one object per CPU, valid until the next run.
 * One instruction is one cycle. A `rep` string instruction of N iterations takes N + 1 cycles, the last being the
   test that finds the count at zero; it takes no such cycle when `repe`/`repne` ends by the zero flag. An
   instruction that faults is not counted; `syscall` and `int n` are.
 * The result depends on the context, the memory and the budget only, and one run of budget a + b ends exactly like a
   run of a followed by one of b.
 * Every root has `prepare_supervisor`'s entry at index `SUPERVISOR_INDEX`; the last page below 2^47 and page 0 may be
   mapped or not, but no entry leads beyond physical memory.
 * Nothing that depends on the host can be read: `rdtsc`, `cpuid`, `rdrand` and their like are PRIVILEGED traps, and so
   are `sgdt`, `sidt`, `sldt`, `str`, `smsw`, port input and output, and every load of a segment register (the segments
   are flat and fixed). Far jumps, calls and returns, and `iret` with a 16- or 32-bit frame, are refused with exception
   13. There is no AVX: what Unicorn would run as the SSE instruction of the same opcode is exception 6.
"""

import ctypes
import functools
import struct
from typing import Final, NamedTuple, Protocol

import unicorn
from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import uclib

from exokernel.machine._engine import Engine
from exokernel.machine.context import MachineContext, MachineError, Trap, TrapKind
from exokernel.machine.memory import PAGE_SIZE, PhysicalMemory
from exokernel.machine.paging import ACCESSED, PRESENT

SUPERVISOR_VA: Final = 0xFFFF_8000_0000_0000
"""Where every address space sees the machine's own frame, out of ring 3's reach."""

SUPERVISOR_INDEX: Final = 256
"""Index in the top page table of the entry that `prepare_supervisor` returns."""

UNICORN_VERSION: Final = "2.1.4"
USER_CODE: Final = 0x23
USER_STACK: Final = 0x1B

_STUB_OFFSET: Final = 0x900
_GDT_OFFSET: Final = 0xA00
RING_3_ENTRY: Final = SUPERVISOR_VA + _STUB_OFFSET
"""Where `sysretq` lies: it enters ring 3 at rcx with the flags in r11."""

_SYSRETQ: Final = b"\x48\x0f\x07"
_USER_DATA_DESCRIPTOR: Final = 0x00CF_F300_0000_FFFF
_USER_CODE_DESCRIPTOR: Final = 0x00AF_FB00_0000_FFFF
_GDT: Final = struct.pack("<5Q", 0, 0, 0, _USER_DATA_DESCRIPTOR, _USER_CODE_DESCRIPTOR)
_CR0: Final = 0x8001_0033
_CR4: Final = 1 << 2 | 1 << 5 | 1 << 9 | 1 << 10 | 1 << 16
"""TSD, PAE, OSFXSR, OSXMMEXCPT, FSGSBASE; without OSXSAVE there is no extended state to leak."""
_EFER: Final = 0x100 | 0x400 | 0x800 | 0x1
_EFER_MSR: Final = 0xC000_0080
_STAR_MSR: Final = 0xC000_0081
_STAR: Final = 0x13 << 48 | 0x8 << 32
_UNMAPPED_VA: Final = PAGE_SIZE
_PAGE_FAULT: Final = 14
_PLACED: Final = (
    x86.UC_X86_REG_RAX, x86.UC_X86_REG_RBX, x86.UC_X86_REG_RCX, x86.UC_X86_REG_RDX, x86.UC_X86_REG_RSI,
    x86.UC_X86_REG_RDI, x86.UC_X86_REG_RBP, x86.UC_X86_REG_RSP, x86.UC_X86_REG_R8, x86.UC_X86_REG_R9,
    x86.UC_X86_REG_R10, x86.UC_X86_REG_R11, x86.UC_X86_REG_R12, x86.UC_X86_REG_R13, x86.UC_X86_REG_R14,
    x86.UC_X86_REG_R15, x86.UC_X86_REG_FS_BASE, x86.UC_X86_REG_GS_BASE,
)  # fmt: skip
_MARK: Final = 0x1DEA_C0DE_F00D_0000
_FUNCTIONS: Final = (
    "uc_emu_start", "uc_emu_stop", "uc_reg_read", "uc_reg_write", "uc_reg_read_batch", "uc_reg_write_batch",
    "uc_hook_add", "uc_ctl", "uc_context_save", "uc_context_restore", "uc_context_alloc", "uc_context_free",
    "uc_context_reg_read_batch", "uc_close",
)  # fmt: skip


class Cpu(Protocol):
    """Whatever can run a context; the rules are at the top of this module."""

    def run(self, context: MachineContext, root: int, budget: int, /) -> Trap:
        """Run until a trap. Raises ValueError for a root that is no frame or a budget below 1, MachineError if the
        emulator fails (page tables that lead beyond memory), after which the CPU remains usable."""

    def flush_tlb(self) -> None:
        """Forget every translation of addresses before the next instruction is executed."""

    def flush_code(self) -> None:
        """Forget all translated code: the host wrote to a frame that had been executed."""

    def code_changed(self) -> None:
        """Forget what is known of the code at virtual addresses: an executable mapping changed in some space."""

    def close(self) -> None:
        """Save what contexts still have in the CPU, and free it; may be called again."""


class Layout(NamedTuple):
    """Where fields of the processor lie in Unicorn's saved state, in bytes.

    The state begins with the number of bytes that saving and restoring copy, and the processor follows the `header`.
    """

    old_exception: int
    error_code: int
    cr3: int
    header: int
    words: tuple[int, ...]
    """The general registers and the bases of fs and gs, in the order of `Register`."""


def prepare_supervisor(memory: PhysicalMemory, supervisor: int) -> int:
    """Fill the frame at physical address `supervisor` for the CPUs; returns the entry for `SUPERVISOR_INDEX`.

    The frame holds the segment descriptors and the instruction that enters ring 3. It also serves as the three page
    tables that map it at `SUPERVISOR_VA`, and as a root under which ring 3 finds nothing, so no other frame is needed.
    """
    entry = supervisor | PRESENT | ACCESSED
    memory.zero(supervisor // PAGE_SIZE)
    memory.words[supervisor >> 3] = entry
    memory.words[(supervisor >> 3) + SUPERVISOR_INDEX] = entry
    for offset, content in ((_STUB_OFFSET, _SYSRETQ), (_GDT_OFFSET, _GDT)):
        memory.view[supervisor + offset : supervisor + offset + len(content)] = content
    return entry


def open_engine(memory: PhysicalMemory, supervisor: int) -> unicorn.Uc:
    """A Unicorn engine over `memory` in 64-bit mode under the supervisor frame as root, still in ring 0, without hooks.

    Raises MachineError if this is not the Unicorn the machine was built for.
    """
    if unicorn.__version__ != UNICORN_VERSION:
        raise MachineError(
            f"the machine needs unicorn {UNICORN_VERSION}, but {unicorn.__version__} is installed; "
            f"install unicorn=={UNICORN_VERSION}"
        )
    uc = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    uc.ctl_set_cpu_model(x86.UC_CPU_X86_HASWELL)
    uc.ctl_exits_enabled(True)
    uc.mem_map_ptr(0, memory.size, unicorn.UC_PROT_ALL, memory.address)
    uc.reg_write(x86.UC_X86_REG_CR4, _CR4)
    uc.msr_write(_EFER_MSR, _EFER)
    uc.msr_write(_STAR_MSR, _STAR)
    uc.reg_write(x86.UC_X86_REG_CR3, supervisor)
    uc.reg_write(x86.UC_X86_REG_CR0, _CR0)
    uc.reg_write(x86.UC_X86_REG_GDTR, (0, SUPERVISOR_VA + _GDT_OFFSET, len(_GDT) - 1, 0))
    return uc


def enter_ring_3(uc: unicorn.Uc) -> None:
    """Leave ring 0 for good, to an address where nothing is mapped. A hook must stop the engine at the page fault."""
    uc.reg_write(x86.UC_X86_REG_RCX, _UNMAPPED_VA)
    uc.reg_write(x86.UC_X86_REG_R11, 0x202)
    uc.emu_start(RING_3_ENTRY, 0)
    if uc.reg_read(x86.UC_X86_REG_CS) != USER_CODE or uc.reg_read(x86.UC_X86_REG_RIP) != _UNMAPPED_VA:
        raise MachineError("the emulated processor did not enter ring 3; the machine cannot work with this Unicorn")


def state_bytes(saved: unicorn.unicorn_py3.unicorn.UcContext) -> bytes:
    """The bytes of a saved processor state."""
    return ctypes.string_at(saved.context, saved.size)


def _find_words(uc: unicorn.Uc) -> tuple[int, tuple[int, ...]]:
    """Header and places of the words; checks that a shortened state is saved and restored up to its size only."""
    for i, register in enumerate(_PLACED):
        uc.reg_write(register, _MARK + i)
    uc.reg_write(x86.UC_X86_REG_XMM0, 2)
    saved = uc.context_save()
    state = state_bytes(saved)
    content = struct.unpack(f"<{len(state) // 8}Q", state)
    places = tuple(
        _only_offset([8 * at for at, word in enumerate(content) if word == _MARK + i], f"register {i}")
        for i in range(len(_PLACED))
    )
    header = len(state) - content[0]
    size = max(places) + 8 - header
    ctypes.memmove(saved.context.value or 0, struct.pack("<Q", size), 8)
    for register in (x86.UC_X86_REG_RAX, x86.UC_X86_REG_GS_BASE, x86.UC_X86_REG_XMM0):
        uc.reg_write(register, 1)
    uc.context_restore(saved)
    restored = [uc.reg_read(r) for r in (x86.UC_X86_REG_RAX, x86.UC_X86_REG_GS_BASE, x86.UC_X86_REG_XMM0)]
    uc.reg_write(x86.UC_X86_REG_GS_BASE, 1)
    uclib.uc_context_save(uc._uch, saved.context)
    changed = [at for at, (a, b) in enumerate(zip(state, state_bytes(saved), strict=True)) if a != b and at >= 8]
    if (
        restored != [_MARK, _MARK + len(_PLACED) - 1, 1]
        or not changed
        or not places[-1] <= min(changed) <= max(changed) < places[-1] + 8
    ):
        raise MachineError(f"saved states cannot be shortened; the machine needs the unicorn {UNICORN_VERSION} of PyPI")
    return header, places


def _only_offset(candidates: list[int], what: str) -> int:
    if len(candidates) != 1:
        raise MachineError(
            f"cannot find the processor's {what} in Unicorn's saved state; "
            f"the machine needs the unicorn {UNICORN_VERSION} of PyPI"
        )
    return candidates[0]


@functools.cache
def find_layout() -> Layout:
    """Provoke two known page faults in an engine of its own and compare its saved states.

    Raises MachineError if a field is not found in exactly one place, or a patched state does not behave as it must.
    """
    memory = PhysicalMemory(2 * PAGE_SIZE)
    prepare_supervisor(memory, PAGE_SIZE)
    uc = open_engine(memory, PAGE_SIZE)
    vectors: list[int] = []

    def on_interrupt(engine: unicorn.Uc, vector: int, _: object) -> None:
        vectors.append(vector)
        engine.emu_stop()

    def fault(at: int) -> bytes:
        uc.emu_start(at, 0)
        return state_bytes(uc.context_save())

    uc.hook_add(unicorn.UC_HOOK_INTR, on_interrupt)
    header, places = _find_words(uc)
    calm = uc.context_save()
    before = state_bytes(calm)
    enter_ring_3(uc)
    absent = state_bytes(uc.context_save())
    calm_words = struct.unpack_from(f"<{len(before) // 4}i", before)
    absent_words = struct.unpack_from(f"<{len(before) // 4}i", absent)
    old = _only_offset(
        [4 * i for i, (a, b) in enumerate(zip(calm_words, absent_words, strict=True)) if a == -1 and b == _PAGE_FAULT],
        "old_exception",
    )
    entered = uc.context_save()
    ctypes.memmove((entered.context.value or 0) + old, struct.pack("<i", -1), 4)
    uc.context_restore(entered)
    refused = struct.unpack_from(f"<{len(before) // 4}i", fault(SUPERVISOR_VA))
    error = _only_offset(
        [4 * i for i, (a, b) in enumerate(zip(absent_words, refused, strict=True)) if (a, b) == (0x14, 0x15)],
        "error code",
    )
    root = _only_offset(
        [8 * i for i, word in enumerate(struct.unpack_from(f"<{len(before) // 8}Q", before)) if word == PAGE_SIZE],
        "root",
    )
    fault(_UNMAPPED_VA)
    if vectors != [_PAGE_FAULT, _PAGE_FAULT, 8]:
        raise MachineError(f"page faults arrived as {vectors}; the machine needs the unicorn {UNICORN_VERSION} of PyPI")
    return Layout(old, error, root, header, places)


class FastCpu(Engine):
    """The CPU of the machine: the run loop in C over one Unicorn engine.

    `supervisor` is the physical address of a frame that `prepare_supervisor` has filled. With `record=(low, high)` the
    CPU also notes which pages of that range the guest reads and writes; instruction fetches are not noted.

    With `split`, for a CPU that is not alone over its memory, a plain read-modify-write instruction is not atomic: a
    budget that ends in front of one ends after its load, and the next run continues with its store, so that what other
    CPUs store in between is lost. Locked instructions and `xchg` are atomic. What a single CPU does is the same.
    """

    def __init__(
        self, memory: PhysicalMemory, supervisor: int, record: tuple[int, int] | None = None, *, split: bool = False
    ) -> None:
        layout = find_layout()
        self._memory = memory  # the engine has only its address
        uc = open_engine(memory, supervisor)
        handle = uc._uch.value
        if handle is None:
            raise MachineError("Unicorn gave no engine")
        functions = tuple(_function_address(name) for name in _FUNCTIONS)
        uc._Uc__finalizer.detach()  # at interpreter exit it would close the handle before contexts have left the CPU
        super().__init__(
            handle, functions, memory.address, memory.size, memory.executed, layout, tuple(TrapKind),
            record or (0, 0), split,
        )  # fmt: skip
        enter_ring_3(uc)
        self.adopt()


def _function_address(name: str) -> int:
    address = ctypes.cast(getattr(uclib, name), ctypes.c_void_p).value
    if address is None:
        raise MachineError(f"the Unicorn library has no function {name}")
    return address
