"""Names: making, linking, renaming and removing files, directories and symbolic links.

The rules are those of POSIX.1-2017 for mknod, mkdir, symlink, link, unlink, rmdir and rename.  Who may do it has been
decided (`libos.filesystems.paths`), and the caller has the lock.  Each public method that changes something

 1. looks at everything that could prevent it, and changes nothing so far;
 2. makes sure of the blocks and the inode it needs, and makes all its changes in one operation of the journal, so that a
    crash leaves all of them or none;
 3. frees what has lost its last name, unless somebody has it open.  Between 2 and 3 the inode is on the list of orphans.
"""

from struct import Struct
from typing import Final

from libos.filesystems.ext3.directories import DOT, DOTS, Directories
from libos.filesystems.ext3.inodes import Inode
from libos.filesystems.ext3.layout import BLOCK_POINTERS, LINK_MAXIMUM
from libos.filesystems.ext3.leaves import Place
from libos.filesystems.ext3.mounted import Mounted
from libos.filesystems.interface import (
    FORMAT_BITS,
    LINK_TARGET_MAXIMUM,
    MODE_BITS,
    CorruptFileSystem,
    Errno,
    FileSystemError,
    Kind,
    check_name,
)

_CREATED: Final = (Kind.FILE, Kind.FIFO, Kind.SOCKET, Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)
_DEVICES: Final = (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE)
_OLD_DEVICES: Final = 1 << 16
_DEVICE_MAXIMUM: Final = 1 << 20
_POINTERS: Final = Struct(f"<{BLOCK_POINTERS}I")
_LINK_MODE: Final = 0o777
_LINKS_OF_ITS_OWN: Final = 2
"""A directory's name and its `.`; each directory in it has a `..` more."""

_REMOVING: Final = 12
"""The most metadata blocks that taking one name away changes: a block of names, the two inodes, those before and behind in
the list of orphans, the superblock."""
_ADDING: Final = 32
"""The most that one more name changes: two blocks of names, two of the index, the blocks that map them, the bitmaps and
descriptors of the groups all these are in, and the same for a new inode and its first block."""


class Namespace:
    """The names of a mounted file system.  What is given as a directory is one."""

    def __init__(self, mounted: Mounted, directories: Directories) -> None:
        self._mounted = mounted
        self._inodes = mounted.inodes
        self._directories = directories

    async def lookup(self, directory: Inode, name: bytes) -> int:
        """The inode that a name stands for, `.` and `..` too.  Raises ENOENT, ENAMETOOLONG."""
        if name == DOT:
            return directory.number
        check_name(name)
        found = await self._directories.find(directory, name) if directory.links else None
        if found is None:
            raise FileSystemError(Errno.ENOENT)
        return found[0]

    # Making.

    async def create(
        self, parent: Inode, name: bytes, mode: int, uid: int = 0, gid: int = 0, kind: Kind = Kind.FILE, device: int = 0
    ) -> int:
        """A new, empty file, FIFO, socket or device (`device`: major * 256 + minor); gives its number.  Raises EEXIST,
        ENOSPC, and EINVAL for another kind or an impossible device."""
        if kind not in _CREATED or (kind in _DEVICES and not 0 <= device < _DEVICE_MAXIMUM):
            raise FileSystemError(Errno.EINVAL)
        place = await self._vacant(parent, name)
        async with self._mounted.operation(_ADDING, place.blocks, 1):
            made = await self._inodes.create(mode & MODE_BITS | FORMAT_BITS[kind], uid, gid, parent)
            made.links = 1
            if kind in _DEVICES:
                made.block[0 if device < _OLD_DEVICES else 1] = device
            await self._enter(place, made, kind)
        return made.number

    async def make_directory(self, parent: Inode, name: bytes, mode: int, uid: int = 0, gid: int = 0) -> int:
        """A new directory; gives its number.  Raises EEXIST, ENOSPC, EMLINK."""
        place = await self._vacant(parent, name)
        if parent.links >= LINK_MAXIMUM:
            raise FileSystemError(Errno.EMLINK)
        async with self._mounted.operation(_ADDING, place.blocks + 1, 1):
            made = await self._inodes.create(mode & MODE_BITS | FORMAT_BITS[Kind.DIRECTORY], uid, gid, parent)
            made.links = 2
            await self._directories.begin(made, parent.number)
            parent.links += 1
            await self._enter(place, made, Kind.DIRECTORY)
        return made.number

    async def symlink(self, parent: Inode, name: bytes, target: bytes, uid: int = 0, gid: int = 0) -> int:
        """A new symbolic link; gives its number.  A short target lies in the inode, in place of the block numbers, a longer
        one in a block.  Raises EEXIST, ENOSPC, EINVAL for an empty target, ENAMETOOLONG for one that is too long."""
        if not target:
            raise FileSystemError(Errno.EINVAL)
        if len(target) > min(LINK_TARGET_MAXIMUM, self._mounted.geometry.block_size - 1):
            raise FileSystemError(Errno.ENAMETOOLONG)
        place = await self._vacant(parent, name)
        inside = len(target) < _POINTERS.size
        async with self._mounted.operation(_ADDING, place.blocks + (0 if inside else 1), 1):
            made = await self._inodes.create(_LINK_MODE | FORMAT_BITS[Kind.SYMLINK], uid, gid, parent)
            made.links = 1
            made.size = len(target)
            if inside:
                made.block = list(_POINTERS.unpack(target.ljust(_POINTERS.size, b"\0")))
            else:
                block, _ = await self._mounted.maps.ensure(made, 0)
                await self._mounted.journal.fresh(block, target)
            await self._enter(place, made, Kind.SYMLINK)
        return made.number

    async def link(self, it: Inode, parent: Inode, name: bytes) -> None:
        """One more name for what is not a directory.  Raises EEXIST, EPERM for a directory, EMLINK, ENOSPC, and ENOENT for
        what has no name any more."""
        if it.is_directory:
            raise FileSystemError(Errno.EPERM)
        place = await self._vacant(parent, name)
        if not it.links:
            raise FileSystemError(Errno.ENOENT)
        if it.links >= LINK_MAXIMUM:
            raise FileSystemError(Errno.EMLINK)
        now = await self._mounted.time()
        async with self._mounted.operation(_ADDING, place.blocks):
            it.links += 1
            it.ctime = now
            await self._enter(place, it, it.kind)

    # Removing.

    async def unlink(self, parent: Inode, name: bytes) -> None:
        """Take a name away from what is not a directory.  Raises ENOENT, EISDIR."""
        it = await self._named(parent, name)
        if it.is_directory:
            raise FileSystemError(Errno.EISDIR)
        await self._remove(parent, name, it)

    async def remove_directory(self, parent: Inode, name: bytes) -> None:
        """Remove an empty directory.  Raises ENOENT, ENOTDIR, ENOTEMPTY, EINVAL for `.`, ENOTEMPTY for `..`."""
        it = await self._named(parent, name)
        if name == DOT:
            raise FileSystemError(Errno.EINVAL)
        if name == DOTS:
            raise FileSystemError(Errno.ENOTEMPTY)
        if not it.is_directory:
            raise FileSystemError(Errno.ENOTDIR)
        if not await self._directories.is_empty(it):
            raise FileSystemError(Errno.ENOTEMPTY)
        await self._remove(parent, name, it)

    async def _remove(self, parent: Inode, name: bytes, it: Inode) -> None:
        now = await self._mounted.time()
        async with self._mounted.operation(_REMOVING):
            await self._directories.remove(parent, name)
            await self._unname(parent, it, now)
            await self._touch(parent, now)
        await self._reclaim(it)

    async def _unname(self, parent: Inode, it: Inode, now: int) -> None:
        """Take one name's links off an inode, and what a directory's `..` counted for off its parent; the caller stores the
        parent."""
        if it.is_directory:
            it.links = 0
            _leaves_parent(parent)
        else:
            it.links -= 1
        it.ctime = now
        if it.links:
            await self._inodes.put(it)
        else:
            await self._mounted.orphans.add(it)

    async def _reclaim(self, it: Inode) -> None:
        """Free what has neither names nor users."""
        if not it.links and not it.users:
            await self._mounted.orphans.reclaim(it)

    # Renaming.

    async def rename(self, source: Inode, name: bytes, target: Inode, new_name: bytes) -> None:
        """Give another name, over an existing one that fits.  Two names of one inode: nothing happens.  Raises ENOENT,
        EISDIR, ENOTDIR, ENOTEMPTY, EMLINK, ENOSPC, and EINVAL for a directory into itself and for `.` and `..`."""
        it = await self._named(source, name)
        if {name, new_name} & {DOT, DOTS}:
            raise FileSystemError(Errno.EINVAL)
        check_name(new_name)
        if not target.links:
            raise FileSystemError(Errno.ENOENT)
        moves = it.is_directory and source is not target
        if moves and await self._lies_in(target, it):
            raise FileSystemError(Errno.EINVAL)
        found = await self._directories.find(target, new_name)
        over = await self._inodes.get(found[0]) if found else None
        if over is it:
            return
        place = None
        if over is not None:
            await self._check_fit(it, over)
        else:
            place = await self._directories.prepare(target, new_name)
            if moves and target.links >= LINK_MAXIMUM:
                raise FileSystemError(Errno.EMLINK)
        now = await self._mounted.time()
        async with self._mounted.operation(_ADDING + _REMOVING, place.blocks if place else 0):
            if place is not None:
                await self._directories.fill(place, it.number, it.kind)
            elif over is not None:
                await self._directories.replace(target, new_name, it.number, it.kind)
                await self._unname(target, over, now)
            await self._directories.remove(source, name)
            if moves:
                await self._directories.set_parent(it, target.number)
                _leaves_parent(source)
                target.links += 1
            it.ctime = now
            await self._inodes.put(it)
            await self._touch(source, now)
            await self._touch(target, now)
        if over is not None:
            await self._reclaim(over)

    async def _check_fit(self, it: Inode, over: Inode) -> None:
        """Raise unless `it` may take the place of `over`."""
        if over.is_directory and not it.is_directory:
            raise FileSystemError(Errno.EISDIR)
        if it.is_directory and not over.is_directory:
            raise FileSystemError(Errno.ENOTDIR)
        if over.is_directory and not await self._directories.is_empty(over):
            raise FileSystemError(Errno.ENOTEMPTY)

    async def _lies_in(self, directory: Inode, ancestor: Inode) -> bool:
        """Whether a directory is `ancestor` or below it.  Raises CorruptFileSystem if the way up does not end."""
        seen: set[int] = set()
        while directory is not ancestor:
            seen.add(directory.number)
            parent = await self._directories.parent(directory)
            if parent == directory.number:
                return False
            if parent in seen:
                raise CorruptFileSystem(f"Directory {parent} lies in itself.")
            directory = await self._inodes.get(parent)
            if not directory.is_directory:
                raise CorruptFileSystem(f"Inode {parent} is the parent of a directory, but is none itself.")
        return True

    # Parts of operations.

    async def _named(self, directory: Inode, name: bytes) -> Inode:
        """What a name stands for.  Raises ENOENT, ENAMETOOLONG."""
        return await self._inodes.get(await self.lookup(directory, name))

    async def _vacant(self, parent: Inode, name: bytes) -> Place:
        """A place for a new name.  Raises EEXIST, ENAMETOOLONG, ENOENT in a directory that has been removed, ENOSPC."""
        if name in (DOT, DOTS):
            raise FileSystemError(Errno.EEXIST)
        check_name(name)
        if not parent.links:
            raise FileSystemError(Errno.ENOENT)
        return await self._directories.prepare(parent, name)

    async def _enter(self, place: Place, it: Inode, kind: int) -> None:
        """Put an inode's name where there is a place for it, and store both inodes, at the time at which it has changed."""
        await self._directories.fill(place, it.number, kind)
        await self._inodes.put(it)
        await self._touch(place.directory, it.ctime)

    async def _touch(self, directory: Inode, now: int) -> None:
        """The entries of a directory are other ones since `now`."""
        directory.mtime = directory.ctime = now
        await self._inodes.put(directory)


def _leaves_parent(parent: Inode) -> None:
    """A directory has one directory less in it.  Raises CorruptFileSystem if none was counted."""
    if parent.links <= _LINKS_OF_ITS_OWN:
        raise CorruptFileSystem(
            f"The links of directory {parent.number} cannot be {parent.links}: there is a directory in it."
        )
    parent.links -= 1
