"""Copies between the host's files and those of an image: `exo fs put` and `exo fs get`.

Modes, times, symbolic links, hard links and holes are kept, and into the image also the owners' numbers, as `mkfs.ext3 -d`
does; what comes out belongs to whoever got it.  A file is there whole or not at all: one that does not fit, or is
interrupted, is taken away again, and one that replaces another does so when it is complete.
"""

import os
import select
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO, Final

from exokernel.image_files import PIECE, ImageFileError, ImageFiles
from libos.filesystems.interface import KIND_OF_FORMAT, Attributes, Errno, FileSystemError, Kind
from libos.filesystems.paths import Place

STANDARD_INPUT: Final = "-"
_EARLIEST, _LATEST = 0, (1 << 31) - 1
"""The times that every inode of ext3 has room for and that file systems here take, in seconds since 1970."""
_LAST_MAJOR, _LAST_MINOR = 0xFFF, 0xFF
"""The devices that `FileSystem.create` takes."""
_ZEROS: Final = bytes(1 << 14)
"""The least that becomes a hole of a host file."""
PATIENCE: Final = 0.2
"""Seconds between looks at whether the user wants to end it, while nothing comes from a pipe."""
_SET_IDS: Final = stat.S_ISUID | stat.S_ISGID

Moved = Callable[[int], None]


class HostFileError(Exception):
    """A file of the host cannot be used as asked; the message says which and why."""


@contextmanager
def _about(path: object) -> Iterator[None]:
    """What the host refuses inside is a sentence about `path`."""
    try:
        yield
    except OSError as error:
        raise HostFileError(f"{path} on this computer: {(error.strerror or str(error)).lower()}.") from None


def _nothing(count: int) -> None:
    """Nobody wants to know."""


class Put:
    """Puts host files into an image.  `moved` is called with the number of bytes of each piece that has been written."""

    def __init__(self, image: ImageFiles, moved: Moved = _nothing) -> None:
        self._image = image
        self._files = image.files
        self._moved = moved
        self._linked: dict[tuple[int, int], int] = {}

    async def put(self, source: str, path: str, recursive: bool) -> None:
        """Put a host file, or with `recursive` a directory and all below it, at `path`, or into the directory that is
        there; of `DIRECTORY/.` what is in it.  `-` is standard input.  Raises HostFileError, ImageFileError."""
        name = os.path.basename(source.rstrip("/"))
        with _about(source):
            status = os.fstat(sys.stdin.fileno()) if source == STANDARD_INPUT else os.stat(source)
        directory = stat.S_ISDIR(status.st_mode)
        if directory and not recursive:
            raise HostFileError(f"{source} is a directory; put it and all that is in it with: exo fs put -r")
        if source != STANDARD_INPUT and name not in ("", ".", ".."):
            path = await self._image.inside(path, name)
        place = await self._image.place(path, follow=True)
        if directory:
            await self._tree(Path(source), status, place, path)
            return
        if place.found is None and place.slash:
            raise ImageFileError(f"There is no directory {path} in {self._image.name}; make it with: exo fs mkdir")
        with _about(source):
            if source == STANDARD_INPUT:
                await self._stream(sys.stdin.buffer, status, place, path)
            else:
                with open(source, "rb", buffering=0) as file:
                    await self._stream(file, status, place, path)

    async def _tree(self, top: Path, status: os.stat_result, place: Place, path: str) -> None:
        """A directory, and everything below it; the directories' own attributes come last, as filling them changes their
        times."""
        made = [(await self._directory(status, place, path), status)]
        waiting = [(top, path, made[0][0])]
        while waiting:
            source, path, inode = waiting.pop()
            with _about(source):
                found = sorted(os.scandir(source), key=lambda entry: os.fsencode(entry.name))
            for entry in found:
                self._image.check()
                below, name = f"{path.rstrip('/')}/{entry.name}", os.fsencode(entry.name)
                with _about(entry.path):
                    status = entry.stat(follow_symlinks=False)
                child = Place(inode, name, await self._there(inode, name, below), False)
                if stat.S_ISDIR(status.st_mode):
                    made.append((await self._directory(status, child, below), status))
                    waiting.append((Path(entry.path), below, made[-1][0]))
                else:
                    with _about(entry.path):
                        await self._one(Path(entry.path), status, child, below)
        for inode, status in reversed(made):
            with self._image.about(path):
                await self._keep(inode, status, mode=stat.S_IMODE(status.st_mode))

    async def _there(self, directory: int, name: bytes, path: str) -> Attributes | None:
        """What a directory of the image has under a name."""
        try:
            return await self._files.attributes(await self._files.lookup(directory, name))
        except FileSystemError as error:
            if error.errno is Errno.ENOENT:
                return None
            with self._image.about(path):
                raise

    async def _directory(self, status: os.stat_result, place: Place, path: str) -> int:
        """The directory at a place, made if there is none."""
        if place.found is not None:
            if place.found.kind is not Kind.DIRECTORY:
                raise ImageFileError(f"{path} in {self._image.name} is no directory, and a directory cannot replace it.")
            return place.found.inode
        with self._image.about(path):
            mode = stat.S_IMODE(status.st_mode)
            return await self._files.make_directory(place.directory, place.name, mode, status.st_uid, status.st_gid)

    async def _one(self, source: Path, status: os.stat_result, place: Place, path: str) -> None:
        """Anything but a directory."""
        self._replaceable(place, path)
        key = (status.st_dev, status.st_ino)
        kind = KIND_OF_FORMAT[stat.S_IFMT(status.st_mode)]
        if kind is Kind.FILE and key not in self._linked:
            with open(source, "rb", buffering=0) as file:
                inode = await self._stream(file, status, place, path)
        else:
            with self._image.about(path):
                if place.found is not None:
                    await self._files.unlink(place.directory, place.name)
                if key in self._linked:
                    await self._files.link(self._linked[key], place.directory, place.name)
                    return
                inode = await self._special(source, kind, status, place)
                await self._keep(inode, status)
        if status.st_nlink > 1:
            self._linked[key] = inode

    async def _special(self, source: Path, kind: Kind, status: os.stat_result, place: Place) -> int:
        """A symbolic link, FIFO, socket or device like that of the host."""
        if kind is Kind.SYMLINK:
            target = os.fsencode(os.readlink(source))
            return await self._files.symlink(place.directory, place.name, target, status.st_uid, status.st_gid)
        major, minor = os.major(status.st_rdev), os.minor(status.st_rdev)
        if major > _LAST_MAJOR or minor > _LAST_MINOR:
            raise HostFileError(
                f"{source} on this computer: no image here keeps a device with the numbers {major}, {minor}."
            )
        mode = stat.S_IMODE(status.st_mode)
        return await self._files.create(
            place.directory, place.name, mode, status.st_uid, status.st_gid, kind, major << 8 | minor
        )  # fmt: skip

    def _replaceable(self, place: Place, path: str) -> None:
        if place.found is not None and place.found.kind is Kind.DIRECTORY:
            raise ImageFileError(f"{path} in {self._image.name} is a directory, and a file cannot replace it.")

    async def _stream(self, file: BinaryIO, status: os.stat_result, place: Place, path: str) -> int:
        """A file with everything that can be read from `file`; gives its number.  What it replaces is there until all has
        been written."""
        self._replaceable(place, path)
        regular = stat.S_ISREG(status.st_mode)
        size = status.st_size if regular else 0
        mode = stat.S_IMODE(status.st_mode) if regular else 0o644
        with self._image.about(path):
            usage = await self._files.usage()
            if min(size, status.st_blocks * 512) > usage.free_blocks * usage.block_size:
                raise FileSystemError(Errno.ENOSPC)
            name = place.name if place.found is None else await self._spare_name(place.directory)
            inode = await self._files.create(place.directory, name, mode, status.st_uid, status.st_gid)
            try:
                written = 0
                for offset, piece in _pieces(file, regular, self._image.check):
                    await self._write(inode, offset, piece)
                    written = offset + len(piece)
                if size > written:
                    await self._files.set_size(inode, size)
                if regular:
                    await self._keep(inode, status)
                if place.found is not None:
                    await self._files.rename(place.directory, name, place.directory, place.name)
            except Exception:
                with suppress(FileSystemError):
                    await self._files.unlink(place.directory, name)
                raise
        return inode

    async def _spare_name(self, directory: int) -> bytes:
        """A name that nothing in a directory has."""
        taken = {entry.name for entry in await self._files.entries(directory)}
        return next(name for number in range(len(taken) + 1) if (name := b".exo-put-%d" % number) not in taken)

    async def _write(self, inode: int, offset: int, piece: bytes) -> None:
        while piece:
            count = await self._files.write(inode, offset, piece)
            self._moved(count)
            offset, piece = offset + count, piece[count:]

    async def _keep(self, inode: int, status: os.stat_result, mode: int | None = None) -> None:
        """Give an inode the host's times, and its mode and owner if `mode` is given."""
        accessed, modified = (min(max(int(t), _EARLIEST), _LATEST) for t in (status.st_atime, status.st_mtime))
        owner = {} if mode is None else {"mode": mode, "uid": status.st_uid, "gid": status.st_gid}
        await self._files.set_attributes(inode, accessed=accessed, modified=modified, **owner)


def _pieces(file: BinaryIO, regular: bool, check: Callable[[], None]) -> Iterator[tuple[int, bytes]]:
    """The contents of a host file with their offsets, a piece at a time; of a regular one without its holes.  `check` is
    called before each, and now and then while none comes."""
    offset = 0
    while True:
        check()
        if regular:
            try:
                offset = os.lseek(file.fileno(), offset, os.SEEK_DATA)
                end = os.lseek(file.fileno(), offset, os.SEEK_HOLE)
            except OSError:  # nothing but a hole follows
                return
            file.seek(offset)
            piece = file.read(min(PIECE, end - offset))
        else:
            while not select.select([file], [], [], PATIENCE)[0]:
                check()
            piece = file.read1(PIECE) if isinstance(file, BufferedReader) else file.read(PIECE)
        if not piece:
            return
        yield offset, piece
        offset += len(piece)


class Get:
    """Gets files out of an image.  `moved` is called with the number of bytes of each piece; `skipped` are the paths of
    devices and sockets, which are left out."""

    def __init__(self, image: ImageFiles, moved: Moved = _nothing) -> None:
        self._image = image
        self._moved = moved
        self._linked: dict[int, Path] = {}
        self.skipped: list[str] = []

    async def get(self, path: str, target: str, recursive: bool) -> None:
        """Get the file at `path`, or with `recursive` a directory and all below it, as the host's `target`, or into the
        directory that is there.  Raises HostFileError, ImageFileError."""
        if target == STANDARD_INPUT:
            raise HostFileError(f"- is no file of this computer; to see {path}: exo fs cat {self._image.name} {path}")
        it = await self._image.find(path)
        if it.kind is Kind.DIRECTORY and not recursive:
            raise ImageFileError(f"{path} in {self._image.name} is a directory; get it and all in it with: exo fs get -r")
        name = path.rstrip("/").rpartition("/")[2]
        if name not in ("", ".", "..") and os.path.isdir(target):
            target = os.path.join(target, name)
        if it.kind is Kind.DIRECTORY:
            await self._tree(it, Path(target), path)
        elif target.endswith("/") and not os.path.isdir(target):
            raise HostFileError(f"There is no directory {target} on this computer; make it with: mkdir {target}")
        else:
            await self._one(it, b"", Path(os.path.realpath(target)), path)

    async def _tree(self, it: Attributes, top: Path, path: str) -> None:
        self._make_directory(top)
        async for step in self._image.walk(it.inode):
            names = [os.fsdecode(name) for name in step.path]
            target, below = top.joinpath(*names), "/".join([path.rstrip("/"), *names])
            one = step.listed
            if step.leaving:
                self._keep(target, one.attributes)
            elif one.attributes.kind is Kind.DIRECTORY:
                self._make_directory(target)
            else:
                await self._one(one.attributes, one.target, target, below)
        self._keep(top, it)

    @staticmethod
    def _make_directory(path: Path) -> None:
        """A directory nobody else may enter until it is complete; one that is there already will do."""
        with _about(path):
            try:
                path.mkdir(0o700)
            except FileExistsError:
                if path.is_symlink() or not path.is_dir():
                    raise HostFileError(f"{path} is no directory, and a directory cannot replace it.") from None

    @staticmethod
    def _keep(path: Path, it: Attributes) -> None:
        """Give a host file the mode and the times of one in the image."""
        with _about(path):
            os.chmod(path, _host_mode(it))
            os.utime(path, (it.accessed, it.modified))

    async def _one(self, it: Attributes, link: bytes, target: Path, path: str) -> None:
        """Anything but a directory."""
        known = self._linked.get(it.inode)
        with _about(target):
            if target.is_dir() and not target.is_symlink():
                raise HostFileError(f"{target} is a directory, and a file cannot replace it.")
            if it.kind is Kind.FILE and known is None:
                await self._file(it, target, path)
            elif known is not None or it.kind in (Kind.SYMLINK, Kind.FIFO):
                target.unlink(missing_ok=True)
                if known is not None:
                    os.link(known, target, follow_symlinks=False)
                elif it.kind is Kind.SYMLINK:
                    os.symlink(os.fsdecode(link), target)
                    os.utime(target, (it.accessed, it.modified), follow_symlinks=False)
                else:
                    os.mkfifo(target)
                    self._keep(target, it)
            else:
                self.skipped.append(path)
                return
        if it.links > 1 and known is None:
            self._linked[it.inode] = target

    async def _file(self, it: Attributes, target: Path, path: str) -> None:
        """A file of the host with the contents of one of the image."""
        if target.exists() and not target.is_file():
            with open(target, "wb") as stream:
                async for piece in self._image.contents(path, it.inode):
                    stream.write(piece)
                    self._moved(len(piece))
            return
        handle, name = tempfile.mkstemp(prefix=".exo-get-", dir=target.parent)
        try:
            with open(handle, "wb") as file:
                async for piece in self._image.contents(path, it.inode):
                    _write_all(file, piece)
                    self._moved(len(piece))
                file.truncate(file.tell())
            self._keep(Path(name), it)
            os.replace(name, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(name)
            raise


def _write_all(file: BinaryIO, piece: bytes) -> None:
    """Write a piece; what is nothing but zeros becomes a hole."""
    for start in range(0, len(piece), len(_ZEROS)):
        part = piece[start : start + len(_ZEROS)]
        if part == _ZEROS[: len(part)]:
            file.seek(len(part), os.SEEK_CUR)
        else:
            file.write(part)


def _host_mode(it: Attributes) -> int:
    """The mode, without set-ID bits that would give them another owner's power."""
    return it.mode & ~_SET_IDS if it.uid != os.geteuid() else it.mode


__all__ = ["STANDARD_INPUT", "Get", "HostFileError", "Put"]
