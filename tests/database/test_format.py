"""The declarations are the definition: what is packed by hand is what construct makes of it, and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exokernel.abi.layout import PAGE_SIZE
from libos.database import format as layout
from libos.database.errors import CorruptStore, DatabaseError
from libos.database.format import Checkpoint, Geometry, NodePointer, PageKind, Seal
from libos.database.space import Space

WORD = st.integers(0, (1 << 32) - 1)
LONG = st.integers(0, (1 << 64) - 1)
KEYS = st.binary(min_size=1, max_size=layout.KEY_MAXIMUM)
VALUES = st.binary(max_size=layout.VALUE_MAXIMUM)
POINTERS = st.builds(NodePointer, WORD, LONG)
CHECKPOINTS = st.builds(Checkpoint, st.binary(min_size=16, max_size=16), LONG, WORD, WORD, POINTERS, WORD, LONG, LONG)
SEAL = Seal(b"a store like this")


@given(CHECKPOINTS)
def test_a_superblock_is_read_as_it_was_written(checkpoint: Checkpoint) -> None:
    sector = checkpoint.pack()
    assert len(sector) == 512
    assert layout.unpack_superblock(sector) == checkpoint


def test_a_superblock_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "VERSION", 2)
    sector = Checkpoint(bytes(16), 1, 2, 3, NodePointer(4, 5), 6, 7, 8).pack()
    monkeypatch.undo()
    with pytest.raises(DatabaseError, match="version 2; this library knows version 1"):
        layout.unpack_superblock(sector)


@given(POINTERS)
def test_a_pointer_is_what_is_declared(pointer: NodePointer) -> None:
    packed = layout.Pointer.build({"page": pointer.page, "generation": pointer.generation})
    assert pointer.pack() == packed
    assert layout.unpack_pointer(packed) == pointer


@given(st.lists(st.tuples(KEYS, VALUES), max_size=3), WORD, LONG, st.integers(0, 255))
def test_a_node_is_what_is_declared(entries: list[tuple[bytes, bytes]], page: int, generation: int, level: int) -> None:
    body = layout.pack_entries(entries)
    data = SEAL.page(page, generation, PageKind.NODE, level, len(entries), body)
    parsed = layout.NodePage.parse(data)
    assert list(zip(parsed["keys"], parsed["values"], strict=True)) == entries
    header = parsed.header
    assert (header.page, header.generation, header.kind, header.level) == (page, generation, PageKind.NODE, level)
    assert header.count == len(entries)
    assert layout.NodePage.build(parsed) == data
    assert SEAL.check_page(data, page, generation, PageKind.NODE, level) == len(entries)
    assert layout.unpack_entries(data, len(entries)) == entries


@given(st.lists(st.tuples(KEYS, VALUES | st.none()), max_size=20))
def test_changes_are_read_as_they_were_written(changes: list[tuple[bytes, bytes | None]]) -> None:
    packed = layout.pack_changes(changes)
    assert layout.unpack_changes(packed, len(changes)) == changes
    at = 0
    for key, value in changes:
        head = layout.Change.parse(packed[at:])
        assert head.key_length == len(key)
        assert head.value_length == (layout.DELETED if value is None else len(value))
        at += layout.Change.sizeof() + len(key) + len(value or b"")
    assert at == len(packed)


@given(st.integers(0, PAGE_SIZE * 8 - 1), st.data())
def test_one_flipped_bit_in_a_page_is_found(bit: int, data: st.DataObject) -> None:
    page = bytearray(SEAL.page(7, 3, PageKind.NODE, 0, 2, layout.pack_entries([(b"a", b"1"), (b"b", b"2")])))
    page[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptStore):
        SEAL.check_page(bytes(page), 7, 3, PageKind.NODE, 0)


@pytest.mark.parametrize("expected", [(8, 3, 0), (7, 4, 0), (7, 3, 1)])
def test_a_page_that_is_not_the_one_referred_to_is_found(expected: tuple[int, int, int]) -> None:
    page, generation, level = expected
    data = SEAL.page(7, 3, PageKind.NODE, 0, 0, b"")
    with pytest.raises(CorruptStore, match="not the one that was written there"):
        SEAL.check_page(data, page, generation, PageKind.NODE, level)
    with pytest.raises(CorruptStore):
        Seal(b"another").check_page(data, 7, 3, PageKind.NODE, 0)


@pytest.mark.parametrize("pages", [100, 33_000])
def test_a_map_is_read_as_it_was_written(pages: int) -> None:
    geometry = Geometry(pages, 10)
    space = Space(geometry)
    taken = [space.take() for _ in range(60)]
    space.checkpointed()
    for page in taken[::3]:
        assert not space.let_go(page)
    extra = space.take()
    assert extra not in taken
    written = space.pack(SEAL, 4)
    assert len(written) == geometry.map_pages * PAGE_SIZE
    assert layout.MapPage.parse(written[:PAGE_SIZE]).header.kind == PageKind.MAP
    space.checkpointed()
    again = Space(geometry)
    again.unpack([written[at : at + PAGE_SIZE] for at in range(0, len(written), PAGE_SIZE)], SEAL, 4)
    assert again.free == space.free == pages - geometry.nodes_begin - 41
    assert [again.is_used(page) for page in range(pages)] == [space.is_used(page) for page in range(pages)]
    used = {page for page in range(geometry.nodes_begin, pages) if again.is_used(page)}
    assert used == {*taken, extra} - set(taken[::3])


def test_the_parts_of_a_store_do_not_overlap() -> None:
    geometry = Geometry(40_000, 10)
    assert geometry.map_pages == 2
    assert geometry.superblock_sector(0) == 0
    assert geometry.superblock_sector(1) == 8
    assert geometry.log_sector == 16
    assert [geometry.map_begin(0), geometry.map_begin(1), geometry.nodes_begin] == [12, 14, 16]
