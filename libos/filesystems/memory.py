"""A file system in memory: the whole interface with nothing below it, gone when its library OS ends.

It says what the operations mean, without blocks, journal or cache in the way, and bounds what may be put into it: contents
are kept in blocks, of which there are so many, and a block that was never written is a hole that costs nothing.

Every method asks the clock first and does the rest without awaiting anything, so handlers and coroutines of one environment
see each operation whole.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from libos.filesystems.interface import (
    LINK_TARGET_MAXIMUM,
    MODE_BITS,
    Attributes,
    Entry,
    Errno,
    FileSystem,
    FileSystemError,
    Kind,
    Usage,
    check_name,
)

_ROOT: Final = 2
_SECTOR: Final = 512
LINKS_MAXIMUM: Final = 32000
SIZE_MAXIMUM: Final = 1 << 41
_CREATED: Final = (Kind.FILE, Kind.FIFO, Kind.SOCKET, Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)
_DEVICES: Final = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)


@dataclass
class _Inode:
    """One file, directory or link.  `names` are a directory's entries, `parent` what its `..` stands for; `blocks` are the
    contents of a file without its holes, `target` those of a symbolic link."""

    number: int
    kind: Kind
    mode: int
    uid: int
    gid: int
    now: int
    device: int = 0
    links: int = 0
    size: int = 0
    users: int = 0
    parent: int = 0
    target: bytes = b""
    names: dict[bytes, int] = field(default_factory=dict)
    blocks: dict[int, bytearray] = field(default_factory=dict)
    attributes: dict[bytes, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.accessed = self.modified = self.changed = self.now

    @property
    def is_directory(self) -> bool:
        return self.kind is Kind.DIRECTORY

    def altered(self, now: int) -> None:
        """The contents, or the entries, are other ones since `now`."""
        self.modified = self.changed = now


async def _no_time() -> int:
    return 0


class MemoryFileSystem(FileSystem):
    """Up to `blocks` blocks of `block_size` bytes with contents and up to `inodes` inodes; `clock` gives the time in
    seconds since 1970, by default always 0."""

    def __init__(
        self,
        *,
        blocks: int = 1 << 16,
        block_size: int = 4096,
        inodes: int = 1 << 16,
        clock: Callable[[], Awaitable[int]] = _no_time,
        read_only: bool = False,
    ) -> None:
        self.root = _ROOT
        self.read_only = read_only
        self._block_size = block_size
        self._blocks = self._free_blocks = blocks
        self._limit = inodes
        self._clock = clock
        self._next = _ROOT + 1
        root = _Inode(_ROOT, Kind.DIRECTORY, 0o755, 0, 0, 0, links=2, parent=_ROOT)
        self._inodes = {_ROOT: root}

    # What is there.

    async def lookup(self, directory: int, name: bytes) -> int:
        there = self._directory(directory)
        if name == b".":
            return directory
        if name == b"..":
            return there.parent if there.links else self._missing()
        check_name(name)
        return there.names[name] if name in there.names else self._missing()

    async def attributes(self, inode: int) -> Attributes:
        it = self._inode(inode)
        return Attributes(
            it.number, it.kind, it.mode, it.links, it.uid, it.gid, it.size, len(it.blocks) * (self._block_size // _SECTOR),
            it.accessed, it.modified, it.changed, it.device,
        )  # fmt: skip

    async def entries(self, directory: int) -> list[Entry]:
        there = self._directory(directory)
        if not there.links:
            return []
        special = [Entry(b".", directory, Kind.DIRECTORY), Entry(b"..", there.parent, Kind.DIRECTORY)]
        return special + [Entry(name, number, self._inodes[number].kind) for name, number in there.names.items()]

    async def read(self, inode: int, offset: int, size: int) -> bytes:
        file = self._file(inode)
        if offset < 0 or size < 0:
            raise FileSystemError(Errno.EINVAL)
        end = min(offset + size, file.size)
        parts = []
        while offset < end:
            index, start = divmod(offset, self._block_size)
            stop = min(self._block_size, start + end - offset)
            block = file.blocks.get(index)
            parts.append(bytes(stop - start) if block is None else bytes(block[start:stop]))
            offset += stop - start
        return b"".join(parts)

    async def read_link(self, inode: int) -> bytes:
        it = self._inode(inode)
        if it.kind is not Kind.SYMLINK:
            raise FileSystemError(Errno.EINVAL)
        return it.target

    async def usage(self) -> Usage:
        return Usage(self._block_size, self._blocks, self._free_blocks, self._limit, self._limit - len(self._inodes))

    # Files.

    async def write(self, inode: int, offset: int, contents: bytes) -> int:
        now = await self._change()
        file = self._file(inode)
        if offset < 0:
            raise FileSystemError(Errno.EINVAL)
        if contents and offset >= SIZE_MAXIMUM:
            raise FileSystemError(Errno.EFBIG)
        data = memoryview(contents)[: SIZE_MAXIMUM - offset]
        done = 0
        while done < len(data):
            index, start = divmod(offset + done, self._block_size)
            block = file.blocks.get(index)
            if block is None:
                if not self._free_blocks:
                    break
                self._free_blocks -= 1
                block = file.blocks[index] = bytearray(self._block_size)
            part = data[done : done + self._block_size - start]
            block[start : start + len(part)] = part
            done += len(part)
        if contents and not done:
            raise FileSystemError(Errno.ENOSPC)
        if done:
            file.size = max(file.size, offset + done)
            file.altered(now)
        return done

    async def set_size(self, inode: int, size: int) -> None:
        now = await self._change()
        file = self._file(inode)
        if size < 0:
            raise FileSystemError(Errno.EINVAL)
        if size > SIZE_MAXIMUM:
            raise FileSystemError(Errno.EFBIG)
        if size < file.size:
            whole, rest = divmod(size, self._block_size)
            for index in [index for index in file.blocks if index >= whole + (rest > 0)]:
                del file.blocks[index]
                self._free_blocks += 1
            if rest and whole in file.blocks:
                file.blocks[whole][rest:] = bytes(self._block_size - rest)
        file.size = size
        file.altered(now)

    async def set_attributes(
        self,
        inode: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        accessed: int | None = None,
        modified: int | None = None,
    ) -> None:
        now = await self._change()
        it = self._inode(inode)
        if mode is not None:
            it.mode = mode & MODE_BITS
        it.uid = it.uid if uid is None else uid
        it.gid = it.gid if gid is None else gid
        it.accessed = it.accessed if accessed is None else accessed
        it.modified = it.modified if modified is None else modified
        it.changed = now

    async def open(self, inode: int) -> None:
        self._inode(inode).users += 1

    async def close(self, inode: int) -> None:
        it = self._inode(inode)
        if not it.users:
            raise FileSystemError(Errno.EBADF)
        it.users -= 1
        self._free_if_unused(it)

    # Names.

    async def create(
        self, directory: int, name: bytes, mode: int, uid: int = 0, gid: int = 0, kind: Kind = Kind.FILE, device: int = 0
    ) -> int:
        now = await self._change()
        if kind not in _CREATED:
            raise FileSystemError(Errno.EINVAL)
        made = self._make(directory, name, kind, mode, uid, gid, now)
        made.device = device if kind in _DEVICES else 0
        return made.number

    async def make_directory(self, directory: int, name: bytes, mode: int, uid: int = 0, gid: int = 0) -> int:
        now = await self._change()
        if self._directory(directory).links >= LINKS_MAXIMUM and name not in self._directory(directory).names:
            raise FileSystemError(Errno.EMLINK)
        made = self._make(directory, name, Kind.DIRECTORY, mode, uid, gid, now)
        made.links, made.parent = 2, directory
        self._inodes[directory].links += 1
        return made.number

    async def symlink(self, directory: int, name: bytes, target: bytes, uid: int = 0, gid: int = 0) -> int:
        now = await self._change()
        if not target:
            raise FileSystemError(Errno.EINVAL)
        if len(target) > min(LINK_TARGET_MAXIMUM, self._block_size - 1):
            raise FileSystemError(Errno.ENAMETOOLONG)
        made = self._make(directory, name, Kind.SYMLINK, 0o777, uid, gid, now)
        made.target, made.size = target, len(target)
        return made.number

    async def link(self, inode: int, directory: int, name: bytes) -> None:
        now = await self._change()
        it = self._inode(inode)
        if it.is_directory:
            raise FileSystemError(Errno.EPERM)
        there = self._room_for(directory, name)
        if not it.links:
            raise FileSystemError(Errno.ENOENT)
        if it.links >= LINKS_MAXIMUM:
            raise FileSystemError(Errno.EMLINK)
        there.names[name] = inode
        it.links += 1
        it.changed = now
        there.altered(now)

    async def unlink(self, directory: int, name: bytes) -> None:
        now = await self._change()
        it = self._inodes[await self.lookup(directory, name)]
        if it.is_directory:
            raise FileSystemError(Errno.EISDIR)
        self._detach(self._inodes[directory], name, it, now)

    async def remove_directory(self, directory: int, name: bytes) -> None:
        now = await self._change()
        it = self._inodes[await self.lookup(directory, name)]
        if name == b".":
            raise FileSystemError(Errno.EINVAL)
        if name == b"..":
            raise FileSystemError(Errno.ENOTEMPTY)
        if not it.is_directory:
            raise FileSystemError(Errno.ENOTDIR)
        if it.names:
            raise FileSystemError(Errno.ENOTEMPTY)
        self._detach(self._inodes[directory], name, it, now)

    async def rename(self, directory: int, name: bytes, new_directory: int, new_name: bytes) -> None:
        now = await self._change()
        it = self._inodes[await self.lookup(directory, name)]
        source, target = self._inodes[directory], self._directory(new_directory)
        if {name, new_name} & {b".", b".."}:
            raise FileSystemError(Errno.EINVAL)
        check_name(new_name)
        if not target.links:
            self._missing()
        if it.is_directory and self._lies_in(target, it):
            raise FileSystemError(Errno.EINVAL)
        if new_name in target.names:
            over = self._inodes[target.names[new_name]]
            if over is it:
                return
            self._check_fit(it, over)
            self._detach(target, new_name, over, now)
        elif it.is_directory and source is not target and target.links >= LINKS_MAXIMUM:
            raise FileSystemError(Errno.EMLINK)
        del source.names[name]
        target.names[new_name] = it.number
        if it.is_directory and source is not target:
            it.parent = new_directory
            source.links -= 1
            target.links += 1
        it.changed = now
        source.altered(now)
        target.altered(now)

    # Extended attributes.

    async def extended_attributes(self, inode: int) -> dict[bytes, bytes]:
        return dict(self._inode(inode).attributes)

    # The disk, of which there is none.

    async def sync(self) -> None:
        return

    async def fsync(self, inode: int) -> None:
        self._inode(inode)

    async def fdatasync(self, inode: int) -> None:
        self._inode(inode)

    async def unmount(self) -> None:
        """Everything is forgotten."""
        self._inodes.clear()

    # Parts of operations.

    def _missing(self) -> int:
        raise FileSystemError(Errno.ENOENT)

    async def _change(self) -> int:
        """The time of a change that is about to be made; EROFS if there may be none."""
        if self.read_only:
            raise FileSystemError(Errno.EROFS)
        return await self._clock()

    def _inode(self, number: int) -> _Inode:
        if number not in self._inodes:
            raise FileSystemError(Errno.ENOENT)
        return self._inodes[number]

    def _directory(self, number: int) -> _Inode:
        it = self._inode(number)
        if not it.is_directory:
            raise FileSystemError(Errno.ENOTDIR)
        return it

    def _file(self, number: int) -> _Inode:
        it = self._inode(number)
        if it.kind is not Kind.FILE:
            raise FileSystemError(Errno.EISDIR if it.is_directory else Errno.EINVAL)
        return it

    def _room_for(self, directory: int, name: bytes) -> _Inode:
        """The directory, which may have a new entry `name`."""
        there = self._directory(directory)
        if name in (b".", b"..") or name in there.names:
            raise FileSystemError(Errno.EEXIST)
        check_name(name)
        if not there.links:
            raise FileSystemError(Errno.ENOENT)
        return there

    def _make(self, directory: int, name: bytes, kind: Kind, mode: int, uid: int, gid: int, now: int) -> _Inode:
        there = self._room_for(directory, name)
        if len(self._inodes) >= self._limit:
            raise FileSystemError(Errno.ENOSPC)
        made = _Inode(self._next, kind, mode & MODE_BITS, uid, gid, now, links=1)
        self._next += 1
        self._inodes[made.number] = made
        there.names[name] = made.number
        there.altered(now)
        return made

    def _detach(self, there: _Inode, name: bytes, it: _Inode, now: int) -> None:
        """Take a name away, and with a directory's name its `.` and `..`."""
        del there.names[name]
        there.altered(now)
        it.changed = now
        if it.is_directory:
            it.links = 0
            there.links -= 1
        else:
            it.links -= 1
        self._free_if_unused(it)

    def _free_if_unused(self, it: _Inode) -> None:
        if not it.links and not it.users:
            self._free_blocks += len(it.blocks)
            del self._inodes[it.number]

    @staticmethod
    def _check_fit(it: _Inode, over: _Inode) -> None:
        """Raise unless `it` may take the place of `over`."""
        if over.is_directory and not it.is_directory:
            raise FileSystemError(Errno.EISDIR)
        if it.is_directory and not over.is_directory:
            raise FileSystemError(Errno.ENOTDIR)
        if over.names:
            raise FileSystemError(Errno.ENOTEMPTY)

    def _lies_in(self, directory: _Inode, ancestor: _Inode) -> bool:
        """Whether a directory is `ancestor` or below it."""
        while directory.number != ancestor.number:
            if directory.number == self.root:
                return False
            directory = self._inodes[directory.parent]
        return True
