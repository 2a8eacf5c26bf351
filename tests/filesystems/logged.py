"""A little disk with a journal on it, random transactions over it, and every image that a power cut may leave behind.

What must hold is the model's to say: the contents of all blocks at each commit.  Contents of files are written once for
each allocation, so that they too are exactly known.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from exokernel.abi.layout import SECTOR_SIZE
from exokernel.machine.disk import Flushed, Written
from libos.filesystems.ext3.journal import Journal, Mode
from libos.filesystems.ext3.layout import JOURNAL_MAGIC, JournalBlock
from libos.filesystems.ext3.records import JOURNAL_SUPERBLOCK, JOURNAL_SUPERBLOCK_NAMES
from libos.filesystems.ext3.recovery import Recovered, recover
from libos.storage.cache import BlockCache
from libos.storage.volume import Volume
from tests.storage.kit import DiskMachine

BASE = 0x1000_0000
BLOCK = 1024
BLOCKS = 160
"""Of the whole disk."""
USED = range(1, 60)
"""Blocks that transactions use."""
MAGIC = JOURNAL_MAGIC.to_bytes(4, "big")
NOTHING = -1.0
METADATA, CONTENTS = "metadata", "contents"


def superblock(places: Sequence[int], version: int = 2, **fields: int) -> bytes:
    """The first block of an empty journal."""
    kind = JournalBlock.SUPERBLOCK_V2 if version == 2 else JournalBlock.SUPERBLOCK_V1
    values: dict[str, int | bytes] = {name: 0 for name in JOURNAL_SUPERBLOCK_NAMES}
    values |= {"uuid": b"", "checksum_type": b"", "padding2": b"", "padding": b"", "users": b""}
    values |= {"header.magic": JOURNAL_MAGIC, "header.blocktype": kind, "blocksize": BLOCK, "maxlen": len(places)}
    values |= {"first": 1, "sequence": 1, "nr_users": 1, **fields}
    return JOURNAL_SUPERBLOCK.pack(*(values[name] for name in JOURNAL_SUPERBLOCK_NAMES)).ljust(BLOCK, b"\0")


def places(size: int, seed: int = 0) -> list[int]:
    """Where a journal of `size` blocks lies: here and there in the upper part of the disk."""
    return random.Random(seed).sample(range(60, BLOCKS), size)


def empty_image(journal: Sequence[int], **fields: int) -> bytearray:
    """A disk with an empty journal."""
    image = bytearray(BLOCKS * BLOCK)
    put(image, journal[0], superblock(journal, **fields))
    return image


def put(image: bytearray, block: int, contents: bytes) -> None:
    """Store a block in an image."""
    image[block * BLOCK : block * BLOCK + len(contents)] = contents


def get(image: bytes | bytearray, block: int) -> bytes:
    """A block of an image."""
    return bytes(image[block * BLOCK : (block + 1) * BLOCK])


@dataclass
class Done:
    """What was on the way to the disk when a commit had returned, and what it promised."""

    records: int
    state: dict[int, bytes]
    number: int


@dataclass
class Model:
    """What the running system believes: kinds and contents of blocks."""

    kinds: dict[int, str] = field(default_factory=dict)
    contents: dict[int, bytes] = field(default_factory=dict)
    commits: list[Done] = field(default_factory=list)
    """Every state that was committed, in order; `records` is when the commit had returned."""
    serial: int = 0

    def filling(self, random: random.Random, size: int) -> bytes:
        """New contents, different each time; some begin as a block of the journal does."""
        self.serial += 1
        data = (self.serial.to_bytes(4, "big") * (size // 4 + 1))[:size]
        if random.random() < 0.25:
            data = (MAGIC + JournalBlock(random.choice([1, 2, 5])).to_bytes(4, "big") + data)[:size]
        return data


class Workload:
    """Random operations on a journal, noted in a model."""

    def __init__(
        self, journal: Journal, model: Model, seed: int, now: Callable[[], int], blocks: Sequence[int] = USED
    ) -> None:
        self.journal = journal
        self._blocks = blocks
        self.model = model
        self._random = random.Random(seed)
        self._now = now
        journal.before_commit.append(self._about_to_commit)
        self._pending: dict[int, bytes] = {}
        self._note()

    def _note(self) -> None:
        self.model.commits.append(Done(self._now(), dict(self.model.contents), self.journal.committed))

    async def _about_to_commit(self) -> None:
        self._pending = dict(self.model.contents)

    def _after(self) -> None:
        """Note the commits that the journal has made of its own accord."""
        if self.journal.committed != self.model.commits[-1].number:
            self.model.commits.append(Done(self._now(), self._pending, self.journal.committed))

    async def operation(self) -> None:
        """One operation of a few changes."""
        rng, journal = self._random, self.journal
        changes = rng.randint(1, 4)
        async with journal.operation(changes):
            self._after()
            for _ in range(changes):
                await self._change(rng, journal)

    async def _change(self, rng: random.Random, journal: Journal) -> None:
        model = self.model
        free = [block for block in self._blocks if block not in model.kinds and journal.may_reuse(block)]
        used = [block for block, kind in model.kinds.items()]
        metadata = [block for block, kind in model.kinds.items() if kind == METADATA]
        choice = rng.random()
        if choice < 0.4 and metadata:
            block = rng.choice(metadata)
            offset = rng.choice([0, 0, rng.randrange(BLOCK)])
            data = model.filling(rng, rng.randint(1, BLOCK - offset))
            old = model.contents[block]
            await journal.update(block, data, offset)
            model.contents[block] = old[:offset] + data + old[offset + len(data) :]
        elif choice < 0.65 and len(used) > 4:
            block = rng.choice(used)
            if model.kinds.pop(block) == METADATA:
                await journal.forget(block)
            else:
                journal.forget_data(block)
            del model.contents[block]
        elif free:
            block = rng.choice(free[:4])
            data = model.filling(rng, rng.choice([0, 100, BLOCK]))
            if rng.random() < 0.5:
                model.kinds[block] = METADATA
                await journal.fresh(block, data)
            else:
                model.kinds[block] = CONTENTS
                await journal.data(block, data, fresh=True)
            model.contents[block] = data.ljust(BLOCK, b"\0")

    async def commit(self, checkpoint: bool = False) -> None:
        """What is done so far must last."""
        await (self.journal.checkpoint() if checkpoint else self.journal.commit())
        self._note()


@dataclass
class History:
    """A run that was recorded: what the disk was at first, what reached it, and what was promised when."""

    image: bytes
    record: list[Written | Flushed]
    commits: list[Done]
    kinds: dict[int, str]
    journal: list[int]
    recovered: Recovered
    serial: int
    """How many different contents have been written."""

    def allowed(self, length: int) -> list[dict[int, bytes]]:
        """The states that may be found after a power cut behind `length` records: the last that a commit had promised,
        and the one whose commit was under way."""
        returned = max((index for index, done in enumerate(self.commits) if done.records <= length), default=0)
        return [done.state for done in self.commits[returned : returned + 2]]

    def promises_kept(self, image: bytes, length: int) -> bool:
        """Whether an image has what some allowed state says of its blocks."""
        return any(
            all(get(image, block) == contents for block, contents in state.items()) for state in self.allowed(length)
        )


@dataclass
class Settings:
    """How a journal is run: blocks of the log, mode, blocks of the cache, version of the journal's superblock."""

    log: int = 40
    mode: Mode = Mode.ORDERED
    capacity: int = 32
    version: int = 2
    sequence: int = 1


def run(
    seed: int, steps: Sequence[str], settings: Settings, before: "History | None" = None, image: bytes = b""
) -> History:
    """Do `steps` ("operation", "commit", "checkpoint", "release", "write back") in a system of its own, on a new disk or on
    the `image` that a run `before` left behind."""
    journal_places = before.journal if before is not None else places(settings.log, seed)
    image = image or bytes(empty_image(journal_places, version=settings.version, sequence=settings.sequence))
    with DiskMachine(BLOCKS * 2, memory=2 << 20) as machine:
        machine.load(image)
        record = machine.disk.record = []

        async def main(volume: Volume) -> tuple[Model, Recovered]:
            cache = BlockCache(volume, BLOCK, BASE, settings.capacity)
            recovered = await recover(cache, journal_places, BLOCKS)
            journal = await Journal.open(cache, journal_places, BLOCKS, settings.mode)
            model = Model()
            if before is not None:
                state = await _found(cache, before)
                model.contents = dict(state)
                model.kinds = {block: METADATA for block in state}
                model.serial = before.serial
            work = Workload(journal, model, seed, lambda: len(record))
            for step in steps:
                if step == "operation":
                    await work.operation()
                elif step == "release":
                    await cache.release(settings.capacity // 4)
                elif step == "write back":
                    await cache.write_back()
                else:
                    await work.commit(step == "checkpoint")
            return model, recovered

        model, recovered = machine.run(main)
        return History(image, record, model.commits, model.kinds, journal_places, recovered, model.serial)


def recovery_record(
    image: bytes, journal: Sequence[int], blocks: int = BLOCKS, capacity: int = 32
) -> tuple[Recovered, bytes, list[Written | Flushed]]:
    """Recovery alone, in a system of its own: what it did, the image afterwards, and what reached the disk."""
    with DiskMachine(len(image) // SECTOR_SIZE, memory=2 << 20) as machine:
        machine.load(image)
        record = machine.disk.record = []

        async def main(volume: Volume) -> Recovered:
            cache = BlockCache(volume, BLOCK, BASE, capacity)
            return await recover(cache, journal, blocks)

        return machine.run(main), machine.image(), record


def recover_image(image: bytes, journal: Sequence[int], blocks: int = BLOCKS) -> tuple[Recovered, bytes]:
    """What recovery did, and the image afterwards."""
    did, recovered, _ = recovery_record(image, journal, blocks)
    return did, recovered


async def _found(cache: BlockCache, before: History) -> dict[int, bytes]:
    """Which of the states a run may have left behind is there; it has been seen that one is."""
    for done in reversed(before.commits):
        if all([await cache.read(block) == contents for block, contents in done.state.items()]):
            return done.state
    raise AssertionError("none of the committed states is there")


def image_after(image: bytes, record: Sequence[Written | Flushed], choose: random.Random, keep: float) -> bytes:
    """What may be on a medium that began as `image` when the power goes after a record: of a sector's versions since it was
    last durable any, the latest with probability `keep`; with keep=NOTHING the durable one."""
    medium = bytearray(image)
    loose: dict[int, list[bytes]] = {}
    for one in record:
        if isinstance(one, Flushed):
            for sector, versions in loose.items():
                medium[sector * SECTOR_SIZE : (sector + 1) * SECTOR_SIZE] = versions[-1]
            loose.clear()
            continue
        for index in range(len(one.data) // SECTOR_SIZE):
            data = one.data[index * SECTOR_SIZE : (index + 1) * SECTOR_SIZE]
            sector = one.sector + index
            place = slice(sector * SECTOR_SIZE, (sector + 1) * SECTOR_SIZE)
            if one.forced:
                loose.pop(sector, None)
                medium[place] = data
            else:
                loose.setdefault(sector, [bytes(medium[place])]).append(data)
    for sector, versions in sorted(loose.items()):
        some = versions[-1] if choose.random() < keep else choose.choice(versions)
        version = versions[0] if keep == NOTHING else some
        medium[sector * SECTOR_SIZE : (sector + 1) * SECTOR_SIZE] = version
    return bytes(medium)
