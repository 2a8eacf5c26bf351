"""An exerciser in the manner of fsx (Apple, 1991): random reads, writes, truncations and holes in one file, against an
array of bytes, with remounting in between.  Every choice comes from a seed."""

import os
import random
from collections import Counter

import pytest

from libos.filesystems.interface import Errno, FileSystemError
from tests.filesystems.long import only_long
from tests.filesystems.stages import InMemory, OnDisk, Session, Stage

LENGTH = 400 << 10
"""The file stays shorter than that; with blocks of 1 KiB, doubly indirect blocks begin at 268 KiB."""
STAGES: list[Stage] = [
    InMemory(block_size=512),
    *(OnDisk(block_size, mode) for block_size in (1024, 2048, 4096) for mode in ("ordered", "writeback", "journal")),
]
_CHANGES = ("write", "write", "write", "append", "overwrite", "cut", "stretch", "far")


async def exercise(session: Session, seed: int, operations: int, longest: int = LENGTH) -> Counter[str]:
    """Do so many random things to a new file; gives how often each was done."""
    rng = random.Random(seed)
    model = bytearray()
    name = b"exercised-%d" % seed
    inode = await session.files.create(session.files.root, name, 0o644)
    done: Counter[str] = Counter()
    for number in range(operations):
        what = rng.choice((*_CHANGES, "read", "read", "read", "read", "size", "sync", "sync"))
        if number % 500 == 499:
            what = "remount"
        done[what] += 1
        files = session.files
        length = min(int(rng.expovariate(1 / 3000)) + 1, longest // 4)
        if what in _CHANGES[:5]:
            at = {
                "write": rng.randrange(longest - length),
                "append": len(model),
                "overwrite": rng.randrange(len(model) + 1),
            }[what]
            await _write(session, inode, model, min(at, longest - length), rng.randbytes(length))
        elif what == "far":
            at = rng.randrange(longest - 16)
            await _write(session, inode, model, at, b"far from the end")
        elif what in ("cut", "stretch"):
            size = rng.randrange(len(model) + 1) if what == "cut" else rng.randrange(len(model), longest + 1)
            await files.set_size(inode, size)
            del model[size:]
            model.extend(bytes(size - len(model)))
        elif what == "read":
            at = rng.randrange(len(model) + 1000)
            assert await files.read(inode, at, length) == model[at : at + length], f"read {at}+{length} at step {number}"
        elif what == "size":
            assert (await files.attributes(inode)).size == len(model), f"size at step {number}"
        elif what == "sync":
            await rng.choice((files.fsync, files.fdatasync))(inode)
        else:
            await session.remount()
            inode = await session.files.lookup(session.files.root, name)
            assert await session.files.read(inode, 0, longest) == model, f"after a remount at step {number}"
    assert await session.files.read(inode, 0, longest) == model
    return done


async def _write(session: Session, inode: int, model: bytearray, at: int, data: bytes) -> None:
    """Write all of it, or as much as there is room for; what a full disk took is in the model too."""
    done = 0
    while done < len(data):
        try:
            wrote = await session.files.write(inode, at + done, data[done:])
        except FileSystemError as error:
            if error.errno is not Errno.ENOSPC:
                raise
            break
        assert 0 < wrote <= len(data) - done
        done += wrote
    if done:
        model.extend(bytes(max(at + done - len(model), 0)))
        model[at : at + done] = data[:done]


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_a_file_reads_as_what_was_written_to_it(stage: Stage) -> None:
    done = stage.run(lambda session: exercise(session, seed=1, operations=700))
    assert set(done) >= {"write", "cut", "stretch", "read", "remount"}


@pytest.mark.parametrize("stage", [InMemory(blocks=40, block_size=1024), OnDisk(size=2 << 20, inode_size=128)], ids=str)
def test_a_full_disk_takes_a_part_and_keeps_the_rest_as_it_was(stage: Stage) -> None:
    async def main(session: Session) -> None:
        await exercise(session, seed=2, operations=400, longest=2 << 20)
        await exercise(session, seed=3, operations=400, longest=2 << 20)

    stage.run(main)


@only_long
@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_a_file_reads_as_what_was_written_to_it_after_millions_of_operations(stage: Stage) -> None:
    """EXO_FSX_OPERATIONS: how many on each of the ten stages."""
    operations = int(os.environ.get("EXO_FSX_OPERATIONS", "200000"))

    async def main(session: Session) -> None:
        for seed in range(operations // 20000):
            await exercise(session, seed, 20000)
            await session.files.unlink(session.files.root, b"exercised-%d" % seed)

    stage.run(main)
