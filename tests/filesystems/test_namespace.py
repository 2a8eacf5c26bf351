"""What POSIX says of names, on every file system: links, removing, renaming, and what each does to counts and times.

The second half is about ext3 alone: what lies on the disk, what a crash leaves, and what is refused when something is full.
"""

from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from exokernel.abi.layout import SECTOR_SIZE
from libos.filesystems.ext3.filesystem import Ext3
from libos.filesystems.interface import Attributes, Errno, FileSystem, FileSystemError, Kind
from libos.storage.volume import Volume
from tests.filesystems import judges
from tests.filesystems.directory_kit import begin, on_machine, refused
from tests.filesystems.stages import BASE, EPOCH, InMemory, OnDisk, Session, Stage
from tests.storage.kit import DiskMachine

DISK = OnDisk(1024)
STAGES: list[Stage] = [InMemory(block_size=1024), DISK, OnDisk(4096, inode_size=128, features="^dir_index")]
everywhere = pytest.mark.parametrize("stage", STAGES, ids=str)
Claim = Callable[[Session], Coroutine[Any, Any, None]]


class Watch:
    """What inodes were before an operation, to say which of them it changed; more than a second goes by in between."""

    def __init__(self, session: Session) -> None:
        self.session, self.files = session, session.files
        self.before: dict[int, Attributes] = {}

    async def begin(self, *inodes: int) -> None:
        self.before = {inode: await self.files.attributes(inode) for inode in inodes}
        await self.session.tick()

    async def altered(self, *inodes: int) -> None:
        """The entries of these directories are others: times of modification and change."""
        for inode in inodes:
            now, before = await self.files.attributes(inode), self.before[inode]
            assert now.modified == now.changed > before.changed
            assert now.accessed == before.accessed

    async def changed(self, *inodes: int, links: int = 0) -> None:
        """These have so many links more, and only the time of change tells."""
        for inode in inodes:
            now, before = await self.files.attributes(inode), self.before[inode]
            assert now.changed > before.changed
            assert replace(now, changed=0, links=0) == replace(before, changed=0, links=0)
            assert now.links == before.links + links

    async def same(self, *inodes: int) -> None:
        for inode in inodes:
            assert await self.files.attributes(inode) == self.before[inode]


async def kinds(files: FileSystem, directory: int) -> dict[bytes, int]:
    return {entry.name: entry.inode for entry in await files.entries(directory)}


# Making.


@everywhere
def test_a_new_file_has_what_it_was_made_with(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files, watch = session.files, Watch(session)
        for kind, device in (
            (Kind.FILE, 0), (Kind.FIFO, 0), (Kind.SOCKET, 0), (Kind.CHARACTER_DEVICE, 0x501), (Kind.BLOCK_DEVICE, 0xFFFF),
            (Kind.BLOCK_DEVICE, 0x10000), (Kind.CHARACTER_DEVICE, 0xFFFFF), (Kind.CHARACTER_DEVICE, 0),
        ):  # fmt: skip
            await watch.begin(files.root)
            made = await files.create(files.root, b"%d-%x" % (kind, device), 0o6754, 1000, 70000, kind, device)
            await watch.altered(files.root)
            parent = await files.attributes(files.root)
            it = await files.attributes(made)
            assert it == Attributes(made, kind, 0o6754, 1, 1000, 70000, 0, 0, it.changed, it.changed, it.changed, device)
            assert it.changed == parent.modified
            assert parent.links == watch.before[files.root].links

    stage.run(main)


@everywhere
def test_a_new_directory_has_two_links_and_gives_its_parent_one(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files, watch = session.files, Watch(session)
        await watch.begin(files.root)
        made = await files.make_directory(files.root, b"d", 0o1751, 3, 4)
        await watch.altered(files.root)
        it, parent = await files.attributes(made), await files.attributes(files.root)
        assert (it.kind, it.mode, it.uid, it.gid, it.links) == (Kind.DIRECTORY, 0o1751, 3, 4, 2)
        assert parent.links == watch.before[files.root].links + 1
        assert await kinds(files, made) == {b".": made, b"..": files.root}
        assert await files.lookup(made, b".") == made
        assert await files.lookup(made, b"..") == files.root
        assert await files.lookup(files.root, b"..") == files.root

    stage.run(main)


@everywhere
def test_what_is_there_cannot_be_made_again(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files, watch = session.files, Watch(session)
        file = await files.create(files.root, b"f", 0o644)
        directory = await files.make_directory(files.root, b"d", 0o755)
        await watch.begin(files.root, file, directory)
        for name in (b"f", b"d", b".", b".."):
            await refused(Errno.EEXIST, files.create(files.root, name, 0o644))
            await refused(Errno.EEXIST, files.make_directory(files.root, name, 0o755))
            await refused(Errno.EEXIST, files.symlink(files.root, name, b"t"))
            await refused(Errno.EEXIST, files.link(file, files.root, name))
        await watch.same(files.root, file, directory)

    stage.run(main)


@everywhere
def test_a_name_has_its_limits(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files = session.files
        for name, errno in ((b"n" * 256, Errno.ENAMETOOLONG), (b"a/b", Errno.EINVAL), (b"a\0b", Errno.EINVAL)):
            file = await files.create(files.root, b"there", 0o644)
            await refused(errno, files.create(files.root, name, 0o644))
            await refused(errno, files.make_directory(files.root, name, 0o644))
            await refused(errno, files.symlink(files.root, name, b"t"))
            await refused(errno, files.link(file, files.root, name))
            await refused(errno, files.rename(files.root, b"there", files.root, name))
            await refused(errno, files.lookup(files.root, name))
            await refused(errno, files.unlink(files.root, name))
            await files.unlink(files.root, b"there")
        longest = await files.create(files.root, b"n" * 255, 0o644)
        assert await files.lookup(files.root, b"n" * 255) == longest
        await refused(Errno.ENOENT, files.lookup(files.root, b"n" * 254))
        for kind in (Kind.DIRECTORY, Kind.SYMLINK, Kind.UNKNOWN):
            await refused(Errno.EINVAL, files.create(files.root, b"x", 0o644, kind=kind))

    stage.run(main)


@everywhere
def test_a_symbolic_link_holds_its_target(stage: Stage) -> None:
    async def main(session: Session) -> None:
        targets = [b"t" * length for length in (1, 58, 59, 60, 61, 255, 1023)] + [b"\xff/../x"]
        for number, target in enumerate(targets):
            made = await session.files.symlink(session.files.root, b"l%d" % number, target, 5, 6)
            it = await session.files.attributes(made)
            assert (it.kind, it.mode, it.links, it.uid, it.gid) == (Kind.SYMLINK, 0o777, 1, 5, 6)
            assert it.size == len(target)
        await session.remount()
        files = session.files
        for number, target in enumerate(targets):
            link = await files.lookup(files.root, b"l%d" % number)
            assert await files.read_link(link) == target
            await refused(Errno.EINVAL, files.read(link, 0, 1))
        await refused(Errno.EINVAL, files.read_link(files.root))
        await refused(Errno.EINVAL, files.symlink(files.root, b"empty", b""))
        await refused(Errno.ENAMETOOLONG, files.symlink(files.root, b"long", b"t" * 4096))
        for number in range(len(targets)):
            await files.unlink(files.root, b"l%d" % number)

    stage.run(main)


# Linking and removing.


@everywhere
def test_a_link_is_one_more_name_for_the_same(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files, watch = session.files, Watch(session)
        directory = await files.make_directory(files.root, b"d", 0o755)
        file = await files.create(files.root, b"f", 0o644)
        await files.write(file, 0, b"contents")
        await watch.begin(file, files.root, directory)
        await files.link(file, directory, b"g")
        await watch.changed(file, links=1)
        await watch.altered(directory)
        await watch.same(files.root)
        await watch.begin(file, files.root, directory)
        await files.unlink(files.root, b"f")
        await watch.changed(file, links=-1)
        await watch.altered(files.root)
        await watch.same(directory)
        assert await files.read(await files.lookup(directory, b"g"), 0, 100) == b"contents"
        for kind in (Kind.FIFO, Kind.CHARACTER_DEVICE):
            special = await files.create(files.root, kind.name.encode(), 0o600, kind=kind)
            await files.link(special, directory, kind.name.encode())
            assert (await files.attributes(special)).links == 2
        link = await files.symlink(files.root, b"s", b"t")
        await files.link(link, directory, b"s")
        await refused(Errno.EPERM, files.link(directory, files.root, b"e"))

    stage.run(main)


@everywhere
def test_what_cannot_be_removed_stays(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files, watch = session.files, Watch(session)
        directory = await files.make_directory(files.root, b"d", 0o755)
        file = await files.create(directory, b"f", 0o644)
        await watch.begin(files.root, directory, file)
        await refused(Errno.ENOENT, files.unlink(files.root, b"missing"))
        await refused(Errno.ENOENT, files.remove_directory(files.root, b"missing"))
        await refused(Errno.EISDIR, files.unlink(files.root, b"d"))
        await refused(Errno.ENOTEMPTY, files.remove_directory(files.root, b"d"))
        await refused(Errno.ENOTDIR, files.remove_directory(directory, b"f"))
        await refused(Errno.EINVAL, files.remove_directory(directory, b"."))
        await refused(Errno.ENOTEMPTY, files.remove_directory(directory, b".."))
        for call in (files.unlink, files.remove_directory, files.lookup):
            await refused(Errno.ENOTDIR, call(file, b"x"))
        await refused(Errno.ENOTDIR, files.create(file, b"x", 0o644))
        await refused(Errno.ENOTDIR, files.make_directory(file, b"x", 0o644))
        await watch.same(files.root, directory, file)

    stage.run(main)


@everywhere
def test_a_directory_that_is_removed_is_gone_with_its_link_to_the_parent(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files, watch = session.files, Watch(session)
        before = await files.usage()
        directory = await files.make_directory(files.root, b"d", 0o755)
        await watch.begin(files.root)
        await files.remove_directory(files.root, b"d")
        await watch.altered(files.root)
        assert (await files.attributes(files.root)).links == watch.before[files.root].links - 1
        await refused(Errno.ENOENT, files.lookup(files.root, b"d"))
        await refused(Errno.ENOENT, files.attributes(directory))
        assert await files.usage() == before

    stage.run(main)


@everywhere
def test_a_removed_directory_that_is_open_is_empty_for_good(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files = session.files
        directory = await files.make_directory(files.root, b"d", 0o755)
        file = await files.create(files.root, b"f", 0o644)
        await files.open(directory)
        await files.remove_directory(files.root, b"d")
        assert (await files.attributes(directory)).links == 0
        assert await files.entries(directory) == []
        for name in (b"..", b"x"):
            await refused(Errno.ENOENT, files.lookup(directory, name))
        await refused(Errno.ENOENT, files.create(directory, b"x", 0o644))
        await refused(Errno.ENOENT, files.make_directory(directory, b"x", 0o644))
        await refused(Errno.ENOENT, files.symlink(directory, b"x", b"t"))
        await refused(Errno.ENOENT, files.link(file, directory, b"x"))
        await refused(Errno.ENOENT, files.rename(files.root, b"f", directory, b"x"))
        await files.close(directory)
        await refused(Errno.ENOENT, files.attributes(directory))

    stage.run(main)


@everywhere
def test_an_open_file_outlives_its_last_name(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files = session.files
        before = await files.usage()
        file = await files.create(files.root, b"f", 0o644)
        over = await files.create(files.root, b"g", 0o644)
        for inode in (file, over):
            await files.write(inode, 0, b"c" * 5000)
            await files.open(inode)
        await files.open(file)
        await files.unlink(files.root, b"f")
        await files.create(files.root, b"f", 0o644)
        await files.rename(files.root, b"f", files.root, b"g")
        for inode in (file, over):
            assert (await files.attributes(inode)).links == 0
            await refused(Errno.ENOENT, files.link(inode, files.root, b"h"))
            await files.write(inode, 5000, b"d")
            assert await files.read(inode, 4999, 10) == b"cd"
        await files.close(file)
        assert await files.read(file, 4999, 10) == b"cd"
        await files.close(file)
        await files.close(over)
        for inode in (file, over):
            await refused(Errno.ENOENT, files.attributes(inode))
        await files.unlink(files.root, b"g")
        assert await files.usage() == before

    stage.run(main)


# Renaming.


@everywhere
def test_a_file_is_renamed_within_a_directory_and_into_another(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files, watch = session.files, Watch(session)
        directory = await files.make_directory(files.root, b"d", 0o755)
        file = await files.create(files.root, b"f", 0o644)
        await watch.begin(files.root, directory, file)
        await files.rename(files.root, b"f", files.root, b"g")
        await watch.altered(files.root)
        await watch.changed(file)
        await watch.same(directory)
        await watch.begin(files.root, directory, file)
        await files.rename(files.root, b"g", directory, b"h")
        await watch.altered(files.root, directory)
        await watch.changed(file)
        assert (await files.attributes(files.root)).links == watch.before[files.root].links
        assert await kinds(files, directory) == {b".": directory, b"..": files.root, b"h": file}
        await refused(Errno.ENOENT, files.lookup(files.root, b"g"))

    stage.run(main)


@everywhere
def test_a_directory_that_moves_has_another_parent(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files, watch = session.files, Watch(session)
        a, b = [await files.make_directory(files.root, name, 0o755) for name in (b"a", b"b")]
        child = await files.make_directory(a, b"c", 0o755)
        await files.create(child, b"f", 0o644)
        await watch.begin(a, b, child, files.root)
        await files.rename(a, b"c", b, b"moved")
        await watch.altered(a, b)
        await watch.changed(child)
        await watch.same(files.root)
        assert (await files.attributes(a)).links == 2
        assert (await files.attributes(b)).links == 3
        assert await files.lookup(child, b"..") == b
        await files.rename(b, b"moved", b, b"again")
        assert (await files.attributes(b)).links == 3
        assert await files.lookup(child, b"..") == b

    stage.run(main)


@everywhere
def test_renaming_over_a_file_takes_its_name_away(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files, watch = session.files, Watch(session)
        file = await files.create(files.root, b"f", 0o644)
        over = await files.create(files.root, b"g", 0o644)
        await files.link(over, files.root, b"h")
        link = await files.symlink(files.root, b"s", b"t")
        await watch.begin(file, over, files.root)
        await files.rename(files.root, b"f", files.root, b"g")
        await watch.altered(files.root)
        await watch.changed(file)
        await watch.changed(over, links=-1)
        free = (await files.usage()).free_inodes
        await files.rename(files.root, b"s", files.root, b"h")
        assert (await files.usage()).free_inodes == free + 1
        await refused(Errno.ENOENT, files.attributes(over))
        names = await kinds(files, files.root)
        assert (names[b"g"], names[b"h"]) == (file, link)
        assert {b"f", b"s"}.isdisjoint(names)
        assert next(entry.kind for entry in await files.entries(files.root) if entry.name == b"h") is Kind.SYMLINK

    stage.run(main)


@everywhere
def test_renaming_a_directory_over_an_empty_one_removes_that(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files, watch = session.files, Watch(session)
        a, b = [await files.make_directory(files.root, name, 0o755) for name in (b"a", b"b")]
        moved = await files.make_directory(a, b"m", 0o755)
        over = await files.make_directory(b, b"o", 0o755)
        await watch.begin(a, b, files.root)
        await files.rename(a, b"m", b, b"o")
        await watch.altered(a, b)
        await watch.same(files.root)
        assert (await files.attributes(a)).links == 2
        assert (await files.attributes(b)).links == 3
        assert await files.lookup(b, b"o") == moved
        assert await files.lookup(moved, b"..") == b
        await refused(Errno.ENOENT, files.attributes(over))
        within = await files.make_directory(b, b"p", 0o755)
        await files.rename(b, b"p", b, b"o")
        assert (await files.attributes(b)).links == 3
        assert await kinds(files, b) == {b".": b, b"..": files.root, b"o": within}

    stage.run(main)


@everywhere
def test_two_names_of_one_inode_both_stay(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files, watch = session.files, Watch(session)
        file = await files.create(files.root, b"f", 0o644)
        directory = await files.make_directory(files.root, b"d", 0o755)
        await files.link(file, directory, b"g")
        await watch.begin(file, directory, files.root)
        await files.rename(files.root, b"f", directory, b"g")
        await files.rename(files.root, b"f", files.root, b"f")
        await files.rename(files.root, b"d", files.root, b"d")
        await watch.same(file, directory, files.root)
        assert await files.lookup(files.root, b"f") == await files.lookup(directory, b"g") == file

    stage.run(main)


@everywhere
def test_what_cannot_be_renamed_stays(stage: Stage) -> None:
    async def main(session: Session) -> None:
        files, watch = session.files, Watch(session)
        file = await files.create(files.root, b"f", 0o644)
        a = await files.make_directory(files.root, b"a", 0o755)
        b = await files.make_directory(a, b"b", 0o755)
        c = await files.make_directory(b, b"c", 0o755)
        full = await files.make_directory(files.root, b"full", 0o755)
        await files.create(full, b"x", 0o644)
        root = files.root
        await watch.begin(file, a, b, c, full, root)
        for error, source, name, target, new in (
            (Errno.ENOENT, root, b"missing", root, b"x"),
            (Errno.ENOENT, root, b"missing", root, b"f"),
            (Errno.EINVAL, root, b"a", a, b"x"),
            (Errno.EINVAL, root, b"a", b, b"x"),
            (Errno.EINVAL, root, b"a", c, b"x"),
            (Errno.EINVAL, root, b"a", c, b"c"),
            (Errno.EINVAL, a, b".", root, b"x"),
            (Errno.EINVAL, b, b"..", root, b"x"),
            (Errno.EINVAL, root, b"f", a, b"."),
            (Errno.EINVAL, root, b"f", a, b".."),
            (Errno.EISDIR, root, b"f", root, b"a"),
            (Errno.ENOTDIR, root, b"a", root, b"f"),
            (Errno.ENOTEMPTY, root, b"a", root, b"full"),
            (Errno.ENOTEMPTY, b, b"c", root, b"a"),
            (Errno.ENOTDIR, root, b"a", file, b"x"),
            (Errno.ENOTDIR, file, b"x", root, b"y"),
        ):
            await refused(error, files.rename(source, name, target, new))
        await watch.same(file, a, b, c, full, root)
        await files.rename(a, b"b", root, b"b")
        await files.rename(root, b"a", c, b"x")
        assert await files.lookup(a, b"..") == c

    stage.run(main)


# Only ext3: the disk.


def debugged(image: bytes, *commands: str) -> bytes:
    """The image after commands of debugfs."""
    with judges.on_disk(image) as path:
        judges.debugfs(Path(path), list(commands), write=True)
        return Path(path).read_bytes()


def test_nothing_has_more_than_32000_links() -> None:
    async def make(files: FileSystem) -> None:
        for name in (b"d", b"e"):
            directory = await files.make_directory(files.root, name, 0o755)
            await files.make_directory(directory, b"inner", 0o755)
        await files.create(files.root, b"f", 0o644)

    _, image = on_machine(DISK.image(), make)
    image = debugged(image, "sif /d links_count 32000", "sif /f links_count 31999")

    async def main(files: FileSystem) -> None:
        root = files.root
        full, other, file = [await files.lookup(root, name) for name in (b"d", b"e", b"f")]
        await files.link(file, root, b"g")
        await refused(Errno.EMLINK, files.link(file, root, b"h"))
        assert (await files.attributes(file)).links == 32000
        await refused(Errno.EMLINK, files.make_directory(full, b"new", 0o755))
        await refused(Errno.EMLINK, files.rename(other, b"inner", full, b"new"))
        await files.create(full, b"file", 0o644)
        await files.rename(full, b"inner", full, b"other")
        await files.rename(other, b"inner", full, b"other")
        assert (await files.attributes(full)).links == 32000
        assert sorted(await kinds(files, full)) == [b".", b"..", b"file", b"other"]

    on_machine(image, main)


def test_a_short_target_lies_in_the_inode_and_a_long_one_in_a_block() -> None:
    async def main(files: FileSystem) -> list[int]:
        made = [await files.symlink(files.root, b"l%d" % length, b"t" * length) for length in (59, 60)]
        return [(await files.attributes(inode)).sectors for inode in made]

    sectors, image = on_machine(DISK.image(), main)
    judges.assert_silent(image)
    assert sectors == [0, 2]
    said = judges.debugfs(image, ["stat /l59", "stat /l60"])
    assert 'Fast link dest: "' + "t" * 59 + '"' in said
    assert judges.independent_tree(image)[b"/l60"].contents == b"t" * 60


def test_others_read_the_numbers_of_our_devices() -> None:
    async def main(files: FileSystem) -> None:
        for device in (0x501, 0xFFFF, 0x10000, 0xFFFFF):
            await files.create(files.root, b"%x" % device, 0o600, kind=Kind.BLOCK_DEVICE, device=device)

    _, image = on_machine(DISK.image(), main)
    judges.assert_silent(image)
    said = judges.debugfs(image, ["stat /501", "stat /ffff", "stat /10000", "stat /fffff"])
    numbers = [line.partition("minor number: ")[2].split()[0] for line in said.splitlines() if "minor number: " in line]
    assert numbers == ["05:01", "255:255", "256:00", "4095:255"]


def crashed(image: bytes, main: Callable[[Ext3], Coroutine[Any, Any, None]]) -> bytes:
    """What is on the disk when the power goes after `main` and a sync."""

    async def body(volume: Volume) -> None:
        files = await Ext3.mount(volume, base=BASE, epoch=EPOCH, capacity=256)
        await main(files)
        await files.sync()

    with DiskMachine(len(image) // SECTOR_SIZE) as machine:
        machine.load(image)
        machine.run(body)
        return machine.image()


def test_what_was_open_without_a_name_is_freed_after_a_crash() -> None:
    before: list[Any] = []

    async def main(files: Ext3) -> None:
        before.append(await files.usage())
        for name in (b"one", b"two", b"three"):
            inode = await files.create(files.root, name, 0o644)
            await files.write(inode, 0, bytes(20000))
            await files.open(inode)
        directory = await files.make_directory(files.root, b"d", 0o755)
        await files.open(directory)
        link = await files.symlink(files.root, b"l", b"t" * 500)
        await files.open(link)
        await files.unlink(files.root, b"two")
        await files.remove_directory(files.root, b"d")
        await files.unlink(files.root, b"l")
        await files.rename(files.root, b"one", files.root, b"three")
        await files.unlink(files.root, b"three")

    image = crashed(DISK.image(), main)

    async def after(files: FileSystem) -> Any:
        return await files.usage()

    usage, recovered = on_machine(image, after)
    judges.assert_silent(recovered)
    assert usage == before[0]
    theirs, verdict = judges.repair(image)
    assert str(verdict).count("Clearing orphaned inode") == 5
    judges.assert_silent(theirs)


def test_a_full_disk_refuses_each_operation_and_nothing_has_changed() -> None:
    long_name = b"n" * 250

    async def main(files: FileSystem) -> None:
        names = await begin(files)
        await names.add_all(long_name[:-2] + b"%02d" % number for number in range(40))
        other = await files.make_directory(files.root, b"e", 0o755)
        inner = await files.make_directory(other, b"inner", 0o755)
        filler = await files.create(files.root, b"filler", 0o644)
        size = 0
        while (await files.usage()).free_blocks:
            size += await files.write(filler, size, bytes(min(1 << 16, (await files.usage()).free_blocks * 1024)))
        # As many names as it takes until no leaf has room for one more.
        inode = next(iter(names.links))
        refusals, number = 0, 100
        while refusals < 20:
            name = long_name[:-3] + b"%03d" % number
            number += 1
            before = await files.usage(), await files.entries(names.directory), await files.attributes(names.directory)
            try:
                await files.link(inode, names.directory, name)
            except FileSystemError:
                refusals += 1
                links = (await files.attributes(inode)).links
                await refused(Errno.ENOSPC, files.link(inode, names.directory, name))
                await refused(Errno.ENOSPC, files.create(names.directory, name, 0o644))
                await refused(Errno.ENOSPC, files.make_directory(names.directory, name, 0o755))
                await refused(Errno.ENOSPC, files.symlink(names.directory, name, b"t"))
                await refused(Errno.ENOSPC, files.rename(other, b"inner", names.directory, name))
                assert (await files.attributes(inode)).links == links
                after = await files.usage(), await files.entries(names.directory), await files.attributes(names.directory)
                assert after == before
        assert await files.lookup(inner, b"..") == other
        await refused(Errno.ENOSPC, files.make_directory(files.root, b"short", 0o755))
        await refused(Errno.ENOSPC, files.symlink(files.root, b"short", b"t" * 60))
        await files.symlink(files.root, b"short", b"t" * 59)

    _, image = on_machine(DISK.image(), main)
    judges.assert_silent(image)


def test_one_block_where_two_are_needed_is_left_alone() -> None:
    async def main(files: FileSystem) -> None:
        names = await begin(files)
        await names.add_all(b"%03d" % number + b"n" * 252 for number in range(36))  # three to a block, twelve blocks
        other = await files.make_directory(files.root, b"e", 0o755)
        await files.make_directory(other, b"inner", 0o755)
        filler = await files.create(files.root, b"filler", 0o644)
        while (left := (await files.usage()).free_blocks) > 20:
            await files.write(filler, (await files.attributes(filler)).size, bytes((left - 15) * 1024))
        while (left := (await files.usage()).free_blocks) > 1:
            await files.write(await files.create(files.root, b"%d" % left, 0o644), 0, b"c")
        inode, directory, name = next(iter(names.links)), names.directory, b"x" * 255
        before = await files.usage(), await files.attributes(directory), await files.entries(directory)
        await refused(Errno.ENOSPC, files.link(inode, directory, name))
        await refused(Errno.ENOSPC, files.create(directory, name, 0o644))
        await refused(Errno.ENOSPC, files.make_directory(directory, name, 0o755))
        await refused(Errno.ENOSPC, files.symlink(directory, name, b"t"))
        await refused(Errno.ENOSPC, files.rename(other, b"inner", directory, name))
        assert before == (await files.usage(), await files.attributes(directory), await files.entries(directory))
        assert before[0].free_blocks == 1
        assert before[1].size == 12 * 1024

    _, image = on_machine(DISK.but(features="^dir_index").image(), main)
    judges.assert_silent(image)


def test_without_inodes_nothing_is_made_and_a_link_still_is() -> None:
    async def main(files: FileSystem) -> None:
        number = 0
        while (await files.usage()).free_inodes:
            await files.create(files.root, b"%d" % number, 0o644)
            number += 1
        before = await files.entries(files.root)
        await refused(Errno.ENOSPC, files.create(files.root, b"x", 0o644))
        await refused(Errno.ENOSPC, files.make_directory(files.root, b"x", 0o755))
        await refused(Errno.ENOSPC, files.symlink(files.root, b"x", b"t"))
        assert await files.entries(files.root) == before
        await files.link(await files.lookup(files.root, b"0"), files.root, b"x")
        await files.unlink(files.root, b"1")
        await files.create(files.root, b"1", 0o644)

    _, image = on_machine(DISK.but(inodes=32).image(), main)
    judges.assert_silent(image)


@pytest.mark.parametrize("where", ["itself", "nowhere", "a file"])
def test_a_way_up_that_does_not_end_is_an_error(where: str) -> None:
    async def make(files: FileSystem) -> list[int]:
        a = await files.make_directory(files.root, b"a", 0o755)
        b = await files.make_directory(a, b"b", 0o755)
        await files.make_directory(files.root, b"m", 0o755)
        return [b, await files.create(files.root, b"f", 0o644)]

    (b, file), image = on_machine(DISK.image(), make)
    block = int(judges.debugfs(image, ["blocks /a"]).splitlines()[-1].split()[0])
    target = {"itself": b, "nowhere": 0, "a file": file}[where]
    at = block * 1024 + 12
    image = image[:at] + target.to_bytes(4, "little") + image[at + 4 :]

    async def main(files: FileSystem) -> None:
        await refused(Errno.EIO, files.rename(files.root, b"m", b, b"x"))
        assert await files.lookup(files.root, b"m")

    on_machine(image, main)
