"""Bounded workloads, exhaustively: every sequence of one and of two operations over two directories and four files, with
every choice of persistence points (Mohan et al., Finding Crash-Consistency Bugs with Bounded Black-Box Crash Testing,
OSDI 2018; their generator is called ACE).

The tree at first: A/foo with 5000 bytes, A/bar with 300, and B, empty; B/foo and B/bar are the other two files.
"""

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from itertools import product
from typing import Any, TypeVar

from libos.filesystems.handles import OpenFlags
from libos.filesystems.interface import FileSystemError, Kind
from libos.filesystems.memory import MemoryFileSystem
from libos.filesystems.paths import Tree

T = TypeVar("T")
FOO = bytes((7 * index) % 251 + 1 for index in range(5000))
BAR = bytes((11 * index) % 241 + 1 for index in range(300))
_NEW = bytes((13 * index) % 239 + 1 for index in range(9000))


@dataclass(frozen=True)
class Operation:
    """Something done to a tree, and the path that an `fsync` after it is about."""

    words: str
    perform: Callable[[Tree], Awaitable[None]]
    target: bytes

    def __str__(self) -> str:
        return self.words


class Persist(Enum):
    """What follows an operation."""

    NOTHING = "-"
    FSYNC = "fsync"
    FDATASYNC = "fdatasync"
    SYNC = "sync"


@dataclass(frozen=True)
class Workload:
    """Operations, each with what makes it durable."""

    steps: tuple[tuple[Operation, Persist], ...]

    def __str__(self) -> str:
        return ", ".join(f"{operation} {persist.value}" for operation, persist in self.steps)


async def populate(tree: Tree) -> None:
    """Make the tree as it is at first."""
    tree.umask = 0o022
    if not await tree.exists(b"/lost+found"):
        await tree.mkdir(b"/lost+found", 0o700)
    await tree.mkdir(b"/A")
    await tree.mkdir(b"/B")
    await tree.write_file(b"/A/foo", FOO)
    await tree.write_file(b"/A/bar", BAR)


async def _write(path: bytes, where: str, length: int, tree: Tree) -> None:
    size = (await tree.stat(path)).size
    at = {"start": 700, "end": size, "behind": size + 3000}[where]
    async with await tree.open(path, OpenFlags.WRITE) as file:
        await file.seek(at)
        await file.write_all(_NEW[:length])


async def _create(path: bytes, tree: Tree) -> None:
    await (await tree.open(path, OpenFlags.WRITE | OpenFlags.CREATE | OpenFlags.EXCLUSIVE)).close()


async def _change(path: bytes, tree: Tree) -> None:
    await tree.chown(path, 1000, 100)
    await tree.chmod(path, 0o751)


def operations() -> list[Operation]:
    """Every operation with every argument."""
    found = []
    for path in (b"/B/foo", b"/B/bar"):
        found.append(Operation(f"create {path.decode()}", partial(_create, path), path))
        found.append(Operation(f"mkfifo {path.decode()}", lambda tree, path=path: tree.mknod(path, 0o600, Kind.FIFO), path))
    for path in (b"/A/foo", b"/A/bar", b"/B/foo"):
        for where, length in (("start", 2500), ("end", 9000), ("behind", 100)):
            words = f"write {length} at {where} of {path.decode()}"
            found.append(Operation(words, partial(_write, path, where, length), path))
        for size in (0, 1000, 20000):
            words = f"truncate {path.decode()} {size}"
            found.append(Operation(words, lambda tree, path=path, size=size: tree.truncate(path, size), path))
    for path in (b"/C", b"/A/C"):
        found.append(Operation(f"mkdir {path.decode()}", lambda tree, path=path: tree.mkdir(path), path))
    for path in (b"/B", b"/C"):
        found.append(Operation(f"rmdir {path.decode()}", lambda tree, path=path: tree.rmdir(path), b"/"))
    for old, new in ((b"/A/foo", b"/B/foo"), (b"/A/bar", b"/B/bar")):
        words = f"link {old.decode()} {new.decode()}"
        found.append(Operation(words, lambda tree, old=old, new=new: tree.link(old, new), new))
    for path in (b"/A/foo", b"/A/bar", b"/B/foo"):
        parent = path[:2]
        found.append(Operation(f"unlink {path.decode()}", lambda tree, path=path: tree.unlink(path), parent))
    for old, new in (
        (b"/A/foo", b"/B/foo"), (b"/A/foo", b"/A/bar"), (b"/A/bar", b"/B/bar"), (b"/B/foo", b"/A/foo"), (b"/A", b"/B"),
        (b"/B", b"/C"), (b"/B", b"/A/C"),
    ):  # fmt: skip
        words = f"rename {old.decode()} {new.decode()}"
        found.append(Operation(words, lambda tree, old=old, new=new: tree.rename(old, new), new))
    for target, path in ((b"A/foo", b"/B/foo"), (b"x" * 100, b"/B/bar")):
        words = f"symlink {path.decode()} of {len(target)} bytes"
        found.append(Operation(words, lambda tree, target=target, path=path: tree.symlink(target, path), b"/B"))
    for path in (b"/A/foo", b"/A"):
        found.append(Operation(f"setattr {path.decode()}", partial(_change, path), path))
    return found


def possible(chosen: tuple[Operation, ...]) -> bool:
    """Whether every operation of a sequence succeeds on the tree as it is at first."""

    async def attempt() -> bool:
        tree = Tree(MemoryFileSystem(block_size=1024))
        await populate(tree)
        try:
            for operation in chosen:
                await operation.perform(tree)
        except FileSystemError:
            return False
        return True

    return at_once(attempt())


def at_once(running: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that has nothing to wait for."""
    try:
        running.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("This waits for something.")


def workloads(length: int) -> Iterator[Workload]:
    """Every possible sequence of so many operations with every choice of persistence points; the last has one."""
    for chosen in product(operations(), repeat=length):
        if not possible(chosen):
            continue
        choices = [(Persist.NOTHING, Persist.FSYNC, Persist.SYNC)] * (length - 1)
        last = (Persist.FSYNC, Persist.FDATASYNC, Persist.SYNC)
        for persists in product(*choices, last):
            yield Workload(tuple(zip(chosen, persists, strict=True)))
