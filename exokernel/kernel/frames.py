"""Frames and their bindings: who holds each, to whom it is lent, where it is mapped.

A frame is free, the machine's, a page table, or held.  Each holder has every right and is charged in full; a loan gives a
borrower some rights for as long as the lender holds the frame.  When a holder lets go, its loans end and every mapping that
has lost its right is broken, at once; when the last lets go the frame is free.  A frame is zeroed when it is given to
somebody, and not given to anybody while the disk still reads or writes it.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from exokernel.abi.errors import Error
from exokernel.kernel.capabilities import ACCESS_ENTRIES, EVERY_RIGHT, AccessList, rights
from exokernel.kernel.environment import Environment
from exokernel.kernel.exposed import ExposedPages
from exokernel.kernel.refusal import Refusal
from exokernel.kernel.spaces import AddressSpaces
from exokernel.machine.memory import PhysicalMemory

LOANS_MAXIMUM = 4096


@dataclass(slots=True, eq=False)
class Frame:
    """A frame in use.  `mappings` maps (environment, va) to rights; `writable` and `executable` count those that allow it
    and disk reads into the frame, and are never both above zero."""

    number: int
    holders: list[Environment] = field(default_factory=list)
    loans: dict[tuple[Environment, Environment], int] = field(default_factory=dict)
    mappings: dict[tuple[Environment, int], int] = field(default_factory=dict)
    access: dict[Environment, AccessList] = field(default_factory=dict)
    """By holder, so that what a holder has opened is closed when it lets go."""
    backing: dict[Environment, int] = field(default_factory=dict)
    """First backing sector by holder: the repossession vector."""
    table: bool = False
    writable: int = 0
    executable: int = 0
    clean: set[Environment] = field(default_factory=set)
    """Holders whose backing (or the zeros it was given with) equals the frame, unless an entry's dirty bit says
    otherwise."""
    io: int = 0
    lost: bool = False
    """Nobody holds it any more, and disk I/O in flight keeps it from being free."""
    used: bool = False
    """Accessed since the last sample, by a mapping whose bit has been cleared or which is gone."""
    recency: int = 0x80
    """Eight samples of whether it was used, the latest in the highest bit."""

    def forget(self) -> None:
        """It is free: nothing of its past remains.  Its mappings are gone already."""
        self.holders.clear()
        self.loans.clear()
        self.backing.clear()
        self.clean.clear()
        self.access.clear()
        self.table = self.lost = self.used = False
        self.recency = 0x80

    @property
    def reserved(self) -> bool:
        number = self.number
        return any([number in holder.reserved for holder in self.holders])


class FrameTable:
    """All frames.  Raises Refusal for what a caller may not have."""

    def __init__(self, memory: PhysicalMemory, first: int, exposed: ExposedPages, spaces: AddressSpaces) -> None:
        self.memory = memory
        self.first = first
        self.used: dict[int, Frame] = {}
        self._frames: dict[int, Frame] = {}
        """Every frame that was ever given; one that was not is still zero."""
        self.free: OrderedDict[int, None] = OrderedDict.fromkeys(range(first, memory.frames))
        """First come, first served: whoever waits for one very frame finds it free for a while."""
        self._exposed = exposed
        self._spaces = spaces
        self.promised: dict[Environment, None] = {}
        self.freed = 0
        """Frames that have become free since somebody last looked."""

    def get(self, number: int) -> Frame:
        """The frame in use of this number; refused for a free one, a page table or the machine's own."""
        frame = self.used.get(number)
        if frame is None or frame.table or frame.lost:
            raise Refusal(Error.NO_SUCH_FRAME)
        return frame

    def take_free(self, environment: Environment, number: int | None = None, table: bool = False) -> Frame | None:
        """Give a free frame, zeroed, to `environment` as its holder or as its page table; None if there is none (or that
        very one is not free).  Refused over the quota."""
        if len(environment.held) + len(environment.tables) >= environment.quota:
            raise Refusal(Error.OVER_QUOTA)
        if not self.free or (self.promised and not self.available(environment)):
            return None
        if number is None:
            number = self.free.popitem(last=False)[0]
        elif number in self.free:
            del self.free[number]
        else:
            return None
        frame = self._frames.get(number)
        if frame is None:
            frame = self._frames[number] = Frame(number)
        else:
            self.memory.zero(number)
        self.used[number] = frame
        if self.promised:
            self.promised.pop(environment, None)
        frame.table = table
        if table:
            frame.holders.append(environment)
            environment.tables[number] = 0
            self._exposed.frame(frame)
            self._exposed.charged(environment)
        else:
            self._bind(environment, frame)
            frame.clean.add(environment)
            self._exposed.given(environment, number)
        return frame

    def available(self, environment: Environment) -> int:
        """How many free frames `environment` may take: not those that are promised to others."""
        return max(0, len(self.free) - len(self.promised) + (environment in self.promised))

    def promise(self, environment: Environment) -> None:
        """Keep one of the free frames for an environment, if there are so many."""
        if len(self.promised) < len(self.free) and environment.charged < environment.quota:
            self.promised[environment] = None

    def promise_over(self, environment: Environment) -> None:
        """It has had its chance; others may have the frame."""
        if self.promised.pop(environment, True) is None:
            self.freed += 1

    def give_back_table(self, environment: Environment, number: int) -> None:
        """A page table whose last entry is gone."""
        del environment.tables[number]
        frame = self.used[number]
        frame.holders.clear()
        self._recycle(frame)
        self._exposed.charged(environment)

    def _bind(self, environment: Environment, frame: Frame) -> None:
        frame.holders.append(environment)
        environment.held[frame.number] = None
        charged = len(environment.held) + len(environment.tables)
        if charged > environment.accounts.held_peak:
            environment.accounts.held_peak = charged

    def hold(self, environment: Environment, frame: Frame) -> None:
        """Make `environment` a co-holder.  Refused over its quota."""
        if environment in frame.holders:
            return
        if environment.charged >= environment.quota:
            raise Refusal(Error.OVER_QUOTA)
        self._bind(environment, frame)
        self._exposed.frame(frame)
        self._exposed.charged(environment)

    def rights(self, environment: Environment, frame: Frame) -> int:
        """What `environment` may do with a frame: as holder, by loan, by capability, or by controlling a holder."""
        if environment in frame.holders:
            return EVERY_RIGHT
        allowed = 0
        for (_, borrower), granted in frame.loans.items():
            if borrower is environment:
                allowed |= granted
        for entries in frame.access.values():
            allowed |= rights(environment.ring, entries)
        for holder in frame.holders:
            if rights(environment.ring, holder.access) & 8:
                return EVERY_RIGHT
        return allowed

    def let_go(self, environment: Environment, frame: Frame) -> bool:
        """End a hold; gives True if the frame is nobody's now (free, or free as soon as the disk lets go of it)."""
        frame.holders.remove(environment)
        del environment.held[frame.number]
        environment.reserved.discard(frame.number)
        frame.backing.pop(environment, None)
        frame.clean.discard(environment)
        frame.access.pop(environment, None)
        for pair in [pair for pair in frame.loans if pair[0] is environment]:
            del frame.loans[pair]
        self.break_mappings(frame, environment)
        self._exposed.charged(environment)
        if frame.holders:
            self._exposed.frame(frame)
            return False
        if frame.io:
            frame.lost = True
            self._exposed.frame(frame)
        else:
            self._recycle(frame)
        return True

    def break_mappings(self, frame: Frame, leaver: Environment | None = None) -> None:
        """Remove every mapping that no longer has a right to stand: all of `leaver`, and all if nobody holds the frame."""
        for (environment, va), granted in list(frame.mappings.items()):
            if not frame.holders or environment is leaver or granted & ~self.rights(environment, frame):
                self._spaces.unmap(environment, va, frame)

    def _recycle(self, frame: Frame) -> None:
        del self.used[frame.number]
        frame.forget()
        self.free[frame.number] = None
        self.freed += 1
        self._exposed.free(frame.number)

    def begin_io(self, frame: Frame, into: bool) -> None:
        """The disk is about to use the frame; `into`: it will write it.  Refused if that would change running code."""
        if into:
            if frame.executable:
                raise Refusal(Error.WRITE_XOR_EXECUTE)
            frame.writable += 1
        frame.io += 1
        self._exposed.frame_io(frame)

    def end_io(self, frame: Frame, into: bool) -> None:
        """The disk is done with the frame."""
        frame.io -= 1
        if into:
            frame.writable -= 1
            frame.clean.clear()
        if frame.lost and not frame.io:
            self._recycle(frame)
        else:
            self._exposed.frame_io(frame)

    def is_dirty(self, holder: Environment, frame: Frame) -> bool:
        """Whether the frame was written since the holder's backing last equalled it."""
        return holder not in frame.clean or self._spaces.any_dirty(frame)

    def access_list(self, environment: Environment, frame: Frame) -> AccessList:
        """The access list that `environment` may write, made when first needed: its own, or the first holder's."""
        holder = environment if environment in frame.holders else frame.holders[0]
        return frame.access.setdefault(holder, [None] * ACCESS_ENTRIES)

    def ring_changed(self, environment: Environment) -> None:
        """`environment` has lost a capability: break its mappings that stood on it."""
        for frame in list(self.used.values()):
            if environment not in frame.holders and any(mapper is environment for mapper, _ in frame.mappings):
                self.break_mappings(frame)
