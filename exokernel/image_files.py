"""The files of an image under the paths that users write, for the commands of `exo fs`; every error is a sentence.

A path begins at the root of the file system, with or without a slash in front.  Who works on an image is its root user.
"""

import difflib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from libos.filesystems.interface import (
    FORMAT_BITS,
    Attributes,
    CorruptFileSystem,
    Entry,
    Errno,
    FileSystem,
    FileSystemError,
    Kind,
)
from libos.filesystems.paths import Place, Tree

PIECE: Final = 1 << 20
"""Bytes of a file moved at a time, at most."""


class ImageFileError(Exception):
    """The file in the image cannot be used as asked; the message says which, where and why."""


@dataclass(frozen=True)
class Listed:
    """Something in an image: its name, what is known of it, and where it leads if it is a symbolic link."""

    name: bytes
    attributes: Attributes
    target: bytes = b""

    @property
    def text(self) -> str:
        """The name as text; bytes that are none are kept as Python keeps them in names."""
        return os.fsdecode(self.name)

    def as_json(self) -> dict[str, Any]:
        """For JSON; the mode in octal digits as `chmod` takes them."""
        it = self.attributes
        said: dict[str, Any] = {
            "name": self.text,
            "kind": kind_in_words(it.kind),
            "inode": it.inode,
            "mode": f"{it.mode:04o}",
            "links": it.links,
            "uid": it.uid,
            "gid": it.gid,
            "size": it.size,
            "sectors": it.sectors,
            "accessed": it.accessed,
            "modified": it.modified,
            "changed": it.changed,
        }
        if it.kind is Kind.SYMLINK:
            said["target"] = os.fsdecode(self.target)
        if it.kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE):
            said["device"] = it.device
        return said


@dataclass(frozen=True)
class Step:
    """A step of a walk: `path` are the names below where it began; with `leaving` everything in the directory has been
    seen."""

    path: tuple[bytes, ...]
    listed: Listed
    directory: int
    leaving: bool = False


def kind_in_words(kind: Kind) -> str:
    """`file`, `character device`."""
    return kind.name.lower().replace("_", " ")


def full_mode(it: Attributes) -> int:
    """The mode with the kind of file in its upper bits, as the host's `stat` has it."""
    return FORMAT_BITS.get(it.kind, 0) | it.mode


class ImageFiles:
    """The files of a mounted file system, which sentences call `name`.  `check` is called between steps, and may raise to
    end what is going on."""

    def __init__(self, files: FileSystem, name: str, check: Callable[[], None] = lambda: None) -> None:
        self.files = files
        self.name = name
        self.check = check
        self.tree = Tree(files, umask=0)

    @contextmanager
    def about(self, path: str) -> Iterator[None]:
        """Whatever the file system refuses inside is a sentence about `path`; what is corrupt stays so."""
        try:
            yield
        except CorruptFileSystem:
            raise
        except FileSystemError as error:
            if error.errno is Errno.ENOSPC:
                raise ImageFileError(f"{self.name} is full: {path} does not fit, and nothing of it was kept.") from None
            raise ImageFileError(f"{path} in {self.name}: {error.errno.sentence}.") from None

    # Looking.

    async def find(self, path: str, follow: bool = True) -> Attributes:
        """What is at a path.  Raises ImageFileError, with the near name if nothing is there."""
        try:
            return await (self.tree.stat(path) if follow else self.tree.lstat(path))
        except CorruptFileSystem:
            raise
        except FileSystemError as error:
            if error.errno is not Errno.ENOENT:
                raise ImageFileError(f"{path} in {self.name}: {error.errno.sentence}.") from None
        raise ImageFileError(await self._missing(path))

    async def place(self, path: str, follow: bool = False) -> Place:
        """Where a path leads; its last name need not exist.  Raises ImageFileError."""
        try:
            return await self.tree.place(path, follow)
        except CorruptFileSystem:
            raise
        except FileSystemError as error:
            if error.errno is not Errno.ENOENT:
                raise ImageFileError(f"{path} in {self.name}: {error.errno.sentence}.") from None
        raise ImageFileError(await self._missing(path))

    async def _missing(self, path: str) -> str:
        """The sentence for a path that leads nowhere: the first name on it that is not there, and the near one."""
        here, parts = "", [part for part in path.split("/") if part]
        for index, part in enumerate(parts):
            try:
                there = await self.tree.list(here or "/")
            except FileSystemError:
                break
            names = [os.fsdecode(entry.name) for entry in there]
            if part not in (*names, ".", ".."):
                wrong = "/".join(["", *parts[: index + 1]])
                near = difflib.get_close_matches(part, names, 1, 0.5)
                if near:
                    return f"There is no {wrong} in {self.name}; did you mean {here}/{near[0]}?"
                return f"There is no {wrong} in {self.name}; see: exo fs ls {self.name} {here or '/'}"
            here = f"{here}/{part}"
            leads = await self._leads_nowhere(here)
            if leads:
                return f"{here} in {self.name} is a symbolic link to {leads}, which is not there."
        return f"There is no {path or repr(path)} in {self.name}."

    async def _leads_nowhere(self, path: str) -> str:
        """Where a symbolic link leads at the end of which there is nothing; nothing for anything else."""
        it = await self.tree.lstat(path)
        try:
            await self.tree.stat(path)
        except FileSystemError as error:
            if error.errno is Errno.ENOENT and it.kind is Kind.SYMLINK:
                return os.fsdecode(await self.files.read_link(it.inode))
        return ""

    async def listed(self, entry: Entry) -> Listed:
        """All that is known of an entry."""
        it = await self.files.attributes(entry.inode)
        target = await self.files.read_link(entry.inode) if it.kind is Kind.SYMLINK else b""
        return Listed(entry.name, it, target)

    async def look(self, path: str, follow: bool = False) -> Listed:
        """All that is known of what is at a path, under the path as it was written."""
        it = await self.find(path, follow)
        target = await self.files.read_link(it.inode) if it.kind is Kind.SYMLINK else b""
        return Listed(os.fsencode(path), it, target)

    async def listing(self, path: str) -> list[Listed]:
        """What is in a directory, by name; of anything else, that alone."""
        if (await self.find(path)).kind is not Kind.DIRECTORY:
            return [await self.look(path)]
        with self.about(path):
            return [await self.listed(entry) for entry in await self.tree.list(path)]

    async def walk(self, inode: int) -> AsyncIterator[Step]:
        """Everything below a directory, by name, each directory before what is in it and once more after.  A directory
        inside itself is CorruptFileSystem; a name with a slash in it the file system does not let through."""
        above = [inode]
        waiting: list[list[Entry]] = [await self._names(inode)]
        steps: list[Step] = []
        while waiting:
            self.check()
            if not waiting[-1]:
                waiting.pop()
                above.pop()
                if steps:
                    gone = steps.pop()
                    yield Step(gone.path, gone.listed, gone.directory, leaving=True)
                continue
            entry = waiting[-1].pop()
            path = (*steps[-1].path, entry.name) if steps else (entry.name,)
            step = Step(path, await self.listed(entry), above[-1])
            yield step
            if step.listed.attributes.kind is Kind.DIRECTORY:
                if entry.inode in above:
                    raise CorruptFileSystem(f"The directory {os.fsdecode(b'/'.join(path))} contains itself.")
                above.append(entry.inode)
                steps.append(step)
                waiting.append(await self._names(entry.inode))

    async def _names(self, directory: int) -> list[Entry]:
        """The entries of a directory, the last name first."""
        found = [one for one in await self.files.entries(directory) if one.name not in (b".", b"..")]
        return sorted(found, key=lambda one: one.name, reverse=True)

    async def contents(self, path: str, inode: int) -> AsyncIterator[bytes]:
        """The bytes of a file, a piece at a time.  Raises ImageFileError for what has none."""
        kind = (await self.files.attributes(inode)).kind
        if kind not in (Kind.FILE, Kind.DIRECTORY):
            raise ImageFileError(f"{path} in {self.name} is a {kind_in_words(kind)}, which has no contents.")
        offset = 0
        while True:
            self.check()
            with self.about(path):
                piece = await self.files.read(inode, offset, PIECE)
            if not piece:
                return
            yield piece
            offset += len(piece)

    # Changing.

    async def remove(self, path: str, recursive: bool) -> None:
        """Take a name away; with `recursive` a directory and all below it."""
        it = await self.find(path, follow=False)
        place = await self.place(path)
        if it.kind is not Kind.DIRECTORY:
            with self.about(path):
                return await self.tree.unlink(path)
        if not recursive:
            raise ImageFileError(f"{path} in {self.name} is a directory; remove it and all in it with: exo fs rm -r")
        if place.name in (b".", b"..") or it.inode == self.files.root:
            raise ImageFileError(f"{path} in {self.name} cannot be removed; name what is in it.")
        with self.about(path):
            async for step in self.walk(it.inode):
                if step.leaving:
                    await self.files.remove_directory(step.directory, step.path[-1])
                elif step.listed.attributes.kind is not Kind.DIRECTORY:
                    await self.files.unlink(step.directory, step.path[-1])
            await self.files.remove_directory(place.directory, place.name)

    async def make_directory(self, path: str, parents: bool) -> None:
        """A new directory; with `parents` also those missing on the way, and nothing if it is there."""
        if not parents:
            await self.place(path)
        with self.about(path):
            await (self.tree.makedirs(path, 0o755) if parents else self.tree.mkdir(path, 0o755))

    async def inside(self, path: str, name: str) -> str:
        """`path`, or what is called `name` in it if it is a directory, as `cp` and `mv` have it."""
        place = await self.place(path, follow=True)
        if place.found is not None and place.found.kind is Kind.DIRECTORY:
            return f"{path.rstrip('/')}/{name}"
        return path

    async def move(self, old: str, new: str) -> None:
        """Give another name, or into a directory under the same name.  Replaces a file, and no directory with something
        in it."""
        it = await self.find(old, follow=False)
        new = await self.inside(new, old.rstrip("/").rpartition("/")[2])
        above = (await self.place(new)).directory
        if it.kind is Kind.DIRECTORY and await self._lies_in(above, it.inode):
            raise ImageFileError(f"{old} in {self.name} cannot go into itself, to {new}.")
        with self.about(f"{old} to {new}"):
            await self.tree.rename(old, new)

    async def _lies_in(self, directory: int, other: int) -> bool:
        """Whether a directory is another one or below it."""
        while directory not in (other, self.files.root):
            directory = await self.files.lookup(directory, b"..")
        return directory == other

    async def link(self, target: str, path: str, symbolic: bool) -> None:
        """One more name for a file, or a symbolic link to `target` as it is written."""
        path = await self.inside(path, target.rstrip("/").rpartition("/")[2])
        if not symbolic:
            it = await self.find(target, follow=False)
            if it.kind is Kind.DIRECTORY:
                raise ImageFileError(f"{target} in {self.name} is a directory, which has one name only; try: exo fs ln -s")
        with self.about(path):
            await (self.tree.symlink(target, path) if symbolic else self.tree.link(target, path))


__all__ = ["PIECE", "ImageFileError", "ImageFiles", "Listed", "Step", "full_mode", "kind_in_words"]
