"""The power goes at every write: what was committed is there, nothing that was not is there in part, and the order is kept.

Every write and flush that reaches the disk is recorded; from the record come the media that a power cut can leave, within
bounds: each prefix, each single lost sector and some pairs and subsets of those that may be lost.  In each of them the
store is opened and looked at.
"""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from exokernel.abi.downcalls import Exo
from exokernel.abi.flags import Event, Rights, Sharing
from exokernel.abi.layout import SECTOR_SIZE
from exokernel.machine.disk import Flushed, Written
from libos.database import DatabaseError, Store
from libos.database.file_storage import FileStorage, Sync
from libos.database.format import CHANGE, RECORD_HEADER, pack_changes
from libos.filesystems.ext3 import mkfs
from libos.filesystems.ext3.filesystem import Ext3
from libos.storage.volume import Volume
from tests.database.kit import LOG_PAGES, Contents, contents, random_changes
from tests.filesystems.crashes import Bounds, states
from tests.filesystems.long import LONG
from tests.storage.kit import DiskMachine

SECTORS = 640
EXT3_SECTORS = 8192
EXT3_BASE = 0x1000_0000
MORE = 10 if LONG else 1
Opened = Callable[[Volume], Awaitable[Store]]


@dataclass
class History:
    """What happened: the image before, what reached the disk, and the contents after each transaction, the first being
    those before all; `begun` and `committed`: how much of the record there was when each began and when it had returned."""

    image: bytes = b""
    record: list[Written | Flushed] = field(default_factory=list)
    snapshots: list[Contents] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    committed: list[int] = field(default_factory=list)


def _history(sectors: int, make: Opened, transactions: int, seed: int, size: int) -> History:
    """Random transactions over a new store."""
    history, rng, model = History(), random.Random(seed), {}
    with DiskMachine(sectors) as machine:

        async def main(volume: Volume) -> None:
            store = await make(volume)
            history.image = machine.image()
            machine.disk.record = history.record
            history.snapshots.append(dict(model))
            for number in range(transactions):
                history.begun.append(len(history.record))
                async with store.transaction() as transaction:
                    await random_changes(transaction, model, rng, 60, size)
                history.snapshots.append(dict(model))
                history.committed.append(len(history.record))
                if number % 7 == 6:
                    await store.release(100)
            await store.give_up()

        machine.run(main)
    return history


def _check(history: History, machine: DiskMachine, opened: Opened, bounds: Bounds, limit: int) -> dict[str, int]:
    """Open the store in every state; gives how many there were, and how many different ones were opened."""
    seen: set[int] = set()
    count = lost = 0
    for state in states(history.image, history.record, bounds):
        count += 1
        if state.medium.key in seen or len(seen) >= limit:
            continue
        seen.add(state.medium.key)
        machine.load(bytes(state.medium.bytes()))

        async def main(volume: Volume) -> Contents:
            store = await opened(volume)
            found = await contents(store)
            await store.give_up()
            return found

        found = machine.run(main)
        where = f"cut after {state.position} requests, {state.how}"
        assert found in history.snapshots, f"{where}: no moment of the store"
        moments = [number for number, snapshot in enumerate(history.snapshots) if snapshot == found]
        returned = [number for number, position in enumerate(history.committed) if position <= state.position]
        least = max(returned, default=-1) + 1
        most = sum(position <= state.position for position in history.begun)
        assert moments[-1] >= least, f"{where}: transaction {least} was committed; there is only {moments}"
        assert moments[0] <= most, f"{where}: transaction {moments[0]} had not begun"
        lost += most > least and moments[0] == least
    return {"states": count, "distinct": len(seen), "with an unfinished transaction that is not there": lost}


async def _raw(volume: Volume) -> Store:
    return await Store.create(volume, log_pages=LOG_PAGES, capacity=6)


async def _raw_again(volume: Volume) -> Store:
    return await Store.open(volume)


@pytest.mark.parametrize(("seed", "size", "transactions"), [(1, 120, 130), (2, 900, 15), (3, 10, 250)])
def test_every_state_has_a_prefix_with_all_that_was_committed(seed: int, size: int, transactions: int) -> None:
    history = _history(SECTORS, _raw, transactions * MORE, seed, size)
    with DiskMachine(SECTORS) as machine:
        counts = _check(history, machine, _raw_again, Bounds(pairs=10, subsets=20, seed=seed), 3000 * MORE)
    print(counts)
    assert counts["distinct"] > 150
    assert counts["with an unfinished transaction that is not there"] > 20


class _Server:
    """Commits a transaction for each call; calls that come while one waits for the disk go on beside it."""

    def __init__(self, history: History, seed: int) -> None:
        self.store: Store | None = None
        self.history = history
        self.rng = random.Random(seed)
        self.model: Contents = {}

    async def call(self, context: int, caller: int, a: int, b: int, c: int, d: int, awaited: int) -> None:
        assert self.store is not None
        history = self.history
        async with self.store.transaction() as transaction:
            number = len(history.begun)
            history.begun.append(len(history.record))
            history.committed.append(1 << 60)
            await random_changes(transaction, self.model, self.rng, 60, 200)
            history.snapshots.append(dict(self.model))
        history.committed[number] = len(history.record)


def test_of_a_group_of_transactions_a_prefix_is_there() -> None:
    history = History()
    with DiskMachine(SECTORS) as machine:

        async def main(volume: Volume) -> None:
            exo, server, environment = Exo(), _Server(history, 9), await Exo().create_environment()
            bursts = random.Random(9)

            async def serve() -> None:
                server.store = await _raw(volume)
                history.image = machine.image()
                history.snapshots.append({})
                machine.disk.record = history.record
                await exo.block(Event.TIME, 0, 1 << 40)

            await exo.share_sectors(0, environment, Sharing.HOLD, Rights.READ | Rights.WRITE | Rights.CONTROL)
            await exo.set_library(environment, server)
            await exo.start_coroutine(environment, serve())
            while server.store is None:
                await exo.block(Event.TIME, 0, await exo.time() + 1_000_000)
            for _ in range(12 * MORE):
                for _ in range(bursts.randrange(2, 9)):
                    await exo.send(environment)
                await exo.block(Event.TIME, 0, await exo.time() + 10_000_000)
            assert 1 << 60 not in history.committed
            assert server.store.log.groups < len(history.committed) / 2
            await exo.destroy(environment)

        machine.run(main)
        machine.disk.record = None
        counts = _check(history, machine, _raw_again, Bounds(pairs=20, subsets=40, seed=9), 3000 * MORE)
    print(counts)
    assert counts["distinct"] > 60


def test_a_record_behind_a_torn_one_does_not_come_back_when_another_has_taken_the_torn_one_s_place() -> None:
    """Of a group of two records of a sector each, only the second reaches the disk.  Neither counts; and after the next
    transaction, whose number and size are the first one's, the second still does not count."""

    class Tearing(Volume):
        tears = False

        async def begin_write(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
            if self.tears:
                assert count == 2
                return await super().begin_write(sector + 1, 1, frame, offset + SECTOR_SIZE, flags)
            return await super().begin_write(sector, count, frame, offset, flags)

    value = b"v" * (SECTOR_SIZE - RECORD_HEADER.size - CHANGE.size - 1)

    async def main(volume: Volume) -> None:
        tearing = Tearing(volume.exo, volume.start, volume.sectors)
        store = await Store.create(tearing, log_pages=LOG_PAGES)
        for key in (b"a", b"b"):
            store.log.append(pack_changes([(key, value)]), 1)
        tearing.tears = True
        await store.log.write()
        tearing.tears = False
        await store.give_up()
        store = await Store.open(tearing)
        assert await contents(store) == {}
        async with store.transaction() as transaction:
            await transaction.put(b"c", value)
        await store.give_up()
        assert await contents(await Store.open(tearing)) == {b"c": value}

    with DiskMachine(SECTORS) as machine:
        machine.run(main)


def test_a_power_cut_while_recovering_changes_nothing() -> None:
    history = _history(SECTORS, _raw, 12, 5, 200)
    with DiskMachine(SECTORS) as machine:
        machine.load(history.image)
        for entry in history.record:
            if isinstance(entry, Written):
                machine.disk.write(entry.sector, entry.data)
        again = History(machine.image(), snapshots=[history.snapshots[-1]])
        machine.disk.record = again.record
        machine.run(_raw_again)
        machine.disk.record = None
        assert len(again.record) >= 4
        counts = _check(again, machine, _raw_again, Bounds(pairs=40, subsets=40), 1000)
    assert counts["distinct"] > 10


def test_a_power_cut_while_it_is_made_leaves_no_store_or_an_empty_one() -> None:
    record: list[Written | Flushed] = []
    with DiskMachine(SECTORS) as machine:

        async def before(volume: Volume) -> None:
            store = await _raw(volume)
            async with store.transaction() as transaction:
                await transaction.put(b"of the store that was there", b"")
            await store.give_up()

        async def main(volume: Volume) -> Contents | None:
            try:
                return await contents(await Store.open(volume))
            except DatabaseError as error:
                return None if "superblock" in str(error) else {b"an error": str(error).encode()}

        machine.run(before)
        image = machine.image()
        machine.disk.record = record
        machine.run(_raw)
        machine.disk.record = None
        found, seen = [], set()
        for state in states(image, record, Bounds(pairs=10)):
            if state.medium.key not in seen:
                seen.add(state.medium.key)
                machine.load(bytes(state.medium.bytes()))
                found.append(machine.run(main))
    assert found[0] == {b"of the store that was there": b""}
    assert None in found
    assert found[-1] == {}
    assert all(one in (None, {}) or one == found[0] for one in found)


async def _over_ext3(volume: Volume) -> Store:
    await mkfs.make(volume, base=EXT3_BASE, journal_blocks=1024)
    files = await Ext3.mount(volume, base=EXT3_BASE)
    storage = await FileStorage.make(volume.exo, files, files.root, b"store", 512)
    return await Store.create(storage, log_pages=LOG_PAGES, capacity=6)


async def _over_ext3_again(volume: Volume) -> Store:
    files = await Ext3.mount(volume, base=EXT3_BASE)
    return await Store.open(FileStorage(volume.exo, files, await files.lookup(files.root, b"store"), 512))


def test_over_ext3_with_fsync_nothing_that_was_committed_is_lost_either() -> None:
    history = _history(EXT3_SECTORS, _over_ext3, 12 * MORE, 4, 300)
    with DiskMachine(EXT3_SECTORS) as machine:
        counts = _check(history, machine, _over_ext3_again, Bounds(pairs=2, subsets=3), 400 * MORE)
    print(counts)
    assert counts["distinct"] > 80


def test_over_ext3_without_fsync_committed_transactions_are_lost() -> None:
    async def careless(volume: Volume) -> Store:
        await mkfs.make(volume, base=EXT3_BASE, journal_blocks=1024)
        files = await Ext3.mount(volume, base=EXT3_BASE)
        storage = await FileStorage.make(volume.exo, files, files.root, b"store", 512, Sync.LEFT_OUT)
        store = await Store.create(storage, log_pages=LOG_PAGES, capacity=6)
        await files.sync()
        return store

    history = _history(EXT3_SECTORS, careless, 12, 4, 300)
    with DiskMachine(EXT3_SECTORS) as machine, pytest.raises(AssertionError, match="was committed; there is only"):
        _check(history, machine, _over_ext3_again, Bounds(pairs=2, subsets=3), 400)
