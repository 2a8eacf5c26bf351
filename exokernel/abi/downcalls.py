"""The down-calls: every request an environment can make of the kernel, declared once.

`Exo` is the table.  Each method is one down-call: its number and the right it needs stand in the decorator, its arguments
and their kinds in the signature, its meaning in the docstring; there is no body.  From C the number goes into rax, the
arguments into rdi, rsi, rdx, r10, r8, r9, and the result comes back in rax, negative for an error; rcx and r11 are
untouched (unlike on a real processor).  From Python the same call is `await exo.alloc_page()`, and an error is raised as
`Refused`.  Both go through the same dispatcher with the same checks.  Authority comes from who makes the call, never from
holding the `Exo` object.

Numbers start at 0x4558_0000, so that a foreign number, a Linux system call say, is told from ours and handed to the
library OS as a `trap` up-call.

The names are those of the exokernel papers (Engler, Kaashoek and O'Toole, SOSP 1995; Kaashoek et al., SOSP 1997) where
those have one.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, TypeVar, get_type_hints

from exokernel.abi.direct import direct
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import ANY, ANYONE, FOREVER, SELF, Rights, Sharing
from exokernel.abi.layout import DOWNCALL_BASE
from exokernel.abi.traps import DownCallTrap, ReadTrap, WriteTrap, trap


@direct
class Kind(Enum):
    """The type of an argument, which says how it is decoded and checked before a down-call sees it."""

    PAGE = "the address of a page below USER_END, in bytes, a multiple of 4096"
    ADDRESS = "an address below USER_END, in bytes"
    FRAME = "the number of a physical frame, or ANY"
    ENVIRONMENT = "the number of an environment, or 0 for the caller"
    COUNT = "a number of things, at least 1"
    WORD = "any 64-bit word"
    BITS = "flags"
    SECTOR = "the number of a sector of 512 bytes, or ANY"
    SLOT = "a place on the caller's key ring"
    CONTEXT = "the number of a context of the caller's environment"
    BYTES = "bytes to read: from C two arguments, address and length"
    BUFFER = "bytes to fill: from C the address, and the length is fixed by the call; in Python it is the result"
    OBJECT = "a Python object; the call cannot be made from machine code"


Page = Annotated[int, Kind.PAGE]
Address = Annotated[int, Kind.ADDRESS]
Frame = Annotated[int, Kind.FRAME]
EnvironmentNumber = Annotated[int, Kind.ENVIRONMENT]
Count = Annotated[int, Kind.COUNT]
Word = Annotated[int, Kind.WORD]
Bits = Annotated[int, Kind.BITS]
Sector = Annotated[int, Kind.SECTOR]
Slot = Annotated[int, Kind.SLOT]
ContextNumber = Annotated[int, Kind.CONTEXT]
Bytes = Annotated[bytes, Kind.BYTES]
Object = Annotated[Any, Kind.OBJECT]

REGISTER_WORDS = 20
"""Words in the register block of `get_registers`: rax rbx rcx rdx rsi rdi rbp rsp r8-r15 rip rflags fs_base gs_base."""
BATCH_MAXIMUM = 64
"""Down-calls in one `batch`."""
BATCH_WORDS = 8
"""Words of one call in a batch: number, six arguments, and the place of the result."""


@dataclass(frozen=True)
class Argument:
    """One argument of a down-call."""

    name: str
    kind: Kind
    default: Any

    @property
    def registers(self) -> int:
        """How many argument registers it takes from machine code."""
        return 2 if self.kind is Kind.BYTES else 1


@dataclass(frozen=True)
class DownCall:
    """One row of the table."""

    number: int
    name: str
    group: str
    arguments: tuple[Argument, ...]
    returns: str
    right: str
    errors: tuple[Error, ...]
    summary: str
    python_only: bool


F = TypeVar("F", bound=Callable[..., Awaitable[Any]])
TABLE: dict[int, DownCall] = {}
BY_NAME: dict[str, DownCall] = {}


def downcall(offset: int, group: str, returns: str, right: str, *errors: Error) -> Callable[[F], F]:
    """Make a row of the table out of a method's signature and docstring, and the stub that traps out of its body."""

    def declare(function: F) -> F:
        name = function.__name__.rstrip("_")
        hints = get_type_hints(function, include_extras=True)
        parameters = list(inspect.signature(function).parameters.values())[1:]
        arguments = tuple(
            Argument(p.name, hints[p.name].__metadata__[0], None if p.default is p.empty else p.default) for p in parameters
        )
        number = DOWNCALL_BASE + offset
        python_only = any(a.kind is Kind.OBJECT for a in arguments)
        row = DownCall(
            number, name, group, arguments, returns, right, errors, " ".join((function.__doc__ or "").split()), python_only
        )
        assert number not in TABLE, f"the number of down-call {name} is another's"
        assert name not in BY_NAME, f"down-call {name} is declared twice"
        TABLE[number] = BY_NAME[name] = row
        defaults = tuple(a.default for a in arguments)
        places = {a.name: i for i, a in enumerate(arguments)}

        async def stub(self: "Exo", *given: Any, **named: Any) -> Any:
            values = given + defaults[len(given) :]
            if named:
                filled = list(values)
                for key, value in named.items():
                    filled[places[key]] = value
                values = tuple(filled)
            try:
                return await trap(DownCallTrap(number, values))
            except Refused as refused:
                raise Refused(refused.error, name) from None

        stub.__name__, stub.__doc__, stub.__qualname__ = function.__name__, function.__doc__, function.__qualname__
        stub.downcall = row  # type: ignore[attr-defined]
        stub.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        return stub  # type: ignore[return-value]

    return declare


FRAME_ERRORS = (Error.NO_FRAME, Error.OVER_QUOTA)
ON_ENVIRONMENT = (Error.NO_SUCH_ENVIRONMENT, Error.DENIED)


class Exo:
    """The handle of a coroutine: the table of down-calls, and loads and stores through the environment's page tables."""

    async def read(self, va: int, size: int) -> bytes:
        """Load `size` bytes at `va` (bytes) as the environment itself would, page faults included."""
        data: bytes = await trap(ReadTrap(va, size))
        return data

    async def write(self, va: int, data: bytes) -> None:
        """Store `data` at `va` (bytes) as the environment itself would, page faults included."""
        await trap(WriteTrap(va, data))

    async def read_if_mapped(self, va: int, size: int) -> bytes | None:
        """Load like `read`, but give None where that would page-fault.

        A handler in machine code survives a page that has just been taken by changing the interrupted rip; in Python this
        is the way.
        """
        try:
            data: bytes = await trap(ReadTrap(va, size, or_refused=True))
        except Refused:
            return None
        return data

    async def write_if_mapped(self, va: int, data: bytes) -> bool:
        """Store like `write`, but store nothing and give False where that would page-fault."""
        try:
            await trap(WriteTrap(va, data, or_refused=True))
        except Refused:
            return False
        return True

    @downcall(0x00, "time", "0", "none")
    async def null(self) -> int:
        """Do nothing: the price of entering the kernel."""
        ...

    @downcall(0x01, "time", "cycles", "none")
    async def time(self) -> int:
        """The virtual time, in cycles since the machine was switched on."""
        ...

    @downcall(0x02, "time", "0", "none", Error.BAD_ARGUMENT)
    async def charge(self, cycles: Word) -> int:
        """Charge the caller `cycles` of CPU time, as a coroutine should for work that machine code would have to do."""
        ...

    @downcall(0x03, "time", "calls made", "none", Error.BAD_ARGUMENT)
    async def batch(self, calls: Address, count: Count) -> int:
        """Make `count` down-calls in one trap: `calls` is an array of eight words each (number, six arguments, result);
        each result is stored, and a refused call does not stop the rest."""
        ...

    @downcall(0x08, "console", "bytes written", "none", Error.BAD_ARGUMENT)
    async def console_write(self, text: Bytes) -> int:
        """Write bytes to the console, marked with the environment they came from."""
        ...

    @downcall(
        0x10,
        "memory",
        "the frame",
        "none for a free frame; CONTROL of `env` if it is another",
        *FRAME_ERRORS,
        Error.FRAME_BUSY,
        Error.NO_SUCH_FRAME,
        *ON_ENVIRONMENT,
    )
    async def alloc_page(self, frame: Frame = ANY, env: EnvironmentNumber = SELF) -> int:
        """Become the holder of a free frame, zeroed: any, or this very one.  Never blocks: with nothing free the kernel
        asks whom the global policy names, and the caller releases a frame of its own or blocks on FRAMES.  The holder of a
        very frame is asked for it, and has to give it only if the caller controls it."""
        ...

    @downcall(
        0x11, "memory", "0", "a hold on the frame; CONTROL of `env`", Error.DENIED, Error.NO_SUCH_FRAME, *ON_ENVIRONMENT
    )
    async def dealloc_page(self, frame: Frame, env: EnvironmentNumber = SELF) -> int:
        """Let go of a frame: the environment's mappings of it and the loans it gave of it end at once, and the frame is
        free when its last holder lets go."""
        ...

    @downcall(
        0x12,
        "memory",
        "0",
        "`rights` and READ on the frame by hold, loan or capability; CONTROL of `env`",
        Error.DENIED,
        Error.NO_SUCH_FRAME,
        Error.BAD_ARGUMENT,
        Error.WRITE_XOR_EXECUTE,
        *FRAME_ERRORS,
        Error.NO_SUCH_ENVIRONMENT,
    )
    async def create_mapping(self, va: Page, frame: Frame, rights: Bits, env: EnvironmentNumber = SELF) -> int:
        """Map a frame at a page, replacing what was there.  Missing page tables are made from free frames and charged.
        Refused if the frame would be writable somewhere and executable somewhere."""
        ...

    @downcall(
        0x13,
        "memory",
        "the page's accessed and dirty bits (PageBits)",
        "CONTROL of `env`",
        Error.NOT_MAPPED,
        Error.BAD_ARGUMENT,
        *ON_ENVIRONMENT,
    )
    async def remove_mapping(self, va: Page, env: EnvironmentNumber = SELF) -> int:
        """Unmap a page, in every TLB at once; a page table whose last entry this was is given back.  The bits are those it
        had in the end: nothing that another processor has stored is missed."""
        ...

    @downcall(0x14, "memory", "pages in which a bit was cleared", "none", Error.BAD_ARGUMENT)
    async def clear_page_bits(self, va: Page, count: Count, bits: Bits) -> int:
        """Clear accessed or dirty bits (PageBits) of `count` pages from `va` on, at the price of one TLB flush.  Pages that
        are not mapped are passed over.  A cleared dirty bit tells the kernel that the backing equals the frame."""
        ...

    @downcall(
        0x15,
        "memory",
        "0",
        "CONTROL of the frame; to lend, a hold; for HOLD, CONTROL or WRITE of `env`, who is charged",
        Error.DENIED,
        Error.NO_SUCH_FRAME,
        Error.NO_SUCH_ENVIRONMENT,
        Error.OVER_QUOTA,
        Error.BAD_ARGUMENT,
        Error.TOO_MANY,
    )
    async def share_page(self, frame: Frame, env: EnvironmentNumber, sharing: Bits, rights: Bits) -> int:
        """Let another environment use a frame: as a LOAN that ends with the lender, with `rights`; or as a HOLD that makes
        it a co-holder with every right, charged in full."""
        ...

    @downcall(0x16, "memory", "0", "the loan is the caller's", Error.DENIED, Error.NO_SUCH_FRAME, Error.NO_SUCH_ENVIRONMENT)
    async def unshare_page(self, frame: Frame, env: EnvironmentNumber) -> int:
        """End a loan: the borrower's mappings of the frame are broken at once."""
        ...

    @downcall(
        0x17,
        "memory",
        "0",
        "a hold of `env`, CONTROL of it",
        Error.DENIED,
        Error.NO_SUCH_FRAME,
        Error.TOO_MANY,
        Error.NO_SUCH_ENVIRONMENT,
    )
    async def reserve_page(self, frame: Frame, on: Word = 1, env: EnvironmentNumber = SELF) -> int:
        """Name a frame that is never taken by force (or no longer, `on` = 0), so that the handlers can always run.  An
        environment may name 64."""
        ...

    @downcall(
        0x18,
        "memory",
        "0",
        "a hold of `env` and its WRITE on the sectors, CONTROL of it",
        Error.DENIED,
        Error.NO_SUCH_FRAME,
        Error.BAD_SECTOR,
        Error.NO_SUCH_ENVIRONMENT,
    )
    async def set_backing(self, frame: Frame, sector: Sector, env: EnvironmentNumber = SELF) -> int:
        """Preload the repossession vector: if this frame is taken and is dirty, it is written to the eight sectors from
        `sector` on first, at the caller's expense.  ANY: no backing."""
        ...

    @downcall(0x20, "cpu", "0", "none", Error.NO_SUCH_ENVIRONMENT)
    async def yield_(self, env: EnvironmentNumber = ANYONE) -> int:
        """Give up the CPU: to whom the global policy chooses, or the rest of the slice to a named environment."""
        ...

    @downcall(
        0x21,
        "cpu",
        "depends on the event: a disk request's status, the counter, the exit status",
        "none",
        Error.TIMED_OUT,
        Error.NO_SUCH_REQUEST,
        Error.NO_SUCH_ENVIRONMENT,
        Error.BAD_ARGUMENT,
        Error.IO_ERROR,
    )
    async def block(self, event: Bits, value: Word = 0, deadline: Word = FOREVER) -> int:
        """Stop this context until an event (Event) or a virtual time in cycles.  Returns at once if the event has happened
        since `value` was seen, so nothing is missed between looking and blocking."""
        ...

    @downcall(0x22, "cpu", "0", "CONTROL or WRITE of `env`, or being its parent or child", *ON_ENVIRONMENT)
    async def wake(self, env: EnvironmentNumber) -> int:
        """Count one WOKEN event for an environment and end its wait for it."""
        ...

    @downcall(
        0x23,
        "cpu",
        "the tag of the product that holds",
        "READ on the words' pages",
        Error.TIMED_OUT,
        Error.NOT_MAPPED,
        Error.TOO_MANY,
        Error.BAD_ARGUMENT,
    )
    async def block_until(self, terms: Address, count: Count, deadline: Word = FOREVER) -> int:
        """Stop this context until a predicate over words of memory holds, or until a virtual time in cycles.  `terms` is an
        array of `count` PredicateTerm.  The kernel evaluates it whenever it considers running the environment, and before
        the clock jumps; a page of it that is no longer there ends the wait with NOT_MAPPED.  (Xok's wakeup predicates.)"""
        ...

    @downcall(
        0x24,
        "cpu",
        "the position",
        "CONTROL of `env`",
        Error.NO_SLICE,
        Error.OVER_QUOTA,
        Error.BAD_ARGUMENT,
        *ON_ENVIRONMENT,
    )
    async def alloc_slice(self, cpu: Word = 0, position: Word = ANY, env: EnvironmentNumber = SELF) -> int:
        """Own a slice of a processor's time: this position of its vector, which it goes through in turn, or any.  When the
        position comes and the owner can run, it has the processor for a quantum."""
        ...

    @downcall(
        0x25, "cpu", "0", "the slice's owner is `env`; CONTROL of it", Error.DENIED, Error.BAD_ARGUMENT, *ON_ENVIRONMENT
    )
    async def free_slice(self, cpu: Word, position: Word, env: EnvironmentNumber = SELF) -> int:
        """Give a slice back; its time is the global policy's again."""
        ...

    @downcall(0x26, "cpu", "0", "CONTROL of `env`, not the caller", Error.BAD_ARGUMENT, *ON_ENVIRONMENT)
    async def set_tickets(self, env: EnvironmentNumber, tickets: Count) -> int:
        """Set an environment's weight, 1 to 10,000 (100 to begin with), for a global CPU policy that shares the processors
        in proportion."""
        ...

    @downcall(0x27, "cpu", "0", "CONTROL of `env`, not the caller", Error.NO_TIME, Error.BAD_ARGUMENT, *ON_ENVIRONMENT)
    async def reserve_cpu(self, env: EnvironmentNumber, cycles: Word, period: Word) -> int:
        """Promise an environment `cycles` of a processor in every `period` of cycles, if the global CPU policy makes
        promises and can keep this one too; 0 cycles end the promise."""
        ...

    @downcall(
        0x28,
        "cpu",
        "the four words of the reply: from C 0, and the words in rdx, r10, r8, r9",
        "none",
        Error.NOT_SERVING,
        Error.BUSY,
        Error.CALLEE_ENDED,
        Error.TIMED_OUT,
        Error.BAD_STATE,
        Error.NO_SUCH_ENVIRONMENT,
    )
    async def call(
        self,
        env: EnvironmentNumber,
        deadline: Word = FOREVER,
        a: Word = 0,
        b: Word = 0,
        c: Word = 0,
        d: Word = 0,
    ) -> tuple[int, int, int, int]:
        """Protected control transfer: another environment goes on at its `call` entry with four words and the rest of this
        slice; this context waits for the reply.  Either it is there at once or the call is refused, and nothing in
        between.  (Engler, Kaashoek and O'Toole, SOSP 1995, section 5.2.)"""
        ...

    @downcall(0x29, "cpu", "does not return", "the context serves a call", Error.BAD_STATE)
    async def reply(self, a: Word = 0, b: Word = 0, c: Word = 0, d: Word = 0) -> int:
        """End a call: the caller goes on with four words and what is left of its slice, and this context waits for the next
        call.  From Python it returns, and the handler ends as it likes."""
        ...

    @downcall(
        0x2A,
        "cpu",
        "0",
        "none",
        Error.NOT_SERVING,
        Error.BUSY,
        Error.BAD_STATE,
        Error.NO_SUCH_ENVIRONMENT,
    )
    async def send(self, env: EnvironmentNumber, a: Word = 0, b: Word = 0, c: Word = 0, d: Word = 0) -> int:
        """The asynchronous protected control transfer: another environment goes on at its `call` entry with four words and
        the rest of this slice, which the caller pays for; nobody waits for a reply."""
        ...

    @downcall(0x2B, "cpu", "does not return", "none", Error.BAD_STATE)
    async def serve(self) -> int:
        """From now on this context waits for calls; each starts it at the `call` entry, with the stack pointer of now."""
        ...

    @downcall(
        0x30,
        "environments",
        "the new environment's number",
        "none; `quota` is at most the caller's own",
        *FRAME_ERRORS,
        Error.TOO_MANY,
    )
    async def create_environment(self, quota: Count = ANY) -> int:
        """Make an environment that has nothing but an address space with the exposed pages, may hold up to `quota` frames
        and is controlled by its creator.  It does not run before `start`."""
        ...

    @downcall(0x31, "environments", "0", "CONTROL of `env`", Error.BAD_ARGUMENT, *ON_ENVIRONMENT)
    async def set_upcall(self, upcall: Bits, entry: Address, env: EnvironmentNumber = SELF) -> int:
        """Set the entry of one up-call (Upcall); 0 takes it away."""
        ...

    @downcall(0x32, "environments", "0", "CONTROL of `env`", Error.BAD_ARGUMENT, Error.NO_SUCH_CONTEXT, *ON_ENVIRONMENT)
    async def set_upcall_stack(
        self, base: Page, size: Word, env: EnvironmentNumber = SELF, context: ContextNumber = 0
    ) -> int:
        """Set the memory on which up-calls to a context are delivered: `size` bytes (a multiple of 4096) from `base` on."""
        ...

    @downcall(0x33, "environments", "0", "CONTROL of `env`", Error.BAD_STATE, Error.BAD_ARGUMENT, *ON_ENVIRONMENT)
    async def start(self, env: EnvironmentNumber, rip: Address, rsp: Address, argument: Word = 0) -> int:
        """Make context 0 of an environment runnable: machine code at `rip` with the stack pointer `rsp` and `argument` in
        rdi, every other register zero."""
        ...

    @downcall(0x34, "environments", "0", "CONTROL of `env`", *ON_ENVIRONMENT)
    async def destroy(self, env: EnvironmentNumber) -> int:
        """End another environment; everything it holds goes back."""
        ...

    @downcall(0x35, "environments", "does not return", "none")
    async def exit(self, status: Word = 0) -> int:
        """End the calling environment; everything it holds goes back, and its parent is told the status."""
        ...

    @downcall(
        0x36, "environments", "0", "CONTROL of `env`, not the caller", Error.BAD_ARGUMENT, Error.NO_FRAME, *ON_ENVIRONMENT
    )
    async def set_quota(self, env: EnvironmentNumber, quota: Count, guarantee: Word = 0) -> int:
        """Set how many frames an environment may hold, page tables included, at most as many as the caller may; and how
        many of them the global policy is told are guaranteed.  NO_FRAME if all guarantees together exceed the memory.
        Holding more already is not undone."""
        ...

    @downcall(0x37, "environments", "0", "CONTROL of `env`", Error.BAD_STATE, Error.ONLY_PYTHON, *ON_ENVIRONMENT)
    async def set_library(self, env: EnvironmentNumber, library: Object) -> int:
        """Let a Python library OS answer an environment's up-calls: an object with an async method for each up-call it
        handles, called `async def page_fault(context, va, access)` and so on."""
        ...

    @downcall(
        0x38,
        "environments",
        "0",
        "CONTROL of `env`",
        Error.BAD_STATE,
        Error.BAD_ARGUMENT,
        Error.ONLY_PYTHON,
        *ON_ENVIRONMENT,
    )
    async def start_coroutine(self, env: EnvironmentNumber, coroutine: Object) -> int:
        """Make context 0 of an environment runnable: Python code, an unstarted coroutine."""
        ...

    @downcall(
        0x39,
        "environments",
        "0",
        "the context is the caller's or `env` is controlled by it",
        Error.NO_SUCH_CONTEXT,
        *ON_ENVIRONMENT,
    )
    async def get_registers(
        self, context: ContextNumber, buffer: Annotated[bytes, Kind.BUFFER] = b"", env: EnvironmentNumber = SELF
    ) -> bytes:
        """Read a stopped context's registers: twenty words, in the order rax rbx rcx rdx rsi rdi rbp rsp r8 to r15 rip
        rflags fs_base gs_base."""
        ...

    @downcall(
        0x3A,
        "environments",
        "0",
        "the context is the caller's or `env` is controlled by it",
        Error.NO_SUCH_CONTEXT,
        Error.BAD_ARGUMENT,
        *ON_ENVIRONMENT,
    )
    async def set_register(self, context: ContextNumber, index: Word, value: Word, env: EnvironmentNumber = SELF) -> int:
        """Set one register of a stopped context, by its index in the order of `get_registers`."""
        ...

    @downcall(0x3B, "environments", "0", "the context is the caller's", Error.NO_SUCH_CONTEXT)
    async def keep(self, context: ContextNumber) -> int:
        """Do not resume the interrupted context when its handler ends, or stop one that is ready and not running on another
        processor; `resume` lets it go on later."""
        ...

    @downcall(0x3C, "environments", "0", "the context is the caller's", Error.NO_SUCH_CONTEXT)
    async def resume(self, context: ContextNumber) -> int:
        """Make a kept context runnable again."""
        ...

    @downcall(0x3D, "environments", "0", "CONTROL of `env`, not the caller", Error.BAD_ARGUMENT, *ON_ENVIRONMENT)
    async def set_limits(self, env: EnvironmentNumber, environments: Word, slices: Word) -> int:
        """Set how many living descendants an environment may have, and how many slices it and they may own together; at
        most as many as the caller may.  What is there already is not undone."""
        ...

    @downcall(
        0x3E,
        "environments",
        "the context's number",
        "CONTROL of `env`",
        Error.TOO_MANY,
        Error.BAD_ARGUMENT,
        Error.BAD_STATE,
        *ON_ENVIRONMENT,
    )
    async def create_context(
        self, rip: Address, rsp: Address, argument: Word = 0, begin: Bits = 1, env: EnvironmentNumber = SELF
    ) -> int:
        """Another flow of control in an environment that has been started: machine code at `rip` with the stack pointer
        `rsp` and `argument` in rdi, stopped or ready (Begin).  Contexts that are ready run on as many processors as there
        are."""
        ...

    @downcall(
        0x3F,
        "environments",
        "0; does not return for the caller's own context",
        "the context is the caller's",
        Error.NO_SUCH_CONTEXT,
    )
    async def end_context(self, context: Word = ANY) -> int:
        """End a context that is not running on a processor, or with ANY the calling one; with the last one the environment
        ends."""
        ...

    @downcall(0x40, "capabilities", "0", "the capability in slot `source`", Error.BAD_ARGUMENT)
    async def forge_capability(self, source: Slot, component: Word, permissions: Bits, target: Slot) -> int:
        """Put a weaker capability into slot `target` of the key ring: the name in `source` with one more component (0 to
        65535) and no more than its permissions."""
        ...

    @downcall(0x41, "capabilities", "0", "the capability in `slot`; CONTROL of `env`", Error.BAD_ARGUMENT, *ON_ENVIRONMENT)
    async def give_capability(self, env: EnvironmentNumber, slot: Slot, permissions: Bits, target: Slot) -> int:
        """Copy a capability, with no more than its permissions, into slot `target` of another environment's key ring."""
        ...

    @downcall(0x42, "capabilities", "0", "none", Error.BAD_ARGUMENT)
    async def drop_capability(self, slot: Slot) -> int:
        """Empty a slot of the key ring."""
        ...

    @downcall(
        0x43,
        "capabilities",
        "0",
        "CONTROL of the subject by hold or capability",
        Error.BAD_ARGUMENT,
        Error.DENIED,
        Error.NO_SUCH_FRAME,
        Error.BAD_SECTOR,
        Error.NO_SECTORS,
        Error.NO_SUCH_ENVIRONMENT,
    )
    async def set_access(self, subject: Bits, number: Word, index: Word, slot: Slot, permissions: Bits) -> int:
        """Write entry `index` (0 to 3) of an access list: whoever has a capability whose name is a prefix of the name in
        `slot` has `permissions` on the frame, extent or environment `number`.  No permissions: the entry is emptied.  Entry
        0 of an environment is its own name for good, so that its creator keeps control.  A partition's list is recorded
        on the disk when the call returns, and cannot have the name of an environment, which the next start gives to
        another; NO_SECTORS if the disk has no place for it."""
        ...

    @downcall(0x50, "disk", "the first sector", "none", Error.NO_SECTORS, Error.BAD_SECTOR)
    async def alloc_sectors(self, count: Count, start: Sector = ANY) -> int:
        """Become the holder of a run of free sectors, all zero: anywhere, or from `start` on."""
        ...

    @downcall(0x51, "disk", "0", "a hold on the extent", Error.DENIED, Error.BAD_SECTOR)
    async def free_sectors(self, start: Sector) -> int:
        """Let go of the extent that begins at `start`; it is free when its last holder lets go."""
        ...

    @downcall(
        0x52,
        "disk",
        "0",
        "CONTROL of the extent; to lend, a hold unless it is a partition; for HOLD, CONTROL or WRITE of `env`",
        Error.DENIED,
        Error.BAD_SECTOR,
        Error.NO_SUCH_ENVIRONMENT,
        Error.BAD_ARGUMENT,
    )
    async def share_sectors(self, start: Sector, env: EnvironmentNumber, sharing: Bits, rights: Bits) -> int:
        """Let another environment use the extent that begins at `start`, as a LOAN with `rights` or as a HOLD."""
        ...

    @downcall(0x53, "disk", "0", "the loan is the caller's", Error.DENIED, Error.BAD_SECTOR, Error.NO_SUCH_ENVIRONMENT)
    async def unshare_sectors(self, start: Sector, env: EnvironmentNumber) -> int:
        """End a loan of an extent."""
        ...

    @downcall(
        0x54,
        "disk",
        "the request's number",
        "READ on the sectors, WRITE on the frame",
        Error.BAD_SECTOR,
        Error.DENIED,
        Error.NO_SUCH_FRAME,
        Error.WRITE_XOR_EXECUTE,
        Error.TOO_MANY,
        Error.BAD_ARGUMENT,
    )
    async def read_sectors(self, sector: Sector, count: Count, frame: Frame, offset: Word = 0, flags: Bits = 0) -> int:
        """Begin to read `count` sectors (1 to 8) into a frame, `offset` bytes from its start (a multiple of 512).  Returns
        at once; `block(DISK, request)` waits, and the up-call `event` tells.  `flags`: Transfer."""
        ...

    @downcall(
        0x55,
        "disk",
        "the request's number",
        "WRITE on the sectors, READ on the frame",
        Error.BAD_SECTOR,
        Error.DENIED,
        Error.NO_SUCH_FRAME,
        Error.TOO_MANY,
        Error.BAD_ARGUMENT,
    )
    async def write_sectors(self, sector: Sector, count: Count, frame: Frame, offset: Word = 0, flags: Bits = 0) -> int:
        """Begin to write `count` sectors (1 to 8) from a frame, `offset` bytes from its start (a multiple of 512).  Unless
        FORCED, the end says that the disk has the data, not that the medium has.  `flags`: Transfer."""
        ...

    @downcall(0x56, "disk", "the request's number", "none", Error.TOO_MANY)
    async def flush(self) -> int:
        """Begin a request that ends when every write the caller began before it is on the medium."""
        ...


__all__ = ["BY_NAME", "TABLE", "Argument", "DownCall", "Exo", "Kind", "Rights", "Sharing"]
