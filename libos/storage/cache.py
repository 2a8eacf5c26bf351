"""A cache of a volume's blocks in frames that this library owns, one frame a block.

The rules:

 1. What a block contains lies in its frame and nowhere else; the disk reads into the frame and writes from it.
 2. A frame is used by one request at a time.  Whoever finds a block busy waits for it: a block is read in once however
    many want it, and a block is never changed while it is on its way to the disk, so that what reaches the medium is what
    the block was at one moment.
 3. A held block belongs to a transaction: it is neither written in place nor dropped.
 4. Every request is waited for.  One begun ahead, by `prefetch` or within a run, is waited for by whoever next wants its
    block, or its frame.
 5. Nobody sleeps who has requests under way that only he waits for.  Who sleeps, sleeps for somebody who waits for the
    disk, and the disk ends by itself; so there is no circle.

Between one trap and the next nothing else of the environment runs, so looking at the books and the trap that follows are
one step.  Replacement is least recently used; dirty blocks are written many at a time, in the order of the disk.

Giving frames back: `release` gives what the kernel asks for, clean blocks first.  With no frame to be had the cache works
with those it has, and sleeps until there are frames if it has none.  Frames may also be taken by force; a clean block is
then read again, and a dirty one is gone, which is a VolumeError.  So while frames are scarce, from a `release` that leaves
few until there are more, those of dirty blocks are reserved, if they are not too many.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from typing import Final

from exokernel.abi.layout import PAGE_SIZE, SECTOR_SIZE
from libos.storage.frames import FramePool, Sleepers, Slot
from libos.storage.volume import Volume, VolumeError

BLOCK_SIZES: Final = (1024, 2048, 4096)
_REQUESTS: Final = 48
"""Requests the cache has under way at once; the kernel's table has 64, and others need some."""
_BATCH: Final = 24
"""Blocks that are read ahead, or written, together."""
_FEW: Final = 128
"""With fewer frames than this a cache that has been asked for some guards its dirty blocks."""
_PATIENCE: Final = 64
"""Misses from one refusal of a frame to the next attempt to have more of them."""


class BlockCache:
    """Blocks of `block_size` bytes (1024, 2048 or 4096) of a volume, at most `capacity` of them in memory.  The pages from
    the address `base` on, one for each, belong to the cache.

    Blocks are numbered from 0; every method raises VolumeError for one outside the volume, and when the disk fails.
    """

    def __init__(self, volume: Volume, block_size: int, base: int, capacity: int) -> None:
        assert block_size in BLOCK_SIZES
        assert capacity > 0
        assert base % PAGE_SIZE == 0
        self.volume = volume
        self.block_size = block_size
        self.capacity = capacity
        self.base = base
        self.blocks = volume.size // block_size
        self.hits = 0
        self.misses = 0
        self._exo = volume.exo
        self._sectors = block_size // SECTOR_SIZE
        self._slots: OrderedDict[int, Slot] = OrderedDict()
        """By block, the least recently used first."""
        self._sleepers = Sleepers(self._exo)
        self._pool = FramePool(self._exo, base, capacity, self._sleepers)
        self._held: set[int] = set()
        self._ahead: deque[Slot] = deque()
        self._flying = 0
        self._grow_at = 0
        self._scarce = False

    # Blocks.

    async def read(self, block: int, offset: int = 0, size: int | None = None) -> bytes:
        """`size` bytes of a block from `offset` on; all that follow if no size is given."""
        if size is None:
            size = self.block_size - offset
        slot = self._slots.get(block)
        if slot is not None and slot.filled:
            self.hits += 1
            self._slots.move_to_end(block)
        else:
            self.misses += 1
            slot = await self._find(block)
        while True:
            data = await self._exo.read_if_mapped(slot.address + offset, size)
            if self._sleepers.count:
                await self._sleepers.wake()
            if data is not None:
                return data
            self._lose(slot)
            slot = await self._find(block)

    async def write(self, block: int, data: bytes, offset: int = 0, *, fresh: bool = False) -> None:
        """Store `data` in a block, `offset` bytes from its start.  `fresh`: the rest becomes zeros, and nothing is read
        from the disk, nor is it for a whole block."""
        assert 0 <= offset <= offset + len(data) <= self.block_size
        if fresh and len(data) < self.block_size:
            data = (bytes(offset) + data).ljust(self.block_size, b"\0")
            offset = 0
        whole = len(data) == self.block_size
        while True:
            slot = self._slots.get(block)
            if slot is None or slot.busy or not (slot.filled or whole):
                slot = await self._idle(block, whole)
            self._slots.move_to_end(block)
            slot.dirty = slot.filled = True
            done = await self._exo.write_if_mapped(slot.address + offset, data)
            if self._sleepers.count:
                await self._sleepers.wake()
            if done:
                if self._scarce:
                    await self._guard()
                return
            slot.dirty = slot.dirty and not whole
            self._lose(slot)

    async def read_run(self, block: int, count: int) -> bytes:
        """The contents of `count` consecutive blocks, which are asked of the disk many at a time."""
        parts = []
        step = max(1, min(_BATCH, self.capacity // 2))
        for start in range(block, block + count, step):
            run = range(start, min(start + step, block + count))
            await self._begin_reading(run)
            for one in run:
                parts.append(await self.read(one))
        return b"".join(parts)

    async def prefetch(self, blocks: Iterable[int]) -> None:
        """Begin to read blocks that will be wanted soon; those outside the volume are passed over, and no more are begun
        than half the cache has room for."""
        wanted = [block for block in blocks if 0 <= block < self.blocks]
        await self._begin_reading(wanted[: max(1, min(_BATCH, self.capacity // 2))])

    def hold(self, block: int) -> None:
        """From now on the block belongs to a transaction."""
        self._held.add(block)

    def let_go(self, block: int) -> None:
        """The block may be written in place, and be dropped when that is done."""
        self._held.discard(block)

    async def copy_out(self, block: int, place: int, flags: int = 0) -> int:
        """Begin to write the contents of `block`, which must be held, to the block number `place`; gives the request, which
        the caller has to wait for before he changes the block.  `flags`: Transfer."""
        await self._look_for_losses()
        slot = await self._find(block)
        return await self.volume.begin_write(place * self._sectors, self._sectors, slot.frame, flags=flags)

    async def write_back(self, blocks: Iterable[int] | None = None) -> None:
        """Write the dirty blocks among these, or all, that are not held; the disk has them when this ends, and the medium
        after a flush."""
        slots = self._slots
        found = [
            block
            for block in (slots if blocks is None else blocks)
            if block in slots and (slots[block].dirty or slots[block].busy)
        ]
        await self._write(sorted(found))

    def discard(self, block: int) -> None:
        """The block has been freed: what it contains, dirty or not, is of no use.  One that is
        busy comes to be what is on the disk."""
        self._held.discard(block)
        slot = self._slots.get(block)
        if slot is not None and not slot.busy:
            self._put_aside(slot)

    async def flush(self) -> None:
        """Wait until everything written so far is on the medium."""
        await self.volume.flush()

    # Frames.

    @property
    def frames(self) -> int:
        """How many frames the cache has."""
        return len(self._slots) + len(self._pool.spare)

    async def release(self, count: int) -> int:
        """Give up to `count` frames back: unused ones, then clean blocks, the least recently used first, then dirty ones
        when they have been written.  Gives how many.  Waits for the disk alone, so it may be called from a handler."""
        self._grow_at = self.misses + _PATIENCE
        given = await self._give_clean(count)
        if given < count and self._ahead:
            for slot in list(self._ahead):
                if slot.ahead:
                    with suppress(VolumeError):
                        await self._settle(slot)
            given += await self._give_clean(count - given)
        while given < count:
            # While these are written others may take them into use again, so there may be need for more.
            dirty = (block for block, slot in self._slots.items() if slot.dirty and self._may_go(slot))
            chosen = sorted(islice(dirty, count - given))
            if not chosen:
                break
            await self._write(chosen, sleep=False)
            given += await self._give_clean(count - given)
        self._scarce = True
        await self._guard()
        return given

    async def _guard(self) -> None:
        """While frames are scarce, see to it that those of dirty blocks are not taken by force."""
        if self.frames >= _FEW:
            self._scarce = False
        await self._pool.unguard(lambda slot: not self._scarce or not slot.dirty)
        if self._scarce:
            for slot in list(self._slots.values()):
                if slot.dirty and self._slots.get(slot.block) is slot:
                    await self._pool.guard(slot)

    async def _give_clean(self, count: int) -> int:
        given = 0
        while given < count and self._pool.spare:
            given += await self._pool.give(self._pool.spare.pop())
        for slot in list(self._slots.values()):
            if given >= count:
                break
            if self._slots.get(slot.block) is slot and not slot.dirty and self._may_go(slot):
                del self._slots[slot.block]
                given += await self._pool.give(slot)
        return given

    async def close(self) -> None:
        """Write back what is not held, and give every frame back, also if the disk fails."""
        try:
            await self.write_back()
        finally:
            await self._give_all()

    async def _give_all(self) -> None:
        while self._slots or self._pool.spare:
            while self._pool.spare:
                await self._pool.give(self._pool.spare.pop())
            for slot in list(self._slots.values()):
                if slot.busy:
                    with suppress(VolumeError):
                        await self._settle(slot)
                elif self._slots.get(slot.block) is slot:
                    del self._slots[slot.block]
                    await self._pool.give(slot)
        self._held.clear()

    # Finding a block, and a frame for it.

    async def _find(self, block: int) -> Slot:
        """The slot that contains a block, which is read if need be.  Until the caller's next trap it stays what it is."""
        while True:
            slot = self._slots.get(block)
            if slot is None:
                await self._read_in(block)
            elif slot.filled:
                self._slots.move_to_end(block)
                return slot
            else:
                await self._settle_wanted(slot)

    async def _idle(self, block: int, whole: bool) -> Slot:
        """The slot of a block, contents and all unless `whole`, that no request uses."""
        while True:
            slot = self._slots.get(block) if whole else await self._find(block)
            if slot is None:
                slot = await self._take(block)
            if slot is not None and not slot.busy:
                return slot
            if slot is not None:
                await self._settle_wanted(slot)

    async def _settle_wanted(self, slot: Slot) -> None:
        """Wait until no request uses the slot of a block that is wanted as soon as that is so."""
        slot.wanted += 1
        try:
            await self._settle(slot)
        finally:
            slot.wanted -= 1

    async def _read_in(self, block: int) -> None:
        """Read a block that is not in memory, unless somebody else does so."""
        begun = await self._begin(block)
        if begun is None:
            return
        slot, request = begun
        slot.wanted += 1
        try:
            await self._wait(slot, request)
        finally:
            slot.wanted -= 1

    async def _take(self, block: int, for_request: bool = False) -> Slot | None:
        """An empty slot, entered under `block`; None if the block has come in by itself meanwhile.  `for_request`: its
        frame had not been taken a moment ago."""
        if not 0 <= block < self.blocks:
            raise VolumeError(f"Block {block} lies outside the volume of {self.blocks} blocks.")
        while True:
            while not self._pool.spare:
                if self._pool.has_room and (self.misses >= self._grow_at or not self._slots):
                    if await self._pool.grow():
                        continue
                    self._grow_at = self.misses + _PATIENCE
                await self._make_room()
            if not for_request or not (await self._look_for_losses() or not self._pool.spare):
                break
        if block in self._slots:
            return None
        slot = self._pool.spare.pop()
        slot.block = block
        self._slots[block] = slot
        return slot

    def _put_aside(self, slot: Slot) -> None:
        """A slot has no block any more."""
        del self._slots[slot.block]
        slot.filled = slot.dirty = False
        self._pool.spare.append(slot)

    async def _make_room(self) -> None:
        """Free a slot, or wait for something that may lead to one."""
        slots, ahead = self._slots, None
        for _ in range(len(slots)):
            block, slot = next(iter(slots.items()))
            if self._may_go(slot):
                if not slot.dirty:
                    self._put_aside(slot)
                else:
                    dirty = (number for number, other in slots.items() if other.dirty and self._may_go(other))
                    await self._write(sorted(islice(dirty, _BATCH)))
                return
            if slot.ahead and ahead is None:
                ahead = slot
            slots.move_to_end(block)
        if ahead is not None:
            with suppress(VolumeError):
                await self._settle(ahead)
        elif self._pool.growing or any(slot.busy or slot.wanted for slot in slots.values()):
            await self._sleepers.sleep(lambda: not (self._pool.spare or any(map(self._may_go, slots.values()))))
        elif not self._pool.has_room:
            raise VolumeError(f"All {self.capacity} blocks of the cache belong to one transaction, which is too large.")
        else:
            await self._pool.wait()
            self._grow_at = 0

    def _may_go(self, slot: Slot) -> bool:
        """Whether a slot may be given to another block, when it has been written."""
        return not slot.busy and not slot.wanted and slot.block not in self._held

    # Requests.

    async def _begin(self, block: int) -> tuple[Slot, int] | None:
        """Begin to read a block that is not in memory; gives its slot and the request.  Gives None if somebody else has
        begun that meanwhile."""
        while True:
            while self._flying >= _REQUESTS:
                await self._one_less()
            slot = await self._take(block, for_request=True)
            if slot is None:
                return None
            slot.busy = True
            self._flying += 1
            try:
                return slot, await self.volume.begin_read(block * self._sectors, self._sectors, slot.frame)
            except VolumeError:
                lost = await self._pool.is_lost(slot)
                if lost:
                    self._lose(slot)
                await self._ended(slot, False)
                if not lost:
                    raise

    async def _begin_reading(self, blocks: Iterable[int]) -> None:
        """Begin to read those blocks that are not in memory, and leave the requests for others to wait for."""
        for block in blocks:
            if block in self._slots:
                self._slots.move_to_end(block)
                continue
            while len(self._ahead) >= _BATCH:
                await self._one_less()
            begun = await self._begin(block)
            if begun is not None:
                slot = begun[0]
                slot.ahead = begun[1]
                self._ahead.append(slot)
                # Somebody may have found the block busy before there was a request to wait for.
                await self._sleepers.wake()

    async def _one_less(self) -> None:
        """Wait until a request has ended: one that nobody waits for, or anybody's."""
        while self._ahead:
            slot = self._ahead.popleft()
            if slot.ahead:
                with suppress(VolumeError):
                    await self._settle(slot)
                return
        if self._flying >= _REQUESTS:
            await self._sleepers.sleep(lambda: self._flying >= _REQUESTS and not self._ahead)

    async def _settle(self, slot: Slot) -> None:
        """Wait until no request uses a slot.  Raises VolumeError if it fell to this context to wait and the disk failed."""
        if slot.ahead:
            request, slot.ahead = slot.ahead, 0
            await self._wait(slot, request)
        elif slot.busy:
            await self._sleepers.sleep(lambda: slot.busy and not slot.ahead)

    async def _wait(self, slot: Slot, request: int) -> None:
        """Wait for a request that reads into a slot.  Raises VolumeError."""
        try:
            await self.volume.wait(request)
        except VolumeError:
            await self._ended(slot, False)
            raise
        await self._ended(slot, True)

    async def _ended(self, slot: Slot, well: bool) -> None:
        """The request that used a slot is over."""
        slot.busy = False
        self._flying -= 1
        if well or slot.filled:
            slot.filled = True
        elif self._slots.get(slot.block) is slot:
            self._put_aside(slot)
        await self._sleepers.wake()

    async def _write(self, blocks: list[int], sleep: bool = True) -> None:
        """Write blocks in place, many requests at a time, unless they have become held, and wait for those that are on
        their way already, unless one must not `sleep`.  Raises the first error when all requests have ended."""
        await self._look_for_losses()
        errors: list[VolumeError] = []
        under_way: deque[tuple[Slot, int]] = deque()
        busy = []
        for block in blocks:
            slot = self._slots.get(block)
            if slot is not None and slot.busy:
                busy.append(block)
            elif slot is not None and slot.dirty and block not in self._held:
                if len(under_way) >= _BATCH:
                    await self._finish(under_way, errors)
                await self._begin_write(slot, under_way, errors)
        while under_way:
            await self._finish(under_way, errors)
        for block in busy if sleep else ():
            slot = self._slots.get(block)
            while slot is not None and slot.busy:
                with suppress(VolumeError):
                    await self._settle(slot)
                slot = self._slots.get(block)
            if slot is not None and slot.dirty and block not in self._held:
                await self._begin_write(slot, under_way, errors)
                while under_way:
                    await self._finish(under_way, errors)
        if errors:
            raise errors[0]

    async def _begin_write(self, slot: Slot, under_way: deque[tuple[Slot, int]], errors: list[VolumeError]) -> None:
        block = slot.block
        while self._flying >= _REQUESTS:
            if under_way:
                await self._finish(under_way, errors)
            else:
                await self._one_less()
        try:
            await self._look_for_losses()
        except VolumeError as error:
            errors.append(error)
        if self._slots.get(block) is not slot or slot.busy or not slot.dirty or block in self._held:
            return
        slot.busy, slot.dirty = True, False
        self._flying += 1
        try:
            request = await self.volume.begin_write(block * self._sectors, self._sectors, slot.frame)
        except VolumeError as error:
            slot.dirty = True
            errors.append(error)
            await self._ended(slot, False)
        else:
            under_way.append((slot, request))

    async def _finish(self, under_way: deque[tuple[Slot, int]], errors: list[VolumeError]) -> None:
        slot, request = under_way.popleft()
        try:
            await self.volume.wait(request)
        except VolumeError as error:
            slot.dirty = True
            errors.append(error)
            await self._ended(slot, False)
        else:
            await self._ended(slot, True)

    # Frames taken by force.

    async def _look_for_losses(self) -> bool:
        """Before any request: a frame that has been taken may be somebody else's by now.  Gives whether any has been."""
        taken = await self._pool.some_taken()
        errors: list[VolumeError] = []
        for slot in list(self._slots.values()) if taken else ():
            if not slot.busy and await self._pool.is_lost(slot):
                try:
                    self._lose(slot)
                except VolumeError as error:
                    errors.append(error)
        if errors:
            raise errors[0]
        return taken

    def _lose(self, slot: Slot) -> None:
        """The frame of a slot has been taken.  Raises VolumeError if the only copy of the block was in it."""
        if self._slots.get(slot.block) is not slot:
            return
        del self._slots[slot.block]
        self._pool.lost(slot)
        if slot.dirty:
            raise VolumeError(
                f"Block {slot.block} is lost: the kernel took its frame by force before it was written; "
                "the library has to give frames back when it is asked."
            )
