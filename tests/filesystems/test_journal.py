"""The journal: whatever is lost when the power goes, recovery leads to a committed state, and none that was promised is
lost; e2fsprogs replays our log and we theirs."""

import random
import re
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from exokernel.abi.layout import SECTOR_SIZE
from exokernel.machine.disk import Written
from libos.filesystems.ext3.journal import Journal, Mode
from libos.filesystems.ext3.layout import (
    SUPERBLOCK_OFFSET,
    Incompatible,
    JournalBlock,
)
from libos.filesystems.ext3.log import Log, Tag
from libos.filesystems.ext3.nojournal import NoJournal
from libos.filesystems.ext3.records import SUPERBLOCK_OFFSETS
from libos.filesystems.interface import Errno, FileSystemError
from libos.storage.cache import BlockCache
from libos.storage.volume import Volume, VolumeError
from tests.filesystems import judges
from tests.filesystems.logged import (
    BASE,
    BLOCK,
    BLOCKS,
    MAGIC,
    NOTHING,
    History,
    Model,
    Settings,
    Workload,
    empty_image,
    get,
    image_after,
    places,
    recover_image,
    recovery_record,
    run,
    superblock,
)
from tests.machine_kit import examples
from tests.storage.contexts import Failing
from tests.storage.kit import DiskMachine

STEPS = ["operation"] * 6 + ["commit"] * 2 + ["release", "write back", "checkpoint"]
NUMBERS = st.integers(0, 0xFFFF_FFFF)
SEEDS = st.integers(0, 1 << 20)
steps = st.lists(st.sampled_from(STEPS), min_size=4, max_size=70)
safe_settings = st.builds(
    Settings,
    log=st.sampled_from([18, 24, 40, 80]),
    mode=st.sampled_from([Mode.ORDERED, Mode.ORDERED, Mode.JOURNAL]),
    capacity=st.sampled_from([20, 32, 64]),
    version=st.sampled_from([1, 2]),
    sequence=st.sampled_from([1, 0xFFFF_FFF0]),
)
kept = st.sampled_from([NOTHING, 0.0, 0.5, 0.9, 1.0])


def log_of(size: int = 40, **fields: int) -> Log:
    return Log(range(100, 100 + size), BLOCK, superblock(range(size), **fields))


# Crashes.


def crash(history: History, fraction: float, seed: int, keep: float) -> tuple[int, bytes]:
    length = round(fraction * len(history.record))
    return length, image_after(history.image, history.record[:length], random.Random(seed), keep)


@examples(250)
@given(SEEDS, steps, safe_settings, st.lists(st.tuples(st.floats(0, 1), kept), min_size=1, max_size=4))
def test_after_any_crash_recovery_finds_the_last_promised_state_or_the_one_on_its_way(
    seed: int, steps: list[str], settings: Settings, crashes: list[tuple[float, float]]
) -> None:
    history = run(seed, steps, settings)
    for fraction, keep in crashes:
        length, image = crash(history, fraction, seed, keep)
        _, recovered = recover_image(image, history.journal)
        assert history.promises_kept(recovered, length)


@examples(100)
@given(SEEDS, steps, steps, safe_settings, st.floats(0, 1), st.floats(0, 1), kept)
def test_a_crash_after_or_in_the_recovery_from_a_crash_leads_to_a_promised_state_too(
    seed: int, first: list[str], second: list[str], settings: Settings, one: float, two: float, keep: float
) -> None:
    history = run(seed, first, settings)
    _, image = crash(history, one, seed, keep)
    again = run(seed + 1, second, settings, history, image)
    length, image = crash(again, two, seed, keep)
    _, recovered = recover_image(image, history.journal)
    assert again.promises_kept(recovered, length)


@pytest.mark.parametrize("mode", [Mode.ORDERED, Mode.JOURNAL])
def test_a_crash_at_every_prefix_with_nothing_or_half_or_everything_kept(mode: Mode) -> None:
    chooser = random.Random(5)
    history = run(11, [chooser.choice(STEPS) for _ in range(40)], Settings(log=18, mode=mode))
    for length in range(len(history.record) + 1):
        for keep in (NOTHING, 0.5, 1.0):
            image = image_after(history.image, history.record[:length], random.Random(length), keep)
            _, recovered = recover_image(image, history.journal)
            assert history.promises_kept(recovered, length), f"after {length} records, keeping {keep}"


@pytest.mark.parametrize("seed", range(6))
def test_a_crash_at_every_point_of_recovery_leads_to_the_same_state(seed: int) -> None:
    history = run(seed, ["operation", "commit"] * 9, Settings(log=90, mode=Mode.JOURNAL, capacity=64))
    image = image_after(history.image, history.record, random.Random(seed), 0.0)
    did, recovered, record = recovery_record(image, history.journal)
    assert did.replayed > 5
    for length in range(len(record) + 1):
        for keep in (NOTHING, 0.5):
            left = image_after(image, record[:length], random.Random(length), keep)
            _, again = recover_image(left, history.journal)
            assert all(get(again, block) == get(recovered, block) for block in range(60))


# The judges: a real ext3 image, whose free blocks the transactions change.

FREE = range(5000, 5120)


def ext3_image() -> tuple[bytes, list[int]]:
    """An image of 8 MiB that mkfs.ext3 has made, and where its journal lies."""
    image = judges.make_ext3(8 << 20)
    listed = judges.debugfs(image, ["stat <8>"])
    found: list[int] = []
    for name, first, last in re.findall(r"\(([\w-]+)\):(\d+)(?:-(\d+))?", listed.split("BLOCKS:")[1]):
        if "IND" not in name:
            found += range(int(first), int(last or first) + 1)
    assert len(found) == 1024
    free = {int(number) for number in judges.debugfs(image, [f"ffb 200 {FREE.start}"]).split() if number.isdigit()}
    assert free.issuperset(FREE)
    return image, found


def needing_recovery(image: bytes) -> bytes:
    """The image with the mark that its journal has to be replayed."""
    at = SUPERBLOCK_OFFSET + SUPERBLOCK_OFFSETS["feature_incompat"]
    return image[:at] + bytes([image[at] | Incompatible.RECOVER]) + image[at + 1 :]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_e2fsck_replays_our_journal(seed: int) -> None:
    image, journal_places = ext3_image()
    chooser = random.Random(seed)
    with DiskMachine(len(image) // SECTOR_SIZE) as machine:
        machine.load(needing_recovery(image))

        async def main(volume: Volume) -> tuple[dict[int, bytes], int]:
            cache = BlockCache(volume, BLOCK, BASE, 256)
            journal = await Journal.open(cache, journal_places, 8192)
            work = Workload(journal, Model(), seed, lambda: 0, FREE)
            for _ in range(700):
                await work.operation()
                if chooser.random() < 0.2:
                    await work.commit()
            await work.commit()
            state = dict(work.model.contents)
            await work.operation()
            return state, len(work.model.commits)

        state, commits = machine.run(main)
        left = machine.image()
    assert commits > 100
    recovered = judges.recover(left)
    assert any(get(left, block) != contents for block, contents in state.items()), "there was something to replay"
    assert all(get(recovered, block) == contents for block, contents in state.items())
    _, ours = recover_image(left, journal_places, 8192)
    assert all(get(ours, block) == get(recovered, block) for block in FREE)


def test_we_replay_a_journal_that_debugfs_has_written(tmp_path: Path) -> None:
    image, journal_places = ext3_image()
    path = tmp_path / "image"
    path.write_bytes(image)
    chooser = random.Random(8)
    commands = ["jo"]
    for number in range(40):
        blocks = chooser.sample(FREE, chooser.randint(1, 30))
        source = tmp_path / f"source{number}"
        fillings = [chooser.randbytes(BLOCK) for _ in blocks]
        source.write_bytes(b"".join(MAGIC + one[4:] if chooser.random() < 0.3 else one for one in fillings))
        commands.append(f"jw -b {','.join(map(str, blocks))} {source}")
        if chooser.random() < 0.5:
            commands.append(f"jw -r {','.join(map(str, chooser.sample(FREE, 20)))}")
    commands += [f"jw -c -b {FREE[0]} {source}", "jc"]
    judges.debugfs(path, commands, write=True)
    left = path.read_bytes()
    dump = judges.debugfs(path, ["logdump -a"])
    assert "revoke" in dump
    did, ours = recover_image(left, journal_places, 8192)
    theirs = judges.recover(left)
    assert did.transactions > 50
    assert did.revoked > 0
    assert get(left, FREE[0]) != get(ours, FREE[0])
    assert all(get(ours, block) == get(theirs, block) for block in range(8192) if block not in journal_places and block > 1)


# The running journal.


def test_a_commit_with_nothing_to_commit_writes_nothing_and_one_commit_is_for_all() -> None:
    with DiskMachine(BLOCKS * 2) as machine:
        journal_places = places(40)
        machine.load(bytes(empty_image(journal_places)))
        record = machine.disk.record = []

        async def main(volume: Volume) -> None:
            journal = await Journal.open(BlockCache(volume, BLOCK, BASE, 32), journal_places, BLOCKS)
            await journal.commit()
            assert not record
            for block in (3, 4):
                async with journal.operation(1):
                    await journal.fresh(block, b"x")
            mine = journal.transaction
            assert journal.committed < mine
            await journal.commit()
            assert journal.committed == mine
            commits = [one for one in record if isinstance(one, Written) and one.forced]
            assert len(commits) == 1
            before = len(record)
            await journal.commit()
            assert len(record) == before

        machine.run(main)


def test_a_block_that_was_freed_may_be_used_again_only_when_that_is_durable() -> None:
    with DiskMachine(BLOCKS * 2) as machine:
        journal_places = places(40)
        machine.load(bytes(empty_image(journal_places)))

        async def main(volume: Volume) -> None:
            journal = await Journal.open(BlockCache(volume, BLOCK, BASE, 32), journal_places, BLOCKS)
            async with journal.operation(2):
                await journal.fresh(3)
                await journal.forget(4)
                journal.forget_data(5)
            assert [journal.may_reuse(block) for block in (3, 4, 5)] == [True, False, False]
            await journal.commit()
            assert journal.may_reuse(4)
            assert journal.may_reuse(5)

        machine.run(main)


def crashed(main: Callable[[Journal, BlockCache], Awaitable[None]], keep: float = 1.0) -> tuple[bytes, list[int]]:
    """What is on the medium when the power goes at the end of `main`; `keep`: how much of what was not flushed."""
    journal_places = places(40)
    image = bytes(empty_image(journal_places))
    with DiskMachine(BLOCKS * 2) as machine:
        machine.load(image)
        record = machine.disk.record = []

        async def first(volume: Volume) -> None:
            cache = BlockCache(volume, BLOCK, BASE, 32)
            await main(await Journal.open(cache, journal_places, BLOCKS), cache)

        machine.run(first)
        return image_after(image, record, random.Random(0), keep), journal_places


def test_a_block_freed_and_changed_again_in_one_transaction_is_replayed() -> None:
    async def main(journal: Journal, cache: BlockCache) -> None:
        async with journal.operation(1):
            await journal.fresh(3, b"old")
        await journal.commit()
        async with journal.operation(1):
            await journal.forget(3)
            await journal.fresh(3, b"new")
        await journal.commit()

    image, journal_places = crashed(main)
    assert get(image, 3) == bytes(BLOCK)
    assert get(recover_image(image, journal_places)[1], 3).startswith(b"new")


def test_a_commit_that_the_disk_did_not_take_is_an_error_and_the_end_of_the_journal() -> None:
    journal_places = places(40)
    exo = Failing(0)
    exo.sector = None
    with DiskMachine(BLOCKS * 2) as machine:
        machine.load(bytes(empty_image(journal_places)))

        async def main(volume: Volume) -> None:
            cache = BlockCache(Volume(exo, 0, volume.sectors), BLOCK, BASE, 32)
            journal = await Journal.open(cache, journal_places, BLOCKS)
            async with journal.operation(1):
                await journal.fresh(3, b"committed")
            await journal.commit()
            async with journal.operation(1):
                await journal.update(3, b"not so")
            exo.sector = journal_places[5] * 2
            with pytest.raises(VolumeError):
                await journal.commit()
            exo.sector = None
            with pytest.raises(FileSystemError, match="a commit has failed"):
                await journal.commit()
            assert journal.committed == 1

        machine.run(main)
        image = machine.image()
    assert get(recover_image(image, journal_places)[1], 3).startswith(b"committed")


def test_contents_can_be_made_durable_without_a_commit() -> None:
    async def main(journal: Journal, cache: BlockCache) -> None:
        async with journal.operation(2):
            await journal.data(9, b"contents", fresh=True)
            await journal.update(8, b"metadata")
        await journal.sync_contents()
        assert journal.committed == 0

    image, _ = crashed(main, keep=NOTHING)
    assert get(image, 9).startswith(b"contents")
    assert get(image, 8) == bytes(BLOCK)


def test_what_an_uncommitted_transaction_did_to_a_block_that_it_then_freed_never_reaches_the_disk() -> None:
    async def main(journal: Journal, cache: BlockCache) -> None:
        async with journal.operation(1):
            await journal.fresh(3, b"committed")
        await journal.checkpoint()
        async with journal.operation(2):
            await journal.update(3, b"never")
            await journal.forget(3)
            await journal.update(4, b"never")
        await cache.write_back()
        await cache.release(32)
        await cache.flush()

    image, journal_places = crashed(main)
    assert b"never" not in image
    assert get(recover_image(image, journal_places)[1], 3).startswith(b"committed")


def test_a_copy_in_the_log_never_begins_with_the_magic_number() -> None:
    async def main(journal: Journal, cache: BlockCache) -> None:
        async with journal.operation(2):
            await journal.fresh(3, MAGIC + b"first")
            await journal.fresh(4, b"plain")
            await journal.update(4, MAGIC)
        await journal.commit()
        assert await cache.read(3, 0, 9) == MAGIC + b"first"

    image, journal_places = crashed(main)
    log = log_of()
    blocks = [get(image, place) for place in journal_places[1:5]]
    assert list(log.tags(blocks[0])) == [Tag(3, True), Tag(4, True)]
    assert [block[:9] for block in blocks[1:3]] == [b"\0\0\0\0first", b"\0\0\0\0n\0\0\0\0"]
    assert log.header(blocks[3]) == (JournalBlock.COMMIT, 1)
    _, recovered = recover_image(image, journal_places)
    assert [get(recovered, block)[:9] for block in (3, 4)] == [MAGIC + b"first", MAGIC + b"n\0\0\0\0"]


@pytest.mark.parametrize("mode", [Mode.ORDERED, Mode.WRITEBACK])
def test_contents_are_on_the_medium_before_the_commit_block_or_in_writeback_mode_when_wanted(mode: Mode) -> None:
    journal_places = places(40)
    with DiskMachine(BLOCKS * 2) as machine:
        machine.load(bytes(empty_image(journal_places)))
        record = machine.disk.record = []

        def written() -> list[int]:
            return [one.sector // 2 for one in record if isinstance(one, Written)]

        async def main(volume: Volume) -> None:
            journal = await Journal.open(BlockCache(volume, BLOCK, BASE, 32), journal_places, BLOCKS, mode)
            async with journal.operation(1):
                await journal.data(9, b"contents", fresh=True)
                await journal.update(8, b"metadata")
            await journal.commit_for_room()
            assert (9 in written()) is (mode is Mode.ORDERED)
            await journal.commit()
            assert 9 in written()
            assert 8 not in written(), "metadata waits for the checkpoint"
            await journal.checkpoint()
            assert 8 in written()

        machine.run(main)


async def update_all(journal: Journal, blocks: Sequence[int]) -> None:
    for block in blocks:
        await journal.update(block, b"lost")


def test_a_transaction_too_large_for_the_log_puts_an_end_to_the_journal_and_not_to_what_was_committed() -> None:
    journal_places = places(40)
    with DiskMachine(BLOCKS * 2) as machine:
        machine.load(bytes(empty_image(journal_places)))

        async def main(volume: Volume) -> None:
            journal = await Journal.open(BlockCache(volume, BLOCK, BASE, 64), journal_places, BLOCKS)
            async with journal.operation(1):
                await journal.fresh(3, b"committed")
            await journal.commit()
            async with journal.operation(1):
                assert journal.room() == journal.limit - 1
                for block in range(4, 4 + journal.limit):
                    await journal.update(block, b"lost")
                with pytest.raises(FileSystemError, match="blocks of the log that it may") as caught:
                    await update_all(journal, range(20, 60))
            assert caught.value.errno is Errno.EROFS
            with pytest.raises(FileSystemError, match="given up"):
                await journal.commit()
            with pytest.raises(FileSystemError, match="given up"):
                async with journal.operation(1):
                    pass

        machine.run(main)
        image = machine.image()
    assert b"lost" not in image
    _, recovered = recover_image(image, journal_places)
    assert get(recovered, 3).startswith(b"committed")


def test_without_a_journal_a_commit_writes_everything_in_place() -> None:
    with DiskMachine(BLOCKS * 2) as machine:

        async def main(volume: Volume) -> None:
            journal = NoJournal(BlockCache(volume, BLOCK, BASE, 32))
            called = []

            async def hook() -> None:
                called.append(await journal.update(6, b"hook"))

            journal.before_commit.append(hook)
            async with journal.operation(3):
                await journal.fresh(3, b"fresh")
                await journal.data(4, b"data", 4, fresh=True)
                await journal.update(5, b"gone")
                await journal.forget(5)
                journal.forget_data(7)
            assert journal.may_reuse(5)
            mine = journal.transaction
            await journal.commit()
            assert journal.committed == mine
            assert len(called) == 1

        machine.run(main)
        image = machine.image()
        assert [get(image, block).rstrip(b"\0") for block in (3, 4, 5, 6)] == [b"fresh", b"\0\0\0\0data", b"", b"hook"]
