"""The small enumerations that travel in registers."""

from enum import IntEnum, IntFlag

from exokernel.abi.direct import direct

ANY = 0xFFFF_FFFF
"""Any frame, any sector: the kernel chooses.  Also `no frame` where a frame is optional."""
SELF = 0
"""The calling environment, where an environment's number is expected (number 0 is never given to anybody)."""
ANYONE = 0
"""In `yield`: whoever the global policy chooses."""
FOREVER = 0xFFFF_FFFF_FFFF_FFFF
"""A deadline that never comes."""


@direct
class Rights(IntFlag):
    """What a mapping, a loan or an access-list entry allows; also the permissions of a capability."""

    READ = 1
    WRITE = 2
    EXECUTE = 4
    CONTROL = 8
    """Of a frame or an extent: to lend, to give and to free it.  Of an environment: to act in its place."""


@direct
class Sharing(IntEnum):
    """How `share_page` and `share_sectors` bind the other environment."""

    LOAN = 0
    """Ends when the lender ends it, lets go of the frame or dies; charged to the lender alone."""
    HOLD = 1
    """Makes the other a co-holder, charged in full, whom the giver cannot undo."""


@direct
class PageBits(IntFlag):
    """Bits of a page-table entry a library may ask the kernel to clear, where x86-64 has them.

    ACCESSED_BEFORE is the kernel's: when its own scan clears ACCESSED it sets this one, so that a library that looks at
    both loses nothing (the same arrangement as Linux's idle page tracking).
    """

    ACCESSED = 1 << 5
    DIRTY = 1 << 6
    ACCESSED_BEFORE = 1 << 9


@direct
class Access(IntFlag):
    """What the faulting instruction tried, in `page_fault`; the values are the x86 page-fault error code's."""

    PRESENT = 1
    """The page is mapped, and the mapping does not allow this access."""
    WRITE = 2
    USER = 4
    FETCH = 16


@direct
class Event(IntEnum):
    """What `block` can wait for and the up-call `event` can tell."""

    DISK = 0
    """A disk request ended.  `block`: value = the request's number."""
    WOKEN = 1
    """Somebody called `wake`.  `block`: value = the counter as last seen."""
    FRAMES = 2
    """Frames became available.  `block`: value = the counter as last seen."""
    TIME = 3
    """The deadline has come."""
    EXIT = 4
    """An environment this one created has ended.  `block`: value = its number."""
    CHILD = 5
    """Any environment this one created has ended.  `block`: value = the counter as last seen."""
    MEMORY = 6
    """A product of a predicate holds: `block_until`, never `block`."""
    REPLY = 7
    """The environment called has replied: `call`, never `block`."""


@direct
class Transfer(IntFlag):
    """What a disk request asks beyond moving data."""

    FORCED = 1
    """A write ends only when its data is on the medium (forced unit access)."""
    BARRIER = 2
    """Begins when all requests that the caller began before it have ended, and ends before any that it begins later
    begins."""
    ORDERED = 4
    """Begins after the caller's last request with this flag has ended: the caller's own order, whatever the disk policy
    would choose."""


@direct
class TrapReason(IntEnum):
    """Why the up-call `trap` came."""

    EXCEPTION = 0
    """code = the x86 vector, detail = its error code."""
    PRIVILEGED = 1
    """A privileged instruction; code = 13."""
    INTERRUPT = 2
    """A software interrupt; code = its vector; the interrupted rip is behind the instruction."""
    FOREIGN_CALL = 3
    """A `syscall` whose number is not the kernel's; code = the number; the interrupted rip is behind the instruction."""


@direct
class ResumeReason(IntEnum):
    """Why the up-call `resume_cpu` came."""

    STARTED = 0
    YIELDED = 1
    EVENT = 2
    PREEMPTED = 3


@direct
class Taken(IntEnum):
    """What became of the contents of a page that was taken by force."""

    LOST = 0
    """The frame had no backing: the contents are gone."""
    SAVED = 1
    """The frame was dirty and was written to its backing sectors first."""
    CLEAN = 2
    """The frame was clean, so nothing was written: its backing, or whatever it was filled from, still equals it."""


@direct
class Compare(IntEnum):
    """How a term of a predicate compares the word in memory with its value; both are unsigned."""

    EQUAL = 0
    NOT_EQUAL = 1
    LESS = 2
    LESS_OR_EQUAL = 3
    GREATER = 4
    GREATER_OR_EQUAL = 5


@direct
class Begin(IntEnum):
    """In what state `create_context` makes a context."""

    STOPPED = 0
    """Until `resume`."""
    READY = 1


@direct
class Subject(IntEnum):
    """What kind of thing an access list belongs to, in `set_access`."""

    FRAME = 0
    EXTENT = 1
    ENVIRONMENT = 2
