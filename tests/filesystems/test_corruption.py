"""What lies on the disk may be anything: a clear error, a file system that can only be read, or a normal answer, but never
another exception, an end that does not come, or a write outside the volume.  Every choice comes from a seed."""

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pytest

from exokernel.abi.downcalls import Exo
from exokernel.abi.layout import SECTOR_SIZE
from exokernel.machine.disk import Flushed, Written
from libos.filesystems.ext3.filesystem import Ext3
from libos.filesystems.handles import OpenFlags
from libos.filesystems.interface import CorruptFileSystem, FileSystem, FileSystemError, Kind
from libos.filesystems.paths import Tree
from libos.storage.volume import Volume
from tests.filesystems import judges
from tests.filesystems.crashes import after
from tests.filesystems.long import LONG
from tests.filesystems.stages import BASE, EPOCH, OnDisk, Session
from tests.storage.kit import DiskMachine

GUARD = 64
"""Sectors before and behind the volume, which nobody may touch."""
REQUESTS = 60_000
"""So many requests to the disk are taken for an end that does not come."""
BLOCK = 1024
STAGE = OnDisk(BLOCK, size=4 << 20)


class GuardedVolume(Volume):
    """A volume that counts requests, and takes one for something outside as a failure."""

    requests = 0

    async def _begin(self, write: bool, sector: int, count: int, frame: int, offset: int, flags: int) -> int:
        assert 0 <= sector <= sector + count <= self.sectors, f"sectors {sector} to {sector + count}, write: {write}"
        self.requests += 1
        assert self.requests < REQUESTS, "so many requests: this does not end"
        return await super()._begin(write, sector, count, frame, offset, flags)


async def _populate(session: Session) -> None:
    tree = Tree(session.files)
    await tree.makedirs(b"/d/e/f")
    await tree.write_file(b"/d/small", b"contents")
    await tree.write_file(b"/d/indirect", bytes(range(256)) * 200)
    async with await tree.open(b"/d/sparse", OpenFlags.WRITE | OpenFlags.CREATE) as file:
        await file.write_at(300 << 10, b"doubly indirect" * 100)
        await file.write_at(70 << 20, b"triply indirect" * 100)
    await tree.symlink(b"small", b"/d/fast")
    await tree.symlink(b"x" * 200, b"/d/slow")
    await tree.link(b"/d/small", b"/d/e/again")
    await tree.mknod(b"/d/fifo", 0o644, Kind.FIFO)
    await tree.mkdir(b"/many")
    for number in range(120):
        await tree.write_file(b"/many/" + b"%03d" % number + b"n" * 40, b"")


@dataclass(frozen=True)
class Target:
    """An image, and in it the blocks of one kind of structure."""

    image: bytes
    blocks: tuple[int, ...]


@cache
def targets() -> dict[str, Target]:
    """What can be damaged, by name."""
    image = STAGE.run_and_keep(_populate)[1]
    with judges.on_disk(image) as path:
        judges.debugfs(path, [f'ea_set /d/small user.note "{"v" * 300}"'], write=True)
        image = path.read_bytes()
    judges.assert_silent(image)
    told = judges.debugfs(image, ["stats"])
    bitmaps, tables = [], []
    for found in re.finditer(r"block bitmap at (\d+), inode bitmap at (\d+), inode table at (\d+)", told):
        bitmaps += [int(found[1]), int(found[2])]
        tables += range(int(found[3]), int(found[3]) + 12)
    named = partial(_blocks, image)
    journal = named("<8>")
    dirty = _with_a_log_to_replay(image)
    long = named("/d/indirect") + named("/d/sparse")
    return {
        "superblock": Target(image, (1,)),
        "descriptors": Target(image, (2,)),
        "bitmaps": Target(image, tuple(bitmaps)),
        "inodes": Target(image, tuple(tables)),
        "directories": Target(image, named("/") + named("/d") + named("/d/e")),
        "htree": Target(image, named("/many")),
        "indirect": Target(image, tuple(block for block in long if _is_indirect(image, block))),
        "attributes": Target(image, (int(re.findall(r"File ACL: (\d+)", judges.debugfs(image, ["stat /d/small"]))[0]),)),
        "log superblock": Target(dirty, journal[:1]),
        "log": Target(dirty, journal[1:60]),
    }


def _blocks(image: bytes, name: str) -> tuple[int, ...]:
    """Every block of a file, indirect ones too."""
    return tuple(int(number) for number in judges.debugfs(image, [f"blocks {name}"]).splitlines()[1].split())


def _is_indirect(image: bytes, block: int) -> bool:
    """Whether a block of the two long files holds block numbers: nothing else in them begins with so small a number."""
    words = [int.from_bytes(image[block * BLOCK + at : block * BLOCK + at + 4], "little") for at in range(0, BLOCK, 4)]
    return any(words) and all(word < len(image) // BLOCK for word in words)


def _with_a_log_to_replay(image: bytes) -> bytes:
    """The image after changes that are committed and not in place: a cut before the file system was unmounted."""
    record: list[Written | Flushed] = []
    kept: list[int] = []
    with DiskMachine(len(image) // SECTOR_SIZE, memory=4 << 20) as machine:
        machine.load(image)
        machine.disk.record = record

        async def main(volume: Volume) -> None:
            files = await Ext3.mount(volume, base=BASE, epoch=EPOCH, capacity=256)
            tree = Tree(files)
            for number in range(3):
                await tree.mkdir(b"/new-%d" % number)
                await tree.write_file(b"/new-%d/file" % number, b"n" * 3000)
                await tree.truncate(b"/d/indirect", 20000 - number * 6000)
                await files.sync()
            kept.append(len(record))
            await files.unmount()

        machine.run(main)
    return bytes(after(image, record[: kept[0]]).bytes())


def damage(image: bytes, blocks: tuple[int, ...], rng: random.Random) -> bytes:
    """The image with something wrong in one to three of the blocks."""
    damaged = bytearray(image)
    for _ in range(rng.choice((1, 1, 2, 3))):
        start = rng.choice(blocks) * BLOCK
        how = rng.choice(("bit", "bit", "bits", "byte", "word", "word", "garbage", "zeros", "ones", "other block"))
        at = start + rng.randrange(BLOCK) if rng.random() < 0.5 else start + rng.randrange(128)
        match how:
            case "bit":
                damaged[at] ^= 1 << rng.randrange(8)
            case "bits":
                for _ in range(8):
                    damaged[start + rng.randrange(BLOCK)] ^= 1 << rng.randrange(8)
            case "byte":
                damaged[at] = rng.randrange(256)
            case "word":
                word = rng.choice((0, 1, 2, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, rng.randrange(5000)))
                at = at // 4 * 4
                damaged[at : at + 4] = word.to_bytes(4, "little")
            case "garbage":
                length = rng.randrange(1, BLOCK)
                damaged[start : start + length] = rng.randbytes(length)
            case "zeros":
                damaged[start : start + BLOCK] = bytes(BLOCK)
            case "ones":
                damaged[start : start + BLOCK] = b"\xff" * BLOCK
            case "other block":
                other = rng.choice(blocks) * BLOCK
                damaged[start : start + BLOCK] = image[other : other + BLOCK]
    return bytes(damaged)


async def _tried(outcomes: Counter[str], operation: Callable[[], object]) -> None:
    """Do something that may be refused."""
    try:
        await operation()  # type: ignore[misc]
    except FileSystemError as error:
        outcomes["corrupt" if isinstance(error, CorruptFileSystem) else error.errno.name] += 1
    else:
        outcomes["done"] += 1


async def _look(files: FileSystem, outcomes: Counter[str]) -> None:
    """Look at everything that can be reached, each inode once."""
    seen: set[int] = set()
    waiting = [files.root]
    while waiting:
        inode = waiting.pop()
        if inode in seen:
            continue
        seen.add(inode)
        listed: list[int] = []

        async def entries(inode: int = inode, listed: list[int] = listed) -> None:
            listed += [entry.inode for entry in await files.entries(inode)]

        await _tried(outcomes, partial(files.attributes, inode))
        await _tried(outcomes, partial(files.read, inode, 0, 100_000))
        await _tried(outcomes, partial(files.read, inode, 70 << 20, 5_000))
        await _tried(outcomes, partial(files.read_link, inode))
        await _tried(outcomes, partial(files.extended_attributes, inode))
        await _tried(outcomes, entries)
        waiting += listed


async def _change(files: FileSystem, outcomes: Counter[str]) -> None:
    """Try to change things of every kind."""
    tree = Tree(files)
    for operation in (
        partial(tree.write_file, b"/new", b"n" * 20_000), partial(tree.mkdir, b"/d/new"),
        partial(tree.write_file, b"/many/" + b"new" * 30, b"x"), partial(tree.unlink, b"/many/007" + b"n" * 40),
        partial(tree.rename, b"/d/e", b"/many/e"), partial(tree.truncate, b"/d/indirect", 3000),
        partial(tree.truncate, b"/d/sparse", 0), partial(tree.unlink, b"/d/sparse"), partial(tree.unlink, b"/d/small"),
        partial(tree.symlink, b"y" * 100, b"/d/link"), partial(tree.write_file, b"/d/indirect", b"z" * 40_000),
        partial(tree.remove_tree, b"/many/e"), partial(files.sync),
    ):  # fmt: skip
        await _tried(outcomes, operation)


def suffer(machine: DiskMachine, image: bytes) -> Counter[str]:
    """Mount, look, change, look and unmount; gives what became of it all."""
    outcomes: Counter[str] = Counter()
    machine.disk.write(0, b"G" * GUARD * SECTOR_SIZE + image + b"G" * GUARD * SECTOR_SIZE)

    async def main(_: Volume) -> None:
        volume = GuardedVolume(Exo(), GUARD, len(image) // SECTOR_SIZE)
        mounted: list[Ext3] = []

        async def mount() -> None:
            mounted.append(await Ext3.mount(volume, base=BASE, epoch=EPOCH, capacity=256))

        await _tried(outcomes, mount)
        for files in mounted:
            await _look(files, outcomes)
            await _change(files, outcomes)
            await _look(files, outcomes)
            await _tried(outcomes, files.unmount)
        outcomes["mounted"] += len(mounted)

    machine.run(main)
    for guard in (0, GUARD + len(image) // SECTOR_SIZE):
        assert machine.disk.read(guard, GUARD) == b"G" * GUARD * SECTOR_SIZE, "something was written outside the volume"
    return outcomes


def _suffer_all(name: str, seeds: Iterable[int]) -> Counter[str]:
    target = targets()[name]
    total: Counter[str] = Counter()
    with DiskMachine(len(target.image) // SECTOR_SIZE + 2 * GUARD, memory=4 << 20) as machine:
        for seed in seeds:
            image = damage(target.image, target.blocks, random.Random(f"{name} {seed}"))
            try:
                outcomes = suffer(machine, image)
            except BaseException as error:
                kept = os.environ.get("EXO_KEEP_IMAGES")
                if kept:
                    Path(kept, f"{name.replace(' ', '-')}-{seed}.img").write_bytes(image)
                raise AssertionError(f"{name}, seed {seed}: {type(error).__name__}: {error}") from error
            total.update(outcomes)
            total["cases"] += 1
    return total


CASES = 400 if LONG else 40
NAMES = (
    "superblock", "descriptors", "bitmaps", "inodes", "directories", "htree", "indirect", "attributes", "log superblock",
    "log",
)  # fmt: skip


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_image_gives_a_clear_error_or_an_answer(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """EXO_KEEP_IMAGES: a folder for the images that did something else."""
    total = _suffer_all(name, range(CASES))
    with capsys.disabled():
        told = ", ".join(f"{count} {what}" for what, count in sorted(total.items()) if what not in ("cases", "mounted"))
        print(f"\n{name}: {total['cases']} cases, {total['mounted']} mounted: {told}", end="")
    assert total["cases"] == CASES
    assert total["done"] > 0


def test_the_damage_is_done_to_what_it_says() -> None:
    """Without damage everything works; so what fails above fails because of it."""
    for name, target in targets().items():
        assert target.blocks, name
        with DiskMachine(len(target.image) // SECTOR_SIZE + 2 * GUARD, memory=4 << 20) as machine:
            outcomes = suffer(machine, target.image)
        assert outcomes["mounted"] == 1
        assert not outcomes["corrupt"]
