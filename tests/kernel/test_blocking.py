"""Blocking: what ends a wait, what it returns, and that nothing is missed between looking and blocking."""

import pytest

from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import FOREVER, Event
from exokernel.kernel.death import Cause
from tests.machine_kit import exo, machine


def native_waits(wait: str, after: int = 0, wakes: int = 1) -> list[int]:
    """A guest that waits and notes what came and when; it is woken `wakes` times, `after` cycles from the start."""
    notes: list[int] = []
    with machine() as made:

        async def init() -> None:
            guest = await made.guest(f"{wait}\n note rax\n exo time\n note rax\n exit 1")
            await exo.block(Event.TIME, 0, await exo.time() + after)
            for _ in range(wakes):
                if guest.number in made.kernel.environments:
                    await exo.wake(guest.number)
            await made.end_of(guest)
            notes.extend(made.notes(guest, 2))

        made.run(init)
    return notes


def test_a_wait_for_time_ends_at_that_cycle() -> None:
    answer, now = native_waits("mov rdx, 500000\n exo block, {Event_TIME}, 0, rdx", wakes=0)
    assert answer == 0
    assert 500_000 <= now < 501_000


def test_a_wait_for_time_that_has_passed_returns_at_once() -> None:
    answer, now = native_waits("mov rdx, 5\n exo block, {Event_TIME}, 0, rdx", wakes=0)
    assert answer == 0
    assert now < 50_000


def test_a_wait_to_be_woken_returns_the_counter() -> None:
    answer, now = native_waits("exo block, {Event_WOKEN}, 0, {FOREVER}", after=300_000)
    assert answer == 1
    assert now >= 300_000


def test_a_wake_before_the_block_is_not_lost() -> None:
    answer, _ = native_waits(
        "mov rcx, 400000\n w: dec rcx\n jnz w\n exo block, {Event_WOKEN}, 0, {FOREVER}", after=10_000, wakes=3
    )
    assert answer == 3


def test_a_wait_ends_late_with_an_error() -> None:
    answer, now = native_waits("mov rdx, 600000\n exo block, {Event_WOKEN}, 0, rdx", wakes=0)
    assert answer == (1 << 64) - Error.TIMED_OUT
    assert 600_000 <= now < 601_000


def test_a_stale_deadline_does_not_end_the_next_wait() -> None:
    answer, now = native_waits(
        "mov rdx, 400000\n exo block, {Event_WOKEN}, 0, rdx\n mov rdx, 700000\n exo block, {Event_WOKEN}, 1, rdx",
        after=100_000,
    )
    assert answer == (1 << 64) - Error.TIMED_OUT
    assert now >= 700_000


def test_a_disk_request_is_waited_for_once_and_gives_its_status() -> None:
    with machine() as made:
        seen: list[object] = []

        async def init() -> None:
            frame, sector = await exo.alloc_page(), await exo.alloc_sectors(8)
            request = await exo.write_sectors(sector, 8, frame)
            seen.append(await exo.block(Event.DISK, request))
            with pytest.raises(Refused) as refused:
                await exo.block(Event.DISK, request)
            seen.append(refused.value.error)
            early = await exo.read_sectors(sector, 8, frame)
            await exo.block(Event.TIME, 0, await exo.time() + 1_000_000)
            seen.append(await exo.block(Event.DISK, early))
            flush = await exo.flush()
            seen.append(await exo.block(Event.DISK, flush))

        made.run(init)
        assert seen == [0, Error.NO_SUCH_REQUEST, 0, 0]


def test_a_flush_ends_after_every_write_before_it() -> None:
    with machine() as made:
        ends: list[int] = []

        async def init() -> None:
            frame, sector = await exo.alloc_page(), await exo.alloc_sectors(8)
            await made.fill(frame, b"W" * 4096)
            for _ in range(5):
                await exo.write_sectors(sector, 8, frame)
            await exo.block(Event.DISK, await exo.flush())
            ends.append(int(made.disk.read(sector, 8) == b"W" * 4096))
            ends.append(len(made.kernel.disk.queue))

        made.run(init)
        assert ends == [1, 0]


def test_any_childs_end_is_counted() -> None:
    with machine() as made:
        counted: list[int] = []

        async def init() -> None:
            seen = 0
            for _ in range(3):
                await made.guest("exit 1")
                seen = await exo.block(Event.CHILD, seen)
                counted.append(seen)

        made.run(init)
        assert counted == [1, 2, 3]


def test_two_contexts_of_one_environment_wait_for_different_things() -> None:
    order: list[str] = []

    class Library:
        async def event(self, context: int, event: int, value: int, status: int) -> None:
            order.append(Event(event).name)
            await exo.block(Event.TIME, 0, await exo.time() + 100_000)
            order.append("handler over")

    with machine() as made:

        async def program() -> None:
            frame, sector = await exo.alloc_page(), await exo.alloc_sectors(8)
            await exo.write_sectors(sector, 8, frame)
            await exo.block(Event.WOKEN, 0, FOREVER)
            order.append("program woken")
            await exo.block(Event.TIME, 0, await exo.time() + 500_000)

        async def init() -> None:
            other = await exo.create_environment()
            await exo.set_library(other, Library())
            await exo.start_coroutine(other, program())
            await exo.block(Event.TIME, 0, await exo.time() + 90_000)
            await exo.wake(other)
            await exo.block(Event.EXIT, other)

        made.run(init)
        assert order == ["DISK", "program woken", "handler over"]


def test_who_waits_for_what_can_never_happen_is_ended_and_the_report_says_for_what() -> None:
    with machine() as made:

        async def init() -> None:
            guest = await made.guest("exo block, {Event_WOKEN}, 0, {FOREVER}\n exit 0")
            await exo.block(Event.EXIT, guest.number)

        made.run(init)
        first = made.kernel.deaths[0]
        assert first.cause is Cause.DEADLOCK
        assert first.detail == "context 0 waits for somebody to wake it"
        assert len(made.kernel.deaths) == 1, "its parent was told, and went on"


def test_deadlines_of_waits_that_are_over_do_not_pile_up_nor_make_the_clock_jump() -> None:
    with machine() as made:

        async def init() -> None:
            child = await made.guest(
                "mov r12, 5000\n mov rbx, 0\n again: exo wake, 0\n mov rdx, 0x1000000000000000\n"
                "exo block, {Event_WOKEN}, rbx, rdx\n mov rbx, rax\n dec r12\n jnz again\n exit 1"
            )
            await exo.block(Event.EXIT, child.number)
            await exo.block(Event.WOKEN, 0)

        made.run(init)
        assert len(made.kernel.clock) < 3_000
        assert made.kernel.clock.now < 1 << 40
        assert [death.cause for death in made.kernel.deaths] == [Cause.DEADLOCK]


def test_a_flood_of_events_that_nobody_takes_is_bounded() -> None:
    source = """
    exo set_upcall, {Upcall_EVENT}, &handler, 0
    mov rax, {CRITICAL}
    mov qword ptr [rax], 1
    mov r12, 600
    again: exo create_environment, 8
    mov rbx, rax
    exo destroy, rbx
    dec r12
    jnz again
    exit 1
    handler: hlt
    """
    with machine() as made:
        most: list[int] = []

        async def init() -> None:
            guest = await made.guest(source)
            while guest.number in made.kernel.environments:
                most.append(len(made.environment(guest.number).pending))
                await exo.yield_()
            assert await made.end_of(guest) == 1

        made.run(init)
        assert 0 < max(most) <= 128


def test_the_youngest_is_ended_when_nothing_can_happen_and_its_parent_is_told() -> None:
    with machine() as made:

        async def init() -> None:
            child = await made.guest("exo set_upcall, {Upcall_CALL}, &entry, 0\n exo serve\n entry: hlt")
            assert await made.end_of(child) == 128

        made.run(init)
        assert len(made.kernel.deaths) == 1
        assert made.kernel.deaths[0].environment != made.kernel.first_environment


def test_a_run_until_a_cycle_does_not_go_beyond_it_when_everybody_sleeps() -> None:
    with machine() as made:

        async def init() -> None:
            await exo.block(Event.TIME, 0, 1_000_000_000)

        made.kernel.boot_coroutine(init)
        made.kernel.run(1_000)
        assert made.kernel.clock.now == 1_000


def test_a_method_of_a_library_that_is_not_async_ends_its_environment_with_a_sentence() -> None:
    class Wrong:
        def page_fault(self, context: int, va: int, access: int) -> None:
            return None

    with machine() as made:

        async def init() -> None:
            guest = await made.guest("mov rax, [0x10]", start=False)
            await exo.set_library(guest.number, Wrong())
            await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
            assert await made.end_of(guest) == 128
            death = made.death_of(guest.number)
            assert death is not None
            assert "not an async method" in death.detail

        made.run(init)
