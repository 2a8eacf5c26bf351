"""The log's blocks, read as they were written; what is no journal is refused; and recovery from logs made by hand, those
that make no sense among them, which change nothing."""

import random
from collections.abc import Sequence
from contextlib import suppress

import hypothesis.strategies as st
import pytest
from hypothesis import given

from exokernel.machine.disk import Written
from libos.filesystems.ext3.journal import Journal
from libos.filesystems.ext3.layout import (
    CommitHeader,
    JournalBlock,
    JournalBlockTag,
    JournalHeader,
    JournalIncompatible,
    JournalRevokeHeader,
    JournalSuperblock,
    TagFlags,
)
from libos.filesystems.ext3.log import Log, Tag, is_later
from libos.filesystems.ext3.records import JOURNAL_SUPERBLOCK_OFFSETS
from libos.filesystems.ext3.recovery import Recovered
from libos.filesystems.interface import CorruptFileSystem
from libos.storage.cache import BlockCache
from libos.storage.volume import Volume
from tests.filesystems.logged import (
    BASE,
    BLOCK,
    BLOCKS,
    MAGIC,
    Settings,
    empty_image,
    get,
    image_after,
    places,
    put,
    recover_image,
    run,
    superblock,
)
from tests.machine_kit import examples
from tests.storage.kit import DiskMachine

NUMBERS = st.integers(0, 0xFFFF_FFFF)
SEEDS = st.integers(0, 1 << 20)


def log_of(size: int = 40, **fields: int) -> Log:
    return Log(range(100, 100 + size), BLOCK, superblock(range(size), **fields))


# Blocks of the log.


@given(SEEDS, st.lists(st.builds(Tag, NUMBERS, st.booleans()), min_size=1, max_size=124))
def test_the_tags_of_a_descriptor_block_are_read_as_they_were_written(sequence: int, tags: list[Tag]) -> None:
    log = log_of()
    block = log.descriptor(sequence, tags).ljust(BLOCK, b"\0")
    assert len(block) == BLOCK
    assert log.header(block) == (JournalBlock.DESCRIPTOR, sequence)
    assert list(log.tags(block)) == tags
    first = JournalBlockTag.parse(block[JournalHeader.sizeof() :])
    assert first.block == tags[0].block
    assert not first.flags & TagFlags.SAME_UUID
    assert bool(first.flags & TagFlags.LAST) is (len(tags) == 1)


def test_tags_may_each_have_a_uuid() -> None:
    tags = [JournalBlockTag.build({"block": number, "flags": 0}) + bytes(16) for number in (5, 6)]
    last = JournalBlockTag.build({"block": 7, "flags": TagFlags.LAST | TagFlags.ESCAPED})
    header = JournalHeader.build({"magic": 0xC03B3998, "blocktype": 1, "sequence": 1})
    block = (header + b"".join(tags) + last).ljust(BLOCK, b"\xff")
    assert list(log_of().tags(block)) == [Tag(5, False), Tag(6, False), Tag(7, True)]


def test_a_descriptor_block_takes_as_many_tags_as_fit() -> None:
    log = log_of()
    tags = [Tag(number, False) for number in range(log.tags_in_a_descriptor)]
    assert BLOCK - 8 < len(log.descriptor(1, tags)) <= BLOCK
    assert len(log.revoke(1, range(log.revokes_in_a_block))) == BLOCK


@given(SEEDS, st.lists(NUMBERS, max_size=252))
def test_the_numbers_of_a_revoke_block_are_read_as_they_were_written(sequence: int, numbers: list[int]) -> None:
    log = log_of()
    block = log.revoke(sequence, numbers).ljust(BLOCK, b"\0")
    assert log.header(block) == (JournalBlock.REVOKE, sequence)
    assert list(log.revoked(block)) == numbers
    assert JournalRevokeHeader.parse(block).count == 16 + 4 * len(numbers)


def test_a_commit_block_and_a_superblock_are_what_their_declarations_say() -> None:
    log = log_of()
    commit = CommitHeader.parse(log.commit(7))
    assert (commit.header.blocktype, commit.header.sequence) == (JournalBlock.COMMIT, 7)
    parsed = JournalSuperblock.parse(log.superblock(3, 9))
    assert (parsed.start, parsed.sequence, parsed.maxlen, parsed.first) == (3, 9, 40, 1)
    assert parsed.feature_incompat == JournalIncompatible.REVOKE


def test_a_superblock_of_version_1_becomes_one_of_version_2_without_what_was_behind_its_fields() -> None:
    old = bytearray(superblock(range(40), version=1))
    old[JOURNAL_SUPERBLOCK_OFFSETS["feature_compat"] :] = b"\xff" * (BLOCK - JOURNAL_SUPERBLOCK_OFFSETS["feature_compat"])
    parsed = JournalSuperblock.parse(Log(range(40), BLOCK, bytes(old)).superblock(0, 5))
    assert parsed.header.blocktype == JournalBlock.SUPERBLOCK_V2
    assert (parsed.nr_users, parsed.feature_incompat, parsed.feature_compat) == (1, JournalIncompatible.REVOKE, 0)
    assert parsed.uuid == bytes(16)


@given(NUMBERS, st.integers(1, (1 << 31) - 1))
def test_sequence_numbers_go_round(sequence: int, distance: int) -> None:
    assert is_later((sequence + distance) % (1 << 32), sequence)
    assert not is_later(sequence, (sequence + distance) % (1 << 32))
    assert not is_later(sequence, sequence)


def test_positions_go_round_within_the_ring() -> None:
    log = log_of(10)
    assert [log.after(8, count) for count in range(4)] == [8, 9, 1, 2]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"header.magic": 0}, "does not begin with a superblock"),
        ({"header.blocktype": 1}, "does not begin with a superblock"),
        ({"blocksize": 4096}, "blocks of 4096 bytes"),
        ({"maxlen": 41}, "41 blocks, and its inode 40"),
        ({"first": 0}, "cannot be blocks 0 to 40"),
        ({"first": 40}, "cannot be blocks 40 to 40"),
        ({"start": 40}, "begins at block 40"),
        ({"feature_incompat": JournalIncompatible.BITS_64}, "needs BITS_64, which this library does not know"),
        ({"feature_incompat": JournalIncompatible.ASYNC_COMMIT}, "needs ASYNC_COMMIT"),
        ({"feature_incompat": JournalIncompatible.CSUM_V2}, "needs CSUM_V2"),
        ({"feature_incompat": JournalIncompatible.CSUM_V3}, "needs CSUM_V3"),
        ({"feature_incompat": JournalIncompatible.FAST_COMMIT | 1}, "needs FAST_COMMIT"),
        ({"feature_incompat": 0x1000}, "needs 0x1000"),
        ({"feature_ro_compat": 4}, "needs read-only 0x4"),
        ({"nr_users": 2}, "shared by several"),
    ],
)
def test_a_journal_that_cannot_be_or_is_not_known_is_refused(fields: dict[str, int], sentence: str) -> None:
    with pytest.raises(CorruptFileSystem, match=sentence):
        log_of(40, **fields)


# Logs that make no sense.


def logged_image(*blocks: bytes, start: int = 1, sequence: int = 1) -> tuple[bytes, list[int]]:
    """A disk whose log has these blocks from `start` on."""
    journal = places(40)
    image = empty_image(journal, start=start, sequence=sequence, feature_incompat=1)
    log = log_of()
    for offset, contents in enumerate(blocks):
        put(image, journal[log.after(start, offset)], contents)
    return bytes(image), journal


def test_a_transaction_is_replayed_and_the_log_is_empty_afterwards() -> None:
    log = log_of()
    data = [bytes([n]) * BLOCK for n in range(3)]
    tags = [Tag(5, False), Tag(6, False), Tag(7, True)]
    image, journal = logged_image(log.descriptor(4, tags), *data, log.commit(4), start=38, sequence=4)
    did, recovered = recover_image(image, journal)
    assert did == Recovered(transactions=1, replayed=3, revoked=0)
    assert [get(recovered, block) for block in (5, 6)] == data[:2]
    assert get(recovered, 7) == MAGIC + data[2][4:]
    parsed = JournalSuperblock.parse(get(recovered, journal[0]))
    assert parsed.start == 0
    assert parsed.sequence == 6
    assert recover_image(recovered, journal) == (Recovered(), recovered)


def test_a_transaction_without_a_commit_block_or_with_another_number_never_happened() -> None:
    log = log_of()
    data = bytes([1]) * BLOCK
    for end in (b"", log.commit(2), b"\0" * BLOCK, JournalHeader.build({"magic": 1, "blocktype": 2, "sequence": 1})):
        image, journal = logged_image(log.descriptor(1, [Tag(5, False)]), data, end)
        did, recovered = recover_image(image, journal)
        assert did == Recovered()
        assert get(recovered, 5) == bytes(BLOCK)


def test_a_revocation_counts_for_its_own_transaction_and_earlier_ones_wherever_it_stands() -> None:
    log = log_of()
    one, two, three = (bytes([n]) * BLOCK for n in (1, 2, 3))
    image, journal = logged_image(
        log.descriptor(1, [Tag(5, False), Tag(6, False)]), one, one, log.commit(1),
        log.descriptor(2, [Tag(7, False)]), two, log.revoke(2, [5, 7]), log.commit(2),
        log.descriptor(3, [Tag(5, False)]), three, log.commit(3),
        log.revoke(4, [5, 6]),
    )  # fmt: skip
    did, recovered = recover_image(image, journal)
    assert did == Recovered(transactions=3, replayed=2, revoked=2)
    assert [get(recovered, block) for block in (5, 6, 7)] == [three, one, bytes(BLOCK)]


def test_the_last_revocation_of_a_block_counts() -> None:
    log = log_of()
    one = bytes([1]) * BLOCK
    image, journal = logged_image(
        log.revoke(1, [5]), log.commit(1), log.descriptor(2, [Tag(5, False)]), one, log.commit(2),
        log.revoke(3, [5]), log.commit(3),
    )  # fmt: skip
    assert recover_image(image, journal)[0] == Recovered(transactions=3, replayed=0, revoked=1)


@pytest.mark.parametrize(
    ("blocks", "sentence"),
    [
        ([("descriptor", [Tag(BLOCKS, False)]), bytes(BLOCK)], "changes block 160, outside the file system"),
        ([("descriptor", [Tag(places(40)[3], False)]), bytes(BLOCK)], "which is the journal's own"),
        ([("revoke", 15)], "cannot have 15 bytes"),
        ([("revoke", 18)], "cannot have 18 bytes"),
        ([("revoke", BLOCK + 4)], "cannot have 1028 bytes"),
        ([("revoke", 0xFFFFFFFC)], "cannot have 4294967292 bytes"),
        ([("descriptor", [Tag(5, False)] * 60), *[bytes(BLOCK)] * 30], "goes round in a circle"),
    ],
)  # fmt: skip
def test_a_log_that_makes_no_sense_is_refused_and_nothing_is_written(blocks: Sequence[object], sentence: str) -> None:
    log = log_of()
    made = [log.descriptor(1, [Tag(5, False)]), b"\1" * BLOCK, log.commit(1)]
    for block in blocks:
        match block:
            case ("descriptor", tags):
                made.append(log.descriptor(2, tags))
            case ("revoke", size):
                header = {"magic": 0xC03B3998, "blocktype": JournalBlock.REVOKE, "sequence": 2}
                made.append(JournalRevokeHeader.build({"header": header, "count": size}))
            case _:
                made.append(block)
    image, journal = logged_image(*made, log.commit(2))
    with DiskMachine(BLOCKS * 2, memory=2 << 20) as machine:
        machine.load(image)

        async def main(volume: Volume) -> None:
            await Journal.open(BlockCache(volume, BLOCK, BASE, 32), journal, BLOCKS)

        with pytest.raises(CorruptFileSystem, match=sentence):
            machine.run(main)
        assert machine.image() == image


@examples(150)
@given(SEEDS, st.lists(st.tuples(st.integers(0, 39), st.integers(0, 8 * 32 - 1), NUMBERS), min_size=1, max_size=6))
def test_a_journal_with_wrong_bits_is_refused_or_changes_only_blocks_of_the_file_system(
    seed: int, flips: list[tuple[int, int, int]]
) -> None:
    history = run(seed, ["operation", "operation", "commit"] * 4, Settings())
    image = bytearray(image_after(history.image, history.record, random.Random(0), 1.0))
    for index, word, value in flips:
        at = history.journal[index] * BLOCK + 4 * (word % 24)
        image[at : at + 4] = value.to_bytes(4, "big") if value % 3 else (value % 64).to_bytes(4, "big")
    with DiskMachine(BLOCKS * 2, memory=2 << 20) as machine:
        machine.load(bytes(image))
        record = machine.disk.record = []

        async def main(volume: Volume) -> None:
            await Journal.open(BlockCache(volume, BLOCK, BASE, 32), history.journal, 60)

        with suppress(CorruptFileSystem):
            machine.run(main)
        for one in record:
            if isinstance(one, Written):
                assert one.sector // 2 < 60 or one.sector // 2 == history.journal[0]
