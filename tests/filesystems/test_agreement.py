"""We and others read the same out of one image, whoever wrote it: mkfs.ext3 with a folder of the host, debugfs, an
independent reader of ext3 (dissect.extfs), and our own library."""

import os
import random
from collections.abc import Mapping
from pathlib import Path

import pytest

from libos.filesystems.handles import OpenFlags
from libos.filesystems.interface import FORMAT_BITS, FileSystem, Kind
from libos.filesystems.paths import Tree
from tests.filesystems import judges
from tests.filesystems.judges import Seen
from tests.filesystems.stages import OnDisk, Session

SHAPES = [
    OnDisk(1024, inode_size=128, size=8 << 20, inodes=1024),
    OnDisk(2048, size=8 << 20, inodes=1024),
    OnDisk(4096, size=16 << 20, inodes=1024),
]
SIZES = (0, 1, 1000, 1024, 4096, 12 << 10, (12 << 10) + 1, 100_000, 300_000, 600_000)


def some_names(rng: random.Random, count: int) -> list[bytes]:
    """Different names of letters, umlauts and bytes that are no text."""
    alphabet = [b"a", b"B", b"7", b".", b" ", b"-", "ä".encode(), "漢".encode(), b"\xff", b"~"]
    names = {b"".join(rng.choices(alphabet, k=rng.choice((1, 5, 12, 60)))) for _ in range(3 * count)}
    return sorted(name for name in names if name not in (b".", b"..") and len(name) <= 255)[:count]


async def tree_of(files: FileSystem) -> Mapping[bytes, Seen]:
    """Everything that is there as our library sees it, without lost+found."""
    seen = {}
    async for path, it in Tree(files).walk(b"/"):
        contents = b""
        if it.kind is Kind.FILE:
            contents = await files.read(it.inode, 0, it.size)
        elif it.kind is Kind.SYMLINK:
            contents = await files.read_link(it.inode)
        seen[path] = Seen(FORMAT_BITS[it.kind], it.mode, it.uid, it.gid, it.links, contents)
    return _without_lost_and_found(seen)


def _without_lost_and_found(seen: Mapping[bytes, Seen]) -> Mapping[bytes, Seen]:
    return {path: it for path, it in seen.items() if path != b"/lost+found"}


def read_by_us(shape: OnDisk, image: bytes) -> Mapping[bytes, Seen]:
    async def main(session: Session) -> Mapping[bytes, Seen]:
        return await tree_of(session.files)

    return shape.run(main, image)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_we_read_what_mkfs_puts_into_an_image(shape: OnDisk, tmp_path: Path) -> None:
    rng = random.Random(1)
    source = os.fsencode(tmp_path)
    wanted: dict[bytes, tuple[int, bytes]] = {}
    for number, name in enumerate(some_names(rng, 12)):
        os.mkdir(source + b"/" + name)
        wanted[b"/" + name] = FORMAT_BITS[Kind.DIRECTORY], b""
        for other in some_names(rng, 60 if number == 0 else 3):
            path = name + b"/" + other
            if rng.random() < 0.2:
                target = b"t" * rng.choice((1, 59, 60, 61, 500))
                os.symlink(target, source + b"/" + path)
                wanted[b"/" + path] = FORMAT_BITS[Kind.SYMLINK], target
            else:
                contents = rng.randbytes(rng.choice(SIZES) if rng.random() < 0.2 else rng.randrange(2000))
                Path(os.fsdecode(source + b"/" + path)).write_bytes(contents)
                wanted[b"/" + path] = FORMAT_BITS[Kind.FILE], contents
    image = judges.make_ext3(
        shape.size, "-N", "1024", block_size=shape.block_size, inode_size=shape.inode_size, source=tmp_path
    )
    seen = read_by_us(shape, image)
    assert {path: (it.kind, it.contents) for path, it in seen.items() if path != b"/"} == wanted
    assert seen == _without_lost_and_found(judges.independent_tree(image))


async def _grow_a_tree(session: Session, rng: random.Random) -> None:
    tree = Tree(session.files)
    folders = [b""]
    for name in some_names(rng, 10):
        folders.append(rng.choice(folders) + b"/" + name)
        await tree.mkdir(folders[-1], rng.randrange(0o10000))
    for folder in folders:
        for name in some_names(rng, 80 if folder == folders[1] else 5):
            path = folder + b"/file " + name[:200]
            match rng.randrange(8):
                case 0:
                    await tree.symlink(b"t" * rng.choice((1, 59, 60, 61, 500)), path)
                case 1:
                    async with await tree.open(path, OpenFlags.WRITE | OpenFlags.CREATE) as file:
                        await file.write_at(rng.choice((5000, 270_000, 900_000)), b"behind a hole")
                case 2:
                    await tree.mknod(path, 0o640, rng.choice((Kind.FIFO, Kind.SOCKET, Kind.BLOCK_DEVICE)))
                case _:
                    size = rng.choice(SIZES) if rng.random() < 0.2 else rng.randrange(2000)
                    await tree.write_file(path, rng.randbytes(size), rng.randrange(0o1000))
                    await tree.chown(path, rng.choice((0, 1000, 70_000)), rng.choice((0, 100, 80_000)))
        if rng.random() < 0.5:
            await tree.rename(path, path + b" renamed")
            await tree.link(path + b" renamed", path)
    for path in [path async for path, it in tree.walk(b"/") if it.kind is Kind.FILE][::5]:
        await tree.unlink(path)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_others_read_what_we_put_into_an_image(shape: OnDisk) -> None:
    async def main(session: Session) -> Mapping[bytes, Seen]:
        await _grow_a_tree(session, random.Random(2))
        return await tree_of(session.files)

    wanted, image = shape.run_and_keep(main)
    assert _without_lost_and_found(judges.independent_tree(image)) == wanted
    assert read_by_us(shape, image) == wanted


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_debugfs_dumps_what_we_wrote_and_we_read_what_debugfs_writes(shape: OnDisk, tmp_path: Path) -> None:
    contents = random.Random(3).randbytes(500_000)
    theirs = tmp_path / "theirs"
    theirs.write_bytes(contents)

    async def write(session: Session) -> None:
        await Tree(session.files).makedirs(b"/a/b")
        await Tree(session.files).write_file(b"/a/b/ours", contents[::-1])

    _, image = shape.run_and_keep(write)
    path = tmp_path / "image"
    path.write_bytes(image)
    commands = [f"dump /a/b/ours {tmp_path}/ours", f"write {theirs} /a/b/theirs", "ea_set /a user.k v"]
    judges.debugfs(path, commands, write=True)
    assert (tmp_path / "ours").read_bytes() == contents[::-1]

    async def read(session: Session) -> tuple[bytes, dict[bytes, bytes]]:
        tree = Tree(session.files)
        attributes = await session.files.extended_attributes((await tree.stat(b"/a")).inode)
        return await tree.read_file(b"/a/b/theirs"), attributes

    assert shape.run(read, path.read_bytes()) == (contents, {b"user.k": b"v"})
