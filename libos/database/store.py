"""A transactional store of keys and values that lays out its own sectors, with no file system below.

    store = await Store.create(storage)             # or Store.open
    async with store.transaction() as transaction:
        await transaction.put(b"key", b"value")     # all of it happens, or nothing, whenever the power goes
    await store.close()

How it works: a transaction's changes stay in memory until it ends.  Then they are made in the tree, whose new nodes lie in
pages that nothing on the disk leads to, and go into the log; when the log is on the medium, the transaction is committed.
When the log is full, a checkpoint writes the new nodes, waits until they are on the medium, and only then writes the
superblock that leads to them; with that one sector the log is empty.  Opening a store after a power cut makes the changes
of the log's whole transactions again, and nothing has ever to be undone.

The rules:

 1. One transaction at a time reads and changes the tree.  It lets the next one in before it waits for the log, so what is
    committed meanwhile goes to the disk together: group commit (Gray and Reuter, Transaction Processing, 1993, 9.4.7).
 2. Nobody is told of a transaction, its own changes or what it has read, before all up to it are on the medium.
 3. A checkpoint keeps out both transactions and whoever writes the log.
 4. When a write fails, or the tree makes no sense in the middle of a change, nothing in memory is relied on any more: the
    store must be opened again, from what the disk has.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final, Self

from exokernel.abi.layout import PAGE_SIZE, SECTOR_SIZE, SECTORS_PER_PAGE
from libos.database.errors import CorruptStore, DatabaseError, StoreFull, sentences
from libos.database.format import Checkpoint, Geometry, Seal, pack_changes, unpack_superblock
from libos.database.log import Log
from libos.database.sectors import SectorBuffer
from libos.database.space import Space
from libos.database.transaction import Transaction
from libos.database.tree import Changes, Tree
from libos.storage.cache import BlockCache
from libos.storage.lock import ReadersWriter
from libos.storage.volume import Volume

BASE: Final = 0x30_0000_0000
"""Where a store's frames are mapped, unless it is told otherwise."""
MINIMUM_PAGES: Final = 32
_BUFFER_PAGES: Final = 8
_RESERVE: Final = 16
"""Pages that only transactions which delete may have, so that a full store can be emptied."""
_LOG_MAXIMUM: Final = 1024


class Store:
    """A store over `storage`, a Volume or what acts like one.  Made by `create` and `open`."""

    def __init__(self, storage: Volume, geometry: Geometry, identity: bytes, base: int, capacity: int) -> None:
        self.storage = storage
        self.geometry = geometry
        self.identity = identity
        self.seal = Seal(identity)
        self.cache = BlockCache(storage, PAGE_SIZE, base + _BUFFER_PAGES * PAGE_SIZE, capacity)
        self.buffer = SectorBuffer(storage, self.cache, base, _BUFFER_PAGES)
        self.space = Space(geometry)
        self.tree = Tree(self.cache, geometry, self.space, self.seal)
        self.log = Log(self.buffer, geometry, self.seal, 0, 0)
        self.checkpoints = 0
        """How many there have been since the store was opened."""
        self.recovered = 0
        """How many transactions were in the log when the store was opened."""
        self._writing = ReadersWriter(storage.exo)
        self._flushing = ReadersWriter(storage.exo)
        self._failure = ""

    # Beginning and end.

    @classmethod
    async def create(
        cls,
        storage: Volume,
        *,
        identity: bytes = bytes(16),
        log_pages: int = 0,
        base: int = BASE,
        capacity: int = 64,
    ) -> Self:
        """Make an empty store, whatever was there before.

        `identity`: 16 bytes that other stores do not have; `log_pages`: how many pages of 4096 bytes the log has, an eighth
        of the storage by default; `capacity`: how many pages are kept in memory, from the address `base` on.  Raises
        DatabaseError if the storage is too small, or fails.
        """
        pages = storage.sectors * SECTOR_SIZE // PAGE_SIZE
        log_pages = log_pages or min(max(pages // 8, 4), _LOG_MAXIMUM)
        geometry = Geometry(pages, log_pages)
        if pages < MINIMUM_PAGES or geometry.nodes_begin + 2 * _RESERVE > pages:
            raise DatabaseError(
                f"A storage of {storage.sectors} sectors is too small for a store with a log of {log_pages} pages; "
                f"it takes {(max(MINIMUM_PAGES, geometry.nodes_begin + 2 * _RESERVE)) * PAGE_SIZE // SECTOR_SIZE}."
            )
        store = cls(storage, geometry, identity, base, capacity)
        with sentences():
            for generation in range(2):
                await store.buffer.write(geometry.superblock_sector(generation), bytes(SECTOR_SIZE))
            await store.log.erase()
            await store.tree.plant()
            await store._checkpoint()
        return store

    @classmethod
    async def open(cls, storage: Volume, *, base: int = BASE, capacity: int = 64) -> Self:
        """Open the store that is there, after whatever happened to it.

        Every transaction that was committed is there, and nothing of any other.  Raises CorruptStore if what is on the disk
        makes no sense, DatabaseError if there is no store, or the disk fails.
        """
        with sentences():
            superblocks, damaged = await _superblocks(storage, base)
            if not superblocks:
                what = "its superblocks are damaged" if damaged else "it has no superblock"
                raise (CorruptStore if damaged else DatabaseError)(f"There is no store that could be opened here: {what}.")
            newest = max(superblocks, key=lambda superblock: superblock.generation)
            geometry = Geometry(newest.pages, newest.log_pages)
            if newest.pages * PAGE_SIZE > storage.sectors * SECTOR_SIZE or geometry.nodes_begin > newest.pages:
                there = storage.sectors * SECTOR_SIZE // PAGE_SIZE
                raise CorruptStore(f"The store has {newest.pages} pages, but the storage only {there}.")
            store = cls(storage, geometry, newest.identity, base, capacity)
            await store._take_over(newest, damaged)
            return store

    async def close(self) -> None:
        """Finish: a checkpoint, and every frame goes back.  The object is of no use afterwards."""
        async with self._alone():
            if not self.log.is_empty:
                await self._guarded_checkpoint()
        with sentences():
            await self.give_up()

    async def give_up(self) -> None:
        """Let go of every frame without writing anything more; what was committed is on the disk."""
        self._failure = self._failure or "It has been closed."
        for page in self.space.fresh:
            self.cache.discard(page)
        await self.cache.close()
        await self.buffer.trim(0)

    # Use.

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction: what is done in the block is committed at its end, and on the medium when the block has ended; an
        exception that leaves the block undoes it.  Waits until no other one is running.

        Raises StoreFull, having done nothing, if it does not fit, DatabaseError if the disk fails.
        """
        async with self._alone():
            transaction = Transaction(self.tree)
            with sentences():
                yield transaction
                changes = transaction.finish()
                if changes:
                    await self._commit(changes)
            sequence = self.log.sequence
        await self._harden(sequence)

    async def checkpoint(self) -> None:
        """Bring the tree on the disk up to date, and empty the log."""
        async with self._alone():
            if not self.log.is_empty:
                await self._guarded_checkpoint()

    async def release(self, count: int) -> int:
        """Give up to `count` frames back to the kernel, which wants them; gives how many.  May be called from a handler."""
        with sentences():
            return await self.cache.release(count)

    # Commit.

    async def _commit(self, changes: Changes) -> None:
        """Make changes in the tree and put them in line for the log.  Raises StoreFull before anything has been done."""
        deleting = all(value is None for _, value in changes)
        needed = self.tree.most_pages(changes) + (0 if deleting else _RESERVE)
        body = pack_changes(changes)
        self.log.check(body)
        if not self.log.has_room(body) or (self.space.free < needed and self.space.leaving):
            await self._guarded_checkpoint()
        if self.space.free < needed:
            raise StoreFull(
                f"The transaction may need {needed} pages of the store, of which {self.space.free} are free; "
                "delete something in a transaction of its own, or make a larger store."
            )
        with self._all_or_failed():
            await self.storage.exo.charge(len(body))
            await self.tree.change(changes)
        self.log.append(body, len(changes))

    async def _harden(self, sequence: int) -> None:
        """Wait until a transaction is on the medium: whoever comes first writes for all that are in line."""
        while self.log.durable < sequence:
            async with self._flushing.exclusive():
                self._check()
                if self.log.durable < sequence:
                    with sentences(), self._all_or_failed():
                        await self.log.write()

    async def _guarded_checkpoint(self) -> None:
        async with self._flushing.exclusive():
            self._check()
            with sentences(), self._all_or_failed():
                await self._checkpoint()

    async def _checkpoint(self) -> None:
        """Write the new nodes and the map, wait until they are on the medium, write the superblock, forced."""
        generation = self.tree.generation
        await self.cache.write_back()
        await self.buffer.write(
            self.geometry.map_begin(generation) * SECTORS_PER_PAGE, self.space.pack(self.seal, generation)
        )
        await self.storage.flush()
        superblock = Checkpoint(
            self.identity, generation, self.geometry.pages, self.geometry.log_pages, self.tree.root, self.tree.levels,
            self.log.sequence, self.tree.keys,
        )  # fmt: skip
        await self.buffer.write(self.geometry.superblock_sector(generation), superblock.pack())
        self.space.checkpointed()
        self.log.restart(generation)
        self.tree.generation = generation + 1
        self.checkpoints += 1

    # Recovery.

    async def _take_over(self, superblock: Checkpoint, damaged: bool) -> None:
        """Go on from a superblock and the log behind it.  Then another generation begins: behind what is whole of this
        one's log there may be later records of a group that was torn, and nothing written before them may bring them
        back."""
        generation = superblock.generation
        self.log = Log(self.buffer, self.geometry, self.seal, generation, superblock.sequence)
        if damaged and await self.log.begins_with(generation + 1):
            raise CorruptStore(
                f"The superblock of generation {generation + 1} is damaged, and the log already belongs to it; "
                f"that of generation {generation} does not have everything that was committed."
            )
        begin = self.geometry.map_begin(generation)
        pages = [await self.cache.read(begin + place) for place in range(self.geometry.map_pages)]
        self.space.unpack(pages, self.seal, generation)
        tree = self.tree
        tree.root, tree.levels, tree.keys = superblock.root, superblock.levels, superblock.entries
        tree.generation = generation + 1
        committed = await self.log.committed()
        for changes in committed:
            await tree.change(changes)
        self.recovered = len(committed)
        self.log.sequence += len(committed)
        await self._checkpoint()

    # Rules 1 and 4.

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        async with self._writing.exclusive():
            self._check()
            yield

    def _check(self) -> None:
        if self._failure:
            raise DatabaseError(f"The store must be opened again. {self._failure}")

    @contextmanager
    def _all_or_failed(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._failure = f"A change could not be finished: {error}"
            raise


async def _superblocks(storage: Volume, base: int) -> tuple[list[Checkpoint], bool]:
    """The superblocks that are whole, and whether one is damaged."""
    buffer = SectorBuffer(storage, BlockCache(storage, PAGE_SIZE, base + PAGE_SIZE, 1), base, 1)
    try:
        sectors = [await buffer.read(Geometry.superblock_sector(generation), SECTOR_SIZE) for generation in range(2)]
    finally:
        await buffer.trim(0)
    whole = [superblock for sector in sectors if (superblock := unpack_superblock(sector)) is not None]
    return whole, len(whole) < sum(any(sector) for sector in sectors)
