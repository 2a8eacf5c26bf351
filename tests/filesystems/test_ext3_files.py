"""Contents of files in a real ext3: theirs read by us, ours read by them, and what the block map can hold."""

import os
import random
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from libos.filesystems.ext3.filesystem import Ext3
from libos.filesystems.ext3.journal import Journal
from libos.filesystems.interface import Errno, FileSystem, FileSystemError, Kind
from tests.filesystems import judges
from tests.filesystems.stages import OnDisk, Session

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
SHAPES = [OnDisk(block_size=size, inode_size=inode, size=24 * MIB) for size in (1024, 2048, 4096) for inode in (128, 256)]
SMALL = OnDisk(size=8 * MIB)


def contents(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def sizes(block: int) -> list[int]:
    """Around every border of the block map that fits."""
    direct, single = 12 * block, (12 + block // 4) * block
    return [0, 1, block - 1, block, block + 1, direct - 1, direct, direct + 1, single, single + 1, single + 300 * KIB]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with what mkfs.ext3 can copy."""
    root = tmp_path / "tree"
    (root / "deep" / "er").mkdir(parents=True)
    for number, size in enumerate(sorted({size for block in (1024, 2048, 4096) for size in sizes(block)})):
        (root / f"file{number}").write_bytes(contents(size, number))
    with (root / "sparse").open("wb") as file:
        file.write(b"begin")
        file.seek(3 * MIB)
        file.write(b"middle")
        file.truncate(5 * MIB)
    for length in (1, 58, 59, 60, 61, 500):
        os.symlink("t" * length, root / f"link{length}")
    os.link(root / "file3", root / "deep" / "er" / "other name")
    os.mkfifo(root / "fifo")
    (root / "file4").chmod(0o4751)
    return root


async def walk(files: FileSystem, directory: int, path: bytes = b"") -> dict[bytes, tuple[Kind, int, bytes]]:
    """Everything below a directory: kind, permissions, and the contents or the target."""
    seen: dict[bytes, tuple[Kind, int, bytes]] = {}
    for entry in await files.entries(directory):
        if entry.name in (b".", b"..", b"lost+found"):
            continue
        where = path + b"/" + entry.name
        facts = await files.attributes(entry.inode)
        found = b""
        if facts.kind is Kind.FILE:
            found = await files.read(entry.inode, 0, facts.size + 1)
        elif facts.kind is Kind.SYMLINK:
            found = await files.read_link(entry.inode)
        elif facts.kind is Kind.DIRECTORY:
            seen.update(await walk(files, entry.inode, where))
        seen[where] = (facts.kind, facts.mode, found)
    return seen


def on_host(root: Path) -> dict[bytes, tuple[Kind, int, bytes]]:
    seen: dict[bytes, tuple[Kind, int, bytes]] = {}
    for path in root.rglob("*"):
        mode = path.lstat().st_mode & 0o7777
        where = b"/" + os.fsencode(path.relative_to(root))
        if path.is_symlink():
            seen[where] = (Kind.SYMLINK, mode, os.fsencode(os.readlink(path)))
        elif path.is_dir():
            seen[where] = (Kind.DIRECTORY, mode, b"")
        elif path.is_fifo():
            seen[where] = (Kind.FIFO, mode, b"")
        else:
            seen[where] = (Kind.FILE, mode, path.read_bytes())
    return seen


@pytest.mark.parametrize("stage", SHAPES, ids=str)
def test_what_mkfs_ext3_has_copied_is_what_we_read(stage: OnDisk, tree: Path) -> None:
    image = judges.make_ext3(stage.size, block_size=stage.block_size, inode_size=stage.inode_size, source=tree)

    async def main(session: Session) -> Mapping[bytes, tuple[Kind, int, bytes]]:
        return await walk(session.files, session.files.root)

    assert stage.run(main, image) == on_host(tree)


@pytest.mark.parametrize("stage", SHAPES, ids=str)
def test_what_we_write_is_what_others_read(stage: OnDisk, tmp_path: Path) -> None:
    files_written = {f"f{size}".encode(): contents(size, size) for size in sizes(stage.block_size)}

    async def main(session: Session) -> None:
        files = session.files
        for name, data in files_written.items():
            number = await files.create(files.root, name, 0o640)
            step = 70_000
            for at in range(0, len(data), step):
                assert await files.write(number, at, data[at : at + step]) == len(data[at : at + step])
        await files.symlink(files.root, b"short", b"s" * 59)
        await files.symlink(files.root, b"long", b"l" * 300)

    image = stage.run_and_keep(main)[1]
    seen = judges.independent_tree(image)
    for name, data in files_written.items():
        assert seen[b"/" + name].contents == data
        assert seen[b"/" + name].mode == 0o640
    assert seen[b"/short"].contents == b"s" * 59
    assert seen[b"/long"].contents == b"l" * 300
    dumped = tmp_path / "dumped"
    largest = max(files_written)
    judges.debugfs(image, [f"dump {largest.decode()} {dumped}"])
    assert dumped.read_bytes() == files_written[largest]


@pytest.mark.parametrize("stage", SHAPES, ids=str)
def test_the_triple_indirect_block_and_its_holes(stage: OnDisk) -> None:
    block = stage.block_size
    pointers = block // 4
    start = (12 + pointers + pointers**2) * block
    places = [start - block, start, start + 5 * pointers * block, start + 3 * pointers**2 * block + 100]

    async def main(session: Session) -> None:
        files = session.files
        number = await files.create(files.root, b"holes", 0o600)
        for place in places:
            await files.write(number, place, b"here " + str(place).encode())
        await session.remount()
        files = session.files
        for place in places:
            assert await files.read(number, place, 5 + len(str(place))) == b"here " + str(place).encode()
            assert await files.read(number, place - 3 * block, 2 * block) == bytes(2 * block) or place == start
        assert (await files.attributes(number)).sectors < 64 * block // 512
        await files.set_size(number, places[2] + 3)
        assert await files.read(number, places[2], 100) == b"her"
        await files.set_size(number, places[0] + 4)
        assert await files.read(number, places[0], 100) == b"here"

    image = stage.run_and_keep(main)[1]
    assert "(TIND)" not in judges.debugfs(image, ["stat holes"])


@pytest.mark.parametrize("block_size", [1024, 4096])
def test_a_file_over_two_gibibytes_says_so_in_the_superblock(block_size: int) -> None:
    stage = OnDisk(block_size=block_size, size=16 * MIB, features="^large_file,^resize_inode")

    async def main(session: Session) -> None:
        files = session.files
        number = await files.create(files.root, b"large", 0o600)
        await files.write(number, 2 * GIB - 2, b"x")
        await session.remount()
        assert not await _large_files(session)
        await session.files.write(number, 5 * GIB + 17, b"far away")
        assert await _large_files(session)
        assert (await session.files.attributes(number)).size == 5 * GIB + 25
        await session.remount()
        assert await session.files.read(number, 5 * GIB + 17, 100) == b"far away"
        grown = await session.files.create(session.files.root, b"grown", 0o600)
        await session.files.set_size(grown, 3 * GIB)
        assert await session.files.read(grown, 3 * GIB - 10, 100) == bytes(10)

    image = stage.run_and_keep(main)[1]
    assert "large_file" in judges.dumpe2fs(image)["Filesystem features"]
    assert f"Size: {5 * GIB + 25}" in judges.debugfs(image, ["stat large"])


async def _large_files(session: Session) -> bool:
    assert isinstance(session.files, Ext3)
    await session.files.sync()
    return bool(session.files._mounted.superblock.get("feature_ro_compat") & 2)


@pytest.mark.parametrize(
    ("block_size", "limit"), [(1024, 17_247_252_480), (2048, 275_415_851_008), (4096, 2_194_719_883_264)]
)
def test_the_largest_file_is_as_large_as_linux_allows(block_size: int, limit: int) -> None:
    stage = OnDisk(block_size=block_size, size=8 * MIB if block_size == 1024 else 16 * MIB)

    async def main(session: Session) -> None:
        files = session.files
        number = await files.create(files.root, b"limit", 0o600)
        assert await files.write(number, limit - 3, b"12345") == 3
        for attempt in (files.write(number, limit, b"x"), files.set_size(number, limit + 1)):
            with pytest.raises(FileSystemError) as refused:
                await attempt
            assert refused.value.errno is Errno.EFBIG
        assert (await files.attributes(number)).size == limit
        assert await files.read(number, limit - 4, 10) == b"\x00123"

    stage.run(main)


@pytest.mark.parametrize("mode", ["ordered", "writeback", "journal"])
def test_what_was_cut_off_reads_as_zeros_when_the_file_is_longer_again(mode: str) -> None:
    async def main(session: Session) -> None:
        files = session.files
        number = await files.create(files.root, b"f", 0o600)
        data = contents(300 * KIB)
        await files.write(number, 0, data)
        for size in (200 * KIB + 7, 13 * KIB + 1, 700):
            await files.set_size(number, size)
            await files.set_size(number, size + 5000)
            expected = data[:size] + bytes(5000)
            assert await files.read(number, 0, 400 * KIB) == expected
            await session.remount()
            files = session.files
            assert await files.read(number, 0, 400 * KIB) == expected

    SMALL.but(mode=mode).run(main)


def test_a_truncation_leaves_the_old_contents_alone_until_it_is_committed() -> None:
    data = contents(10 * KIB)

    async def main(session: Session) -> None:
        files = session.files
        number = await files.create(files.root, b"f", 0o600)
        await files.write(number, 0, data)
        await files.fsync(number)
        assert isinstance(files, Ext3)
        mounted = files._mounted
        inode = await mounted.inodes.get(number)
        old = await mounted.maps.find(inode, 5)
        await files.set_size(number, 5 * KIB + 100)
        assert await mounted.maps.find(inode, 5) != old
        assert await mounted.cache.read(old, 0, 0) == b""
        mounted.cache.discard(old)
        assert await mounted.cache.read(old) == data[5 * KIB : 6 * KIB]

    SMALL.run(main)


@pytest.mark.parametrize("mode", ["ordered", "journal"])
def test_a_full_disk_takes_what_fits_and_then_refuses(mode: str) -> None:
    async def main(session: Session) -> None:
        files = session.files
        number = await files.create(files.root, b"f", 0o600)
        written, step = 0, 123_456
        data = contents(step)
        took = step
        while took == step:
            took = await files.write(number, written, data)
            assert 0 < took <= step
            assert await files.read(number, written, step) == data[:took]
            written += took
        with pytest.raises(FileSystemError) as refused:
            await files.write(number, written, data)
        assert refused.value.errno is Errno.ENOSPC
        assert (await files.attributes(number)).size == written
        assert (await files.usage()).free_blocks == 0
        # What has its block already can be written again, and cut off in the middle of a block.
        assert await files.write(number, 5000, b"over") == 4
        await files.set_size(number, written // 2 + 3)
        assert await files.write(number, written // 2 + 3, data) == step
        await files.set_size(number, 0)
        before = (await files.usage()).free_blocks
        other = await files.create(files.root, b"g", 0o600)
        assert await files.write(other, 0, bytes(before // 2 * 1024)) == before // 2 * 1024

    SMALL.but(mode=mode).run(main)


@pytest.mark.parametrize(("there", "first", "count", "free"), [(12, 8, 8, 4), (0, 65_803, 2, 6), (0, 131_339, 2, 6)])
def test_with_a_few_blocks_left_a_write_that_needs_blocks_of_numbers_too_is_cut_short(
    there: int, first: int, count: int, free: int
) -> None:
    async def main(session: Session) -> None:
        files = session.files
        edge = await files.create(files.root, b"edge", 0o600)
        await files.write(edge, 0, contents(there * KIB))
        for number in range(free):
            await files.write(await files.create(files.root, b"%d" % number, 0o600), 0, b"x")
        filling = await files.create(files.root, b"filling", 0o600)
        usage = await files.usage()
        await files.write(filling, 0, bytes(usage.free_blocks * KIB))
        assert (await files.usage()).free_blocks == 0
        for number in range(free):
            await files.unlink(files.root, b"%d" % number)
        await files.sync()
        assert (await files.usage()).free_blocks == free
        data = contents(count * KIB, 1)
        took = await files.write(edge, first * KIB, data)
        assert 0 < took < len(data)
        assert await files.read(edge, first * KIB, len(data)) == data[:took]

    SMALL.run(main)


def test_a_file_written_in_order_lies_in_one_piece() -> None:
    async def main(session: Session) -> None:
        files = session.files
        number = await files.create(files.root, b"f", 0o600)
        for at in range(0, 400 * KIB, 4 * KIB):
            await files.write(number, at, contents(4 * KIB, at))

    image = SMALL.run_and_keep(main)[1]
    blocks = judges.debugfs(image, ["stat f"]).partition("BLOCKS:")[2].partition("TOTAL")[0]
    places = [int(part) for piece in blocks.split(",") for part in piece.partition(":")[2].split("-")]
    assert max(places) - min(places) < 400 + 5


def test_blocks_are_not_used_again_before_the_commit() -> None:
    async def main(session: Session) -> None:
        files = session.files
        assert isinstance(files, Ext3)
        number = await files.create(files.root, b"old", 0o600)
        await files.write(number, 0, contents(40 * KIB))
        await files.sync()
        old = await _blocks(files, number)
        await files.unlink(files.root, b"old")
        new = await files.create(files.root, b"new", 0o600)
        await files.write(new, 0, contents(40 * KIB))
        assert not old & await _blocks(files, new)
        await files.sync()
        usage = await files.usage()
        filling = await files.create(files.root, b"filling", 0o600)
        await files.write(filling, 0, bytes((usage.free_blocks - 100) * 1024))
        assert old & await _blocks(files, filling)

    SMALL.run(main)


async def _blocks(files: Ext3, number: int) -> set[int]:
    inode = await files._mounted.inodes.get(number)
    runs = await files._mounted.maps.runs(inode, 0, -(-inode.size // 1024))
    return {block for run in runs if run.block for block in range(run.block, run.block + run.count)}


def test_a_full_disk_commits_to_use_freed_blocks_again() -> None:
    async def main(session: Session) -> None:
        files = session.files
        free = (await files.usage()).free_blocks
        for number in range(3):
            inode = await files.create(files.root, b"most", 0o600)
            assert await files.write(inode, 0, bytes((free - 100) * 1024)) == (free - 100) * 1024, number
            await files.unlink(files.root, b"most")

    SMALL.run(main)


def test_reading_in_order_is_reading_ahead() -> None:
    async def main(session: Session) -> None:
        files = session.files
        number = await files.create(files.root, b"f", 0o600)
        await files.write(number, 0, contents(600 * KIB))
        places = [place * KIB for place in range(600)]
        shuffled = random.Random(1).sample(places, len(places))
        for order, most, least in ((places, 601, 598), (shuffled, 60, 0)):
            await session.remount()
            ahead = _watch(session.files)
            for at in order:
                await session.files.read(number, at, KIB)
            assert least <= len(ahead) <= most
            assert len(set(ahead)) == len(ahead) or order is shuffled

    SMALL.run(main)


def _watch(files: FileSystem) -> list[int]:
    """The blocks that are asked for ahead from now on."""
    assert isinstance(files, Ext3)
    cache = files._mounted.cache
    asked: list[int] = []
    prefetch = cache.prefetch

    async def watching(blocks: Iterable[int]) -> None:
        blocks = list(blocks)
        asked.extend(blocks)
        await prefetch(blocks)

    cache.prefetch = watching  # type: ignore[method-assign]
    return asked


def test_fields_that_we_do_not_know_survive(tmp_path: Path) -> None:
    image = tmp_path / "image"
    source = tmp_path / "source"
    source.mkdir()
    (source / "f").write_bytes(b"old")
    image.write_bytes(judges.make_ext3(8 * MIB, source=source))
    # crtime and mtime_extra lie behind the first 128 bytes, version and generation among them.
    fields = {"crtime": "@0x4a000000", "mtime_extra": "0x00000004", "version": "77", "generation": "4711"}
    judges.debugfs(image, [f"set_inode_field f {name} {value}" for name, value in fields.items()], write=True)

    async def main(session: Session) -> None:
        number = await session.files.lookup(session.files.root, b"f")
        await session.files.write(number, 0, b"new contents")
        await session.files.set_attributes(number, mode=0o604, uid=70_000, gid=80_000)

    after = SMALL.run_and_keep(main, image.read_bytes())[1]
    said = judges.debugfs(after, ["stat f"])
    assert "crtime: 0x4a000000" in said
    assert "Generation: 4711" in said
    assert "Version: 0x00000000:0000004d" in said
    assert "User: 70000   Group: 80000" in said
    assert ":00000004 --" in said


def test_times_of_access_reach_the_disk_in_the_end() -> None:
    async def main(session: Session) -> None:
        files = session.files
        number = await files.create(files.root, b"f", 0o600)
        await files.write(number, 0, b"contents")
        await files.sync()
        await session.tick()
        await session.tick()
        await files.read(number, 0, 3)
        first = await files.attributes(number)
        assert first.accessed > first.modified
        await session.tick()
        await files.read(number, 0, 3)
        assert (await files.attributes(number)).accessed == first.accessed
        await session.remount()
        assert await session.files.attributes(number) == first

    SMALL.run(main)


def test_fsync_of_what_has_not_changed_commits_nothing() -> None:
    async def main(session: Session) -> None:
        files = session.files
        assert isinstance(files, Ext3)
        one = await files.create(files.root, b"one", 0o600)
        two = await files.create(files.root, b"two", 0o600)
        before = files.statistics.transactions
        await files.fsync(one)
        assert files.statistics.transactions == before + 1
        await files.fsync(two)
        await files.fdatasync(one)
        assert files.statistics.transactions == before + 1
        await files.write(two, 0, b"x")
        await files.fsync(one)
        assert files.statistics.transactions == before + 1
        await files.fsync(two)
        assert files.statistics.transactions == before + 2

    SMALL.run(main)


@pytest.mark.parametrize("datasync", [False, True])
def test_fsync_in_writeback_mode_stores_what_a_commit_for_room_has_left_behind(datasync: bool) -> None:
    async def main(session: Session) -> None:
        files = session.files
        assert isinstance(files, Ext3)
        number = await files.create(files.root, b"f", 0o600)
        await files.write(number, 0, contents(4 * KIB))
        journal = files._mounted.journal
        assert isinstance(journal, Journal)
        await journal.commit_for_room()
        await (files.fdatasync(number) if datasync else files.fsync(number))
        before = files.statistics.transactions
        await files.fsync(number)
        assert files.statistics.transactions == before
        places = await _blocks(files, number)
        for place in places:
            files._mounted.cache.discard(place)
        assert await files.read(number, 0, 4 * KIB) == contents(4 * KIB)

    SMALL.but(mode="writeback").run(main)


def test_fdatasync_of_what_was_written_over_needs_no_commit() -> None:
    async def main(session: Session) -> None:
        files = session.files
        assert isinstance(files, Ext3)
        number = await files.create(files.root, b"f", 0o600)
        await files.write(number, 0, bytes(8 * KIB))
        await files.fdatasync(number)
        before = files.statistics.transactions
        await files.write(number, 1000, b"over")
        await files.fdatasync(number)
        assert files.statistics.transactions == before
        cache = files._mounted.cache
        inode = await files._mounted.inodes.get(number)
        for logical in (0, 1):
            cache.discard(await files._mounted.maps.find(inode, logical))
        assert await files.read(number, 1000, 4) == b"over"
        await files.write(number, 8 * KIB, b"more")
        await files.fdatasync(number)
        assert files.statistics.transactions == before + 1
        await files.set_attributes(number, mode=0o644)
        await files.fdatasync(number)
        assert files.statistics.transactions == before + 2
        await files.set_size(number, 100 * KIB)
        await files.fdatasync(number)
        await files.write(number, 50 * KIB, b"into a hole")
        await files.fdatasync(number)
        assert files.statistics.transactions == before + 4

    SMALL.run(main)


def test_fdatasync_commits_where_contents_go_through_the_log() -> None:
    async def main(session: Session) -> None:
        files = session.files
        assert isinstance(files, Ext3)
        number = await files.create(files.root, b"f", 0o600)
        await files.write(number, 0, bytes(8 * KIB))
        await files.sync()
        before = files.statistics.transactions
        await files.write(number, 0, b"over")
        await files.fdatasync(number)
        assert files.statistics.transactions == before + 1

    SMALL.but(mode="journal").run(main)
