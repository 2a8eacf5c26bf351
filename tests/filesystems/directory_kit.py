"""One directory of names on a disk of its own, played against a dictionary: what `test_directories` is made of.

The names are links to a few files, so that a large directory costs blocks and not inodes.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from libos.filesystems.ext3.filesystem import Ext3
from libos.filesystems.ext3.layout import SUPERBLOCK_OFFSET, HashFlags, HashVersion
from libos.filesystems.ext3.records import SUPERBLOCK_OFFSETS
from libos.filesystems.interface import Errno, FileSystem, FileSystemError, Kind
from tests.filesystems import judges
from tests.filesystems.stages import BASE, EPOCH
from tests.storage.kit import DiskMachine

LINKS = 30000


def hashed(image: bytes, version: HashVersion) -> bytes:
    """An image whose superblock chooses this hash for new directories."""
    changed = bytearray(image)
    changed[SUPERBLOCK_OFFSET + SUPERBLOCK_OFFSETS["def_hash_version"]] = version % 3
    changed[SUPERBLOCK_OFFSET + SUPERBLOCK_OFFSETS["flags"]] = HashFlags.UNSIGNED if version > 2 else HashFlags.SIGNED
    return bytes(changed)


@dataclass
class Names:
    """A directory and the dictionary that says what must be in it: each name's inode."""

    files: FileSystem
    directory: int
    model: dict[bytes, int] = field(default_factory=dict)
    links: dict[int, int] = field(default_factory=dict)

    async def add(self, name: bytes) -> None:
        """A new name, or EEXIST if it is there."""
        inode = next((inode for inode, links in self.links.items() if links < LINKS), 0)
        if name in self.model:
            await refused(Errno.EEXIST, self.files.link(self.model[name], self.directory, name))
            return
        if inode:
            await self.files.link(inode, self.directory, name)
        else:
            inode = await self.files.create(self.directory, name, 0o644)
        self.links[inode] = self.links.get(inode, 0) + 1
        self.model[name] = inode

    async def add_all(self, names: Iterable[bytes]) -> None:
        for name in names:
            await self.add(name)

    async def remove(self, name: bytes) -> None:
        """One name less, or ENOENT if it is not there."""
        if name not in self.model:
            await refused(Errno.ENOENT, self.files.unlink(self.directory, name))
            return
        await self.files.unlink(self.directory, name)
        inode = self.model.pop(name)
        self.links[inode] -= 1
        if not self.links[inode]:
            del self.links[inode]

    async def rename(self, name: bytes, new: bytes) -> None:
        """A name becomes another, over what that stood for."""
        if name not in self.model:
            await refused(Errno.ENOENT, self.files.rename(self.directory, name, self.directory, new))
            return
        await self.files.rename(self.directory, name, self.directory, new)
        inode, over = self.model[name], self.model.get(new)
        if inode == over:
            return
        del self.model[name]
        self.model[new] = inode
        if over is not None:
            self.links[over] -= 1
            if not self.links[over]:
                del self.links[over]

    async def look_up(self, name: bytes) -> None:
        """A name stands for what the dictionary says."""
        if name in self.model:
            assert await self.files.lookup(self.directory, name) == self.model[name], name
        else:
            await refused(Errno.ENOENT, self.files.lookup(self.directory, name))

    async def check(self) -> None:
        """Everything is there, by listing and by looking up, and nothing else."""
        entries = await self.files.entries(self.directory)
        assert len(entries) == len(self.model) + 2
        there = {entry.name: entry.inode for entry in entries}
        assert there == {**self.model, b".": self.directory, b"..": self.files.root}
        for name in [*self.model, b".", b".."]:
            assert await self.files.lookup(self.directory, name) == there[name], name
        for inode, links in self.links.items():
            assert (await self.files.attributes(inode)).links == links


async def refused(errno: Errno, awaitable: Any) -> None:
    """It must be refused for this reason."""
    with pytest.raises(FileSystemError) as caught:
        await awaitable
    assert caught.value.errno is errno, f"{caught.value.errno.name} in place of {errno.name}"


async def begin(files: FileSystem, name: bytes = b"d") -> Names:
    """A new, empty directory."""
    return Names(files, await files.make_directory(files.root, name, 0o755))


async def resume(files: FileSystem, name: bytes = b"d") -> Names:
    """A directory that is there, the dictionary being what it lists."""
    directory = await files.lookup(files.root, name)
    names = Names(files, directory)
    for entry in await files.entries(directory):
        if entry.name not in (b".", b".."):
            assert entry.kind in (Kind.FILE, Kind.UNKNOWN)
            names.model[entry.name] = entry.inode
            names.links[entry.inode] = names.links.get(entry.inode, 0) + 1
    return names


def on_machine(image: bytes, main: Any, capacity: int = 512) -> tuple[Any, bytes]:
    """Run `main(files)` over an image and unmount it; gives what it gave, and the image."""

    async def body(volume: Any) -> Any:
        files = await Ext3.mount(volume, base=BASE, epoch=EPOCH, capacity=capacity)
        result = await main(files)
        await files.unmount()
        return result

    with DiskMachine(len(image) // 512) as machine:
        machine.load(image)
        return machine.run(body), machine.image()


@dataclass(frozen=True)
class Tree:
    """What debugfs finds in a directory's index: its hash version, its levels below the root, how many names it reads in
    each leaf, how many blocks of all and of those right below the root go on with the hash that another ends with."""

    version: int
    levels: int
    leaves: tuple[int, ...]
    continued: int
    continued_below_root: int


def tree(image: bytes, path: str = "/d") -> Tree:
    """The index of a directory, as debugfs prints it."""
    said = judges.debugfs(image, [f"htree {path}"])
    version = int(_VERSION.findall(said)[0])
    levels = int(_LEVELS.findall(said)[0])
    parts = _LEAF.split(said)[1:]
    continued, below = (
        {block for start, block in _ENTRY.findall(text) if int(start, 16) & 1} for text in (said, said.split("\n\n")[0])
    )
    return Tree(version, levels, tuple(len(_NAME.findall(part)) for part in parts), len(continued), len(below))


_VERSION = re.compile(r"Hash Version: (\d+)")
_LEVELS = re.compile(r"Indirect levels: (\d+)")
_LEAF = re.compile(r"^Reading directory block \d+, phys \d+$", re.MULTILINE)
_ENTRY = re.compile(r"^Entry #\d+: Hash 0x([0-9a-f]+)(?: \(\*\*\))?, block (\d+)$", re.MULTILINE)
_NAME = re.compile(r"(?<![0-9a-f])[1-9]\d* 0x[0-9a-f]{8}-[0-9a-f]{8} \(\d+\) ")
