"""Frames that come and go under the block cache: a quota, none to be had, some asked back, some taken by force."""

import random
from collections.abc import Iterator
from contextlib import suppress

import pytest

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from exokernel.abi.flags import Event, Rights
from exokernel.abi.layout import OWN_PAGE, PAGE_SIZE
from exokernel.abi.pages import OwnPage, offset_of
from libos.storage.cache import BlockCache
from libos.storage.volume import Volume, VolumeError
from tests.storage.contexts import FRAMES, together
from tests.storage.kit import DiskMachine

BASE = 0x1000_0000
TAKEN = OWN_PAGE + offset_of(OwnPage, "taken_total")


@pytest.fixture
def machine() -> Iterator[DiskMachine]:
    """A disk of 400 blocks of a page, and 1 MiB of memory."""
    with DiskMachine(400 * 8, memory=1 << 20) as machine:
        machine.load(random.Random(0).randbytes(400 * PAGE_SIZE))
        yield machine


def page(machine: DiskMachine, block: int) -> bytes:
    return machine.disk.read(block * 8, 8)


async def hold_all_frames(got: list[int], give: int = 0, wait: int = 0) -> None:
    """Another environment: take every frame there is, then so many more as they come; or give some back at last."""
    exo = Exo()
    while True:
        seen = int.from_bytes(await exo.read(FRAMES, 8), "little")
        try:
            got.append(await exo.alloc_page())
        except Refused:
            if give or (wait and len(got) >= wait):
                break
            await exo.block(Event.FRAMES, seen)
    await exo.block(Event.TIME, 0, await exo.time() + 10_000_000)
    for frame in got[:give]:
        await exo.dealloc_page(frame)
    await exo.block(Event.TIME, 0, await exo.time() + 1_000_000_000)


async def work_through(cache: BlockCache, machine: DiskMachine, rounds: int, clean: bool = False) -> None:
    """Read, change and read again, and wait a little in between."""
    exo = Exo()
    for turn in range(rounds):
        for block in range(150):
            data = f"{turn} {block}".encode()
            if block % 3 == 0 and not clean:
                await cache.write(block, data)
            assert await cache.read(block, 0, 20) == (
                data + page(machine, block)[len(data) : 20] if block % 3 == 0 and not clean else page(machine, block)[:20]
            )
        await exo.block(Event.TIME, 0, await exo.time() + 200_000)


@pytest.mark.parametrize("quota", [12, 40])
def test_a_cache_that_may_not_have_more_frames_works_with_those_it_has(machine: DiskMachine, quota: int) -> None:
    cache = BlockCache(Volume(Exo(), 0, machine.sectors), PAGE_SIZE, BASE, 200)

    async def job(volume: Volume) -> None:
        await work_through(cache, machine, 2)
        assert 0 < cache.frames <= quota
        await cache.close()

    together(machine, [job], quota=quota)


def test_a_cache_without_a_frame_waits_until_there_are_some(machine: DiskMachine) -> None:
    got: list[int] = []
    cache = BlockCache(Volume(Exo(), 0, machine.sectors), PAGE_SIZE, BASE, 200)
    given = []

    async def release(count: int) -> int:
        given.append(await cache.release(count))
        return given[-1]

    async def job(volume: Volume) -> bytes:
        exo = Exo()
        await exo.block(Event.TIME, 0, await exo.time() + 5_000_000)
        return await cache.read(7)

    results = together(machine, [job], release=release, hog=lambda: hold_all_frames(got, give=5))
    assert results == [page(machine, 7)]
    assert len(got) > 100


def test_contexts_without_a_frame_share_the_first_that_comes(machine: DiskMachine) -> None:
    got: list[int] = []
    cache = BlockCache(Volume(Exo(), 0, machine.sectors), PAGE_SIZE, BASE, 200)

    async def release(count: int) -> int:
        return await cache.release(count)

    async def job(volume: Volume) -> list[bytes]:
        exo = Exo()
        await exo.block(Event.TIME, 0, await exo.time() + 5_000_000)
        return [await cache.read(block) for block in range(3)]

    results = together(machine, [job] * 3, release=release, hog=lambda: hold_all_frames(got, give=3))
    assert results == [[page(machine, block) for block in range(3)]] * 3
    assert cache.frames < 4


def test_a_cache_gives_frames_back_when_it_is_asked_and_nothing_is_lost(machine: DiskMachine) -> None:
    got: list[int] = []
    given: list[int] = []
    cache = BlockCache(Volume(Exo(), 0, machine.sectors), PAGE_SIZE, BASE, 200)

    async def release(count: int) -> int:
        given.append(await cache.release(count))
        return given[-1]

    async def job(volume: Volume) -> None:
        await work_through(cache, machine, 6)
        await cache.write_back()

    async def other(volume: Volume) -> None:
        for block in [*range(200, 300)] * 4:
            assert await cache.read(block, 9, 9) == page(machine, block)[9:18]

    together(machine, [job, other], release=release, hog=lambda: hold_all_frames(got))
    assert sum(given) > 20
    for block in range(0, 150, 3):
        assert page(machine, block).startswith(f"5 {block}".encode())


def test_blocks_of_a_transaction_stay_when_the_kernel_takes_what_it_was_not_given(machine: DiskMachine) -> None:
    cache = BlockCache(Volume(Exo(), 0, machine.sectors), PAGE_SIZE, BASE, 200)
    later = range(100, 103)

    async def job(volume: Volume) -> int:
        for block in range(30):
            cache.hold(block)
            await cache.write(block, b"held")
        await cache.read_run(50, 100)
        assert await cache.release(95) == 95
        for block in later:
            cache.hold(block)
            await cache.write(block, b"held")
        environment = max(machine.kernel.environments.values(), key=lambda one: len(one.held))
        machine.kernel.revocation.ask(environment, 20, None)
        for block in [*range(30), *later]:
            assert await cache.read(block, 0, 4) == b"held"
            cache.let_go(block)
        taken = int.from_bytes(await Exo().read(TAKEN, 8), "little")
        await cache.close()
        assert not environment.reserved
        return taken

    assert together(machine, [job])[0] > 1
    assert all(page(machine, block).startswith(b"held") for block in [*range(30), *later])


def test_release_writes_on_when_others_change_what_it_has_written(machine: DiskMachine) -> None:
    async def main(volume: Volume) -> None:
        cache = BlockCache(volume, PAGE_SIZE, BASE, 20)
        for block in range(20):
            await cache.write(block, b"first")
        write, calls = cache._write, 0

        async def written(blocks: list[int], sleep: bool = True) -> None:
            nonlocal calls
            calls += 1
            await write(blocks, sleep)
            for block in blocks if calls == 1 else ():
                await cache.write(block, b"again")

        cache._write = written  # type: ignore[method-assign]
        assert await cache.release(8) == 8
        await cache.close()

    machine.run(main)
    assert sum(page(machine, block).startswith(b"again") for block in range(20)) == 8


class _Taking(Exo):
    """The first frame that something is to be read into is taken a moment before."""

    def __init__(self) -> None:
        self._once = True

    async def read_sectors(self, sector: int, count: int, frame: int, offset: int = 0, flags: int = 0) -> int:
        if self._once:
            self._once = False
            await self.dealloc_page(frame)
        return await super().read_sectors(sector, count, frame, offset, flags)


def test_a_frame_taken_just_before_a_block_is_read_into_it_is_replaced(machine: DiskMachine) -> None:
    async def main(volume: Volume) -> None:
        cache = BlockCache(Volume(_Taking(), 0, volume.sectors), PAGE_SIZE, BASE, 20)
        assert await cache.read(5) == page(machine, 5)
        assert await cache.read_run(6, 20) == b"".join(page(machine, block) for block in range(6, 26))
        await cache.close()
        assert len(cache._pool._places) == cache.capacity

    machine.run(main)


def test_clean_blocks_whose_frames_are_taken_by_force_are_read_again(machine: DiskMachine) -> None:
    got: list[int] = []
    cache = BlockCache(Volume(Exo(), 0, machine.sectors), PAGE_SIZE, BASE, 200)

    async def job(volume: Volume) -> int:
        await work_through(cache, machine, 8, clean=True)
        return int.from_bytes(await Exo().read(TAKEN, 8), "little")

    assert together(machine, [job], hog=lambda: hold_all_frames(got))[0] > 20


def test_a_dirty_block_whose_frame_is_taken_by_force_is_reported_as_lost(machine: DiskMachine) -> None:
    got: list[int] = []
    cache = BlockCache(Volume(Exo(), 0, machine.sectors), PAGE_SIZE, BASE, 200)

    async def job(volume: Volume) -> None:
        exo = Exo()
        for block in range(150):
            await cache.write(block, b"dirty")
        await exo.block(Event.TIME, 0, await exo.time() + 20_000_000)
        for block in range(150):
            await cache.read(block)

    with pytest.raises(VolumeError, match="is lost: the kernel took its frame by force"):
        together(machine, [job], hog=lambda: hold_all_frames(got))


def test_frames_that_were_taken_and_came_back_for_another_purpose_are_left_alone(machine: DiskMachine) -> None:
    cache = BlockCache(Volume(Exo(), 0, machine.sectors), PAGE_SIZE, BASE, 200)
    filled: list[bool] = []
    elsewhere = 0x2000_0000
    pattern = b"pattern" * 500

    async def job(volume: Volume) -> int:
        exo = Exo()
        await cache.read_run(0, 150)
        for block in range(0, 150, 2):
            cache.discard(block)
        filled.append(True)
        await exo.block(Event.TIME, 0, await exo.time() + 30_000_000)
        mine = 0
        with suppress(Refused):
            while mine < 40:
                frame = await exo.alloc_page()
                await exo.create_mapping(elsewhere + mine * PAGE_SIZE, frame, Rights.READ | Rights.WRITE)
                await exo.write(elsewhere + mine * PAGE_SIZE, pattern)
                mine += 1
        for block in range(200, 290):
            await cache.write(block + 100, b"new", fresh=True)
            assert await cache.read(block) == page(machine, block)
        for number in range(mine):
            assert await exo.read(elsewhere + number * PAGE_SIZE, len(pattern)) == pattern
        assert int.from_bytes(await exo.read(TAKEN, 8), "little") > 20
        await cache.close()
        assert len(cache._pool._places) == cache.capacity, "there can be as many frames again"
        return mine

    async def hog() -> None:
        exo = Exo()
        got = []
        while not filled:
            await exo.block(Event.TIME, 0, await exo.time() + 1_000_000)
        with suppress(Refused):
            while True:
                got.append(await exo.alloc_page())
        for frame in got[-60:]:
            await exo.dealloc_page(frame)
        await exo.block(Event.TIME, 0, await exo.time() + 1_000_000_000)

    assert together(machine, [job], hog=hog)[0] > 20
    assert all(page(machine, block).startswith(b"new\0") for block in range(300, 390))
