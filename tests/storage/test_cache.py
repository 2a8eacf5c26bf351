"""The block cache against a dictionary: whatever is asked of it in whatever order, by one or by many contexts, with few
frames or with frames asked back and taken away."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import Event, Transfer
from exokernel.abi.layout import PAGE_SIZE
from exokernel.machine.disk import Written
from libos.storage.cache import BlockCache
from libos.storage.volume import Volume, VolumeError
from tests.machine_kit import examples
from tests.storage.contexts import FRAMES, Restless, together
from tests.storage.kit import DiskMachine

BASE = 0x1000_0000
BLOCKS = 24
SIZES = st.sampled_from([1024, 2048, 4096])
blocks = st.integers(0, BLOCKS - 1)
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
        return self.machine.disk.read(block * size // 512, size // 512)

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
    with DiskMachine(BLOCKS * size // 512, memory=1 << 20) as machine:
        image = disk_contents(BLOCKS * size)
        machine.load(image)
        model = Model(size, {b: image[b * size : (b + 1) * size] for b in range(BLOCKS)})

        async def main(volume: Volume) -> None:
            cache = BlockCache(volume, size, BASE, capacity)
            driver = Driver(machine, cache, model)
            for action in program:
                await driver.do(action)
            for block in list(model.held):
                await driver.do(("let go", block))
            await cache.close()
            assert cache.frames == 0

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

    async def run(self, volume: Volume) -> None:
        cache, model = self.driver.cache, self.driver.model
        for _ in range(self.steps):
            block = self.rng.randrange(BLOCKS)
            if self.rng.random() < 0.5:
                block -= block % self.of
                block = (block + self.number) % BLOCKS
            own = block % self.of == self.number
            match self.rng.choice(["read", "write", "run", "prefetch", "write back", "release", "discard"]):
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
                case "discard" if own:
                    cache.discard(block)
                    model.contents[block] = self.driver.new(model.size)
                    self.written[block].add(model.contents[block])
                    await cache.write(block, model.contents[block], fresh=True)


@examples(60)
@given(st.integers(2, 6), st.integers(3, 14), SEEDS, st.sampled_from([0.0, 0.1, 0.4]))
def test_many_contexts_see_one_content_of_each_block(contexts: int, capacity: int, seed: int, pauses: float) -> None:
    size = 1024
    with DiskMachine(BLOCKS * size // 512, memory=1 << 20) as machine:
        image = disk_contents(BLOCKS * size)
        machine.load(image)
        model = Model(size, {b: image[b * size : (b + 1) * size] for b in range(BLOCKS)})
        written = {block: {contents, bytes(size)} for block, contents in model.contents.items()}
        exo = Restless(seed, pauses)
        cache = BlockCache(Volume(exo, 0, machine.sectors), size, BASE, capacity)
        driver = Driver(machine, cache, model)
        together(
            machine,
            [Work(driver, n, contexts, random.Random(seed + n), 25, written).run for n in range(contexts)],
            exo=exo,
        )

        async def finish(volume: Volume) -> None:
            await cache.write_back()

        assert all(cache._slots.get(block) is not None or driver.on_disk(block) == c for block, c in model.contents.items())


def test_a_block_that_many_want_is_read_once() -> None:
    with DiskMachine(BLOCKS * 8) as machine:
        image = disk_contents(BLOCKS * PAGE_SIZE)
        machine.load(image)
        cache = BlockCache(Volume(Exo(), 0, machine.sectors), PAGE_SIZE, BASE, 8)
        seen = []

        async def reader(volume: Volume) -> bytes:
            data = await cache.read(5)
            seen.append(machine.kernel.disk)
            return data

        async def counting(volume: Volume) -> bytes:
            data = await cache.read(5)
            assert cache.volume.exo is volume.exo
            return data

        class Counting(Exo):
            reads = 0

            async def read_sectors(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
                Counting.reads += 1
                return await super().read_sectors(sector, count, frame, offset, flags)

        exo = Counting()
        cache = BlockCache(Volume(exo, 0, machine.sectors), PAGE_SIZE, BASE, 8)
        results = together(machine, [counting] * 5, exo=exo)
        assert results == [image[5 * PAGE_SIZE : 6 * PAGE_SIZE]] * 5
        assert Counting.reads == 1
