"""Hypothesis chooses transactions, reopenings, losses of memory, requests for frames; a store does what a dictionary does.

A sequence is written down while it is chosen and played at its end, in one run of the machine.
"""

from collections.abc import Awaitable, Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from libos.database import Store, StoreFull
from libos.database.file_storage import FileStorage
from libos.filesystems.memory import MemoryFileSystem
from libos.storage.volume import Volume
from tests.database.kit import LOG_PAGES, Contents, contents, on_disk
from tests.filesystems.long import LONG

SECTORS = 800
KEYS = st.one_of(
    st.binary(min_size=1, max_size=3),
    st.integers(0, 300).map(lambda number: b"key %d " % number * 20),
    st.integers(0, 300).map(lambda number: b"%03d" % number),
)
VALUES = st.one_of(st.binary(max_size=20), st.integers(0, 1024).map(lambda size: b"v" * size))
CHANGES = st.lists(st.tuples(KEYS, st.none() | VALUES), min_size=1, max_size=12)
Step = Callable[["Player"], Awaitable[None]]


class Player:
    """A store, the storage it is on, and what should be in it."""

    def __init__(self, storage: Volume, store: Store) -> None:
        self.storage = storage
        self.store = store
        self.model: Contents = {}

    async def change(self, changes: list[tuple[bytes, bytes | None]], undone: bool) -> None:
        after = dict(self.model)
        try:
            async with self.store.transaction() as transaction:
                for key, value in changes:
                    if value is None:
                        assert await transaction.delete(key) == (key in after)
                        after.pop(key, None)
                    else:
                        await transaction.put(key, value)
                        after[key] = value
                    assert await transaction.get(key) == value
                if undone:
                    raise ZeroDivisionError
        except (ZeroDivisionError, StoreFull):
            return
        self.model = after

    async def scan(self, begin: bytes, end: bytes | None) -> None:
        async with self.store.transaction() as transaction:
            found = [entry async for entry in transaction.scan(begin, end)]
        assert found == sorted((k, v) for k, v in self.model.items() if k >= begin and (end is None or k < end))

    async def reopen(self, cleanly: bool) -> None:
        await (self.store.close() if cleanly else self.store.give_up())
        self.store = await Store.open(self.storage, capacity=5)


class StoreMachine(RuleBasedStateMachine):
    """Steps, played on both storages at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[Step] = []

    @rule(changes=CHANGES, undone=st.sampled_from([False, False, False, True]))
    def change(self, changes: list[tuple[bytes, bytes | None]], undone: bool) -> None:
        self.steps.append(lambda player: player.change(changes, undone))

    @rule(begin=KEYS, end=KEYS | st.none())
    def scan(self, begin: bytes, end: bytes | None) -> None:
        self.steps.append(lambda player: player.scan(begin, end))

    @rule(first=st.integers(0, 250), count=st.integers(20, 60), size=st.integers(0, 300))
    def put_many(self, first: int, count: int, size: int) -> None:
        changes = [(b"%03d" % number, b"m" * size) for number in range(first, first + count)]
        for at in range(0, len(changes), 15):
            self.steps.append(lambda player, part=changes[at : at + 15]: player.change(part, False))

    @rule(first=st.integers(0, 250), count=st.integers(20, 60))
    def delete_many(self, first: int, count: int) -> None:
        changes: list[tuple[bytes, bytes | None]] = [(b"%03d" % number, None) for number in range(first, first + count)]
        self.steps.append(lambda player: player.change(changes, False))

    @rule(cleanly=st.booleans())
    def reopen(self, cleanly: bool) -> None:
        self.steps.append(lambda player: player.reopen(cleanly))

    @rule()
    def checkpoint(self) -> None:
        self.steps.append(lambda player: player.store.checkpoint())

    @rule(count=st.integers(1, 10))
    def release(self, count: int) -> None:
        async def release(player: Player) -> None:
            await player.store.release(count)

        self.steps.append(release)

    def teardown(self) -> None:
        async def play(storage: Volume) -> None:
            player = Player(storage, await Store.create(storage, log_pages=LOG_PAGES, capacity=5))
            for step in self.steps:
                await step(player)
            assert await contents(player.store) == player.model
            await player.reopen(False)
            assert await contents(player.store) == player.model
            await player.store.give_up()

        async def main(volume: Volume) -> None:
            await play(volume)
            files = MemoryFileSystem()
            await play(await FileStorage.make(volume.exo, files, files.root, b"store", SECTORS))

        on_disk(main, SECTORS)


def test_a_store_does_what_a_dictionary_does() -> None:
    run_state_machine_as_test(StoreMachine, settings=settings(stateful_step_count=30, max_examples=2000 if LONG else 40))
