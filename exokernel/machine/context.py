"""What a CPU takes and gives: the registers of one ring-3 context, and the trap that ended a run.

A context is plain data. `words[Register.RAX]` and so on are ordinary 64-bit numbers that may be read and written
between runs. The vector registers may still lie in the CPU that ran the context last; reading the property `vector`
fetches them, so ask for it anew after each run instead of keeping the view.
"""

import enum
from typing import Final, Self

from exokernel.abi.direct import direct
from exokernel.machine._engine import Context, MachineError, Trap

__all__ = ["ALWAYS_FLAGS", "KEPT_FLAGS", "MachineContext", "MachineError", "Register", "Trap", "TrapKind"]

KEPT_FLAGS: Final = 0x244DD5
"""RFLAGS bits a context may choose: CF PF AF ZF SF TF DF OF NT AC ID. The CPU ignores the others."""

ALWAYS_FLAGS: Final = 0x202
"""RFLAGS bits that are always set: interrupts enabled, and the reserved one."""

_WORDS_SIZE: Final = 20 * 8
_VECTOR_SIZE: Final = 512


@direct
class Register(enum.IntEnum):
    """Index of a register in `MachineContext.words`."""

    RAX = 0
    RBX = 1
    RCX = 2
    RDX = 3
    RSI = 4
    RDI = 5
    RBP = 6
    RSP = 7
    R8 = 8
    R9 = 9
    R10 = 10
    R11 = 11
    R12 = 12
    R13 = 13
    R14 = 14
    R15 = 15
    RIP = 16
    RFLAGS = 17
    FS_BASE = 18
    GS_BASE = 19


@direct
class TrapKind(enum.IntEnum):
    """Why a run ended, and where rip is then."""

    BUDGET = 0
    """The budget is used up; rip is at the next instruction, which has not even been fetched."""
    DOWNCALL = 1
    """`syscall`; rip is after it, rcx and r11 are as they were."""
    PAGE_FAULT = 2
    """`address` was not accessible; `code` is the x86 error code (1 present, 2 write, 4 user, 16 fetch); rip is at the
    instruction."""
    EXCEPTION = 3
    """Exception `code` (0 divide, 1 debug, 6 invalid opcode, 13 protection, 16 x87 …) with error code `address`; rip is
    at the instruction, or after it for the debug exception."""
    INTERRUPT = 4
    """`int code`, `int3` or `int1`; rip is after it."""
    PRIVILEGED = 5
    """An instruction that is privileged or would let chance in (or loads a segment register); rip is at it."""


class MachineContext(Context):
    """The registers of one ring-3 context: 20 `words` and 512 bytes of `vector` state in the layout of FXSAVE.

    A fresh context is all zero except RFLAGS 0x202, the x87 control word 0x37F and MXCSR 0x1F80.
    """

    __slots__ = ("__weakref__",)
    __hash__ = object.__hash__

    def copy(self) -> Self:
        """An independent context with the same registers."""
        return self.from_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The whole context as 672 bytes: the words, little-endian, then the vector state."""
        return self.words.tobytes() + self.vector.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The context that `to_bytes` wrote. Raises ValueError unless `data` has its size."""
        if len(data) != _WORDS_SIZE + _VECTOR_SIZE:
            raise ValueError(f"a context is {_WORDS_SIZE + _VECTOR_SIZE} bytes, not {len(data)}")
        context = cls()
        context.words.cast("B")[:] = data[:_WORDS_SIZE]
        context.vector[:] = data[_WORDS_SIZE:]
        return context

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MachineContext):
            return NotImplemented
        return self.words == other.words and self.vector == other.vector

    def __repr__(self) -> str:
        return "<MachineContext " + " ".join(f"{r.name.lower()}={self.words[r]:#x}" for r in Register) + ">"
