"""The block cache against a dictionary: whatever is asked of it in whatever order, by one or by many contexts, with few
frames or with frames asked back and taken away."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from exokernel.abi.flags import FOREVER, Event, Transfer
from exokernel.abi.layout import PAGE_SIZE, SECTOR_SIZE
from exokernel.machine.disk import Written
from libos.storage.cache import BlockCache
from libos.storage.volume import Volume, VolumeError
from tests.machine_kit import examples
from tests.storage.contexts import Failing, Job, Restless, together
from tests.storage.kit import DiskMachine

BASE = 0x1000_0000
BLOCKS = 24
SIZES = st.sampled_from([1024, 2048, 4096])
blocks = st.integers(0, 4) | st.integers(0, BLOCKS - 1)
SEEDS = st.integers(0, 1 << 16)
actions = st.one_of(
    st.tuples(st.just("read"), blocks, st.integers(0, 1023), st.integers(0, 2000)),
    st.tuples(st.just("write"), blocks, st.integers(0, 1023), st.integers(0, 2000), st.booleans()),
    st.tuples(st.just("write whole"), blocks),
    st.tuples(st.just("read run"), blocks, st.integers(0, BLOCKS)),
    st.tuples(st.just("prefetch"), st.lists(blocks, max_size=8)),
    st.tuples(st.just("hold"), blocks),
    st.tuples(st.just("let go"), blocks),
    st.tuples(st.just("write back"), st.none() | st.lists(blocks, max_size=6)),
    st.tuples(st.just("discard"), blocks),
    st.tuples(st.just("copy out"), blocks, blocks),
    st.tuples(st.just("release"), st.integers(1, 12)),
)


def disk_contents(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@dataclass
class Model:
    """What every block contains, which are held since when with what on the disk, and which contain nothing certain."""

    size: int
    contents: dict[int, bytes]
    held: dict[int, bytes] = field(default_factory=dict)
    freed: set[int] = field(default_factory=set)


class Driver:
    """Does one action with the cache and with the model, and compares."""

    def __init__(self, machine: DiskMachine, cache: BlockCache, model: Model) -> None:
        self.machine, self.cache, self.model = machine, cache, model
        self.serial = 0

    def on_disk(self, block: int) -> bytes:
        size = self.model.size
        return self.machine.disk.read(block * size // SECTOR_SIZE, size // SECTOR_SIZE)

    def new(self, size: int) -> bytes:
        self.serial += 1
        return (self.serial.to_bytes(4, "little") * (size // 4 + 1))[:size]

    async def do(self, action: tuple[Any, ...]) -> None:
        cache, model, size = self.cache, self.model, self.model.size
        match action:
            case ("read", block, offset, length) if block not in model.freed:
                length = min(length, size - offset)
                assert await cache.read(block, offset, length) == model.contents[block][offset : offset + length]
                assert await cache.read(block, offset) == model.contents[block][offset:]
            case ("write", block, offset, length, fresh) if fresh or block not in model.freed:
                data = self.new(min(length, size - offset))
                await cache.write(block, data, offset, fresh=fresh)
                old = bytes(size) if fresh else model.contents[block]
                model.contents[block] = old[:offset] + data + old[offset + len(data) :]
                model.freed.discard(block)
            case ("write whole", block):
                model.contents[block] = self.new(size)
                model.freed.discard(block)
                await cache.write(block, model.contents[block])
            case ("read run", block, count):
                count = min(count, BLOCKS - block)
                data = await cache.read_run(block, count)
                assert len(data) == count * size
                for index in range(count):
                    if block + index not in model.freed:
                        assert data[index * size : (index + 1) * size] == model.contents[block + index]
            case ("prefetch", wanted):
                await cache.prefetch([*wanted, BLOCKS, -1, 10 * BLOCKS])
            case ("hold", block) if len(model.held) < cache.capacity // 2 and block not in model.freed:
                await cache.read(block)
                cache.hold(block)
                model.held.setdefault(block, self.on_disk(block))
            case ("let go", block):
                cache.let_go(block)
                model.held.pop(block, None)
            case ("write back", wanted):
                await cache.write_back(wanted)
                for block in range(BLOCKS) if wanted is None else wanted:
                    if block not in model.freed and block not in model.held:
                        assert self.on_disk(block) == model.contents[block]
            case ("discard", block):
                cache.discard(block)
                model.freed.add(block)
                model.held.pop(block, None)
            case ("copy out", block, place) if block in model.held and place not in model.held:
                cache.discard(place)
                request = await cache.copy_out(block, place, Transfer.FORCED)
                await cache.volume.wait(request)
                assert self.on_disk(place) == model.contents[block]
                model.contents[place] = model.contents[block]
                model.freed.discard(place)
            case ("release", count):
                before = cache.frames
                given = await cache.release(count)
                assert given == before - cache.frames
                assert given == count or cache.frames <= len(model.held)
        assert cache.frames <= cache.capacity
        for block, contents in model.held.items():
            assert self.on_disk(block) == contents, f"block {block} is held"


@examples(150)
@given(SIZES, st.integers(2, 16), st.lists(actions, max_size=60), SEEDS)
def test_a_cache_is_a_dictionary_of_blocks(size: int, capacity: int, program: list[tuple[Any, ...]], seed: int) -> None:
    with DiskMachine(BLOCKS * size // SECTOR_SIZE, memory=1 << 20) as machine:
        image = disk_contents(BLOCKS * size)
        machine.load(image)
        model = Model(size, {b: image[b * size : (b + 1) * size] for b in range(BLOCKS)})

        async def main(volume: Volume) -> None:
            exo = Counting()
            cache = BlockCache(Volume(exo, 0, volume.sectors), size, BASE, capacity)
            driver = Driver(machine, cache, model)
            for action in program:
                await driver.do(action)
            for block in list(model.held):
                await driver.do(("let go", block))
            await cache.close()
            assert cache.frames == 0
            assert exo.waited == exo.reads + exo.writes

        machine.run(main)
        for block, contents in model.contents.items():
            if block not in model.freed:
                assert machine.image()[block * size : (block + 1) * size] == contents


# Many contexts.


@dataclass
class Work:
    """What one of several contexts does: it writes its own blocks, and reads any."""

    driver: Driver
    number: int
    of: int
    rng: random.Random
    steps: int
    written: dict[int, set[bytes]]
    done: list[int]

    async def run(self, volume: Volume) -> None:
        cache, model = self.driver.cache, self.driver.model
        await self._steps(cache, model)
        self.done.append(self.number)
        if len(self.done) == self.of:
            await cache.write_back()
            for block, contents in model.contents.items():
                assert self.driver.on_disk(block) == contents

    async def _steps(self, cache: BlockCache, model: Model) -> None:
        for _ in range(self.steps):
            block = self.rng.randrange(BLOCKS)
            if self.rng.random() < 0.5:
                block -= block % self.of
                block = (block + self.number) % BLOCKS
            own = block % self.of == self.number
            match self.rng.choice(["read", "write", "run", "prefetch", "write back", "release", "discard", "hold"]):
                case "read":
                    data = await cache.read(block)
                    assert data == model.contents[block] if own else data in self.written[block]
                case "run":
                    count = min(BLOCKS - block, self.rng.randint(1, 8))
                    data = await cache.read_run(block, count)
                    for index in range(count):
                        part = data[index * model.size : (index + 1) * model.size]
                        assert part in self.written[block + index]
                case "write" if own:
                    offset = self.rng.choice([0, 0, 100])
                    data = self.driver.new(model.size - offset)
                    model.contents[block] = model.contents[block][:offset] + data
                    self.written[block].add(model.contents[block])
                    await cache.write(block, data, offset)
                case "prefetch":
                    await cache.prefetch(self.rng.sample(range(BLOCKS), 5))
                case "write back":
                    await cache.write_back(self.rng.choice([None, [block], range(BLOCKS)]))
                case "release":
                    await cache.release(self.rng.randint(1, 4))
                case "hold" if own:
                    cache.hold(block)
                    model.contents[block] = self.driver.new(model.size)
                    self.written[block].add(model.contents[block])
                    await cache.write(block, model.contents[block])
                    before = self.driver.on_disk(block)
                    await cache.read((block + 1) % BLOCKS)
                    await cache.prefetch([(block + 2) % BLOCKS])
                    assert self.driver.on_disk(block) == before
                    cache.let_go(block)
                case "discard" if own:
                    cache.discard(block)
                    model.contents[block] = self.driver.new(model.size)
                    self.written[block].add(model.contents[block])
                    await cache.write(block, model.contents[block], fresh=True)


@examples(50)
@given(st.integers(2, 6), st.integers(1, 8), SEEDS, st.sampled_from([0.0, 0.1, 0.4]))
def test_many_contexts_see_one_content_of_each_block(contexts: int, spare: int, seed: int, pauses: float) -> None:
    size, capacity = 1024, contexts + spare
    with DiskMachine(BLOCKS * size // SECTOR_SIZE, memory=1 << 20) as machine:
        image = disk_contents(BLOCKS * size)
        machine.load(image)
        model = Model(size, {b: image[b * size : (b + 1) * size] for b in range(BLOCKS)})
        written = {block: {contents} for block, contents in model.contents.items()}
        exo = Restless(seed, pauses)
        driver = Driver(machine, BlockCache(Volume(exo, 0, machine.sectors), size, BASE, capacity), model)
        done: list[int] = []
        together(
            machine,
            [Work(driver, n, contexts, random.Random(seed + n), 25, written, done).run for n in range(contexts)],
            exo=exo,
        )
        assert len(done) == contexts


@pytest.mark.parametrize("seed", range(8))
def test_many_contexts_get_on_with_a_single_frame(machine: DiskMachine, seed: int) -> None:
    exo = Restless(seed, 0.5)
    cache = BlockCache(Volume(exo, 0, machine.sectors), PAGE_SIZE, BASE, 1)

    def reader(number: int) -> Job:
        async def main(volume: Volume) -> None:
            for block in random.Random(seed + number).choices(range(6), k=15):
                if number == 0:
                    await cache.write(block + 50, b"written")
                assert await cache.read(block) == page(machine, block)

        return main

    together(machine, [reader(0), reader(1), reader(2)], exo=exo)


@pytest.mark.parametrize("seed", range(12))
def test_whoever_has_used_the_only_frame_lets_the_next_have_it(machine: DiskMachine, seed: int) -> None:
    exo = Restless(seed, 0.6)
    cache = BlockCache(Volume(exo, 0, machine.sectors), PAGE_SIZE, BASE, 1)

    def reader(block: int) -> Job:
        async def main(volume: Volume) -> bytes:
            return await cache.read(block)

        return main

    assert together(machine, [reader(1), reader(2)], exo=exo) == [page(machine, 1), page(machine, 2)]


class Counting(Restless):
    """Down-calls that are counted."""

    def __init__(self, seed: int = 0, probability: float = 0.0) -> None:
        super().__init__(seed, probability)
        self.reads = 0
        self.writes = 0
        self.waited = 0
        self.most = 0
        """Requests that were under way together."""

    async def block(self, event: int, value: int, deadline: int = FOREVER) -> int:
        self.waited += event == Event.DISK
        return await super().block(event, value, deadline)

    async def read_sectors(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
        self.reads += 1
        self.most = max(self.most, self.reads - self.waited)
        return await super().read_sectors(sector, count, frame, offset, flags)

    async def write_sectors(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
        self.writes += 1
        return await super().write_sectors(sector, count, frame, offset, flags)


@pytest.fixture
def machine() -> Iterator[DiskMachine]:
    """A disk of 400 blocks of a page, and 1 MiB of memory."""
    with DiskMachine(400 * 8, memory=1 << 20) as machine:
        machine.load(disk_contents(400 * PAGE_SIZE))
        yield machine


def page(machine: DiskMachine, block: int) -> bytes:
    return machine.disk.read(block * 8, 8)


@pytest.mark.parametrize("seed", range(12))
def test_a_block_that_many_want_is_read_once(machine: DiskMachine, seed: int) -> None:
    exo = Counting(seed, 0.6)
    cache = BlockCache(Volume(exo, 0, machine.sectors), PAGE_SIZE, BASE, 8)

    async def read(volume: Volume) -> bytes:
        return await cache.read(5)

    async def prefetch(volume: Volume) -> None:
        await cache.prefetch([5])

    results = together(machine, [prefetch, read, read, read][: 2 + seed % 3], exo=exo)
    assert set(results[1:]) == {page(machine, 5)}
    assert exo.reads == 1


def test_a_hit_is_one_trap_and_a_whole_block_is_not_read_before_it_is_written(machine: DiskMachine) -> None:
    exo = Counting()
    cache = BlockCache(Volume(exo, 0, machine.sectors), PAGE_SIZE, BASE, 8)

    async def main(volume: Volume) -> None:
        await cache.write(1, b"x" * PAGE_SIZE)
        await cache.write(2, b"y", 100, fresh=True)
        assert exo.reads == 0
        assert await cache.read(2, 99, 3) == b"\0y\0"
        await cache.read(3)
        assert (cache.hits, cache.misses) == (1, 1)
        assert exo.reads == 1

    machine.run(main)


def test_a_run_and_blocks_fetched_ahead_are_under_way_together(machine: DiskMachine) -> None:
    exo = Counting()

    async def main(_: Volume) -> None:
        cache = BlockCache(Volume(exo, 0, machine.sectors), PAGE_SIZE, BASE, 64)
        for block in range(16):
            await cache.read(block)
        assert exo.most == 1
        assert await cache.read_run(200, 16) == b"".join(page(machine, block) for block in range(200, 216))
        assert exo.most == 16
        reads = exo.reads
        await cache.prefetch(range(100, 116))
        assert exo.reads == reads + 16
        assert await cache.read(107) == page(machine, 107)
        assert exo.reads == reads + 16

    machine.run(main)


def test_dirty_blocks_are_written_in_the_order_of_the_disk_and_each_once(machine: DiskMachine) -> None:
    record = machine.disk.record = []

    async def main(volume: Volume) -> None:
        cache = BlockCache(volume, PAGE_SIZE, BASE, 32)
        order = random.Random(1).sample(range(30), 30)
        for block in order:
            await cache.write(block, b"new")
        await cache.write_back()
        assert [one.sector // 8 for one in record if isinstance(one, Written)] == list(range(30))
        await cache.write_back()
        assert len(record) == 30

    machine.run(main)


def test_a_frame_in_use_by_a_request_is_given_to_no_other_block_and_every_request_is_waited_for(
    machine: DiskMachine,
) -> None:
    exo = Counting()
    cache = BlockCache(Volume(exo, 0, machine.sectors), PAGE_SIZE, BASE, 1)

    async def main(volume: Volume) -> None:
        await cache.prefetch([5])
        cache.discard(5)
        assert await cache.read(6) == page(machine, 6)
        await cache.prefetch([7])
        cache.discard(7)
        await cache.write(8, b"eight", fresh=True)
        await volume.exo.block(Event.TIME, 0, await volume.exo.time() + 10_000_000)
        assert await cache.read(8, 0, 6) == b"eight\0"
        await cache.close()
        assert exo.waited == exo.reads + exo.writes

    machine.run(main)


def test_the_least_recently_used_block_makes_room(machine: DiskMachine) -> None:
    exo = Counting()
    cache = BlockCache(Volume(exo, 0, machine.sectors), PAGE_SIZE, BASE, 3)

    async def main(volume: Volume) -> None:
        for block in (1, 2, 3, 1, 4):
            await cache.read(block)
        assert exo.reads == 4
        for block in (1, 3, 4):
            await cache.read(block)
        assert exo.reads == 4
        await cache.read(2)
        assert exo.reads == 5
        assert cache.frames == 3

    machine.run(main)


def test_a_cache_full_of_held_blocks_says_so(machine: DiskMachine) -> None:
    async def main(volume: Volume) -> None:
        cache = BlockCache(volume, PAGE_SIZE, BASE, 3)
        for block in range(3):
            cache.hold(block)
            await cache.write(block, b"held")
        with pytest.raises(VolumeError, match="All 3 blocks of the cache belong to one transaction"):
            await cache.read(3)
        cache.let_go(1)
        assert await cache.read(3) == page(machine, 3)
        assert page(machine, 1).startswith(b"held")
        assert not page(machine, 0).startswith(b"held")

    machine.run(main)


def test_a_held_block_that_is_freed_is_held_no_longer(machine: DiskMachine) -> None:
    async def main(volume: Volume) -> None:
        cache = BlockCache(volume, PAGE_SIZE, BASE, 3)
        cache.hold(1)
        await cache.write(1, b"freed")
        cache.discard(1)
        await cache.write(1, b"new")
        await cache.write_back()
        assert page(machine, 1).startswith(b"new")

    machine.run(main)


def test_a_block_outside_the_volume_is_refused(machine: DiskMachine) -> None:
    async def main(volume: Volume) -> None:
        cache = BlockCache(volume, PAGE_SIZE, BASE, 3)
        for block in (400, -1):
            with pytest.raises(VolumeError, match="outside the volume of 400 blocks"):
                await cache.read(block)
            with pytest.raises(VolumeError, match="outside the volume of 400 blocks"):
                await cache.write(block, b"x", fresh=True)
        assert await cache.read(399) == page(machine, 399)

    machine.run(main)


def test_a_disk_error_is_told_to_whoever_wanted_the_block_and_nothing_else_is_harmed(machine: DiskMachine) -> None:
    exo = Failing(5 * 8)

    async def main(_: Volume) -> None:
        cache = BlockCache(Volume(exo, 0, machine.sectors), PAGE_SIZE, BASE, 8)
        with pytest.raises(VolumeError):
            await cache.read(5)
        with pytest.raises(VolumeError):
            await cache.read_run(4, 3)
        assert await cache.read(6) == page(machine, 6)
        for block in (4, 5, 6):
            await cache.write(block, b"new" * 1000, fresh=True)
        with pytest.raises(VolumeError):
            await cache.write_back()
        assert page(machine, 4).startswith(b"new")
        assert page(machine, 6).startswith(b"new")
        exo.sector = None
        machine.disk.write(5 * 8, bytes(PAGE_SIZE))
        await cache.write_back()
        assert page(machine, 5).startswith(b"new"), "it stayed dirty"

    machine.run(main)
