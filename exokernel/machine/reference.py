"""The slow CPU that tests believe: one instruction at a time, and nothing remembered between runs.

It keeps the rules of `exokernel.machine.cpu` by the most direct means. Each run starts from the saved state just after
ring 3 was entered, with the TLB and all translated code dropped. Python looks at the next instruction, starts the
engine with the trap flag set, so that it stops after that one instruction, and counts it. There are no blocks to count,
and no flags are left to be computed later. The guest's own trap flag is in `_traced`; ours is taken out of what `pushf`
stored.
"""

import ctypes
import enum
import struct
from typing import Any, Final

import unicorn
from unicorn import x86_const as x86

from exokernel.machine.context import ALWAYS_FLAGS, KEPT_FLAGS, MachineContext, MachineError, Register, Trap, TrapKind
from exokernel.machine.cpu import USER_CODE, enter_ring_3, find_layout, open_engine, state_bytes
from exokernel.machine.memory import PAGE_SHIFT, PAGE_SIZE, PhysicalMemory
from exokernel.machine.paging import FAULT_USER, Fault, is_canonical, translate

_TRAP_FLAG: Final = 0x100
_ZERO_FLAG: Final = 0x40
_LONGEST: Final = 15
_DEBUG: Final = 1
_PAGE_FAULT: Final = 14
_SYSCALL: Final = 256
_FETCHED: Final = 257
_PUSHF: Final = 0x9C
_LOADING_FLAGS: Final = frozenset(b"\x9d\xcf")
_PREFIXES: Final = frozenset(b"\x26\x2e\x36\x3e\x64\x65\x66\x67\xf0\xf2\xf3")
_STRINGS: Final = frozenset(b"\xa4\xa5\xa6\xa7\xaa\xab\xac\xad\xae\xaf")
_COMPARING: Final = frozenset(b"\xa6\xa7\xae\xaf")
_PRIVILEGED: Final = frozenset(b"\x6c\x6d\x6e\x6f\xe4\xe5\xe6\xe7\xec\xed\xee\xef\xf4\xfa\xfb\x8e")
_PRIVILEGED_0F: Final = frozenset(b"\x06\x07\x08\x09\x20\x21\x22\x23\x30\x31\x32\x33\x34\x35\xa1\xa2\xa9\xb2\xb4\xb5")
_UNPRIVILEGED_0F01: Final = frozenset(b"\xd0\xd5\xd6\xee\xef")
_BMI: Final = frozenset([(3, 0xF0), *((2, opcode) for opcode in range(0xF2, 0xF8))])
_WORDS: Final = (
    x86.UC_X86_REG_RAX, x86.UC_X86_REG_RBX, x86.UC_X86_REG_RCX, x86.UC_X86_REG_RDX, x86.UC_X86_REG_RSI,
    x86.UC_X86_REG_RDI, x86.UC_X86_REG_RBP, x86.UC_X86_REG_RSP, x86.UC_X86_REG_R8, x86.UC_X86_REG_R9,
    x86.UC_X86_REG_R10, x86.UC_X86_REG_R11, x86.UC_X86_REG_R12, x86.UC_X86_REG_R13, x86.UC_X86_REG_R14,
    x86.UC_X86_REG_R15, x86.UC_X86_REG_RIP, x86.UC_X86_REG_EFLAGS, x86.UC_X86_REG_FS_BASE, x86.UC_X86_REG_GS_BASE,
)  # fmt: skip


class _Kind(enum.Enum):
    PLAIN = enum.auto()
    PRIVILEGED = enum.auto()
    REFUSED = enum.auto()
    INVALID = enum.auto()
    INTERRUPT = enum.auto()
    ONE_BYTE_DEBUG = enum.auto()
    REPEATED = enum.auto()


_BEFORE: Final = frozenset([_Kind.PRIVILEGED, _Kind.REFUSED, _Kind.INVALID, _Kind.ONE_BYTE_DEBUG])


class _Instruction:
    """The prefixes and the opcode of the instruction in `code`, which may be cut off."""

    def __init__(self, code: bytes) -> None:
        at = wide = 0
        self.rep = 0
        self.address32 = False
        while at < len(code) and (code[at] in _PREFIXES or code[at] & 0xF0 == 0x40):
            if code[at] & 0xF0 == 0x40:
                wide = code[at] >> 3 & 1
            elif code[at] in b"\xf2\xf3":
                self.rep = code[at]
            elif code[at] == 0x67:
                self.address32 = True
            at += 1
        rest = code[at:] + bytes(5)
        self.opcode = rest[0]
        self.prefixes = at
        if rest[0] == 0x0F:
            self.kind = self._two_byte(rest[1], rest[2])
        elif rest[0] in b"\xc4\xc5":
            is_bmi = rest[0] == 0xC4 and (rest[1] & 0x1F, rest[3]) in _BMI
            self.kind = _Kind.PLAIN if is_bmi else _Kind.INVALID
        else:
            self.kind = self._one_byte(wide, rest[1] >> 3 & 7)

    def _one_byte(self, wide: int, operation: int) -> _Kind:
        if self.opcode in _PRIVILEGED:
            return _Kind.PRIVILEGED
        if self.opcode in _STRINGS and self.rep:
            return _Kind.REPEATED
        if self.opcode in b"\xcc\xcd":
            return _Kind.INTERRUPT
        if self.opcode == 0xF1:
            return _Kind.ONE_BYTE_DEBUG
        if self.opcode in b"\xca\xcb" or (self.opcode == 0xFF and operation in (3, 5)):
            return _Kind.REFUSED
        if self.opcode == 0xCF and not wide:
            return _Kind.REFUSED
        return _Kind.PLAIN

    @staticmethod
    def _two_byte(opcode: int, modrm: int) -> _Kind:
        operation = modrm >> 3 & 7
        privileged = (
            opcode in _PRIVILEGED_0F
            or (opcode == 0x00 and operation < 4)
            or (opcode == 0x01 and modrm not in _UNPRIVILEGED_0F01)
            or (opcode == 0xC7 and operation >= 6)
        )
        return _Kind.PRIVILEGED if privileged else _Kind.PLAIN


class ReferenceCpu:
    """A CPU by single steps; see `exokernel.machine.cpu` for what it promises."""

    def __init__(self, memory: PhysicalMemory, supervisor: int) -> None:
        self._memory = memory
        self._layout = find_layout()
        self._trap = Trap()
        self._uc: unicorn.Uc | None = open_engine(memory, supervisor)
        uc = self._uc
        uc.hook_add(unicorn.UC_HOOK_INTR, self._on_interrupt)
        uc.hook_add(unicorn.UC_HOOK_BLOCK, self._on_block)
        uc.hook_add(unicorn.UC_HOOK_INSN, self._on_syscall, None, 1, 0, x86.UC_X86_INS_SYSCALL)
        self._root = supervisor
        self._left = 0
        self._vector: int | None = None
        self._at = 0
        self._count = 0
        self._instruction = _Instruction(b"")
        self._traced = False
        enter_ring_3(uc)
        self._acknowledge(uc)
        self._home = uc.context_save()

    def run(self, context: MachineContext, root: int, budget: int, /) -> Trap:
        """See `Cpu.run`."""
        if budget < 1 or root % PAGE_SIZE or not 0 <= root < self._memory.size:
            raise ValueError("the budget must be positive and the root the address of a frame")
        uc = self._uc
        if uc is None:
            raise MachineError("the CPU is closed")
        self._root, self._left = root, budget
        self._load(uc, context)
        rip, done = context.words[Register.RIP], False
        while not done:
            rip, done = self._step(uc, rip)
        self._store(uc, context, rip)
        self._trap.cycles = budget - self._left
        return self._trap

    def flush_tlb(self) -> None:
        """Nothing to do: each run begins with empty TLBs."""

    def flush_code(self) -> None:
        """Nothing to do: each run begins without translated code."""

    def code_changed(self) -> None:
        """Nothing to do: nothing is known of code from one run to the next."""

    def close(self) -> None:
        """Free the engine; may be called again."""
        self._uc = None

    def _read_code(self, va: int) -> bytes:
        code = b""
        while len(code) < _LONGEST:
            here = va + len(code)
            if not is_canonical(here):
                break
            at = translate(self._memory.words, self._root, here, write=False, execute=True)
            if isinstance(at, Fault):
                break
            part = min(_LONGEST - len(code), PAGE_SIZE - here % PAGE_SIZE)
            code += bytes(self._memory.view[at : at + part])
            self._memory.executed[at >> PAGE_SHIFT] = 1
        return code

    def _on_block(self, uc: unicorn.Uc, _address: int, _size: int, _: Any) -> None:
        """The instruction could be fetched whole; some are not executed."""
        if self._vector is None and self._instruction.kind in _BEFORE:
            self._vector = _FETCHED
            uc.emu_stop()

    def _on_syscall(self, uc: unicorn.Uc, _: Any) -> None:
        self._vector = _SYSCALL
        uc.emu_stop()

    def _on_interrupt(self, uc: unicorn.Uc, vector: int, _: Any) -> None:
        if self._vector is None:
            self._vector = vector
        uc.emu_stop()

    def _step(self, uc: unicorn.Uc, rip: int) -> tuple[int, bool]:
        """Execute the instruction at `rip`; returns where to go on, and whether a trap is complete."""
        if not self._left:
            return self._done(TrapKind.BUDGET, rip)
        self._at, self._instruction = rip, _Instruction(self._read_code(rip))
        self._count = uc.reg_read(x86.UC_X86_REG_RCX)
        self._set_trap_flag(uc, True)
        self._vector = None
        self._left -= 1
        try:
            uc.emu_start(rip, 0)
        except unicorn.UcError as error:
            if error.errno != unicorn.UC_ERR_INSN_INVALID:
                raise MachineError(f"Unicorn stopped at {rip:#x} with error {error.errno}") from error
            return self._on_invalid(uc)
        return self._answer(uc, uc.reg_read(x86.UC_X86_REG_RIP))

    def _done(self, kind: TrapKind, rip: int, code: int = 0, address: int = 0) -> tuple[int, bool]:
        self._trap.kind, self._trap.code, self._trap.address = kind, code, address
        return rip, True

    def _before(self) -> tuple[int, bool]:
        self._left += 1
        match self._instruction.kind:
            case _Kind.PRIVILEGED:
                return self._done(TrapKind.PRIVILEGED, self._at)
            case _Kind.REFUSED:
                return self._done(TrapKind.EXCEPTION, self._at, 13)
            case _Kind.INVALID:
                return self._done(TrapKind.EXCEPTION, self._at, 6)
        self._left -= 1
        return self._done(TrapKind.INTERRUPT, self._at + self._instruction.prefixes + 1, 1)

    def _on_invalid(self, uc: unicorn.Uc) -> tuple[int, bool]:
        self._acknowledge(uc)
        if self._instruction.kind is _Kind.INTERRUPT:
            return self._done(TrapKind.INTERRUPT, self._at + self._instruction.prefixes + 2, 6)
        self._left += 1
        return self._done(TrapKind.EXCEPTION, self._at, 6)

    def _answer(self, uc: unicorn.Uc, rip: int) -> tuple[int, bool]:
        vector, is_interrupt = self._vector, self._instruction.kind is _Kind.INTERRUPT
        if vector is None:
            raise MachineError(f"Unicorn stopped at {rip:#x} for no reason")
        if vector == _FETCHED:
            return self._before()
        if vector == _SYSCALL:
            return self._done(TrapKind.DOWNCALL, rip)
        code = self._acknowledge(uc)
        if is_interrupt and rip != self._at:
            return self._done(TrapKind.INTERRUPT, rip, vector)
        if vector == _DEBUG:
            return self._completed(uc, rip)
        self._left += 1
        if vector == _PAGE_FAULT:
            return self._done(TrapKind.PAGE_FAULT, rip, code | FAULT_USER, uc.reg_read(x86.UC_X86_REG_CR2))
        return self._done(TrapKind.EXCEPTION, rip, vector, code)

    def _completed(self, uc: unicorn.Uc, rip: int) -> tuple[int, bool]:
        """The instruction is complete; a trap only if the guest had set the trap flag itself."""
        opcode, was_traced = self._instruction.opcode, self._traced
        if opcode == _PUSHF and not was_traced:
            high_byte = translate(self._memory.words, self._root, uc.reg_read(x86.UC_X86_REG_RSP) + 1, write=False)
            assert isinstance(high_byte, int)
            self._memory.view[high_byte] &= ~(_TRAP_FLAG >> 8) & 0xFF
        if opcode in _LOADING_FLAGS:
            self._traced = bool(uc.reg_read(x86.UC_X86_REG_EFLAGS) & _TRAP_FLAG)
        if self._instruction.kind is _Kind.REPEATED and self._owes_a_pass(uc, rip):
            rip = self._at
        if was_traced:
            return self._done(TrapKind.EXCEPTION, rip, _DEBUG)
        return rip, False

    def _owes_a_pass(self, uc: unicorn.Uc, rip: int) -> bool:
        mask = (1 << (32 if self._instruction.address32 else 64)) - 1
        if rip == self._at or not self._count & mask or uc.reg_read(x86.UC_X86_REG_RCX) & mask:
            return False
        if self._instruction.opcode in _COMPARING:
            equal = bool(uc.reg_read(x86.UC_X86_REG_EFLAGS) & _ZERO_FLAG)
            return equal == (self._instruction.rep == 0xF3)
        return True

    def _acknowledge(self, uc: unicorn.Uc) -> int:
        """Make the processor forget the exception it delivered; returns the error code of that exception."""
        saved = uc.context_save()
        code: int = struct.unpack_from("<I", state_bytes(saved), self._layout.error_code)[0]
        ctypes.memmove((saved.context.value or 0) + self._layout.old_exception, struct.pack("<i", -1), 4)
        uc.context_restore(saved)
        return code

    @staticmethod
    def _set_trap_flag(uc: unicorn.Uc, on: bool) -> None:
        flags = uc.reg_read(x86.UC_X86_REG_EFLAGS) & ~_TRAP_FLAG
        uc.reg_write(x86.UC_X86_REG_EFLAGS, flags | (_TRAP_FLAG if on else 0))

    def _load(self, uc: unicorn.Uc, context: MachineContext) -> None:
        uc.context_restore(self._home)
        uc.reg_write(x86.UC_X86_REG_CR3, self._root)
        uc.ctl_flush_tb()
        vector = bytes(context.vector)
        control, status, tag = struct.unpack_from("<HHB", vector)
        uc.reg_write(x86.UC_X86_REG_FPCW, control)
        uc.reg_write(x86.UC_X86_REG_FPSW, status)
        uc.reg_write(x86.UC_X86_REG_FPTAG, sum(0 if tag >> i & 1 else 3 << 2 * i for i in range(8)))
        uc.reg_write(x86.UC_X86_REG_MXCSR, struct.unpack_from("<I", vector, 24)[0] & 0xFFFF)
        for i in range(8):
            mantissa, exponent = struct.unpack_from("<QH", vector, 32 + 16 * i)
            uc.reg_write(x86.UC_X86_REG_FP0 + (i + (status >> 11)) % 8, (mantissa, exponent))
        for i in range(16):
            uc.reg_write(x86.UC_X86_REG_XMM0 + i, int.from_bytes(vector[160 + 16 * i : 176 + 16 * i], "little"))
        for register, word in zip(_WORDS, context.words, strict=True):
            if register != x86.UC_X86_REG_RIP:
                uc.reg_write(register, word)
        flags = context.words[Register.RFLAGS] & KEPT_FLAGS | ALWAYS_FLAGS
        uc.reg_write(x86.UC_X86_REG_EFLAGS, flags)
        self._traced = bool(flags & _TRAP_FLAG)

    def _store(self, uc: unicorn.Uc, context: MachineContext, rip: int) -> None:
        for register in Register:
            context.words[register] = uc.reg_read(_WORDS[register])
        context.words[Register.RIP] = rip
        flags = context.words[Register.RFLAGS] & ~_TRAP_FLAG | (_TRAP_FLAG if self._traced else 0)
        context.words[Register.RFLAGS] = flags & KEPT_FLAGS | ALWAYS_FLAGS
        status = uc.reg_read(x86.UC_X86_REG_FPSW)
        tags = uc.reg_read(x86.UC_X86_REG_FPTAG)
        tag = sum(1 << i for i in range(8) if tags >> 2 * i & 3 != 3)
        control, mxcsr = uc.reg_read(x86.UC_X86_REG_FPCW), uc.reg_read(x86.UC_X86_REG_MXCSR)
        header = struct.pack("<HHB19xI4x", control, status, tag, mxcsr)
        floating = b"".join(
            struct.pack("<QH6x", *uc.reg_read(x86.UC_X86_REG_FP0 + (i + (status >> 11)) % 8)) for i in range(8)
        )
        wide = b"".join(uc.reg_read(x86.UC_X86_REG_XMM0 + i).to_bytes(16, "little") for i in range(16))
        vector = context.vector
        vector[:] = (header + floating + wide).ljust(512, b"\0")
        if uc.reg_read(x86.UC_X86_REG_CS) != USER_CODE:
            self._done(TrapKind.EXCEPTION, rip, 13)
