"""How an environment ends other than by its own choice: which rule it broke, as plain data for others to put in words."""

from dataclasses import dataclass
from enum import Enum

from exokernel.abi.direct import direct


@direct
class Cause(Enum):
    """The rules; each value is the sentence a user reads."""

    NO_FAULT_HANDLER = "it touched a page that is not mapped or does not allow it, and has no page_fault handler"
    NO_TRAP_HANDLER = "it raised an exception, and has no trap handler"
    PRIVILEGED = "it used a privileged instruction, and has no trap handler"
    FOREIGN_CALL = "it made a call that is not the kernel's, and has no trap handler"
    INTERRUPT = "it raised a software interrupt, and has no trap handler"
    UPCALL_STACK = "its handler cannot run: the up-call stack is not mapped writable, or is used up by nested faults"
    TOO_MANY_CONTEXTS = "its handlers are nested deeper than the number of contexts an environment may have"
    RAISED = "its Python code raised an exception"
    WATCHDOG = "its Python code did not come back to the kernel; a coroutine is preempted only where it awaits"
    BAD_AWAIT = "its Python code awaited something that is not a down-call"
    DESTROYED = "it was destroyed by an environment that controls it"
    OVERRUN = "it was asked to release the processor and did not by the deadline, too many times in a row"
    DEADLOCK = "it waits for something that can never happen"


@dataclass(frozen=True)
class Death:
    """One end: `registers` as in `get_registers`, `code` the bytes at rip if they could be read, `where` the address that
    was touched, `detail` a fact the cause leaves open (an exception's text, a vector, an access code)."""

    environment: int
    cause: Cause
    cycle: int
    detail: str = ""
    where: int | None = None
    access: int = 0
    registers: tuple[int, ...] = ()
    code: bytes = b""
    last_downcall: str = ""
