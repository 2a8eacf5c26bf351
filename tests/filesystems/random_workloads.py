"""Longer workloads than the bounded ones, out of a seed: files that grow into indirect blocks, directories that grow, fill
up and go, renames over one another, with persistence points here and there."""

import random
from functools import partial

from libos.filesystems.handles import OpenFlags
from libos.filesystems.interface import FileSystemError
from libos.filesystems.memory import MemoryFileSystem
from libos.filesystems.paths import Tree
from tests.filesystems.ace import Operation, Persist, Workload, at_once, populate

PATHS = [
    b"/A/foo", b"/A/bar", b"/B/foo", b"/B/bar", b"/C", b"/A/C", b"/A/C/x", b"/B/D", b"/B/D/y", b"/z",
    *(b"/A/%d" % number + b"n" * 200 for number in range(12)),
]  # fmt: skip
_PERSISTS = [*[Persist.NOTHING] * 4, Persist.FSYNC, Persist.SYNC, Persist.FDATASYNC]


async def _store(path: bytes, at: int, length: int, fill: int, tree: Tree) -> None:
    async with await tree.open(path, OpenFlags.WRITE | OpenFlags.CREATE) as file:
        await file.write_at(at, bytes((fill + index) % 251 + 1 for index in range(length)))


async def _change(path: bytes, mode: int, tree: Tree) -> None:
    await tree.chmod(path, mode)


def _operation(rng: random.Random) -> Operation:
    """Something that may or may not be possible."""
    path, other = rng.choice(PATHS), rng.choice(PATHS)
    parent, name = path.rsplit(b"/", 1)[0] or b"/", path.decode()
    match rng.randrange(12):
        case 0 | 1 | 2:
            at, length = rng.choice([0, 700, 5000, 12000, 15000, 60000]), rng.choice([10, 600, 3000, 9000])
            return Operation(
                f"store {length} at {at} in {name}", partial(_store, path, at, length, rng.randrange(250)), path
            )
        case 3:
            return Operation(f"mkdir {name}", lambda tree: tree.mkdir(path), path)
        case 4:
            return Operation(f"rmdir {name}", lambda tree: tree.rmdir(path), parent)
        case 5 | 6:
            return Operation(f"unlink {name}", lambda tree: tree.unlink(path), parent)
        case 7 | 8:
            if other == path:  # changes nothing, so an fsync afterwards promises nothing
                other = b"/renamed"
            return Operation(f"rename {name} {other.decode()}", lambda tree: tree.rename(path, other), other)
        case 9:
            return Operation(f"link {name} {other.decode()}", lambda tree: tree.link(path, other), other)
        case 10:
            size = rng.choice([0, 1000, 13000, 40000])
            return Operation(f"truncate {name} {size}", lambda tree: tree.truncate(path, size), path)
        case _:
            return Operation(f"chmod {name}", partial(_change, path, rng.randrange(0o1000)), path)


def random_workload(seed: int, length: int) -> Workload:
    """So many operations that succeed, one after the other, on the tree of the bounded workloads."""
    rng = random.Random(seed)

    async def build() -> tuple[tuple[Operation, Persist], ...]:
        tree = Tree(MemoryFileSystem(block_size=1024))
        await populate(tree)
        steps: list[tuple[Operation, Persist]] = []
        while len(steps) < length:
            operation = _operation(rng)
            try:
                await operation.perform(tree)
            except FileSystemError:
                continue
            steps.append((operation, rng.choice(_PERSISTS)))
        return tuple(steps)

    return Workload(at_once(build()))
