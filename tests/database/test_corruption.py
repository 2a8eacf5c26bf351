"""Flipped bits on the disk: an error, or the last transaction is gone as if it had been torn; never wrong data."""

import random

import pytest

from exokernel.abi.layout import PAGE_SIZE, SECTOR_SIZE, SECTORS_PER_PAGE
from libos.database import CorruptStore, DatabaseError, Store
from libos.storage.volume import Volume
from tests.database.kit import LOG_PAGES, Contents, contents, on_disk, put, raised, random_changes
from tests.filesystems.long import LONG
from tests.storage.kit import DiskMachine

SECTORS = 800


def _image(seed: int, checkpoints: int) -> tuple[bytes, list[Contents], Store]:
    """A store with `checkpoints` behind it and transactions in its log, the contents after each, and its parts."""
    with DiskMachine(SECTORS) as machine:
        snapshots: list[Contents] = [{}]

        async def main(volume: Volume) -> Store:
            store, rng, model = await Store.create(volume, log_pages=LOG_PAGES), random.Random(seed), {}
            while store.checkpoints < checkpoints + 1 or store.log.groups % 16 != 7:
                async with store.transaction() as transaction:
                    await random_changes(transaction, model, rng, 150, 300)
                snapshots.append(dict(model))
            await store.give_up()
            return store

        store = machine.run(main)
        return machine.image(), snapshots, store


@pytest.mark.parametrize("checkpoints", [0, 5])
def test_flipped_bits_are_found(checkpoints: int) -> None:
    image, snapshots, _ = _image(1, checkpoints)
    rng = random.Random(2)
    outcomes = {"an error": 0, "an earlier state": 0, "nothing": 0}

    async def main(volume: Volume) -> Contents:
        store = await Store.open(volume)
        try:
            return await contents(store)
        finally:
            await store.give_up()

    in_use = [at for at in range(0, SECTORS * SECTOR_SIZE, SECTOR_SIZE) if any(image[at : at + SECTOR_SIZE])]
    with DiskMachine(SECTORS) as machine:
        for _ in range(5000 if LONG else 400):
            damaged = bytearray(image)
            at = rng.choice(in_use)
            for _ in range(rng.choice((1, 1, 2, 8))):
                damaged[at + rng.randrange(SECTOR_SIZE)] ^= 1 << rng.randrange(8)
            machine.load(bytes(damaged))
            try:
                found = machine.run(main)
            except DatabaseError as error:
                outcomes["an error"] += str(error).endswith(".")
                continue
            assert found in snapshots
            if found == snapshots[-1]:
                outcomes["nothing"] += 1
            else:
                assert found == snapshots[-2], "only the end of the log may be lost"
                outcomes["an earlier state"] += 1
    print(outcomes)
    assert outcomes["an error"] > 80
    assert outcomes["an earlier state"] > 0


def test_whole_sectors_of_another_time_are_found() -> None:
    """A write that the disk has lost: a sector of every part as it was some checkpoints before."""
    image, snapshots, _ = _image(3, 2)
    later, more, _ = _image(3, 6)
    assert more[: len(snapshots)] == snapshots

    async def main(volume: Volume) -> Contents:
        store = await Store.open(volume)
        return await contents(store)

    found, errors = [], 0
    with DiskMachine(SECTORS) as machine:
        for page in range(2, SECTORS // SECTORS_PER_PAGE):
            old, new = (one[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] for one in (image, later))
            if old != new:
                machine.load(later[: page * PAGE_SIZE] + old + later[(page + 1) * PAGE_SIZE :])
                try:
                    found.append(machine.run(main))
                except CorruptStore:
                    errors += 1
    assert all(one in more for one in found)
    assert errors > 5


def test_a_damaged_superblock_is_an_error_if_the_log_belongs_to_it_and_else_the_other_one_will_do() -> None:
    async def main(volume: Volume) -> None:
        store = await Store.create(volume, log_pages=LOG_PAGES)
        await put(store, a="1")
        await store.checkpoint()
        generation = store.log.generation
        sector = store.geometry.superblock_sector(generation)
        await store.buffer.write(sector, b"x" * SECTOR_SIZE)
        assert await contents(await Store.open(volume, base=1 << 40)) == {b"a": b"1"}

        store = await Store.create(volume, log_pages=LOG_PAGES)
        await put(store, a="1")
        await store.checkpoint()
        await put(store, a="2")
        sector = store.geometry.superblock_sector(store.log.generation)
        await store.buffer.write(sector, b"x" * SECTOR_SIZE)
        message = await raised(CorruptStore, Store.open(volume, base=1 << 40))
        assert "does not have everything that was committed" in message
        await store.buffer.write(8 - sector, b"x" * SECTOR_SIZE)
        assert "superblocks are damaged" in await raised(CorruptStore, Store.open(volume, base=1 << 40))

    on_disk(main, SECTORS)


def test_a_damaged_node_is_an_error_for_those_who_need_it_and_nothing_is_lost() -> None:
    """Transactions elsewhere go on; a change there fails, and the store opens again with all that was committed."""

    async def main(volume: Volume) -> None:
        store = await Store.create(volume, log_pages=LOG_PAGES)
        model = {}
        for first in range(0, 100, 10):
            async with store.transaction() as transaction:
                for number in range(first, first + 10):
                    model[b"%03d" % number] = b"v" * 200
                    await transaction.put(b"%03d" % number, b"v" * 200)
        await store.checkpoint()
        pointers = [pointer for _, pointer in await store.tree.read(store.tree.root, 1)]
        last = int.from_bytes(pointers[-1][:4], "little")
        good = await store.buffer.read(last * SECTORS_PER_PAGE, SECTOR_SIZE)
        await store.release(100)
        await store.buffer.write(last * SECTORS_PER_PAGE, b"x" * SECTOR_SIZE)
        await put(store, **{"000": "new"})
        model[b"000"] = b"new"
        async with store.transaction() as transaction:
            assert f"Page {last} of the store is damaged" in await raised(CorruptStore, transaction.get(b"099"))
            await transaction.put(b"001", b"new")
        model[b"001"] = b"new"
        assert "is damaged" in await raised(CorruptStore, put(store, **{"099": "new"}))
        assert "must be opened again" in await raised(DatabaseError, put(store, a="b"))
        await store.give_up()
        await store.buffer.write(last * SECTORS_PER_PAGE, good)
        assert await contents(await Store.open(volume)) == model

    on_disk(main, SECTORS)
