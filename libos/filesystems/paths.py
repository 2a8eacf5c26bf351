"""Paths over a file system: one user's view of a tree of names, with permissions, symbolic links and a current directory.

    tree = Tree(files, uid=1000, gid=1000)
    await tree.makedirs(b"/home/ada")
    await tree.write_file(b"/home/ada/notes", b"...")

Path resolution is that of POSIX.1-2017, 4.13, with Linux's answers where POSIX leaves a choice: a path has up to 4095
bytes, the 41st symbolic link on the way is one too many, and a slash at the end stands for "this must be a directory".
Several calls to the file system make one operation here; between them another coroutine may have changed what was found.
"""

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from typing import Final

from libos.filesystems.handles import File, OpenFlags
from libos.filesystems.interface import (
    MODE_BITS,
    NAME_MAXIMUM,
    Attributes,
    CorruptFileSystem,
    Entry,
    Errno,
    FileSystem,
    FileSystemError,
    Kind,
)
from libos.filesystems.permissions import READ, SEARCH, SET_GID, WRITE, User, without_set_ids

PATH_MAXIMUM: Final = 4095
LINKS_FOLLOWED: Final = 40
_PIECE: Final = 1 << 16
_SPECIAL: Final = (b".", b"..")

Path = bytes | str
"""Names are bytes; text is taken as UTF-8."""


@dataclass(frozen=True)
class Place:
    """Where a path leads: an entry of a directory, and the inode there, None if there is nothing.  `slash`: the path
    ended with one."""

    directory: int
    name: bytes
    found: Attributes | None
    slash: bool


def _raise(errno: Errno) -> FileSystemError:
    return FileSystemError(errno)


class Tree:
    """What a user with `uid`, `gid` and further `groups` sees of `files`.  Permissions of what is made are without the bits
    of `umask`; relative paths begin at `here`, the root at first.  Everything may raise FileSystemError."""

    def __init__(
        self, files: FileSystem, uid: int = 0, gid: int = 0, groups: Iterable[int] = (), umask: int = 0o022
    ) -> None:
        self.files = files
        self.user = User(uid, gid, frozenset(groups))
        self.umask = umask
        self.here = files.root

    # The way to an inode.

    async def place(self, path: Path, follow: bool = True) -> Place:
        """Where a path leads; `follow`: also through a symbolic link at its end.  Raises ENOENT, ENOTDIR, EACCES, ELOOP,
        ENAMETOOLONG for the way there; the last name need not exist."""
        name = _encoded(path)
        if not name:
            raise _raise(Errno.ENOENT)
        if len(name) > PATH_MAXIMUM:
            raise _raise(Errno.ENAMETOOLONG)
        current = await self.files.attributes(self.files.root if name.startswith(b"/") else self.here)
        waiting = _components(name)
        slash = name.endswith(b"/")
        place = Place(current.inode, b".", current, slash)
        links = 0
        while waiting:
            step = waiting.pop()
            place = await self._step(current, step, slash)
            it = place.found
            if it is not None and it.kind is Kind.SYMLINK and (waiting or follow):
                links += 1
                if links > LINKS_FOLLOWED:
                    raise _raise(Errno.ELOOP)
                target = await self.files.read_link(it.inode)
                if target.startswith(b"/"):
                    current = await self.files.attributes(self.files.root)
                slash = slash or (not waiting and target.endswith(b"/"))
                waiting += _components(target)
                place = Place(current.inode, b".", current, slash)
            elif it is not None:
                current = it
            elif waiting:
                raise _raise(Errno.ENOENT)
        return place

    async def _step(self, current: Attributes, name: bytes, slash: bool) -> Place:
        """One name further, from a directory that the user may search."""
        if current.kind is not Kind.DIRECTORY:
            raise _raise(Errno.ENOTDIR)
        self.user.require(current, SEARCH)
        if len(name) > NAME_MAXIMUM:
            raise _raise(Errno.ENAMETOOLONG)
        try:
            found = await self.files.attributes(await self.files.lookup(current.inode, name))
        except FileSystemError as error:
            if error.errno is not Errno.ENOENT:
                raise
            found = None
        return Place(current.inode, name, found, slash)

    async def find(self, path: Path, follow: bool = True) -> Attributes:
        """What is at the end of a path.  Raises ENOENT if nothing is, and as `place` does."""
        place = await self.place(path, follow or _encoded(path).endswith(b"/"))
        if place.found is None:
            raise _raise(Errno.ENOENT)
        if place.slash and place.found.kind is not Kind.DIRECTORY:
            raise _raise(Errno.ENOTDIR)
        return place.found

    async def chdir(self, path: Path) -> None:
        """Let relative paths begin at a directory.  Raises ENOTDIR, EACCES."""
        it = await self.find(path)
        if it.kind is not Kind.DIRECTORY:
            raise _raise(Errno.ENOTDIR)
        self.user.require(it, SEARCH)
        self.here = it.inode

    # Looking.

    async def stat(self, path: Path) -> Attributes:
        """What is known of the file, directory or device at the end of a path."""
        return await self.find(path)

    async def lstat(self, path: Path) -> Attributes:
        """The same; of a symbolic link at the end, what is known of the link."""
        return await self.find(path, follow=False)

    async def exists(self, path: Path) -> bool:
        """Whether a path leads to something."""
        try:
            await self.find(path)
        except FileSystemError as error:
            if error.errno in (Errno.ENOENT, Errno.ENOTDIR):
                return False
            raise
        return True

    async def readlink(self, path: Path) -> bytes:
        """The target of a symbolic link.  Raises EINVAL for anything else."""
        return await self.files.read_link((await self.find(path, follow=False)).inode)

    async def list(self, path: Path = b".") -> list[Entry]:
        """The entries of a directory without `.` and `..`, sorted by name.  Raises ENOTDIR, EACCES."""
        it = await self.find(path)
        if it.kind is not Kind.DIRECTORY:
            raise _raise(Errno.ENOTDIR)
        self.user.require(it, READ)
        there = await self.files.entries(it.inode)
        return sorted((entry for entry in there if entry.name not in _SPECIAL), key=lambda entry: entry.name)

    async def walk(self, path: Path = b".") -> AsyncIterator[tuple[bytes, Attributes]]:
        """A path and everything below, a directory before what is in it, by name; symbolic links are not followed.  Raises
        CorruptFileSystem for a directory that is met twice: on a damaged disk this would not end."""
        waiting = [_encoded(path)]
        met: set[int] = set()
        while waiting:
            name = waiting.pop()
            it = await self.lstat(name)
            if it.kind is Kind.DIRECTORY and it.inode in met:
                raise CorruptFileSystem(f"The directory with inode {it.inode} has two names.")
            yield name, it
            if it.kind is Kind.DIRECTORY:
                met.add(it.inode)
                waiting += [_join(name, entry.name) for entry in reversed(await self.list(name))]

    # Files.

    async def open(self, path: Path, flags: OpenFlags = OpenFlags.READ, mode: int = 0o666) -> File:
        """Open a file, making it with CREATE; `mode` is that of a new one, before the umask.  Raises EEXIST with EXCLUSIVE,
        EISDIR for writing to a directory, ENOTDIR, ELOOP with NO_FOLLOW, EACCES, and ENOSYS for what has no contents."""
        create, exclusive = bool(flags & OpenFlags.CREATE), bool(flags & OpenFlags.EXCLUSIVE)
        follow = not flags & OpenFlags.NO_FOLLOW and not (create and exclusive)
        place = await self.place(path, follow)
        it = place.found
        if it is None:
            if not create:
                raise _raise(Errno.ENOENT)
            if place.slash:
                raise _raise(Errno.EISDIR)
            inode = await self._create(place, mode, Kind.FILE, 0)
        else:
            self._check_open(place, it, flags)
            inode = it.inode
        await self.files.open(inode)
        file = File(self, inode, flags)
        if it is not None and flags & OpenFlags.TRUNCATE and it.kind is Kind.FILE:
            await self.changing(inode)
            await self.files.set_size(inode, 0)
        return file

    def _check_open(self, place: Place, it: Attributes, flags: OpenFlags) -> None:
        """Raise unless what exists may be opened so."""
        if flags & OpenFlags.CREATE and flags & OpenFlags.EXCLUSIVE:
            raise _raise(Errno.EEXIST)
        if it.kind is Kind.SYMLINK:
            raise _raise(Errno.ENOTDIR if flags & OpenFlags.DIRECTORY else Errno.ELOOP)
        directory = it.kind is Kind.DIRECTORY
        if not directory and (place.slash or flags & OpenFlags.DIRECTORY):
            raise _raise(Errno.ENOTDIR)
        changes = flags.writes or bool(flags & OpenFlags.TRUNCATE)
        if directory and (changes or flags & OpenFlags.CREATE):
            raise _raise(Errno.EISDIR)
        self.user.require(it, (READ if flags.reads else 0) | (WRITE if changes else 0))
        if not directory and it.kind is not Kind.FILE:
            raise _raise(Errno.ENOSYS)

    async def read_file(self, path: Path) -> bytes:
        """All of a file."""
        async with await self.open(path) as file:
            return await file.read()

    async def write_file(self, path: Path, contents: bytes, mode: int = 0o666) -> None:
        """Make a file with these contents, or give an existing one these instead.  Raises ENOSPC."""
        async with await self.open(path, OpenFlags.WRITE | OpenFlags.CREATE | OpenFlags.TRUNCATE, mode) as file:
            await file.write_all(contents)

    async def truncate(self, path: Path, size: int) -> None:
        """Cut a file off, or make it longer by a hole.  Raises EISDIR, EACCES, EINVAL, EFBIG."""
        it = await self.find(path)
        if it.kind is Kind.DIRECTORY:
            raise _raise(Errno.EISDIR)
        self.user.require(it, WRITE)
        if size >= 0:
            await self.changing(it.inode)
        await self.files.set_size(it.inode, size)

    async def copy(self, source: Path, target: Path) -> None:
        """A file with the contents and the permissions of another.  A file that is there is overwritten."""
        async with await self.open(source) as old:
            it = await old.attributes()
            flags = OpenFlags.WRITE | OpenFlags.CREATE | OpenFlags.TRUNCATE
            async with await self.open(target, flags, it.mode & 0o777) as new:
                while piece := await old.read(_PIECE):
                    await new.write_all(piece)

    async def copy_tree(self, source: Path, target: Path) -> None:
        """A copy of a directory and everything below, where nothing is yet; symbolic links are copied as links, and
        FIFOs, sockets and devices are made anew."""
        start = _encoded(source).rstrip(b"/") or b"/"
        below = len(start) if start != b"/" else 0
        listed = [found async for found in self.walk(start)]
        for name, it in listed:
            new = _encoded(target).rstrip(b"/") + name[below:] or b"/"
            if it.kind is Kind.DIRECTORY:
                await self.mkdir(new, it.mode & 0o777 | 0o700)
            elif it.kind is Kind.SYMLINK:
                await self.symlink(await self.readlink(name), new)
            elif it.kind is Kind.FILE:
                await self.copy(name, new)
            else:
                await self.mknod(new, it.mode, it.kind, it.device)

    # Names.

    async def _create(self, place: Place, mode: int, kind: Kind, device: int) -> int:
        """Make the inode that a place has room for, with the group of a set-group-ID directory."""
        mode, gid = await self._inherited(place, mode)
        return await self.files.create(place.directory, place.name, mode, self.user.uid, gid, kind, device)

    async def _inherited(self, place: Place, mode: int) -> tuple[int, int]:
        """Mode and group of what is made in a directory that the user must be allowed to change."""
        parent = await self.files.attributes(place.directory)
        self.user.require(parent, WRITE | SEARCH)
        return mode & MODE_BITS & ~self.umask, parent.gid if parent.mode & SET_GID else self.user.gid

    async def _vacant(self, path: Path, *, directory: bool = False) -> Place:
        """Where something new can be.  Raises EEXIST, and ENOENT for a slash behind the name of what is no directory."""
        place = await self.place(path, follow=False)
        if place.found is not None:
            raise _raise(Errno.EEXIST)
        if place.slash and not directory:
            raise _raise(Errno.ENOENT)
        return place

    async def mkdir(self, path: Path, mode: int = 0o777) -> None:
        """A new directory.  Raises EEXIST, ENOENT, ENOTDIR, EACCES, EMLINK, ENOSPC."""
        place = await self._vacant(path, directory=True)
        parent = await self.files.attributes(place.directory)
        mode, gid = await self._inherited(place, mode)
        mode |= parent.mode & SET_GID
        await self.files.make_directory(place.directory, place.name, mode, self.user.uid, gid)

    async def makedirs(self, path: Path, mode: int = 0o777) -> None:
        """A directory and all that are missing on the way to it; nothing if it is there."""
        name = _encoded(path)
        done = b"/" if name.startswith(b"/") else b""
        for step in reversed(_components(name)):
            done = _join(done, step) if done else step
            try:
                await self.mkdir(done, mode)
            except FileSystemError as error:
                if error.errno is not Errno.EEXIST or (await self.find(done)).kind is not Kind.DIRECTORY:
                    raise

    async def mknod(self, path: Path, mode: int, kind: Kind = Kind.FIFO, device: int = 0) -> None:
        """A new, empty file, FIFO, socket or device (privileged users only, else EPERM)."""
        if kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE) and not self.user.privileged:
            raise _raise(Errno.EPERM)
        await self._create(await self._vacant(path), mode, kind, device)

    async def symlink(self, target: Path, path: Path) -> None:
        """A new symbolic link to `target`, which need not exist.  Raises EEXIST, ENAMETOOLONG, ENOENT if it is empty."""
        if not target:
            raise _raise(Errno.ENOENT)
        place = await self._vacant(path)
        _, gid = await self._inherited(place, 0)
        await self.files.symlink(place.directory, place.name, _encoded(target), self.user.uid, gid)

    async def link(self, path: Path, new: Path) -> None:
        """One more name for what is not a directory; a symbolic link is not followed.  Raises EEXIST, EPERM, EMLINK."""
        it = await self.find(path, follow=False)
        place = await self._vacant(new)
        await self._inherited(place, 0)
        if it.kind is Kind.DIRECTORY:
            raise _raise(Errno.EPERM)
        await self.files.link(it.inode, place.directory, place.name)

    async def _removable(self, path: Path) -> tuple[Place, Attributes]:
        """A name that may be taken away, and what it is the name of.  Raises ENOENT, EACCES, EPERM."""
        place = await self.place(path, follow=False)
        it = place.found
        if it is None:
            raise _raise(Errno.ENOENT)
        if place.slash and it.kind is not Kind.DIRECTORY:
            raise _raise(Errno.ENOTDIR)
        if place.name not in _SPECIAL:
            self.user.require_removal(await self.files.attributes(place.directory), it)
        return place, it

    async def unlink(self, path: Path) -> None:
        """Take a name away from what is not a directory.  Raises EISDIR."""
        place, _ = await self._removable(path)
        await self.files.unlink(place.directory, place.name)

    async def rmdir(self, path: Path) -> None:
        """Remove an empty directory.  Raises ENOTDIR, ENOTEMPTY, EINVAL for `.` and the root."""
        place, _ = await self._removable(path)
        await self.files.remove_directory(place.directory, place.name)

    async def remove_tree(self, path: Path) -> None:
        """Remove a directory with everything below, or whatever else is there."""
        for name, it in reversed([found async for found in self.walk(path)]):
            await (self.rmdir(name) if it.kind is Kind.DIRECTORY else self.unlink(name))

    async def rename(self, path: Path, new: Path) -> None:
        """Give another name, atomically, over an existing one that fits.  Raises as `FileSystem.rename`, EACCES, EPERM."""
        place, it = await self._removable(path)
        target = await self.place(new, follow=False)
        directory = it.kind is Kind.DIRECTORY
        if target.slash and not (directory and (target.found is None or target.found.kind is Kind.DIRECTORY)):
            raise _raise(Errno.ENOTDIR)
        parent = await self.files.attributes(target.directory)
        if target.found is not None and target.name not in _SPECIAL:
            self.user.require_removal(parent, target.found)
        else:
            self.user.require(parent, WRITE | SEARCH)
        if directory and place.directory != target.directory and place.name not in _SPECIAL:
            self.user.require(it, WRITE)  # its `..` changes
        await self.files.rename(place.directory, place.name, target.directory, target.name)

    # Attributes.

    async def chmod(self, path: Path, mode: int) -> None:
        """Other permissions.  Raises EPERM unless the user owns it."""
        it = await self.find(path)
        self.user.require_owner(it)
        await self.files.set_attributes(it.inode, mode=self.user.chosen_mode(it, mode & MODE_BITS))

    async def chown(self, path: Path, uid: int | None = None, gid: int | None = None, follow: bool = True) -> None:
        """Another owner, another group (None: as it is); a file loses its set-ID bits.  Raises EPERM."""
        it = await self.find(path, follow)
        self.user.require_new_owner(it, uid, gid)
        await self.files.set_attributes(it.inode, uid=uid, gid=gid, mode=without_set_ids(it))

    async def utimes(
        self, path: Path, accessed: int | None = None, modified: int | None = None, follow: bool = True
    ) -> None:
        """Other times, in seconds since 1970 (None: as they are).  Raises EPERM unless the user owns it."""
        it = await self.find(path, follow)
        self.user.require_owner(it)
        await self.files.set_attributes(it.inode, accessed=accessed, modified=modified)

    async def touch(self, path: Path) -> None:
        """Set both times to now, and make a file where nothing is.  Raises EACCES unless the user may write to it."""
        place = await self.place(path)
        if place.found is None:
            await (await self.open(path, OpenFlags.WRITE | OpenFlags.CREATE)).close()
            return
        if not self.user.owns(place.found):
            self.user.require(place.found, WRITE)
        await self.files.set_attributes(place.found.inode)
        now = (await self.files.attributes(place.found.inode)).changed
        await self.files.set_attributes(place.found.inode, accessed=now, modified=now)

    async def access(self, path: Path, want: int) -> None:
        """Raise EACCES unless the user may do what `want` says: READ, WRITE, SEARCH together."""
        self.user.require(await self.find(path), want)

    async def changing(self, inode: int) -> None:
        """A file's contents change by this user's hand: unless that is the privileged one, its set-ID bits go."""
        if self.user.privileged:
            return
        it = await self.files.attributes(inode)
        if without_set_ids(it) != it.mode:
            await self.files.set_attributes(inode, mode=without_set_ids(it))


def _encoded(path: Path) -> bytes:
    return path.encode("utf-8", "surrogateescape") if isinstance(path, str) else path


def _components(path: bytes) -> list[bytes]:
    """The names in a path, the last one first."""
    return [name for name in reversed(path.split(b"/")) if name]


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + name if directory.endswith(b"/") else directory + b"/" + name
