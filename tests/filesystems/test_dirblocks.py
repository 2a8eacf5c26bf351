"""One block of entries: what comes from the disk is checked, and what is remembered of it stays true."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libos.filesystems.ext3 import dirblocks
from libos.filesystems.ext3.dirblocks import Slots, length_for, packed, survey
from libos.filesystems.ext3.layout import DirectoryEntry
from libos.filesystems.interface import CorruptFileSystem

INODES = 1000
NAMES = st.one_of(
    st.sampled_from([b"a", b"aa", b"ab", b"a" * 4, b"a" * 8, b"x" * 255, b"x" * 250 + b"aaaa", b"\1\1a"]),
    st.binary(min_size=1, max_size=255),
)


def entry(inode: int, length: int, name: bytes, kind: int = 1, name_length: int | None = None) -> bytes:
    """An entry as the declaration has it, padded to its length."""
    fields = {
        "inode": inode, "rec_len": length, "name_len": len(name) if name_length is None else name_length, "file_type": kind,
    }  # fmt: skip
    header: bytes = DirectoryEntry.build(fields)
    return (header + name).ljust(length, b"\0")


def filled(*entries: bytes, size: int = 1024) -> bytes:
    """These entries, and a free one for the rest of the block."""
    used = sum(map(len, entries))
    return b"".join(entries) + (entry(0, size - used, b"") if used < size else b"")


@pytest.mark.parametrize(
    ("block", "sentence"),
    [
        (filled(entry(11, 12, b"a"))[:-4], "impossible length"),
        (bytes(1024), "impossible length 0"),
        (filled(entry(11, 12, b"a"), entry(12, 14, b"bb"))[:1024], "impossible length 14"),
        (filled(entry(11, 8, b"")), "impossible length 8"),
        (filled(entry(11, 12, b"abcde", name_length=5)[:12]), "impossible length 12"),
        (filled(entry(INODES + 1, 12, b"a")), "refers to inode 1001; there are 1000"),
        (filled(entry(11, 12, b"", name_length=0)), "has no name"),
        (entry(11, 1028, b"a")[:1024], "impossible length 1028"),
        (entry(11, 1020, b"a") + bytes(4), "do not end where the block does"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_entry_that_makes_no_sense_is_refused(block: bytes, sentence: str) -> None:
    with pytest.raises(CorruptFileSystem, match=sentence):
        survey(block, INODES, "Block 7")


def test_the_last_inode_is_one() -> None:
    survey(filled(entry(INODES, 12, b"a")), INODES, "Block 7")


def test_a_name_that_was_removed_or_lies_inside_another_is_not_found() -> None:
    inside = entry(11, 24, b"\0\0\0\0" + b"\x0c\0\x01\1" + b"b" + b"\0\0\0")
    removed = entry(12, 24, b"keep")[:12] + entry(13, 12, b"gone")
    block = filled(inside, removed)
    slots = survey(block, INODES, "")
    assert dirblocks.locate(block, slots, b"b") == dirblocks.locate(block, slots, b"gone") == -1
    assert dirblocks.locate(block, slots, b"keep") == 24
    free = filled(entry(0, 12, b"was"), entry(14, 12, b"is"))
    slots = survey(free, INODES, "")
    assert dirblocks.locate(free, slots, b"was") == -1
    assert dirblocks.locate(free, slots, b"is") == 12


def apply(block: bytes, change: dirblocks.Change) -> bytes:
    return block[: change.at] + change.data + block[change.at + len(change.data) :]


def assert_true(block: bytes, slots: Slots) -> None:
    """What is remembered is what a survey finds, or, where that is not claimed, no more than that."""
    fresh = survey(block, INODES, "")
    assert slots.starts == fresh.starts
    known = {slot.at: slot.length - slot.used for slot in dirblocks.walk(block, INODES, "")}
    assert known[slots.roomy] == slots.room
    assert slots.room <= fresh.room
    assert not slots.largest or slots.room == fresh.room


@pytest.mark.parametrize("size", [1024, 2048, 4096])
def test_a_block_holds_what_a_dictionary_does(size: int) -> None:
    @settings(deadline=None, max_examples=150)
    @given(st.lists(st.tuples(st.booleans(), NAMES, st.integers(0, 100)), max_size=60))
    def play(steps: list[tuple[bool, bytes, int]]) -> None:
        block = packed([], size)
        slots = survey(block, INODES, "")
        model: dict[bytes, tuple[int, int]] = {}
        for number, (adding, name, index) in enumerate(steps, 1):
            if adding and name not in model:
                room = max(slot.length - slot.used for slot in dirblocks.walk(block, INODES, ""))
                assert dirblocks.has_room(block, slots, length_for(name)) == (room >= length_for(name))
                if room < length_for(name):
                    continue
                change = dirblocks.insert(block, slots, name, number, number % 8)
                model[name] = number, number % 8
            elif not adding and model:
                gone = sorted(model)[index % len(model)]
                change = dirblocks.remove(block, slots, dirblocks.locate(block, slots, gone))
                del model[gone]
            else:
                continue
            block, slots = apply(block, change), change.slots
            assert len(block) == size
            assert_true(block, slots)
        there = {slot.name: (slot.inode, slot.kind) for slot in dirblocks.walk(block, INODES, "") if slot.inode}
        assert there == model
        for name in [*model, *(name for _, name, _ in steps)]:
            at = dirblocks.locate(block, slots, name)
            assert (dirblocks.read(block, at) if at >= 0 else None) == model.get(name)

    play()


@given(st.lists(st.tuples(NAMES, st.integers(1, INODES), st.integers(0, 7)), max_size=20, unique_by=lambda named: named[0]))
def test_packing_leaves_room_only_behind_the_last(entries: list[tuple[bytes, int, int]]) -> None:
    while sum(length_for(name) for name, _, _ in entries) > 1024:
        entries.pop()
    slots = list(dirblocks.walk(packed(entries, 1024), INODES, ""))
    assert [(slot.name, slot.inode, slot.kind) for slot in slots if slot.inode] == entries
    assert all(slot.length == slot.used for slot in slots[:-1])
