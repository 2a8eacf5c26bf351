"""Frames for a cache: asked of the kernel one by one, mapped, given back, and looked after when they are taken by force."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import SELF, Event, Rights
from exokernel.abi.layout import OWN_PAGE, PAGE_SIZE
from exokernel.abi.pages import OwnPage, offset_of
from libos.storage.volume import VolumeError

_LOOK_AGAIN: Final = 1_000_000
"""Cycles for which one waits for a frame before looking at the cache again."""
_EVENTS: Final = OWN_PAGE + offset_of(OwnPage, "events")
_WOKEN: Final = _EVENTS + 8 * Event.WOKEN
_FRAMES: Final = _EVENTS + 8 * Event.FRAMES
_TAKEN: Final = OWN_PAGE + offset_of(OwnPage, "taken_total")
_GUARDED: Final = 40
"""Frames that are guarded at once: the kernel lets an environment reserve 64, and others need some."""
_NO_MORE: Final = (Error.NO_FRAME, Error.OVER_QUOTA)
_READ_WRITE: Final = int(Rights.READ | Rights.WRITE)


class Sleepers:
    """Contexts of one environment that wait for one another."""

    def __init__(self, exo: Exo) -> None:
        self._exo = exo
        self.count = 0

    async def sleep(self, still: Callable[[], bool]) -> None:
        """Wait until somebody wakes all, if it is `still` needed; whoever sleeps looks again afterwards."""
        self.count += 1
        # Whoever wakes after this look at the counter also counts it up, so the wait ends at once.
        seen = int.from_bytes(await self._exo.read(_WOKEN, 8), "little")
        if still():
            await self._exo.block(Event.WOKEN, seen)
        self.count -= 1

    async def wake(self) -> None:
        """Let all who sleep look again."""
        if self.count:
            await self._exo.wake(SELF)


class Slot:
    """A frame of the cache and the block that is in it."""

    __slots__ = ("address", "ahead", "block", "busy", "dirty", "filled", "frame", "wanted")

    def __init__(self, frame: int, address: int) -> None:
        self.frame = frame
        self.address = address
        self.block = -1
        self.filled = False
        """The frame contains the block; not yet so while it is being read."""
        self.dirty = False
        self.busy = False
        """A request uses the frame, or is about to."""
        self.ahead = 0
        """The request under way, if nobody waits for it."""
        self.wanted = 0
        """How many wait for this very block: it stays until they have had it."""


class FramePool:
    """At most `capacity` frames, mapped at the pages from the address `base` on.  `spare` are those without a block."""

    def __init__(self, exo: Exo, base: int, capacity: int, sleepers: Sleepers) -> None:
        self.spare: list[Slot] = []
        self.guarded: dict[int, Slot] = {}
        """By number, the frames that must not be taken by force."""
        self.growing = 0
        """How many contexts are about to get one frame more."""
        self._exo = exo
        self._sleepers = sleepers
        self._places = [base + PAGE_SIZE * place for place in reversed(range(capacity))]
        self._taken = -1

    @property
    def has_room(self) -> bool:
        """Whether there could be one more."""
        return bool(self._places)

    async def grow(self) -> bool:
        """One frame more, which is spare; gives whether there was one.  Raises VolumeError if the kernel refuses for any
        reason but that there is none."""
        if not self._places:
            return False
        address = self._places.pop()
        self.growing += 1
        frame, found = None, False
        try:
            frame = await self._exo.alloc_page()
            await self._exo.create_mapping(address, frame, _READ_WRITE)
        except Refused as refused:
            self._places.append(address)
            if frame is not None:
                await self._exo.dealloc_page(frame)
            if refused.error not in _NO_MORE:
                raise VolumeError(f"The cache can have no memory: {refused}.") from None
        else:
            self.spare.append(Slot(frame, address))
            found = True
        finally:
            self.growing -= 1
            await self._sleepers.wake()
        return found

    async def wait(self) -> None:
        """There is nothing to reuse: sleep until a frame can be had, or for a while, since another context may be given one
        meanwhile."""
        seen = int.from_bytes(await self._exo.read(_FRAMES, 8), "little")
        if self._places and not await self.grow():
            with suppress(Refused):
                await self._exo.block(Event.FRAMES, seen, await self._exo.time() + _LOOK_AGAIN)

    async def give(self, slot: Slot) -> int:
        """Let go of a frame that is in no list any more; gives 1, or 0 if it had been taken."""
        lost = await self.is_lost(slot)
        self._places.append(slot.address)
        self.guarded.pop(slot.frame, None)
        if lost:
            return 0
        await self._exo.dealloc_page(slot.frame)
        return 1

    def lost(self, slot: Slot) -> None:
        """The frame of a slot, which is in no list any more, has been taken."""
        self.guarded.pop(slot.frame, None)
        self._places.append(slot.address)

    async def guard(self, slot: Slot) -> None:
        """Let the frame of a slot not be taken by force; nothing happens if there can be no more such."""
        if slot.frame in self.guarded or len(self.guarded) >= _GUARDED:
            return
        self.guarded[slot.frame] = slot
        try:
            await self._exo.reserve_page(slot.frame)
        except Refused:
            self.guarded.pop(slot.frame, None)

    async def unguard(self, needless: Callable[[Slot], bool]) -> None:
        """Guard those no longer of which it is `needless`."""
        for frame, slot in list(self.guarded.items()):
            if self.guarded.get(frame) is slot and needless(slot):
                del self.guarded[frame]
                with suppress(Refused):
                    await self._exo.reserve_page(frame, 0)

    async def is_lost(self, slot: Slot) -> bool:
        """Whether the frame of a slot has been taken by force; it may be somebody else's by now."""
        return await self._exo.read_if_mapped(slot.address, 1) is None

    async def some_taken(self) -> bool:
        """Whether any frame of the environment has been taken since the last look; spare ones that have are forgotten."""
        taken = int.from_bytes(await self._exo.read(_TAKEN, 8), "little")
        if taken == self._taken:
            return False
        self._taken = taken
        for slot in list(self.spare):
            if await self.is_lost(slot) and slot in self.spare:
                self.spare.remove(slot)
                self.lost(slot)
        return True
