"""`exo fs`: files in the ext3 of an image, by the library OS on the kernel; nothing here looks into an image itself."""

import os
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from exokernel.command_line import AsJson, Progress, fail, print_json, sentences
from exokernel.names import size_in_bytes

if TYPE_CHECKING:
    from exokernel.image_files import ImageFiles
    from exokernel.images import Place

T = TypeVar("T")

fs = typer.Typer(help="Make file systems in disk images; list, put and get files.", no_args_is_help=True)

Image = Annotated[
    str,
    typer.Argument(help="An image file, or a partition of one: disk.img:2, disk.img:root.", metavar="IMAGE"),
]
PathIn = Annotated[str, typer.Argument(help="A path in the image.", metavar="PATH")]
PathsIn = Annotated[list[str], typer.Argument(help="Paths in the image.", metavar="PATH")]
Recursive = Annotated[bool, typer.Option("-r", "--recursive", help="Directories, with all that is in them.")]


@contextmanager
def _answers(place: "Place") -> Iterator[None]:
    """Whatever may be wrong with an image, what is in it, or the host's files ends the command with its sentence."""
    from exokernel.filesystem_session import EnvironmentEnded, Interrupted
    from exokernel.host_files import HostFileError
    from exokernel.image_files import ImageFileError
    from exokernel.images import ImageError
    from libos.filesystems.interface import CorruptFileSystem, FileSystemError
    from libos.storage.volume import VolumeError

    with sentences():
        try:
            yield
        except (ImageError, ImageFileError, HostFileError) as error:
            fail(error)
        except CorruptFileSystem as error:
            fail(f"{place}: {error.what} To see what else is wrong: {_fsck(place)}")
        except FileSystemError as error:
            fail(f"{place}: {error}.")
        except (VolumeError, EnvironmentEnded) as error:
            fail(f"{place}: {error}")
        except Interrupted:
            fail("Interrupted; every file is there whole or not at all.", 130)


def _fsck(place: "Place") -> str:
    """The command that examines the file system at a place."""
    from exokernel.abi.layout import SECTOR_SIZE
    from exokernel.images import extent_of

    extent = extent_of(place)
    words = f"{place.image}?offset={extent[0] * SECTOR_SIZE}" if extent else str(place.image)
    return f"e2fsck -fn {shlex.quote(words)}"


def _on(image: str, work: "Callable[[ImageFiles], Awaitable[T]]", write: bool = False) -> T:
    """Mount the file system at `image`, have `work` done with its files, unmount; errors end the command."""
    from exokernel.image_files import ImageFiles
    from exokernel.images import parse_place
    from exokernel.mounting import on_mounted

    place = parse_place(image)
    with _answers(place):
        return on_mounted(place, lambda files, check: work(ImageFiles(files, str(place), check)), write)
    raise AssertionError  # what is wrong has ended the command


@fs.command()
def mkfs(
    image: Image,
    size: Annotated[str, typer.Option(help="Size of a new image, such as 64M; an existing one keeps its own.")] = "",
    block_size: Annotated[str, typer.Option(help="1K, 2K or 4K; by default what mkfs.ext3 takes for the size.")] = "",
    inode_size: Annotated[int, typer.Option(help="128 or 256 bytes.")] = 256,
    inodes: Annotated[int, typer.Option(help="How many inodes at least; 0: by the size.")] = 0,
    label: Annotated[str, typer.Option(help="A name of up to 16 bytes.")] = "",
    uuid: Annotated[str, typer.Option(help="The file system's UUID; by default from the seed.")] = "",
    hash_: Annotated[str, typer.Option("--hash", help="How directories are hashed: half_md4, tea or legacy.")] = "half_md4",
    seed: Annotated[
        int | None, typer.Option(help="Of the UUID and the hash; by default this computer's randomness.")
    ] = None,
    force: Annotated[bool, typer.Option(help="Also where there is something already.")] = False,
) -> None:
    """Make an empty ext3 in a new image, an existing one, or a partition."""
    from exokernel.images import parse_place
    from exokernel.mounting import MakeOptions, make

    place = parse_place(image)
    with _answers(place):
        try:
            options = MakeOptions(
                block_size=size_in_bytes(block_size, "blocks") if block_size else 0,
                inode_size=inode_size,
                inodes=inodes,
                label=os.fsencode(label),
                uuid=uuid,
                hash_name=hash_,
                seed=seed,
            )
            make(place, size_in_bytes(size, "image") if size else 0, options, force)
        except ValueError as error:
            fail(error)


@fs.command()
def info(image: Image, as_json: AsJson = False) -> None:
    """Show what file system an image has, and how full it is."""
    from exokernel.mounting import facts
    from libos.filesystems.ext3.filesystem import Ext3

    async def work(files: "ImageFiles") -> dict[str, Any]:
        assert isinstance(files.files, Ext3)
        return await facts(files.files)

    found = _on(image, work)
    if as_json:
        print_json(found)
        return
    for name, value in found.items():
        words = ", ".join(value) if isinstance(value, list) else f"{value:,}" if type(value) is int else value
        typer.echo(f"{name.replace('_', ' ') + ':':<20}{words}")


@fs.command()
def ls(
    image: Image,
    path: PathIn = "/",
    long: Annotated[bool, typer.Option("-l", "--long", help="Modes, owners, sizes and times too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List a directory, one name a line when piped."""
    from exokernel.observe.files import columns, long_lines, printable

    found = _on(image, lambda files: files.listing(path))
    if as_json:
        print_json([one.as_json() for one in found])
    elif long:
        _print_lines(long_lines(found))
    elif sys.stdout.isatty():
        _print_lines(columns([printable(one.text) for one in found]))
    else:
        _print_lines(one.text for one in found)


@fs.command()
def cat(image: Image, paths: PathsIn) -> None:
    """Write the bytes of files to standard output, and nothing else."""

    async def work(files: "ImageFiles") -> None:
        for path in paths:
            it = await files.find(path)
            async for piece in files.contents(path, it.inode):
                sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()

    _on(image, work)


@fs.command()
def put(
    image: Image,
    source: Annotated[str, typer.Argument(help="A file of this computer; - is standard input.", metavar="HOSTFILE")],
    path: PathIn,
    recursive: Recursive = False,
) -> None:
    """Copy a file of this computer into an image."""
    from exokernel.host_files import Put

    with _moved() as moved:
        _on(image, lambda files: Put(files, moved).put(source, path, recursive), write=True)


@fs.command()
def get(
    image: Image,
    path: PathIn,
    target: Annotated[str, typer.Argument(help="A file of this computer, or a directory.", metavar="HOSTFILE")],
    recursive: Recursive = False,
) -> None:
    """Copy a file out of an image to this computer."""
    from exokernel.host_files import Get

    async def work(files: "ImageFiles") -> list[str]:
        getting = Get(files, moved)
        await getting.get(path, target, recursive)
        return getting.skipped

    with _moved() as moved:
        skipped = _on(image, work)
    if skipped:
        fail(f"Devices and sockets stay in the image: {', '.join(skipped)}.", 1)


@fs.command()
def mkdir(
    image: Image,
    paths: PathsIn,
    parents: Annotated[
        bool, typer.Option("-p", "--parents", help="Also those missing on the way; fine if it is there.")
    ] = False,
) -> None:
    """Make directories."""

    async def work(files: "ImageFiles") -> None:
        for path in paths:
            await files.make_directory(path, parents)

    _on(image, work, write=True)


@fs.command()
def rm(image: Image, paths: PathsIn, recursive: Recursive = False) -> None:
    """Remove files, or with -r directories and all in them."""

    async def work(files: "ImageFiles") -> None:
        for path in paths:
            await files.remove(path, recursive)

    _on(image, work, write=True)


@fs.command()
def mv(
    image: Image,
    old: Annotated[str, typer.Argument(help="A path in the image.", metavar="OLD")],
    new: Annotated[str, typer.Argument(help="Its new path, or the directory it goes to.", metavar="NEW")],
) -> None:
    """Give a file or directory another name or place."""
    _on(image, lambda files: files.move(old, new), write=True)


@fs.command()
def ln(
    image: Image,
    target: Annotated[str, typer.Argument(help="A path in the image; with -s anything.", metavar="TARGET")],
    path: Annotated[str, typer.Argument(help="The new name, or the directory it goes to.", metavar="PATH")],
    symbolic: Annotated[bool, typer.Option("-s", "--symbolic", help="A symbolic link.")] = False,
) -> None:
    """Give a file one more name, or make a symbolic link."""
    _on(image, lambda files: files.link(target, path, symbolic), write=True)


@fs.command()
def stat(image: Image, paths: PathsIn, as_json: AsJson = False) -> None:
    """Show what is known of files: inode, mode, size, times."""
    from exokernel.observe.files import details

    async def work(files: "ImageFiles") -> list[dict[str, Any]]:
        return [(await files.look(path)).as_json() | {"extended": await _extended(files, path)} for path in paths]

    found = _on(image, work)
    if as_json:
        print_json(found[0] if len(found) == 1 else found)
    else:
        _print_lines(line for one in found for line in details(one))


async def _extended(files: "ImageFiles", path: str) -> dict[str, str]:
    """Extended attributes as text; bytes that are none are kept as Python keeps them in names."""
    it = await files.find(path, follow=False)
    known = await files.files.extended_attributes(it.inode)
    return {os.fsdecode(name): os.fsdecode(value) for name, value in sorted(known.items())}


@fs.command()
def tree(image: Image, path: PathIn = "/", as_json: AsJson = False) -> None:
    """Show a directory and everything below it as a tree."""
    from exokernel.image_files import ImageFileError
    from exokernel.observe.files import nested, tree_lines
    from libos.filesystems.interface import Kind

    async def work(files: "ImageFiles") -> Any:
        top = await files.look(path, follow=True)
        if top.attributes.kind is not Kind.DIRECTORY:
            raise ImageFileError(f"{path} in {files.name} is no directory; see: exo fs stat {files.name} {path}")
        steps = [step async for step in files.walk(top.attributes.inode)]
        return nested(top, steps)

    found = _on(image, work)
    if as_json:
        print_json(found)
    else:
        _print_lines(tree_lines(found))


def _print_lines(lines: Iterable[str]) -> None:
    """Lines with the very bytes of the names; for a terminal, what would disturb it is written out."""
    from exokernel.observe.files import printable

    terminal = sys.stdout.isatty()
    sys.stdout.buffer.writelines(os.fsencode(printable(line) if terminal else line) + b"\n" for line in lines)
    sys.stdout.buffer.flush()


@contextmanager
def _moved() -> Iterator[Callable[[int], None]]:
    """What counts the bytes that have been copied, for the terminal."""
    progress, count = Progress(), 0

    def moved(more: int) -> None:
        nonlocal count
        count += more
        progress(f"{count / MEBI:,.0f} MiB copied")

    try:
        yield moved
    finally:
        progress.clear()


MEBI: Final = 1 << 20
