"""The formats for speed say the same as the declarations they are derived from."""

from typing import Any

import construct
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libos.filesystems.ext3 import layout, records
from libos.filesystems.ext3.inodes import Inode
from libos.storage.formats import derive, offsets

SIZES = {
    "Superblock": 1024, "GroupDescriptor": 32, "InodeRecord": 128, "InodeExtra": 32, "DirectoryEntry": 8, "IndexRoot": 32,
    "IndexNode": 8, "IndexCountLimit": 8, "IndexEntry": 8, "JournalHeader": 12, "JournalSuperblock": 1024,
    "JournalBlockTag": 8, "JournalRevokeHeader": 16, "CommitHeader": 60, "XattrHeader": 32, "XattrEntry": 16,
}  # fmt: skip
"""As in the headers of Linux."""
KNOWN_OFFSETS = {
    "Superblock": {
        "magic": 56, "state": 58, "rev_level": 76, "inode_size": 88, "uuid": 104, "reserved_gdt_blocks": 206,
        "journal_inum": 224, "last_orphan": 232, "hash_seed": 236, "def_hash_version": 252, "default_mount_opts": 256,
        "jnl_blocks.0": 268, "min_extra_isize": 348, "flags": 352, "error_count": 404, "overhead_blocks": 584,
        "checksum": 1020,
    },
    "InodeRecord": {
        "size": 4, "dtime": 20, "links_count": 26, "flags": 32, "block.0": 40, "generation": 100, "file_acl": 104,
        "size_high": 108, "uid_high": 120,
    },
    "JournalSuperblock": {"sequence": 24, "start": 28, "feature_incompat": 40, "uuid": 48, "users": 256},
    "XattrEntry": {"value_offs": 2, "value_size": 8, "hash": 12},
}  # fmt: skip


def _flat(name: str, value: Any) -> list[tuple[str, Any]]:
    """The values of a parsed structure with the names that `derive` gives them."""
    if isinstance(value, construct.Container):
        inner = [
            (f"{name}.{key}" if name else str(key), part) for key, part in value.items() if not str(key).startswith("_")
        ]
        return [pair for inner_name, part in inner for pair in _flat(inner_name, part)]
    if isinstance(value, construct.ListContainer):
        return [pair for index, part in enumerate(value) for pair in _flat(f"{name}.{index}", part)]
    return [(name, value)]


@pytest.mark.parametrize("name", SIZES)
@given(data=st.data())
def test_a_derived_format_reads_and_writes_as_its_declaration(name: str, data: st.DataObject) -> None:
    structure = getattr(layout, name)
    form, names = derive(structure)
    raw = data.draw(st.binary(min_size=form.size, max_size=form.size))
    parsed = structure.parse(raw)
    assert list(zip(names, form.unpack(raw), strict=True)) == _flat("", parsed)
    assert form.pack(*form.unpack(raw)) == raw == structure.build(parsed)


@pytest.mark.parametrize("name", SIZES)
def test_a_structure_has_the_size_that_linux_has(name: str) -> None:
    assert getattr(layout, name).sizeof() == SIZES[name] == derive(getattr(layout, name))[0].size


@pytest.mark.parametrize("name", KNOWN_OFFSETS)
def test_fields_lie_where_linux_has_them(name: str) -> None:
    found = offsets(getattr(layout, name))
    assert {field: found[field] for field in KNOWN_OFFSETS[name]} == KNOWN_OFFSETS[name]


def test_every_format_in_use_is_derived() -> None:
    for constant, structure in (
        ("SUPERBLOCK", layout.Superblock), ("GROUP_DESCRIPTOR", layout.GroupDescriptor), ("INODE", layout.InodeRecord),
        ("INODE_EXTRA", layout.InodeExtra), ("DIRECTORY_ENTRY", layout.DirectoryEntry), ("INDEX_ROOT", layout.IndexRoot),
        ("JOURNAL_HEADER", layout.JournalHeader), ("COMMIT_HEADER", layout.CommitHeader),
        ("XATTR_HEADER", layout.XattrHeader), ("XATTR_ENTRY", layout.XattrEntry),
    ):  # fmt: skip
        assert getattr(records, constant).format == derive(structure)[0].format


@given(raw=st.binary(min_size=256, max_size=256))
def test_an_inode_that_nobody_changed_is_stored_as_it_was(raw: bytes) -> None:
    inode = Inode(12, bytearray(raw))
    inode.decode()
    assert inode.encode() == raw


def test_what_has_no_fixed_format_is_refused() -> None:
    with pytest.raises(TypeError, match="name has no fixed format"):
        derive(construct.Struct("name" / construct.CString("ascii")))
    with pytest.raises(TypeError, match="byte orders"):
        derive(construct.Struct("a" / construct.Int16ul, "b" / construct.Int16ub))
