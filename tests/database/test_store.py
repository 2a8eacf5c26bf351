"""A store: transactions happen whole or not at all, and what cannot be is said in a sentence with nothing lost."""

import random

import pytest

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from exokernel.abi.flags import Event, Rights, Sharing
from exokernel.abi.layout import PAGE_SIZE
from exokernel.machine.disk import Flushed, Written
from libos.database import DatabaseError, Store, StoreFull
from libos.database.check import check
from libos.database.format import KEY_MAXIMUM, VALUE_MAXIMUM
from libos.database.store import BASE
from libos.storage.volume import Volume, VolumeError
from tests.database.kit import LOG_PAGES, SECTORS, contents, on_disk, put, raised, random_changes
from tests.storage.kit import DiskMachine


def test_a_transaction_sees_its_own_changes_and_others_see_them_afterwards() -> None:
    async def main(volume: Volume) -> None:
        store = await Store.create(volume)
        await put(store, b="old", d="here")
        async with store.transaction() as transaction:
            await transaction.put(b"a", b"1")
            await transaction.put(b"b", b"new")
            assert await transaction.delete(b"d")
            assert not await transaction.delete(b"nobody")
            assert await transaction.get(b"b") == b"new"
            assert await transaction.get(b"d") is None
            assert [key async for key, _ in transaction.scan()] == [b"a", b"b"]
            await transaction.put(b"d", b"")
        assert await contents(store) == {b"a": b"1", b"b": b"new", b"d": b""}

    on_disk(main)


def test_an_exception_undoes_a_transaction() -> None:
    async def main(volume: Volume) -> None:
        store = await Store.create(volume)
        await put(store, a="1")

        async def fails() -> None:
            async with store.transaction() as transaction:
                await transaction.put(b"a", b"2")
                await transaction.put(b"b", b"2")
                raise KeyError

        await raised(KeyError, fails())
        assert await contents(store) == {b"a": b"1"}
        await store.close()
        assert await contents(await Store.open(volume)) == {b"a": b"1"}

    on_disk(main)


def test_a_scan_is_in_order_and_between_its_bounds() -> None:
    async def main(volume: Volume) -> None:
        store, rng = await Store.create(volume, log_pages=32), random.Random(3)
        keys = sorted({rng.randbytes(rng.randrange(1, 200)) for _ in range(500)})
        for first in range(0, 500, 50):
            async with store.transaction() as transaction:
                for key in keys[first::7]:
                    await transaction.put(key, key[::-1])
        async with store.transaction() as transaction:
            for key in keys:
                await transaction.put(key, key[::-1])
        assert store.tree.levels == 3
        await check(store)
        async with store.transaction() as transaction:
            assert [one async for one in transaction.scan()] == [(key, key[::-1]) for key in keys]
            for begin, end in ((0, 500), (17, 18), (100, 400), (30, 30), (40, 20)):
                found = [key async for key, _ in transaction.scan(keys[begin], keys[end] if end < 500 else None)]
                assert found == keys[begin:end]
            assert [key async for key, _ in transaction.scan(keys[7] + b"\0", keys[8])] == []

    on_disk(main, 4096)


def test_a_commit_is_one_forced_write_and_no_flush() -> None:
    with DiskMachine(SECTORS) as machine:

        async def main(volume: Volume) -> None:
            store = await Store.create(volume)
            machine.disk.record = []
            await put(store, key="value", other="value")
            assert [type(one) for one in machine.disk.record] == [Written]
            assert machine.disk.record[0].forced
            assert len(machine.disk.record[0].data) == 512

        machine.run(main)


def test_a_commit_of_many_sectors_is_one_flush() -> None:
    with DiskMachine(2 * SECTORS) as machine:

        async def main(volume: Volume) -> None:
            store = await Store.create(volume, log_pages=40)
            machine.disk.record = record = []
            async with store.transaction() as transaction:
                for number in range(100):
                    await transaction.put(b"%d" % number, bytes(1000))
            assert [type(one) for one in record] == [Written] * (len(record) - 1) + [Flushed]
            assert not any(one.forced for one in record[:-1])
            assert sum(len(one.data) for one in record[:-1]) < 103_000

        machine.run(main)


def test_commits_that_come_together_go_to_the_disk_together() -> None:
    """The first is written alone; all that commit meanwhile are one group."""

    class Server:
        def __init__(self, store: Store) -> None:
            self.store = store
            self.done: list[int] = []

        async def call(self, context: int, caller: int, number: int, b: int, c: int, d: int, awaited: int) -> None:
            async with self.store.transaction() as transaction:
                await transaction.put(b"%d" % number, b"x" * number)
                sequence = self.store.log.sequence + 1
            self.done.append(number)
            assert self.store.log.durable >= sequence

    with DiskMachine(SECTORS) as machine:

        async def main(volume: Volume) -> None:
            exo = Exo()
            environment = await exo.create_environment()
            await exo.share_sectors(0, environment, Sharing.HOLD, Rights.READ | Rights.WRITE | Rights.CONTROL)

            async def serve() -> None:
                server.store = await Store.create(volume)
                machine.disk.record = []
                while len(server.done) < 10:
                    await exo.block(Event.TIME, 0, await exo.time() + 1_000_000)
                await exo.exit(0)

            server = Server(None)  # type: ignore[arg-type]
            await exo.set_library(environment, server)
            await exo.start_coroutine(environment, serve())
            while server.store is None:
                await exo.block(Event.TIME, 0, await exo.time() + 1_000_000)
            for number in range(1, 11):
                await exo.send(environment, number)
            assert await exo.block(Event.EXIT, environment) == 0
            assert not machine.kernel.deaths
            assert sorted(server.done) == list(range(1, 11))
            assert server.store.log.groups == 2
            assert len(machine.disk.record) == 2
            assert await contents(await Store.open(volume)) == {b"%d" % n: b"x" * n for n in range(1, 11)}

        machine.run(main)


def test_what_is_too_large_or_too_small_is_refused_and_nothing_is_lost() -> None:
    async def main(volume: Volume) -> None:
        store = await Store.create(volume, log_pages=LOG_PAGES)
        await put(store, a="1")
        async with store.transaction() as transaction:
            for key in (b"", b"k" * (KEY_MAXIMUM + 1)):
                assert f"1 to {KEY_MAXIMUM} bytes, not {len(key)}" in await raised(DatabaseError, transaction.put(key, b""))
                await raised(DatabaseError, transaction.get(key))
            assert f"up to {VALUE_MAXIMUM} bytes" in await raised(
                DatabaseError, transaction.put(b"b", bytes(VALUE_MAXIMUM + 1))
            )
            await transaction.put(b"k" * KEY_MAXIMUM, bytes(VALUE_MAXIMUM))
        assert "has ended" in await raised(DatabaseError, transaction.get(b"a"))

        async def too_much() -> None:
            async with store.transaction() as transaction:
                for number in range(20):
                    await transaction.put(b"%d" % number, bytes(1000))

        assert "larger log" in await raised(StoreFull, too_much())
        assert await contents(store) == {b"a": b"1", b"k" * KEY_MAXIMUM: bytes(VALUE_MAXIMUM)}

    on_disk(main)


@pytest.mark.parametrize("size", [0, 700, VALUE_MAXIMUM])
def test_a_full_store_says_so_loses_nothing_and_can_be_emptied(size: int) -> None:
    async def main(volume: Volume) -> None:
        store = await Store.create(volume, log_pages=LOG_PAGES)
        model: dict[bytes, bytes] = {}
        number = 0

        async def fill() -> None:
            nonlocal number
            while True:
                batch = {b"%d" % (place * 7919 % 10007): bytes([place % 256]) * size for place in range(number, number + 8)}
                async with store.transaction() as transaction:
                    for key, value in batch.items():
                        await transaction.put(key + b"-" * 150, value)
                model.update({key + b"-" * 150: value for key, value in batch.items()})
                number += 8

        assert "larger store" in await raised(StoreFull, fill())
        assert store.space.free < 100
        assert await contents(store) == model
        await store.give_up()
        store = await Store.open(volume)
        assert await contents(store) == model
        for key in list(model):
            async with store.transaction() as transaction:
                await transaction.delete(key)
        assert await contents(store) == {}
        assert (store.tree.levels, store.tree.keys) == (1, 0)
        await put(store, again="1")
        await store.close()
        assert await contents(await Store.open(volume)) == {b"again": b"1"}

    on_disk(main, 1200 if size < 100 else 2048)


def test_what_is_deleted_gives_its_pages_back() -> None:
    async def main(volume: Volume) -> None:
        store = await Store.create(volume, log_pages=16)
        for first in range(0, 600, 20):
            async with store.transaction() as transaction:
                for number in range(first, first + 20):
                    await transaction.put(b"%03d" % number, b"v" * 200)
        full = store.space.used
        for first in range(0, 600, 20):
            async with store.transaction() as transaction:
                for number in range(first, first + 19):
                    await transaction.delete(b"%03d" % number)
        await check(store)
        await store.checkpoint()
        assert full > 30
        assert store.space.used < 6

    on_disk(main, 2048)


def test_a_small_node_beside_one_it_cannot_be_joined_with_stays_small() -> None:
    """However their entries are divided, the second part is small: one large entry is in the way."""

    async def main(volume: Volume) -> None:
        store = await Store.create(volume)
        async with store.transaction() as transaction:
            for number in range(10):
                await transaction.put(b"a%03d" % number, b"v" * 196)
            await transaction.put(b"b" * KEY_MAXIMUM, bytes(VALUE_MAXIMUM))
            for number in range(15):
                await transaction.put(b"c%03d" % number, b"v" * 196)
        assert store.tree.levels == 2
        async with store.transaction() as transaction:
            for number in range(11):
                await transaction.delete(b"c%03d" % number)
        assert store.tree.levels == 2
        assert len(await contents(store)) == 15

    on_disk(main)


def test_a_storage_without_a_store_and_one_too_small_are_refused() -> None:
    async def main(volume: Volume) -> None:
        assert "no superblock" in await raised(DatabaseError, Store.open(volume))
        assert "too small" in await raised(DatabaseError, Store.create(Volume(volume.exo, 0, 200)))
        await Store.create(volume)
        assert "storage only" in await raised(DatabaseError, Store.open(Volume(volume.exo, 0, 900)))

    on_disk(main)


def test_a_store_made_over_another_has_nothing_of_it() -> None:
    """Not even where the old log has a record with the number and the generation of the new one's next."""

    async def main(volume: Volume) -> None:
        store = await Store.create(volume, log_pages=LOG_PAGES)
        await put(store, first="1")
        await put(store, second="2")
        await store.give_up()
        store = await Store.create(volume, log_pages=LOG_PAGES)
        assert await contents(store) == {}
        await put(store, other="1")
        await store.give_up()
        assert await contents(await Store.open(volume)) == {b"other": b"1"}

    on_disk(main)


def test_a_disk_that_fails_ends_the_store_and_what_was_committed_is_there_when_it_is_opened_again() -> None:
    class Failing(Volume):
        works = True

        async def begin_write(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
            if not self.works:
                raise VolumeError("The disk is broken.")
            return await super().begin_write(sector, count, frame, offset, flags)

    async def main(volume: Volume) -> None:
        failing = Failing(volume.exo, volume.start, volume.sectors)
        store = await Store.create(failing)
        await put(store, a="1")
        failing.works = False
        assert "The disk is broken" in await raised(DatabaseError, put(store, a="2"))
        failing.works = True
        assert "must be opened again" in await raised(DatabaseError, put(store, a="3"))
        assert "must be opened again" in await raised(DatabaseError, contents(store))
        await store.give_up()
        assert await contents(await Store.open(failing)) == {b"a": b"1"}

    on_disk(main)


def test_frames_are_given_back_when_asked_for_and_all_at_the_end() -> None:
    with DiskMachine(SECTORS) as machine:
        frames = machine.kernel.frames

        async def main(volume: Volume) -> None:
            before = len(frames.used)
            store, model, rng = await Store.create(volume, capacity=40), {}, random.Random(5)
            for _ in range(300):
                async with store.transaction() as transaction:
                    await random_changes(transaction, model, rng, 400, 200)
            held = store.cache.frames
            assert 10 < held <= 40
            assert await store.release(held - 2) == held - 2
            assert store.cache.frames == 2
            assert await contents(store) == model
            await store.close()
            assert len(frames.used) <= before + 3  # page tables
            store = await Store.open(volume)
            assert await contents(store) == model

        machine.run(main)


@pytest.mark.parametrize("quota", [24, 40])
def test_a_store_works_with_the_frames_there_are(quota: int) -> None:
    async def main(volume: Volume) -> None:
        exo = Exo()

        async def work() -> None:
            store, model, rng = await Store.create(volume, capacity=64), {}, random.Random(7)
            for _ in range(200):
                async with store.transaction() as transaction:
                    await random_changes(transaction, model, rng, 2000, 900)
            assert await contents(store) == model
            await store.close()
            await exo.exit(7)

        environment = await exo.create_environment(quota)
        await exo.share_sectors(0, environment, Sharing.HOLD, Rights.READ | Rights.WRITE | Rights.CONTROL)
        await exo.start_coroutine(environment, work())
        assert await exo.block(Event.EXIT, environment) == 7

    on_disk(main, 4096)


def test_a_page_taken_by_force_is_an_error_or_read_again_and_never_wrong() -> None:
    """The frames are let go of behind the store's back, which is what the kernel does by force."""

    async def main(volume: Volume) -> None:
        exo, rng = Exo(), random.Random(11)
        store, model = await Store.create(volume), {}
        for _ in range(60):
            async with store.transaction() as transaction:
                await random_changes(transaction, model, rng, 300, 300)
        await store.checkpoint()
        for page in range(80):
            try:
                await exo.remove_mapping(BASE + page * PAGE_SIZE)
            except Refused:
                continue
        assert await contents(store) == model
        await put(store, last="1")
        model[b"last"] = b"1"
        for page in range(80):
            try:
                await exo.remove_mapping(BASE + page * PAGE_SIZE)
            except Refused:
                continue
        assert "took its frame by force" in await raised(DatabaseError, contents(store))
        assert await contents(await Store.open(volume, base=BASE + (1 << 30))) == model

    on_disk(main)


def test_frames_are_given_back_in_the_middle_of_transactions_when_the_kernel_asks() -> None:
    """Somebody else wants memory; the store is the largest holder, and its library hands frames over in a handler."""

    class Library:
        store: Store | None = None
        asked = given = 0

        async def please_release_page(self, context: int, count: int, frame: int, deadline: int) -> None:
            self.asked += count
            if self.store is not None:
                self.given += await self.store.release(count)

    with DiskMachine(8192, memory=1 << 20) as machine:

        async def main(volume: Volume) -> None:
            exo, library, done = Exo(), Library(), []
            environment = await exo.create_environment()
            await exo.share_sectors(0, environment, Sharing.HOLD, Rights.READ | Rights.WRITE | Rights.CONTROL)

            async def work() -> None:
                store, model, rng = await Store.create(volume, capacity=300), {}, random.Random(7)
                library.store = store
                for first in range(0, 2000, 10):
                    async with store.transaction() as transaction:
                        for number in range(first, first + 10):
                            model[b"key %d" % number] = bytes([number % 256]) * 600
                            await transaction.put(b"key %d" % number, model[b"key %d" % number])
                for _ in range(100):
                    async with store.transaction() as transaction:
                        await random_changes(transaction, model, rng, 3000, 1000)
                assert await contents(store) == model
                done.append(store.cache.frames)
                await store.close()
                await exo.exit(7)

            await exo.set_library(environment, library)
            await exo.start_coroutine(environment, work())
            held: list[int] = []
            while not done and not machine.kernel.deaths:
                try:
                    if len(held) < 60:
                        held.append(await exo.alloc_page())
                    else:
                        while held:
                            await exo.dealloc_page(held.pop())
                        await exo.block(Event.TIME, 0, await exo.time() + 2_000_000)
                except Refused:
                    await exo.block(Event.TIME, 0, await exo.time() + 200_000)
            assert not machine.kernel.deaths
            assert await exo.block(Event.EXIT, environment) == 7
            assert library.given > 5

        machine.run(main)
