"""The up-calls: what the kernel tells a library OS, and asks of it.

An up-call is delivered at the entry that the library set for it, on the up-call stack.  There, from the stack pointer
upwards, lie the argument registers the delivery overwrote (rdi, rsi, rdx: as many as the up-call has arguments, the last
one lowest) and above them a frame for `iretq` (rip, cs, rflags, rsp, ss).  A handler that restores the registers it
used, pops the arguments and executes `iretq` is back where it was, and the kernel has not been entered.  While a handler
runs, its bit is set in the context's `active` in the environment's own page; the library clears it on the way out, and
until then a request of the same kind waits.  In a Python library OS each up-call is one async method with the interrupted
context's number as first argument.

Two are entered another way, because nothing is interrupted that would have to come back.  `resume_cpu` starts on the empty
up-call stack with every register zero but its arguments.  `call` starts a context that serves calls: its stack pointer is
the one it had at `serve`, its arguments are in rdi, rsi, rdx, rcx, r8 and r9, its other registers are as it left them, and
it ends with the down-call `reply`.
"""

from dataclasses import dataclass
from enum import IntEnum

from exokernel.abi.direct import direct


@direct
class Upcall(IntEnum):
    """The up-calls by number, which is also the bit in `active`."""

    PAGE_FAULT = 0
    PLEASE_RELEASE_PAGE = 1
    PLEASE_RELEASE_CPU = 2
    RESUME_CPU = 3
    PAGES_TAKEN = 4
    EVENT = 5
    TRAP = 6
    CALL = 7


@dataclass(frozen=True)
class UpcallEntry:
    """One row of the table: `arguments` are (name, meaning) pairs, in the order rdi, rsi, rdx, rcx, r8, r9."""

    upcall: Upcall
    arguments: tuple[tuple[str, str], ...]
    summary: str
    queued: bool
    """A request of this kind waits while one is running or a critical section is open; a fault cannot wait."""

    @property
    def name(self) -> str:
        return self.upcall.name.lower()


UPCALLS: tuple[UpcallEntry, ...] = (
    UpcallEntry(
        Upcall.PAGE_FAULT,
        (("va", "the address, in bytes"), ("access", "what was tried (Access)")),
        "The instruction at the interrupted rip touched a page that is not mapped or does not allow it.",
        queued=False,
    ),
    UpcallEntry(
        Upcall.PLEASE_RELEASE_PAGE,
        (
            ("count", "how many frames are wanted back"),
            ("frame", "this very frame, or ANY: the library chooses which"),
            ("deadline", "cycles of its own running time the library has before frames are taken"),
        ),
        "The global policy has named this environment: give back frames of your choice.",
        queued=True,
    ),
    UpcallEntry(
        Upcall.PLEASE_RELEASE_CPU,
        (("deadline", "cycles the library has to save what it needs and yield"),),
        "The slice is over: save what is worth saving and yield.  Who does not is preempted by force and pays for it.",
        queued=True,
    ),
    UpcallEntry(
        Upcall.RESUME_CPU,
        (
            ("reason", "why (ResumeReason)"),
            ("value", "what ended the wait, where that has a value"),
            ("context", "the number of the context that has the processor back"),
        ),
        "The processor is back; every other register is zero, and the library restores what it saved.",
        queued=False,
    ),
    UpcallEntry(
        Upcall.PAGES_TAKEN,
        (("count", "records written to the own page since the last time"),),
        "Bindings were broken by force; the record in the own page says which and what became of the contents.",
        queued=True,
    ),
    UpcallEntry(
        Upcall.EVENT,
        (("event", "which (Event)"), ("value", "the request or environment"), ("status", "how it ended")),
        "Something asynchronous ended: a disk request, a wait for frames, a child.",
        queued=True,
    ),
    UpcallEntry(
        Upcall.TRAP,
        (("reason", "which kind (TrapReason)"), ("code", "vector or number"), ("detail", "error code")),
        "The instruction cannot be executed or is not for the kernel to answer.",
        queued=False,
    ),
    UpcallEntry(
        Upcall.CALL,
        (
            ("caller", "the environment that calls"),
            ("a", "a word"),
            ("b", "a word"),
            ("c", "a word"),
            ("d", "a word"),
            ("awaited", "1 if the caller waits for the reply, 0 if not"),
        ),
        "Another environment has transferred control to this one, with four words.",
        queued=False,
    ),
)
