"""Environments and their contexts: plain data about who runs, what it holds, and what it waits for.

An environment is the unit of protection and of account: an address space, bindings, a key ring, up-call entries.  It owns a
bounded set of numbered contexts, each either a set of processor registers or a Python coroutine.  Of the contexts that are
READY and not on another processor the one made ready last runs, so that a handler comes before what it interrupted.  Only
an environment with such a context is runnable.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any

from exokernel.abi.direct import direct
from exokernel.abi.flags import FOREVER, Event
from exokernel.abi.layout import MAXIMUM_CONTEXTS
from exokernel.abi.pages import EVENT_COUNTERS
from exokernel.abi.upcalls import Upcall
from exokernel.kernel.capabilities import RING_SLOTS, AccessList, Name, Ring
from exokernel.machine.context import MachineContext

if TYPE_CHECKING:
    from exokernel.kernel.predicates import Predicate
    from exokernel.kernel.processor import Processor
    from exokernel.kernel.requests import Request

RESERVED_MAXIMUM = 64
REQUESTS_MAXIMUM = 64


@direct
class State(IntEnum):
    """An environment's life; the values stand in the exposed environment table."""

    NEW = 1
    ALIVE = 2
    DEAD = 3


@direct
class ContextState(Enum):
    """Whether a context can run."""

    READY = "ready"
    BLOCKED = "blocked"
    STOPPED = "stopped by a handler, or not begun"
    SERVING = "waiting for a call"


@dataclass(slots=True)
class Wait:
    """What a blocked context waits for: see `block`, `block_until` and `call`."""

    event: Event
    value: int
    deadline: int
    predicate: Predicate | None = None


@dataclass(slots=True, eq=False)
class Context:
    """One flow of control: `machine` registers or a `coroutine`; never both."""

    number: int
    machine: MachineContext | None = None
    coroutine: Coroutine[Any, Any, Any] | None = None
    state: ContextState = ContextState.READY
    answer: Any = None
    """What the coroutine's last trap is answered with when it runs again."""
    again: Any = None
    """A trap of the coroutine that faulted and is answered anew instead."""
    wait: Wait | None = None
    for_reply: Wait = field(default_factory=lambda: Wait(Event.REPLY, 0, FOREVER))
    """The wait for a reply that has no deadline: there is never more than one."""
    interrupted: int | None = None
    """A handler's: the context that stands still until it ends."""
    upcall: Upcall | None = None
    kept: bool = False
    processor: Processor | None = None
    """Where it is running."""
    seen: int = 0
    """The latest cycle it knows of: on no processor does it go on earlier."""
    serving: tuple[int, int] | None = None
    """The rip and the stack pointer with which it said `serve`; each call starts it with the latter."""
    caller: tuple[Environment, Context, Wait] | None = None
    """Who waits for the reply to the call it serves, and the very wait."""

    @property
    def precedence(self) -> int:
        """Of the contexts of a library in Python: which runs first."""
        if self.upcall is None:
            return 0
        return 2 if self.upcall is Upcall.PLEASE_RELEASE_CPU else 1


@dataclass(slots=True)
class PendingUpcall:
    """A request that waits until the environment can take it, or `context` if it is for that one."""

    upcall: Upcall
    arguments: tuple[int, ...]
    context: Context | None = None


@dataclass(slots=True)
class ReleaseRequest:
    """`please_release_page` under way: `count` frames or this very `frame`, `remaining` cycles of the victim's own time,
    and the cycle at which it ends even if the victim's writes are still in the disk queue."""

    count: int
    frame: int | None
    remaining: int
    hard_limit: int
    issued: int
    serial: int
    force: bool
    """What has not come back by then is taken."""
    counted: int = 0
    """The cycle up to which `remaining` has been counted: two processors at the same time count once."""


@dataclass(slots=True)
class Limits:
    """How much of the kernel's bounded tables an environment and its descendants may fill, and how much they do."""

    environments: int
    slices: int
    environments_used: int = 0
    slices_used: int = 0


@dataclass(slots=True)
class Accounts:
    """What an environment has used, for reports and for nobody's decisions."""

    instructions: int = 0
    kernel_cycles: int = 0
    """Charged for what the kernel did."""
    faults: int = 0
    downcalls: int = 0
    upcalls: int = 0
    sectors_read: int = 0
    sectors_written: int = 0
    taken: int = 0
    overruns: int = 0
    """Requests to release a processor that it did not meet in time."""
    held_peak: int = 0
    ended_at: int = 0
    evictions: int = 0
    """This and the next two as the library counted them in its own page."""
    swap_in: int = 0
    swap_out: int = 0

    @property
    def cycles(self) -> int:
        """All CPU time charged."""
        return self.instructions + self.kernel_cycles


@dataclass(slots=True, eq=False)
class Environment:
    """One environment; `number` carries a generation and is not used again.  What every slice looks at comes first, so that
    it lies together in the host's memory."""

    number: int
    parent: int
    name: Name
    ring: Ring
    access: AccessList
    quota: int
    root: int
    own: int
    """Physical address of the own page, in bytes."""
    state: State = State.NEW
    ready: list[Context] = field(default_factory=list)
    accounts: Accounts = field(default_factory=Accounts)
    row: int = 0
    """Of the exposed environment table, as an index of the memory's words."""
    watching: int = 0
    """Terms of the predicates its contexts wait for."""
    debt: int = 0
    """Cycles it has had beyond its slices, to be taken off the next ones."""
    left_at: int = 0
    """The latest cycle it has seen: it never runs earlier, on whatever processor."""
    pending: deque[PendingUpcall] = field(default_factory=deque)
    request: ReleaseRequest | None = None
    owed: int = 0
    """Cycles it has declared with `charge` and not yet spent in its slices."""
    library: Any = None
    entries: list[int] = field(default_factory=lambda: [0] * len(Upcall))
    guarantee: int = 0
    held: dict[int, None] = field(default_factory=dict)
    tables: dict[int, int] = field(default_factory=dict)
    """Page-table frames with the number of entries in use in each."""
    leaves: dict[int, int] = field(default_factory=dict)
    """Physical address of the last-level table of each 2 MiB, by va >> 21."""
    reserved: set[int] = field(default_factory=set)
    contexts: dict[int, Context] = field(default_factory=dict)
    stacks: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By context: address and size, in bytes, of the memory on which up-calls to it are delivered."""
    events: list[int] = field(default_factory=lambda: [0] * EVENT_COUNTERS)
    wants_frames: bool = False
    outstanding: dict[int, int | None] = field(default_factory=dict)
    """Disk requests by number: None while under way, then the status until somebody waits for it."""
    writes: int = 0
    """Writes in the disk queue."""
    last_write: int = 0
    """The cycle in which it made the latest of them."""
    barrier: Request | None = None
    """Its last barrier among the disk requests, until that has ended; `ordered`: its last ordered one, ended or not."""
    ordered: Request | None = None
    taken_total: int = 0
    taken_told: int = 0
    exit_status: int = 0
    lineage: tuple[Environment, ...] = ()
    """Its ancestors that lived when it was made, the nearest first."""
    limits: Limits = field(default_factory=lambda: Limits(0, 0))
    overruns: int = 0
    """Requests to release a processor in a row that it did not meet in time."""
    children: dict[int, int | None] = field(default_factory=dict)
    """By number: None while alive, then the exit status."""

    @property
    def charged(self) -> int:
        """Frames it is charged for, page tables included."""
        return len(self.held) + len(self.tables)

    def new_context(self, **fields: Any) -> Context | None:
        """A context of the lowest free number, ready to run next unless a `state` says otherwise; None if the table is
        full."""
        for number in range(MAXIMUM_CONTEXTS):
            if number not in self.contexts:
                context = self.contexts[number] = Context(number, **fields)
                if context.state is ContextState.READY:
                    self.ready.append(context)
                return context
        return None

    @property
    def has_room_for_a_context(self) -> bool:
        """Whether the table of contexts is not full."""
        return len(self.contexts) < MAXIMUM_CONTEXTS

    @property
    def has_room_for_a_call(self) -> bool:
        """Whether callers have not taken their half of the table: the other is for the handlers of a library in Python that
        they must not be able to keep from running, or a few of them could end it."""
        return len(self.contexts) < MAXIMUM_CONTEXTS // 2

    def free_context(self, processor: Processor | None = None) -> Context | None:
        """The context to run next on `processor`: one that is ready and not on another."""
        for context in reversed(self.ready):
            if context.processor is None or context.processor is processor:
                return context
        return None

    def stop(self, context: Context, state: ContextState) -> None:
        """Take a context off the ready list."""
        context.state = state
        context.processor = None
        if context in self.ready:
            self.ready.remove(context)

    def make_ready(self, context: Context) -> None:
        """Put a context back; it runs next, but after handlers that are ready, and they after that of a request to release
        the processor."""
        if context.state is not ContextState.READY:
            context.state = ContextState.READY
            place = len(self.ready)
            while self.library is not None and place and self.ready[place - 1].precedence > context.precedence:
                place -= 1
            self.ready.insert(place, context)

    def make_ready_later(self, context: Context) -> None:
        """Put a context of machine code back: it runs next, unless another is running, which then goes on first."""
        self.make_ready(context)
        if context.machine is not None and len(self.ready) > 1 and any(one.processor is not None for one in self.ready):
            self.ready.remove(context)
            self.ready.insert(0, context)

    def forget_interrupted(self, number: int) -> None:
        """A context has been resumed or is going: no handler that interrupted it lets it go on when it ends."""
        for context in self.contexts.values():
            if context.interrupted == number:
                context.interrupted = None

    def handles(self, upcall: Upcall) -> bool:
        """Whether the library has an entry for this up-call."""
        if self.library is not None:
            return hasattr(self.library, upcall.name.lower())
        return self.entries[upcall] != 0


def empty_ring(own: Any) -> Ring:
    """A key ring with `own` in slot 0."""
    return [own] + [None] * (RING_SLOTS - 1)
