"""What every file system of a library OS offers: files, directories and links by number, and nothing about paths.

A program's file system is chosen by name because all of them are this.  Paths, symbolic links on the way and permissions
are the same for all, and are in `libos.filesystems.paths`.  Names and the targets of symbolic links are bytes, as on the
disk; a name has 1 to 255 of them, without `/` and the zero byte.

The division of labour is that between a virtual file system and its inodes (Kleiman, Vnodes: An Architecture for Multiple
File System Types in Sun UNIX, USENIX 1986); the rules for each operation are those of POSIX.1-2017.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from exokernel.abi.direct import direct

NAME_MAXIMUM: Final = 255
LINK_TARGET_MAXIMUM: Final = 4095
MODE_BITS: Final = 0o7777
"""Permissions with set-user-ID, set-group-ID and the sticky bit."""


@direct
class Errno(IntEnum):
    """Why a file system refuses; the numbers are Linux's, so that C programs know them."""

    EPERM = 1
    ENOENT = 2
    EIO = 5
    EBADF = 9
    ENOMEM = 12
    EACCES = 13
    EFAULT = 14
    EEXIST = 17
    EXDEV = 18
    ENOTDIR = 20
    EISDIR = 21
    EINVAL = 22
    EMFILE = 24
    EFBIG = 27
    ENOSPC = 28
    EROFS = 30
    EMLINK = 31
    ENAMETOOLONG = 36
    ENOSYS = 38
    ENOTEMPTY = 39
    ELOOP = 40
    ENODATA = 61
    EOVERFLOW = 75

    @property
    def sentence(self) -> str:
        """In words, without a full stop."""
        return _SENTENCES[self]


_SENTENCES: Final = {
    Errno.EPERM: "this is not permitted",
    Errno.ENOENT: "there is no such file or directory",
    Errno.EIO: "the disk reported an error, or what is on it makes no sense",
    Errno.EBADF: "this file is not open",
    Errno.ENOMEM: "there is no memory left",
    Errno.EACCES: "permission denied",
    Errno.EFAULT: "the memory for it is not there",
    Errno.EEXIST: "it exists already",
    Errno.EXDEV: "it lies in another file system",
    Errno.ENOTDIR: "a part of the path is not a directory",
    Errno.EISDIR: "it is a directory",
    Errno.EINVAL: "this makes no sense",
    Errno.EMFILE: "too many files are open",
    Errno.EFBIG: "the file would be too large",
    Errno.ENOSPC: "there is no space left",
    Errno.EROFS: "the file system is mounted read-only",
    Errno.EMLINK: "it has too many links",
    Errno.ENAMETOOLONG: "the name is too long",
    Errno.ENOSYS: "this file system does not offer that",
    Errno.ENOTEMPTY: "the directory is not empty",
    Errno.ELOOP: "too many symbolic links on the way",
    Errno.ENODATA: "there is no such attribute",
    Errno.EOVERFLOW: "a number does not fit",
}


class FileSystemError(Exception):
    """The file system refuses what was asked; `errno` says why.  What was asked for has not been done."""

    def __init__(self, errno: Errno, about: str = "") -> None:
        super().__init__(f"{about}: {errno.sentence}" if about else errno.sentence)
        self.errno = errno


class CorruptFileSystem(FileSystemError):
    """What is on the disk makes no sense, or is of a kind this library does not know; the message says what."""

    def __init__(self, what: str) -> None:
        super().__init__(Errno.EIO)
        self.what = what
        self.args = (what,)


@direct
class Kind(IntEnum):
    """What an inode is; the numbers are those of ext3's directory entries."""

    UNKNOWN = 0
    FILE = 1
    DIRECTORY = 2
    CHARACTER_DEVICE = 3
    BLOCK_DEVICE = 4
    FIFO = 5
    SOCKET = 6
    SYMLINK = 7


FORMAT_BITS: Final = {
    Kind.FILE: 0o100000,
    Kind.DIRECTORY: 0o040000,
    Kind.CHARACTER_DEVICE: 0o020000,
    Kind.BLOCK_DEVICE: 0o060000,
    Kind.FIFO: 0o010000,
    Kind.SOCKET: 0o140000,
    Kind.SYMLINK: 0o120000,
}
"""The upper four bits of a mode, by kind."""
KIND_OF_FORMAT: Final = {bits: kind for kind, bits in FORMAT_BITS.items()}


@dataclass(frozen=True)
class Attributes:
    """What `stat` tells.  `mode` is MODE_BITS alone; `size` in bytes; `sectors` of 512 bytes that it takes on the disk;
    times in whole seconds since 1970; `device` is the number of a device, major * 256 + minor, 0 for anything else."""

    inode: int
    kind: Kind
    mode: int
    links: int
    uid: int
    gid: int
    size: int
    sectors: int
    accessed: int
    modified: int
    changed: int
    device: int = 0


@dataclass(frozen=True)
class Entry:
    """An entry of a directory."""

    name: bytes
    inode: int
    kind: Kind


@dataclass(frozen=True)
class Usage:
    """How full a file system is: blocks of `block_size` bytes, inodes."""

    block_size: int
    blocks: int
    free_blocks: int
    inodes: int
    free_inodes: int


class FileSystem(ABC):
    """Files by number.  Every method may raise FileSystemError; those that change something raise EROFS if it is mounted
    read-only, and have changed nothing when they raise.  Numbers that are nobody's raise ENOENT."""

    root: int
    """The number of the root directory."""
    read_only: bool

    # What is there.

    @abstractmethod
    async def lookup(self, directory: int, name: bytes) -> int:
        """The inode that `name` stands for in a directory; `.` and `..` are names too.  Raises ENOENT, ENOTDIR,
        ENAMETOOLONG."""

    @abstractmethod
    async def attributes(self, inode: int) -> Attributes:
        """What is known of an inode."""

    @abstractmethod
    async def entries(self, directory: int) -> list[Entry]:
        """Every entry of a directory, with `.` and `..`, in no particular order.  Raises ENOTDIR."""

    @abstractmethod
    async def read(self, inode: int, offset: int, size: int) -> bytes:
        """Up to `size` bytes of a file from `offset` on; fewer only at its end.  Holes read as zeros.  Raises EISDIR, and
        EINVAL for what has no contents."""

    @abstractmethod
    async def read_link(self, inode: int) -> bytes:
        """The target of a symbolic link.  Raises EINVAL for anything else."""

    @abstractmethod
    async def usage(self) -> Usage:
        """How full it is."""

    # Files.

    @abstractmethod
    async def write(self, inode: int, offset: int, contents: bytes) -> int:
        """Store `contents` from `offset` on, making the file longer if need be; gives how many bytes, which may be fewer
        when the disk becomes full, and at least one.  Raises ENOSPC, EFBIG, EISDIR, EINVAL."""

    @abstractmethod
    async def set_size(self, inode: int, size: int) -> None:
        """Cut a file off, or make it longer by a hole.  Raises EFBIG, EISDIR, EINVAL."""

    @abstractmethod
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
        """Change what is given; the time of change is now.  `mode` is MODE_BITS alone."""

    @abstractmethod
    async def open(self, inode: int) -> None:
        """Count one more user of an inode, which stays, with its contents, until the last has closed it, even if its last
        name goes."""

    @abstractmethod
    async def close(self, inode: int) -> None:
        """Count one user less; what has neither users nor names is freed."""

    # Names.

    @abstractmethod
    async def create(
        self, directory: int, name: bytes, mode: int, uid: int = 0, gid: int = 0, kind: Kind = Kind.FILE, device: int = 0
    ) -> int:
        """A new, empty file, FIFO, socket or device; gives its number.  Raises EEXIST, ENOSPC, EINVAL for other kinds."""

    @abstractmethod
    async def make_directory(self, directory: int, name: bytes, mode: int, uid: int = 0, gid: int = 0) -> int:
        """A new directory; gives its number.  Raises EEXIST, ENOSPC, EMLINK."""

    @abstractmethod
    async def symlink(self, directory: int, name: bytes, target: bytes, uid: int = 0, gid: int = 0) -> int:
        """A new symbolic link; gives its number.  Raises EEXIST, ENOSPC, and ENAMETOOLONG for a target of more than
        LINK_TARGET_MAXIMUM bytes or than a block holds, EINVAL for an empty one."""

    @abstractmethod
    async def link(self, inode: int, directory: int, name: bytes) -> None:
        """One more name for what is not a directory.  Raises EEXIST, EPERM for a directory, EMLINK, ENOSPC."""

    @abstractmethod
    async def unlink(self, directory: int, name: bytes) -> None:
        """Take a name away from what is not a directory.  Raises ENOENT, EISDIR."""

    @abstractmethod
    async def remove_directory(self, directory: int, name: bytes) -> None:
        """Remove an empty directory.  Raises ENOENT, ENOTDIR, ENOTEMPTY, EINVAL for `.`, ENOTEMPTY for `..`."""

    @abstractmethod
    async def rename(self, directory: int, name: bytes, new_directory: int, new_name: bytes) -> None:
        """Give another name, atomically, over an existing one that fits: a non-directory over a non-directory, a directory
        over an empty one.  Two names of one inode: nothing happens.  Raises ENOENT, EISDIR, ENOTDIR, ENOTEMPTY, EINVAL for
        a directory into itself and for `.` and `..`, EMLINK, ENOSPC."""

    # Extended attributes.

    async def extended_attributes(self, inode: int) -> dict[bytes, bytes]:
        """The extended attributes of an inode, full names (`user.colour`) to values."""
        return {}

    # The disk.

    @abstractmethod
    async def sync(self) -> None:
        """Everything done so far is on the medium when this ends."""

    @abstractmethod
    async def fsync(self, inode: int) -> None:
        """The inode, its contents and what it takes to find them again are on the medium when this ends."""

    @abstractmethod
    async def fdatasync(self, inode: int) -> None:
        """As `fsync`, without what reading the contents does not need: times."""

    @abstractmethod
    async def unmount(self) -> None:
        """Finish: all is on the medium and marked so.  The object is of no use afterwards."""

    async def release(self, frames: int) -> int:
        """Give up to so many frames back to the kernel, which wants them; gives how many."""
        return 0


def check_name(name: bytes) -> None:
    """Raise ENAMETOOLONG, EINVAL or, for the empty name, ENOENT unless `name` can be that of an entry."""
    if not name:
        raise FileSystemError(Errno.ENOENT)
    if len(name) > NAME_MAXIMUM:
        raise FileSystemError(Errno.ENAMETOOLONG)
    if b"/" in name or b"\0" in name:
        raise FileSystemError(Errno.EINVAL)
