"""Disk requests: a library's own order, what a flush and a forced write promise, the exposed queue, and power cuts."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exokernel.abi import layout, pages
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import Event, Sharing, Transfer
from exokernel.abi.layout import PAGE_SIZE, SECTOR_SIZE
from exokernel.machine.disk import Disk, Flushed, Written
from exokernel.machine.models import DRIVES
from exokernel.policy.disk import DISK_POLICIES, DiskChoice, DiskPolicy, DiskRequest
from tests.kernel.audit import audit
from tests.machine_kit import Machine, examples, exo, machine

FORCED, BARRIER, ORDERED = Transfer.FORCED, Transfer.BARRIER, Transfer.ORDERED


class Whimsical(DiskPolicy):
    """Any order: what a policy does must not break what the kernel promises."""

    name = "whimsical"
    summary = "at random"

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.waiting: list[DiskRequest] = []
        self.served: list[DiskRequest] = []
        self._chance = random.Random(seed)

    def add(self, request: DiskRequest) -> None:
        self.waiting.append(request)

    def next(self, head: int, now: int) -> DiskChoice | None:
        if not self.waiting:
            return None
        self.served.append(self.waiting.pop(self._chance.randrange(len(self.waiting))))
        return DiskChoice(self.served[-1].number)


async def wait(*requests: int) -> None:
    for request in requests:
        await exo.block(Event.DISK, request)


plans = st.lists(
    st.tuples(st.sampled_from(["read", "write", "flush"]), st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=30
)
"""What, where (one of eight places), and flags."""


@given(plans, st.integers(0, 1 << 32))
@examples(150)
def test_whatever_the_policy_a_library_has_its_own_order(plan: list[tuple[str, int, int]], seed: int) -> None:
    """A barrier begins after everything before it and ends before anything after it begins; ordered requests end in their
    order; a flush ends after every write before it.  The disk serves one at a time, so the order of serving says it all."""
    policy = Whimsical(seed)
    made: list[tuple[int, str, int]] = []

    async def init() -> None:
        frames = [await exo.alloc_page() for _ in range(4)]
        sector = await exo.alloc_sectors(64)
        for index, (what, place, flags) in enumerate(plan):
            if what == "flush":
                number = await exo.flush()
                flags = 0
            else:
                call = exo.write_sectors if what == "write" else exo.read_sectors
                number = await call(sector + 8 * place, 8, frames[index % 4], 0, flags)
            made.append((number, what, flags))
        audit(holder.kernel)
        await wait(*[number for number, _, _ in made])

    with machine(disk_policy=policy) as holder:
        holder.run(init)
        assert not holder.kernel.disk.busy
    served = [one.number for one in policy.served]
    assert sorted(served) == [number for number, _, _ in made]
    at = {number: place for place, number in enumerate(served)}
    for index, (number, what, flags) in enumerate(made):
        for earlier, kind, before in made[:index]:
            if flags & BARRIER or before & BARRIER or (flags & ORDERED and before & ORDERED):
                assert at[earlier] < at[number]
            if what == "flush" and kind == "write":
                assert at[earlier] < at[number]


@pytest.mark.parametrize("flags", [0, BARRIER, ORDERED])
def test_one_librarys_barrier_does_not_hold_another(flags: int) -> None:
    policy = Whimsical(1)

    async def init() -> None:
        frame, sector = await exo.alloc_page(), await exo.alloc_sectors(16)
        guest = await made.guest(
            f"exo read_sectors, {sector}, 8, {{data_frame}}, 0, {int(flags)}\n mov rsi, rax\n"
            " exo block, 0, rsi, {FOREVER}\n note rax\n exit 1",
            start=False,
        )
        await exo.share_sectors(sector, guest.number, Sharing.LOAN, 3)
        mine = [await exo.write_sectors(sector, 8, frame, 0, BARRIER) for _ in range(20)]
        await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
        assert await made.end_of(guest) == 1
        ended = sum(made.kernel.environments[made.kernel.first_environment].outstanding[one] is not None for one in mine)
        assert ended < 20
        await wait(*mine)

    with machine(disk_policy=policy) as made:
        made.run(init)


@pytest.mark.parametrize("flags", [8, 16, 1 << 63, 15])
def test_flags_that_mean_nothing_are_refused(flags: int) -> None:
    async def init() -> None:
        frame, sector = await exo.alloc_page(), await exo.alloc_sectors(8)
        for call in (exo.read_sectors, exo.write_sectors):
            with pytest.raises(Refused) as refused:
                await call(sector, 8, frame, 0, flags)
            assert refused.value.error is Error.BAD_ARGUMENT

    with machine() as made:
        made.run(init)


def test_the_device_hears_what_is_forced_and_when_a_flush_ends() -> None:
    async def init() -> None:
        frame, sector = await exo.alloc_page(), await exo.alloc_sectors(8)
        made.disk.record = []
        await made.fill(frame, b"A" * SECTOR_SIZE)
        await wait(await exo.write_sectors(sector, 1, frame))
        await wait(await exo.flush())
        await wait(await exo.write_sectors(sector + 1, 1, frame, 0, FORCED))
        assert made.disk.record == [
            Written(sector, b"A" * SECTOR_SIZE, False), Flushed(), Written(sector + 1, b"A" * SECTOR_SIZE, True)
        ]  # fmt: skip

    with machine() as made:
        made.run(init)


@pytest.mark.parametrize(("name", "cycles"), [("ideal", 1), ("ssd", 58_000)])
def test_a_request_takes_what_its_drive_says(name: str, cycles: int) -> None:
    async def init() -> None:
        frame, sector = await exo.alloc_page(), await exo.alloc_sectors(8)
        request = await exo.read_sectors(sector, 8, frame)
        begun = made.kernel.clock.now
        await wait(request)
        ended.append(made.kernel.clock.now - begun)

    ended: list[int] = []
    with machine(disk=Disk(64, drive=DRIVES[name])) as made:
        made.run(init)
    assert cycles - 1_000 <= ended[0] <= cycles + 1_000


def test_a_policy_decides_which_environment_is_served() -> None:
    """Two environments keep sixteen requests each in the queue; tickets 300 and 100 give three to one."""
    done: dict[int, int] = {}

    async def init() -> None:
        sector = await exo.alloc_sectors(8)
        source = (
            f"mov rbx, 16\n more: exo read_sectors, {sector}, 8, {{data_frame}}, 0\n dec rbx\n jnz more\n"
            f"exo read_sectors, {sector}, 8, {{data_frame}}, 0\n lea rbx, [rax - 16]\n"
            f"go: mov rsi, rbx\n exo block, 0, rsi, {{FOREVER}}\n inc rbx\n"
            f" exo read_sectors, {sector}, 8, {{data_frame}}, 0\n jmp go"
        )
        guests = [await made.guest(source, start=False) for _ in range(2)]
        for guest, tickets in zip(guests, (300, 100), strict=True):
            await exo.set_tickets(guest.number, tickets)
            await exo.share_sectors(sector, guest.number, Sharing.LOAN, 3)
            await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
        await exo.block(Event.TIME, 0, 40_000_000)
        for guest in guests:
            done[len(done)] = made.kernel.environments[guest.number].accounts.sectors_read
            await exo.destroy(guest.number)

    with machine(disk_policy=DISK_POLICIES["proportional"](2048)) as made:
        made.run(init)
    assert done[0] + done[1] > 8 * 200
    assert 2.4 < done[0] / done[1] < 3.6


def rows(made: Machine) -> list[Any]:
    """The rows of the disk queue in use, as anybody reads them."""
    at = made.kernel.exposed.queue_frame << 12
    data = bytes(made.memory.view[at : at + PAGE_SIZE])
    size = pages.DiskQueueRow.sizeof()
    every = [pages.DiskQueueRow.parse(data[size * index :][:size]) for index in range(pages.DISK_QUEUE_ENTRIES)]
    return [row for row in every if row.request or row.environment]


def test_every_request_has_a_row_of_its_own_until_it_ends() -> None:
    async def init() -> None:
        frame, sector = await exo.alloc_page(), await exo.alloc_sectors(64)
        first = [await exo.write_sectors(sector + 8 * index, 8, frame) for index in range(6)]
        flush = await exo.flush()
        shown = {row.request: row for row in rows(made)}
        assert set(shown) == {*first, flush}
        one = shown[first[3]]
        me = made.kernel.first_environment
        assert (one.environment, one.sector, one.count, one.write, one.frame) == (me, sector + 24, 8, 1, frame)
        assert (shown[flush].count, shown[flush].frame) == (0, 0xFFFF_FFFF)
        places = [row.request for row in rows(made)]
        await wait(first[0], first[1])
        assert [row.request for row in rows(made)] == [one for one in places if one not in first[:2]], "rows do not move"
        assert made.memory.words[made.kernel.exposed.machine + 7] == 5
        await wait(*first[2:], flush)
        assert rows(made) == []
        assert made.memory.words[made.kernel.exposed.machine + 7] == 0
        again = [await exo.write_sectors(sector, 8, frame) for _ in range(10)]
        assert len(rows(made)) == 10
        await wait(*again)

    with machine() as made:
        made.run(init)


def test_more_requests_than_rows_are_counted_and_served_all_the_same() -> None:
    async def init() -> None:
        sector = await exo.alloc_sectors(8)
        guests = []
        for _ in range(3):
            guest = await made.guest(
                f"mov rbx, 60\n more: exo read_sectors, {sector}, 8, {{data_frame}}, 0\n dec rbx\n jnz more\n"
                " mov rsi, rax\n exo block, 0, rsi, {FOREVER}\n exit 1",
                start=False,
            )
            await exo.share_sectors(sector, guest.number, Sharing.LOAN, 3)
            await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
            guests.append(guest)
        while len(made.kernel.disk.queue) < 170:
            await exo.block(Event.TIME, 0, await exo.time() + 1_000)
        assert len(rows(made)) == pages.DISK_QUEUE_ENTRIES
        assert made.memory.words[made.kernel.exposed.machine + 7] == len(made.kernel.disk.queue)
        for guest in guests:
            assert await made.end_of(guest) == 1
        assert rows(made) == []

    with machine() as made:
        made.run(init)


def test_the_disk_queue_fills_its_page() -> None:
    assert pages.DISK_QUEUE_ENTRIES * pages.DiskQueueRow.sizeof() == layout.PAGE_SIZE


def test_sectors_are_erased_when_they_are_allocated_and_not_when_they_are_freed() -> None:
    async def init() -> None:
        sector = await exo.alloc_sectors(8)
        made.disk.write(sector, b"S" * PAGE_SIZE)
        await exo.free_sectors(sector)
        assert made.disk.read(sector, 8) == b"S" * PAGE_SIZE
        assert await exo.alloc_sectors(8, sector) == sector
        assert made.disk.read(sector, 8) == bytes(PAGE_SIZE)

    with machine() as made:
        made.run(init)


def test_lasting_sectors_are_never_erased_and_never_given_away() -> None:
    async def init() -> None:
        await exo.free_sectors(64)
        with pytest.raises(Refused) as refused:
            await exo.alloc_sectors(8, 64)
        assert refused.value.error is Error.BAD_SECTOR
        assert await exo.alloc_sectors(128) == 128

    with machine() as made:
        made.disk.write(64, b"L" * 64 * SECTOR_SIZE)
        boot = made.kernel.boot_coroutine(init)
        made.kernel.disk.attach(boot, 64, 64, 15)
        made.kernel.run()
        assert not made.kernel.python_errors
        assert made.disk.read(64, 64) == b"L" * 64 * SECTOR_SIZE


def test_the_kernels_own_write_of_a_page_comes_before_its_owner_reads_it_back() -> None:
    """Under a policy that would serve the read first."""

    class NewestFirst(Whimsical):
        def next(self, head: int, now: int) -> DiskChoice | None:
            return DiskChoice(self.waiting.pop().number) if self.waiting else None

    async def init() -> None:
        sector, other = await exo.alloc_sectors(8), await exo.alloc_sectors(8)
        frame, into = await exo.alloc_page(), await exo.alloc_page()
        await made.fill(frame, b"N" * PAGE_SIZE)
        me = made.kernel.environments[made.kernel.first_environment]
        first = await exo.read_sectors(other, 8, into)
        older = await exo.write_sectors(sector, 8, into)
        made.kernel.disk.write_back(me, made.kernel.frames.get(frame), sector)
        unrelated = await exo.read_sectors(other, 8, into)
        back = await exo.read_sectors(sector, 8, into)
        await wait(first, older, unrelated, back)
        assert made.page(into) == b"N" * PAGE_SIZE

    with machine(disk_policy=NewestFirst(0)) as made:
        made.run(init)


@pytest.mark.parametrize("name", DRIVES)
def test_a_power_cut_takes_no_synced_data_whenever_it_comes(name: str) -> None:
    """Blocks are written and flushed, or forced, with a stamp; after a cut each has its last synced stamp or a later
    one."""
    synced: dict[int, int] = {}
    newest: dict[int, int] = {}
    sector = 0

    async def init() -> None:
        nonlocal sector
        chance = random.Random(5)
        sector = await exo.alloc_sectors(64)
        frames = [await exo.alloc_page() for _ in range(8)]
        for stamp in range(1, 1_000):
            place = chance.randrange(8)
            await made.fill(frames[place], stamp.to_bytes(8, "little") * 512)
            forced = chance.random() < 0.2
            newest[place] = stamp
            request = await exo.write_sectors(sector + 8 * place, 8, frames[place], 0, FORCED if forced else 0)
            await wait(request)
            if forced:
                synced[place] = stamp
            elif chance.random() < 0.2:
                written = dict(newest)
                await wait(await exo.flush())
                synced.update(written)

    for seed in range(8):
        synced.clear()
        newest.clear()
        with machine(disk=Disk(512, drive=DRIVES[name])) as made:
            made.run(init, random.Random(seed).randrange(100_000, {"ideal": 1_000_000, "ssd": 20_000_000}.get(name, 10**9)))
            made.kernel.disk.power_cut(random.Random(seed))
            for place in range(8):
                data = made.disk.read(sector + 8 * place, 8)
                stamps = {int.from_bytes(data[at : at + 8], "little") for at in range(0, PAGE_SIZE, SECTOR_SIZE)}
                assert all(synced.get(place, 0) <= stamp <= newest.get(place, 0) for stamp in stamps)


def test_a_write_under_way_is_torn_by_a_power_cut() -> None:
    async def init() -> None:
        frame, sector = await exo.alloc_page(), await exo.alloc_sectors(8)
        await made.fill(frame, b"T" * PAGE_SIZE)
        made.disk.write(sector, b"O" * PAGE_SIZE)
        await exo.write_sectors(sector, 8, frame)
        await exo.block(Event.TIME, 0, await exo.time() + 10_000)
        made.kernel.disk.power_cut(chance)
        found.add(bytes(made.disk.read(sector, 8)[::SECTOR_SIZE]))

    found: set[bytes] = set()
    chance = random.Random(1)
    for _ in range(30):
        with machine(disk=Disk(64, drive=DRIVES["ssd"])) as made:
            made.run(init)
    assert len(found) > 5
    assert all(set(one) <= set(b"OT") for one in found)


def test_a_power_cut_tears_nothing_that_the_disk_may_not_move_any_more() -> None:
    """The borrower's write of a frame whose loan has ended does not arrive, not even in part."""

    async def init() -> None:
        frame, sector = await exo.alloc_page(), await exo.alloc_sectors(8)
        await made.fill(frame, b"S" * PAGE_SIZE)
        guest = await made.guest(
            f"exo write_sectors, {sector}, 8, {frame}, 0\n exo block, {{Event_WOKEN}}, 0, {{FOREVER}}\n exit 1", start=False
        )
        await exo.share_page(frame, guest.number, Sharing.LOAN, 3)
        await exo.share_sectors(sector, guest.number, Sharing.LOAN, 3)
        await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
        while not made.kernel.disk.busy:
            await exo.yield_()
        await exo.unshare_page(frame, guest.number)
        for seed in range(20):
            made.kernel.disk.power_cut(random.Random(seed))
            assert made.disk.read(sector, 8) == bytes(PAGE_SIZE)
        await exo.destroy(guest.number)

    with machine() as made:
        made.run(init)
