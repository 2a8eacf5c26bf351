"""A directory is a dictionary, however it lies on the disk: in one block or many, with an index or without, by any hash.

e2fsck has nothing to say after any of it; debugfs and mkfs.ext3 read and write the same directories.
"""

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from libos.filesystems.ext3 import records
from libos.filesystems.ext3.filesystem import Ext3
from libos.filesystems.ext3.hashing import hashing
from libos.filesystems.ext3.layout import HashVersion, InodeFlags
from libos.filesystems.interface import CorruptFileSystem, Errno, FileSystem, FileSystemError, Kind
from tests.filesystems import judges
from tests.filesystems.directory_kit import Names, begin, hashed, on_machine, refused, resume, tree
from tests.filesystems.long import LONG, only_long

SEED = bytes.fromhex("00112233445566778899aabbccddeeff")
SHAPES = [
    *((block_size, HashVersion.HALF_MD4, "") for block_size in (1024, 2048, 4096)),
    *((1024, version, "") for version in HashVersion if version is not HashVersion.HALF_MD4),
    (1024, HashVersion.HALF_MD4, "^dir_index"),
    (2048, HashVersion.TEA, "^filetype"),
]
COLLIDING = {
    HashVersion.LEGACY: (
        0x10419ADC,
        (230833003, 434654783, 590336550, 895117370, 950847270, 976935994, 988504476, 988803997, 1191795547),
    ),
    HashVersion.HALF_MD4: (
        0x0A4BE01C,
        (174060455, 219180304, 271324374, 436889742, 496414555, 567411893, 698909096, 782286478, 1053695711),
    ),
}
"""For each hash, with SEED: a hash, and the numbers of names that all have it."""

NAMES = st.one_of(
    st.sampled_from([b"a", b"b", b"\xff", b"\xc3\xa4\xc3\xb6", b"name", b"x" * 255, b"y" * 250, b"z" * 130, b"w" * 64]),
    st.binary(min_size=1, max_size=255).map(lambda name: name.translate(None, b"/\0")).filter(
        lambda name: name not in (b"", b".", b"..")
    ),
)  # fmt: skip
INDEX = st.integers(0, 1 << 16)
STEPS = st.one_of(
    st.tuples(st.just("add"), NAMES),
    st.tuples(st.just("add_many"), INDEX, st.integers(1, 60), st.integers(8, 255)),
    st.tuples(st.just("remove"), INDEX),
    st.tuples(st.just("remove_many"), INDEX, st.integers(1, 60)),
    st.tuples(st.just("remove_missing"), NAMES),
    st.tuples(st.just("rename"), INDEX, NAMES),
    st.tuples(st.just("look_up"), NAMES),
    st.tuples(st.just("remount")),
)


def empty(block_size: int = 1024, version: HashVersion = HashVersion.HALF_MD4, features: str = "", size: int = 4) -> bytes:
    """An empty file system of `size` MiB with these."""
    return hashed(judges.make_ext3(size << 20, block_size=block_size, features=features), version)


def long_names(count: int, length: int = 250) -> list[bytes]:
    return [b"%06d" % number + b"n" * (length - 6) for number in range(count)]


async def play(names: Names, steps: list[tuple[Any, ...]]) -> None:
    """Each step on the directory and on the dictionary."""
    for step in steps:
        there = sorted(names.model)
        match step:
            case "add", name:
                await names.add(name)
            case "add_many", first, count, length:
                await names.add_all(b"%d" % (first + number) + b"m" * (length - 8) for number in range(count))
            case "remove", index if there:
                await names.remove(there[index % len(there)])
            case "remove_many", index, count if there:
                start = index % len(there)
                for name in there[start : start + count]:
                    await names.remove(name)
            case "remove_missing", name:
                await names.remove(name)
            case "rename", index, name if there:
                await names.rename(there[index % len(there)], name)
            case "look_up", name:
                await names.look_up(name)


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]}-{shape[1].name}{shape[2]}")
def test_a_directory_holds_what_a_dictionary_does(shape: tuple[int, HashVersion, str]) -> None:
    image = empty(*shape)

    @settings(
        max_examples=200 if LONG else 12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=not LONG
    )
    @given(st.lists(STEPS, min_size=5, max_size=40), st.lists(STEPS, max_size=10))
    def agree(steps: list[tuple[Any, ...]], later: list[tuple[Any, ...]]) -> None:
        async def main(files: FileSystem) -> dict[bytes, int]:
            names = await begin(files)
            await play(names, steps)
            await names.check()
            return names.model

        async def again(files: FileSystem) -> None:
            names = await resume(files)
            assert names.model == model
            await play(names, later)
            await names.check()

        model, after = on_machine(image, main)
        judges.assert_silent(after)
        _, after = on_machine(after, again)
        judges.assert_silent(after)

    agree()


@pytest.mark.parametrize("block_size", [1024, 2048, 4096])
def test_three_thousand_names_come_and_go(block_size: int) -> None:
    wanted = long_names(3000, 120)

    async def grow(files: FileSystem) -> None:
        names = await begin(files)
        await names.add_all(wanted)
        await names.check()

    async def shrink(files: FileSystem) -> None:
        names = await resume(files)
        for name in wanted[::3] + wanted[1::3]:
            await names.remove(name)
        await names.add_all(b"again-" + name for name in wanted[::6])
        await names.check()

    async def end(files: FileSystem) -> None:
        names = await resume(files)
        for name in sorted(names.model):
            await names.remove(name)
        await names.check()
        await files.remove_directory(files.root, b"d")

    _, image = on_machine(empty(block_size, size=8), grow)
    judges.assert_silent(image)
    grown = tree(image)
    assert sum(grown.leaves) == 3000
    assert grown.levels == (1 if block_size < 4096 else 0)
    for main in (shrink, end):
        _, image = on_machine(image, main)
        judges.assert_silent(image)


@pytest.mark.parametrize("version", HashVersion, ids=lambda version: version.name)
def test_debugfs_reads_an_index_of_ours_and_every_name_in_it(version: HashVersion) -> None:
    wanted = [b"%03d\xe4" % number + b"n" * (number % 200) for number in range(400)]

    async def main(files: FileSystem) -> None:
        await (await begin(files)).add_all(wanted)

    _, image = on_machine(empty(1024, version), main)
    judges.assert_silent(image)
    found = tree(image)
    assert found.version == version % 3
    assert found.levels == 0
    assert sum(found.leaves) == 400
    assert min(found.leaves) > 0
    listed = judges.debugfs(image, ["ls -p /d"]).splitlines()
    names = {line.split("/")[5].encode("utf-8", "surrogateescape") for line in listed if line.startswith("/")}
    assert names == {*wanted, b".", b".."}


@pytest.mark.parametrize("block_size", [1024, 4096])
@pytest.mark.parametrize("version", HashVersion, ids=lambda version: version.name)
def test_an_index_that_e2fsck_made_is_read_and_goes_on_growing(
    tmp_path: Path, block_size: int, version: HashVersion
) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    theirs = [f"{number:04d}".encode() + b"\xe4" * (number % 60 + 1) for number in range(1500)]
    for name in theirs:
        (folder / name.decode("utf-8", "surrogateescape")).touch()
    plain = judges.make_ext3(8 << 20, "-N", "2048", block_size=block_size, source=tmp_path)
    image, _ = judges.repair(hashed(plain, version), "-D")
    before = tree(image)
    assert before.version == version % 3
    assert sum(before.leaves) == 1500

    async def main(files: FileSystem) -> None:
        names = await resume(files)
        assert set(names.model) == set(theirs)
        await names.check()
        await names.add_all(long_names(300, 80))
        for name in theirs[::2]:
            await names.remove(name)
        await names.check()

    _, after = on_machine(image, main)
    judges.assert_silent(after)
    grown = tree(after)
    assert sum(grown.leaves) == 1050
    assert len(grown.leaves) > len(before.leaves)


def test_a_directory_of_mkfs_without_an_index_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "d"
    folder.mkdir()
    for number in range(500):
        (folder / f"{number}").touch()

    async def main(files: FileSystem) -> None:
        names = await resume(files)
        assert set(names.model) == {b"%d" % number for number in range(500)}
        await names.add_all(long_names(100))
        for number in range(0, 500, 2):
            await names.remove(b"%d" % number)
        await names.check()

    _, image = on_machine(judges.make_ext3(4 << 20, "-N", "1024", source=tmp_path), main)
    judges.assert_silent(image)
    assert "Root node dump" not in judges.debugfs(image, ["htree /d"])


# Collisions.


def colliding(version: HashVersion) -> list[bytes]:
    return [b"c" * 245 + b"%010d" % number for number in COLLIDING[version][1]]


@pytest.mark.parametrize("version", list(COLLIDING), ids=lambda version: version.name)
def test_names_of_one_hash_go_on_in_the_next_leaf(version: HashVersion) -> None:
    wanted = colliding(version)
    assert {hashing(version, SEED)(name) for name in wanted} == {COLLIDING[version][0]}

    async def grow(files: FileSystem) -> None:
        names = await begin(files)
        await names.add_all(long_names(20))
        await names.add_all(wanted)
        await names.add_all(long_names(60)[20:])
        await names.check()
        for name in wanted:
            await names.add(name)
        await names.look_up(b"c" * 255)

    async def shrink(files: FileSystem) -> None:
        names = await resume(files)
        for name in wanted[1:-1]:
            await names.remove(name)
        await names.check()
        await names.add_all(reversed(wanted))
        for name in wanted[::2]:
            await names.rename(name, name[:-1])
        await names.check()

    _, image = on_machine(empty(1024, version), grow)
    judges.assert_silent(image)
    assert tree(image).continued >= 2
    _, image = on_machine(image, shrink)
    judges.assert_silent(image)


def test_names_of_one_hash_go_on_beyond_an_inner_block() -> None:
    wanted = colliding(HashVersion.LEGACY)
    hash_of = hashing(HashVersion.LEGACY, SEED)
    pool = sorted(long_names(30000), key=hash_of)
    middle = sum(hash_of(name) < COLLIDING[HashVersion.LEGACY][0] for name in pool)

    async def main(files: FileSystem) -> None:
        names = await begin(files)
        await names.add_all(wanted)
        await names.add_all(pool[middle - 123 : middle + 157])  # so many that an inner block is split among them
        await names.check()
        for name in wanted:
            await names.add(name)
        await names.look_up(b"c" * 255)
        for name in wanted[::2]:
            await names.remove(name)
        await names.check()

    _, image = on_machine(empty(1024, HashVersion.LEGACY), main)
    judges.assert_silent(image)
    found = tree(image)
    assert found.levels == 1
    assert found.continued_below_root == 1


# How much is read.


async def most_blocks(files: FileSystem, names: Names, some: list[bytes]) -> int:
    """The most blocks that looking up one of some names touches."""
    assert isinstance(files, Ext3)
    most = 0
    for name in some:
        before = files.statistics
        await names.look_up(name)
        after = files.statistics
        most = max(most, after.hits + after.misses - before.hits - before.misses)
    return most


def test_a_lookup_among_many_names_touches_a_handful_of_blocks() -> None:
    wanted = long_names(3000, 100)

    async def grow(files: FileSystem) -> None:
        await (await begin(files)).add_all(wanted)

    async def main(files: FileSystem) -> tuple[int, int]:
        names = await resume(files)
        cold = await most_blocks(files, names, wanted[::30] + [b"missing%d" % number for number in range(100)])
        return cold, await most_blocks(files, names, wanted[::30])

    _, image = on_machine(empty(1024, size=8), grow)
    (cold, warm), _ = on_machine(image, main)
    assert warm == 3
    assert cold <= 3 + 2  # beside root, inner block and leaf the blocks that say where they lie


@only_long
@pytest.mark.parametrize("block_size", [1024, 4096])
def test_a_lookup_among_fifty_thousand_names_touches_four_blocks_at_most(block_size: int) -> None:
    wanted = long_names(50000, 20)

    async def grow(files: FileSystem) -> None:
        await (await begin(files)).add_all(wanted)

    async def main(files: FileSystem) -> int:
        names = await resume(files)
        await names.check()
        return await most_blocks(files, names, wanted[::10] + [b"missing%d" % number for number in range(1000)])

    _, image = on_machine(empty(block_size, size=32), grow, capacity=2048)
    judges.assert_silent(image)
    assert sum(tree(image).leaves) == 50000
    most, image = on_machine(image, main, capacity=2048)
    assert most <= 4
    judges.assert_silent(image)


# What is full.


@only_long
def test_an_index_that_is_full_refuses_and_stays_as_it_is() -> None:
    async def main(files: FileSystem) -> int:
        names = await begin(files)
        with pytest.raises(FileSystemError) as caught:
            await names.add_all(long_names(1 << 20, 255))
        assert caught.value.errno is Errno.ENOSPC
        await names.check()
        return len(names.model)

    number, image = on_machine(empty(1024, size=64), main, capacity=4096)
    judges.assert_silent(image)
    found = tree(image)
    assert found.levels == 1
    assert number == sum(found.leaves) > 124 * 127


@pytest.mark.parametrize("features", ["", "^dir_index"])
def test_a_full_disk_refuses_a_name_and_everything_stays(features: str) -> None:
    async def main(files: FileSystem) -> int:
        names = await begin(files)
        filler = await files.create(files.root, b"filler", 0o644)
        await names.add_all(long_names(100))
        while left := (await files.usage()).free_blocks:
            size = (await files.attributes(filler)).size
            await files.write(filler, size, bytes(min(1 << 16, left * 1024)))
        with pytest.raises(FileSystemError) as caught:
            await names.add_all(long_names(1000)[100:])
        assert caught.value.errno is Errno.ENOSPC
        await names.check()
        return len(names.model)

    number, image = on_machine(empty(1024, features=features), main)
    judges.assert_silent(image)
    assert number < 600


@pytest.mark.parametrize(("features", "count", "blocks"), [("", 2000, 12 + 256 + 256), ("^dir_index", 850, 12 + 256)])
def test_a_place_takes_as_many_blocks_as_it_was_announced_to(features: str, count: int, blocks: int) -> None:
    async def main(files: FileSystem) -> tuple[int, set[int]]:
        assert isinstance(files, Ext3)
        names = await begin(files)
        directory = await files._mounted.inodes.live(names.directory)
        taken: set[int] = set()
        for name in long_names(count, 255):
            place = await files._directories.prepare(directory, name)
            before = await files.usage()
            await names.add(name)
            taken.add(place.blocks)
            assert before.free_blocks - (await files.usage()).free_blocks == place.blocks, name
        return directory.size, taken

    (size, taken), image = on_machine(empty(1024, features=features), main)
    judges.assert_silent(image)
    assert size > blocks << 10  # so many have been mapped by indirect blocks, and some by double indirect ones
    assert taken >= ({0, 1, 2, 3} if features else {0, 1, 2})


# An index that is of no use.


def inode_of(image: bytes, path: str) -> tuple[int, int]:
    """Where debugfs says that an inode lies: byte offset of it in the image, and its first block."""
    said = judges.debugfs(image, [f"imap {path}", f"blocks {path}"])
    block, offset = said.split("located at block ")[1].split(", offset ")
    return int(block) * 1024 + int(offset.split()[0], 16), int(said.splitlines()[-1].split()[0])


def indexed(version: HashVersion = HashVersion.HALF_MD4) -> bytes:
    async def main(files: FileSystem) -> None:
        await (await begin(files)).add_all(long_names(40))

    return on_machine(empty(1024, version), main)[1]


def with_bytes(image: bytes, at: int, data: bytes) -> bytes:
    return image[:at] + data + image[at + len(data) :]


ROOT = records.INDEX_ROOT.size
HARM = {
    "hash version": (ROOT - 4, b"\x07"),
    "information length": (ROOT - 3, b"\x0c"),
    "levels": (ROOT - 2, b"\x05"),
    "flags": (ROOT - 1, b"\x01"),
    "reserved": (ROOT - 8, b"\x01"),
    "limit": (ROOT, struct.pack("<H", 125)),
    "no entries": (ROOT + 2, struct.pack("<H", 0)),
    "too many entries": (ROOT + 2, struct.pack("<H", 125)),
    "leaf beyond the end": (ROOT + 4, struct.pack("<I", 5000)),
    "leaf is the root": (ROOT + 4, struct.pack("<I", 0)),
    "inner block is a leaf": (ROOT - 2, b"\x01"),
}


@pytest.mark.parametrize("harm", HARM)
def test_an_index_that_makes_no_sense_is_left_aside_and_forgotten(harm: str) -> None:
    image = indexed()
    where, block = inode_of(image, "/d")
    at, data = HARM[harm]
    harmed = with_bytes(image, block * 1024 + at, data)

    async def read(files: FileSystem) -> None:
        names = await resume(files)
        assert set(names.model) == set(long_names(40))
        await names.check()

    async def change(files: FileSystem) -> None:
        names = await resume(files)
        for name in long_names(40):
            await refused(Errno.EEXIST, files.link(names.model[name], names.directory, name))
        await names.add_all(long_names(60))
        for name in long_names(60)[::2]:
            await names.remove(name)
        await names.check()

    on_machine(harmed, read)
    _, after = on_machine(harmed, change)
    flags = after[where + records.INODE_OFFSETS["flags"] :][:4]
    if not harm.startswith("leaf"):
        assert not int.from_bytes(flags, "little") & InodeFlags.INDEX
        judges.assert_silent(after)


def test_an_index_in_a_file_system_that_has_none_is_forgotten_when_a_name_is_added() -> None:
    image = indexed()
    where, _ = inode_of(image, "/d")
    at = 1024 + records.SUPERBLOCK_OFFSETS["feature_compat"]
    plain = with_bytes(image, at, bytes([image[at] & ~0x20]))

    async def main(files: FileSystem) -> None:
        names = await resume(files)
        await names.check()
        await names.add_all(long_names(50))
        await names.check()

    _, after = on_machine(plain, main)
    assert not int.from_bytes(after[where + records.INODE_OFFSETS["flags"] :][:4], "little") & InodeFlags.INDEX
    judges.assert_silent(after)


def test_entries_that_make_no_sense_are_an_error_and_nothing_is_changed() -> None:
    async def make(files: FileSystem) -> None:
        await (await begin(files)).add_all([b"one", b"two"])

    _, image = on_machine(empty(), make)
    _, block = inode_of(image, "/d")
    for at, data in ((24 + 4, b"\x03\0"), (24, b"\xff\xff\xff\xff"), (24 + 6, b"\xff"), (12 + 4, b"\xf4\xff")):
        harmed = with_bytes(image, block * 1024 + at, data)

        async def main(files: FileSystem) -> None:
            directory = await files.lookup(files.root, b"d")
            for call in (
                files.entries(directory), files.lookup(directory, b"one"), files.create(directory, b"new", 0o644),
            ):  # fmt: skip
                with pytest.raises(CorruptFileSystem) as caught:
                    await call
                assert str(caught.value).startswith(f"Directory {directory}, block 0: the entry at byte")

        _, after = on_machine(harmed, main)
        assert after[block * 1024 : (block + 1) * 1024] == harmed[block * 1024 : (block + 1) * 1024]


def test_a_directory_that_claims_metadata_for_its_contents_is_refused() -> None:
    async def make(files: FileSystem) -> None:
        await begin(files)

    _, image = on_machine(empty(), make)
    where, block = inode_of(image, "/d")
    root = inode_of(image, "/")[0]
    at = where + records.INODE_OFFSETS["block.0"]
    assert image[at : at + 4] == struct.pack("<I", block)
    for claimed in (root // 1024, 0, 1, 4096):

        async def main(files: FileSystem) -> None:
            directory = await files.lookup(files.root, b"d")
            await refused(Errno.EIO, files.entries(directory))
            await refused(Errno.EIO, files.create(directory, b"x", 0o644))
            assert files.read_only

        on_machine(with_bytes(image, at, struct.pack("<I", claimed)), main)


def test_kinds_are_told_where_they_are_stored() -> None:
    kinds = [Kind.FILE, Kind.FIFO, Kind.SOCKET, Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE]

    async def main(files: FileSystem) -> dict[bytes, Kind]:
        for kind in kinds:
            await files.create(files.root, kind.name.encode(), 0o644, kind=kind)
        await files.symlink(files.root, b"SYMLINK", b"target")
        return {entry.name: entry.kind for entry in await files.entries(files.root)}

    with_types, image = on_machine(empty(), main)
    judges.assert_silent(image)
    assert {name: kind.name.encode() for name, kind in with_types.items() if name.isupper()} == {
        kind.name.encode(): kind.name.encode() for kind in [*kinds, Kind.SYMLINK]
    }
    assert with_types[b"."] is with_types[b".."] is with_types[b"lost+found"] is Kind.DIRECTORY
    without, image = on_machine(empty(features="^filetype"), main)
    judges.assert_silent(image)
    assert set(without.values()) == {Kind.UNKNOWN}
    assert set(without) == set(with_types)
