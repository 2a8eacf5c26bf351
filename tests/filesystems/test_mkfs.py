"""Our mkfs makes what mkfs.ext3 makes: e2fsck has nothing to say, and the fields are the same."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from exokernel.abi.layout import SECTOR_SIZE
from libos.filesystems.ext3.filesystem import Ext3
from libos.filesystems.ext3.layout import GroupDescriptor, Superblock
from libos.filesystems.ext3.mkfs import CannotMake, make
from libos.storage.volume import Volume
from tests.filesystems import judges
from tests.filesystems.stages import BASE, EPOCH
from tests.storage.kit import DiskMachine

MIB = 1 << 20
SEED = bytes(range(16))
CONFIGURATION = """[defaults]
base_features = sparse_super,large_file,filetype,resize_inode,dir_index,ext_attr
default_mntopts = acl,user_xattr
enable_periodic_fsck = 0
blocksize = 4096
inode_size = 256
inode_ratio = 16384
[fs_types]
ext3 = {
 features = has_journal
}
small = {
 blocksize = 1024
 inode_ratio = 4096
}
floppy = {
 blocksize = 1024
 inode_ratio = 8192
}
"""
"""The file that comes with e2fsprogs, what concerns us."""


def made(size: int, dirt: int = 2 * MIB, **options: Any) -> bytes:
    """An image made by us, on a medium that was full of something else."""
    options = {"now": EPOCH, "uuid": SEED, "hash_seed": SEED} | options
    with DiskMachine(size // SECTOR_SIZE) as machine:
        machine.load(b"\xa5" * min(size, dirt))

        async def main(volume: Volume) -> None:
            await make(volume, **options)

        machine.run(main)
        return machine.image()


def theirs(size: int, folder: Path, *options: str) -> bytes:
    """An image of mkfs.ext3 with the same seeds and the usual configuration."""
    configuration = folder / "mke2fs.conf"
    configuration.write_text(CONFIGURATION)
    image = folder / "theirs.img"
    with image.open("wb") as file:
        file.truncate(size)
    identity = "00010203-0405-0607-0809-0a0b0c0d0e0f"
    subprocess.run(
        [judges.tool("mkfs.ext3"), "-q", "-F", "-U", identity, "-E", f"hash_seed={identity}", *options, str(image)],
        env={**os.environ, "MKE2FS_CONFIG": str(configuration), "E2FSPROGS_FAKE_TIME": str(EPOCH)},
        check=True, capture_output=True,
    )  # fmt: skip
    return image.read_bytes()


SHAPES = [
    (2 * MIB, 1024, 128), (2 * MIB, 1024, 256), (4 * MIB, 1024, 256), (8 * MIB, 1024, 256), (8 * MIB, 2048, 128),
    (9 * MIB, 1024, 256), (8 * MIB + 400 * 1024, 1024, 256), (16 * MIB, 4096, 256), (20 * MIB, 2048, 256),
    (30 * MIB, 4096, 128), (33 * MIB, 1024, 128), (80 * MIB, 1024, 256), (140 * MIB, 4096, 256),
]  # fmt: skip


@pytest.mark.parametrize(("size", "block_size", "inode_size"), SHAPES)
def test_the_same_file_system_as_mkfs_ext3_makes(size: int, block_size: int, inode_size: int, tmp_path: Path) -> None:
    ours = made(size, block_size=block_size, inode_size=inode_size)
    judges.assert_silent(ours)
    other = theirs(size, tmp_path, "-b", str(block_size), "-I", str(inode_size))
    assert judges.dumpe2fs(ours) == judges.dumpe2fs(other)
    our_superblock, their_superblock = (Superblock.parse(image[1024:2048]) for image in (ours, other))
    # Where the journal lies is the maker's choice; its size is the last of these numbers.
    assert our_superblock.pop("jnl_blocks")[15:] == their_superblock.pop("jnl_blocks")[15:]
    our_superblock.pop("_io", None)
    their_superblock.pop("_io", None)
    assert our_superblock == their_superblock
    assert _descriptors(ours) == _descriptors(other)


def _descriptors(image: bytes) -> list[tuple[int, ...]]:
    """Where each group has its metadata, and how many inodes and directories."""
    superblock = Superblock.parse(image[1024:2048])
    groups = -(-(superblock.blocks_count - superblock.first_data_block) // superblock.blocks_per_group)
    start = (superblock.first_data_block + 1) * (1024 << superblock.log_block_size)
    parsed = [GroupDescriptor.parse(image[start + 32 * group : start + 32 * group + 32]) for group in range(groups)]
    return [(d.block_bitmap, d.inode_bitmap, d.inode_table, d.free_inodes_count, d.used_dirs_count) for d in parsed]


def test_the_defaults_depend_on_the_size(tmp_path: Path) -> None:
    for size in (2 * MIB, 40 * MIB, 600 * MIB):
        ours = made(size)
        assert judges.dumpe2fs(ours) == judges.dumpe2fs(theirs(size, tmp_path))


def test_backups_of_the_superblock_are_good() -> None:
    image = made(40 * MIB, block_size=1024)
    for group in (1, 3):
        start = (1 + 8192 * group) * 1024
        assert Superblock.parse(image[start : start + 1024]).block_group_nr == group
        assert judges.check(image, "-b", str(1 + 8192 * group), "-B", "1024").silent
    assert not judges.check(image, "-b", str(1 + 8192 * 2), "-B", "1024").silent


def test_the_resize_inode_is_one_that_resize2fs_can_use(tmp_path: Path) -> None:
    image = tmp_path / "grown.img"
    image.write_bytes(made(16 * MIB, block_size=1024))
    with image.open("r+b") as file:
        file.truncate(100 * MIB)
    subprocess.run([judges.tool("resize2fs"), str(image)], check=True, capture_output=True)
    judges.assert_silent(image)
    assert judges.dumpe2fs(image)["Block count"] == str(100 * 1024)


def test_what_is_asked_for_is_what_is_made() -> None:
    image = made(16 * MIB, inodes=500, label=b"a label", hash_version=2, journal_blocks=2000, inode_size=128)
    judges.assert_silent(image)
    facts = judges.dumpe2fs(image)
    assert facts["Filesystem volume name"] == "a label"
    assert facts["Default directory hash"] == "tea"
    assert facts["Total journal blocks"] == "2000"
    assert facts["Inode size"] == "128"
    assert 500 <= int(facts["Inode count"]) < 600


def test_without_a_journal_it_is_an_ext2() -> None:
    image = made(8 * MIB, journal_blocks=0)
    judges.assert_silent(image)
    assert "has_journal" not in judges.dumpe2fs(image)["Filesystem features"]


def test_the_same_options_make_the_same_image() -> None:
    assert made(8 * MIB, uuid=None, hash_seed=None, seed=3) == made(8 * MIB, uuid=None, hash_seed=None, seed=3)
    assert made(8 * MIB, uuid=None, seed=3) != made(8 * MIB, uuid=None, seed=4)


@pytest.mark.parametrize(
    ("size", "options", "sentence"),
    [
        (32 << 10, {}, "too few for a file system"),
        (8 * MIB, {"block_size": 8192}, "not 8192"),
        (8 * MIB, {"inode_size": 512}, "not 512"),
        (8 * MIB, {"label": b"longer than sixteen"}, "at most 16"),
        (8 * MIB, {"journal_blocks": 100}, "at least 1024"),
        (8 * MIB, {"journal_blocks": 8000}, "at most half"),
        (8 * MIB, {"hash_version": 4}, "no hash function 4"),
        (2 * MIB, {"inodes": 100_000}, "too many"),
        (2 * MIB, {"inodes": 8000}, "too small|makes no sense|too few|too many"),
    ],
)
def test_what_cannot_be_made_is_refused_with_a_sentence(size: int, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(CannotMake, match=sentence):
        made(size, **options)


def test_what_we_make_we_mount() -> None:
    image = made(8 * MIB)
    with DiskMachine(8 * MIB // SECTOR_SIZE) as machine:
        machine.load(image)

        async def main(volume: Volume) -> list[bytes]:
            files = await Ext3.mount(volume, base=BASE, epoch=EPOCH)
            names = [entry.name for entry in await files.entries(files.root)]
            await files.unmount()
            return names

        assert machine.run(main) == [b".", b"..", b"lost+found"]
        judges.assert_silent(machine.image())


def test_of_what_was_on_the_volume_nothing_is_left_where_it_could_matter() -> None:
    image = made(8 * MIB, dirt=8 * MIB)
    judges.assert_silent(image)
    superblock = Superblock.parse(image[1024:2048])
    first = superblock.jnl_blocks[0]
    assert image[(first + 1) * 1024 : (first + 12) * 1024] == bytes(11 * 1024)
    assert image[:1024] == bytes(1024)
    table = 36 * 1024
    assert image[table + 11 * 256 : table + superblock.inodes_count * 256] == bytes((superblock.inodes_count - 11) * 256)
