"""However an environment ends, everything it had goes back, and whoever waits for it is told."""

from typing import Any

import pytest

from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import Event, Sharing
from exokernel.kernel.death import Cause
from exokernel.kernel.kernel import Outcome
from tests.kernel.audit import audit
from tests.machine_kit import Machine, exo, machine

BUSY = """
exo alloc_sectors, 16, {ANY}
mov r13, rax
exo alloc_page, {ANY}, 0
mov r12, rax
mov rbx, 0x600000000000
exo create_mapping, rbx, r12, 3, 0
exo write_sectors, r13, 8, r12, 0
exo read_sectors, r13, 8, r12, 0
exo reserve_page, r12, 1, 0
exo set_backing, r12, r13, 0
exo create_environment, 20
exo share_page, r12, rax, 0, 1
exo set_upcall, {Upcall_EVENT}, &handler, 0
exo wake, 0
"""
HANDLER = """
handler: mov rdx, {ACTIVE}
mov qword ptr [rdx], 0
pop rdx
pop rsi
pop rdi
iretq
"""
ENDS: dict[str, tuple[str, int, Cause | None]] = {
    "exit": ("exit 7", 7, None),
    "exit with a large status": ("mov rdi, 0x1234567\n exit rdi", 0x67, None),
    "destroying itself": ("exo destroy, 0", 0, None),
    "a fault": ("mov rax, [0x10]", 128, Cause.NO_FAULT_HANDLER),
    "a privileged instruction": ("hlt", 128, Cause.PRIVILEGED),
    "an exception": ("ud2", 128, Cause.NO_TRAP_HANDLER),
    "a foreign call": ("mov eax, 1\n syscall", 128, Cause.FOREIGN_CALL),
    "an interrupt": ("int3", 128, Cause.INTERRUPT),
    "its stack": (
        "exo set_upcall_stack, 0x1000, 4096, 0, 0\n exo set_upcall, 0, &handler, 0\n mov rax, [0x10]",
        128,
        Cause.UPCALL_STACK,
    ),
    "being destroyed": ("exo block, {Event_WOKEN}, 9, 900000\n again: jmp again", 128, Cause.DESTROYED),
    "waiting for ever": ("exo block, {Event_TIME}, 0, {FOREVER}", 128, Cause.DEADLOCK),
}


@pytest.mark.parametrize("name", ENDS)
def test_everything_goes_back_whatever_the_end(name: str) -> None:
    source, status, cause = ENDS[name]
    with machine() as made:
        seen: list[Any] = []

        async def init() -> None:
            guest = await made.guest(BUSY + source + HANDLER)
            if cause is Cause.DESTROYED:
                await exo.block(Event.TIME, 0, await exo.time() + 1_000_000)
                await exo.destroy(guest.number)
            if cause is Cause.DEADLOCK:
                seen.append(guest.number)
                return
            seen.append(await made.end_of(guest))
            assert await made.end_of(guest) == seen[0], "it can be asked again"
            audit(made.kernel)
            with pytest.raises(Refused) as refused:
                await exo.yield_(guest.number)
            assert refused.value.error is Error.NO_SUCH_ENVIRONMENT
            death = made.death_of(guest.number)
            assert (death.cause if death else None) is cause

        assert made.run(init, 100_000_000) is Outcome.ALL_ENDED
        if cause is Cause.DEADLOCK:
            death = made.death_of(seen[0])
            assert death is not None
            assert death.cause is cause
        else:
            assert seen == [status]
        assert len(made.kernel.frames.free) == made.free_at_start
        assert not made.kernel.frames.used
        assert not made.kernel.disk._extents
        assert not made.kernel.disk.busy


def test_a_coroutine_that_raises_ends_its_environment_alone() -> None:
    with machine() as made:

        async def raises(kind: int) -> None:
            await exo.alloc_page()
            try:
                if kind == 0:
                    raise ZeroDivisionError
                if kind == 1:
                    raise SystemExit(3)
                await exo.block(Event.WOKEN, 0)
            finally:
                if kind == 2:
                    raise KeyError("in its last words")

        async def init() -> None:
            for kind in range(3):
                other = await exo.create_environment()
                await exo.start_coroutine(other, raises(kind))
                await exo.yield_()
                if kind == 2:
                    await exo.destroy(other)
                assert await exo.block(Event.EXIT, other) == 128
                death = made.death_of(other)
                assert death is not None
                assert death.cause is (Cause.DESTROYED if kind == 2 else Cause.RAISED)

        made.run(init)


def test_a_library_whose_handler_cannot_even_be_called_ends_its_environment() -> None:
    class Library:
        async def page_fault(self) -> None: ...

    class NotAsync:
        def page_fault(self, *_: int) -> int:
            return 5

    with machine() as made:

        async def faults() -> None:
            await exo.read(0x1234_5000, 1)

        async def init() -> None:
            for library in (Library(), NotAsync()):
                other = await exo.create_environment()
                await exo.set_library(other, library)
                await exo.start_coroutine(other, faults())
                assert await exo.block(Event.EXIT, other) == 128
                death = made.death_of(other)
                assert death is not None
                assert death.cause is Cause.RAISED

        made.run(init)
        assert made.kernel.environments == {}


def test_a_coroutine_that_never_awaits_is_ended_by_the_watchdog() -> None:
    with machine(watchdog_seconds=0.1) as made:

        async def hangs() -> None:
            await exo.alloc_page()
            while True:
                pass

        async def init() -> None:
            other = await exo.create_environment()
            await exo.start_coroutine(other, hangs())
            assert await exo.block(Event.EXIT, other) == 128
            death = made.death_of(other)
            assert death is not None
            assert death.cause is Cause.WATCHDOG

        made.run(init)
        assert len(made.kernel.frames.free) == made.free_at_start


def test_a_coroutine_that_awaits_something_else_is_ended() -> None:
    import types

    @types.coroutine
    def strange() -> Any:
        yield "not a trap"

    with machine() as made:

        async def odd() -> None:
            await strange()

        async def init() -> None:
            other = await exo.create_environment()
            await exo.start_coroutine(other, odd())
            assert await exo.block(Event.EXIT, other) == 128
            death = made.death_of(other)
            assert death is not None
            assert death.cause is Cause.BAD_AWAIT

        made.run(init)


def test_a_co_held_frame_outlives_one_of_its_holders() -> None:
    async def play(made: Machine) -> None:
        first, second = await exo.create_environment(), await exo.create_environment()
        frame = await exo.alloc_page(env=first)
        await exo.share_page(frame, second, Sharing.HOLD, 15)
        await exo.destroy(first)
        assert made.kernel.frames.used[frame].holders == [made.kernel.environments[second]]
        audit(made.kernel)
        await exo.destroy(second)
        assert frame in made.kernel.frames.free

    with machine() as made:
        made.run(lambda: play(made))


def test_no_loan_is_left_of_a_borrower_that_has_ended() -> None:
    async def play(made: Machine) -> None:
        borrower, frame, sector = await exo.create_environment(), await exo.alloc_page(), await exo.alloc_sectors(8)
        await exo.share_page(frame, borrower, Sharing.LOAN, 3)
        await exo.share_sectors(sector, borrower, Sharing.LOAN, 3)
        await exo.destroy(borrower)
        assert not made.kernel.frames.used[frame].loans
        assert not made.kernel.disk.extent(sector).loans

    with machine() as made:
        made.run(lambda: play(made))
