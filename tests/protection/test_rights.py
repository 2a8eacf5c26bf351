"""Attacks on who may do what: key rings, access lists, loans, holds, numbers, quotas."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import Event, Sharing, Subject
from exokernel.kernel import lifecycle
from exokernel.kernel.death import Cause
from tests.kernel.audit import audit
from tests.machine_kit import READ_WRITE, Machine, exo, machine
from tests.protection.attack import attack

PLACE = 0xA0_0000
TOUCH = (
    "again: mov rbx, 0xa00000\n mov rax, [rbx]\n note rax\n mov [rbx], r15\n"
    " exo block, {Event_WOKEN}, r12, {FOREVER}\n mov r12, rax\n jmp again"
)
"""Reads and writes the page at PLACE, then waits to be woken, for ever."""


async def refused(call: Awaitable[Any]) -> Error | None:
    try:
        await call
    except Refused as error:
        return error.error
    return None


async def settle() -> None:
    for _ in range(4):
        await exo.yield_()


def played(play: Callable[[Machine], Awaitable[None]], **options: Any) -> Machine:
    with machine(**options) as made:
        made.run(lambda: play(made))
        return made


@pytest.mark.parametrize("end", ["unshare", "dealloc", "destroy the lender", "lender exits"])
def test_a_loan_ends_with_its_lender(end: str) -> None:
    """The borrower has the page in its TLB when the loan ends; its next touch is a fault."""

    async def play(made: Machine) -> None:
        lender = await made.guest("exo block, {Event_WOKEN}, 0, {FOREVER}\n exit 0")
        borrower = await made.guest(TOUCH, start=False)
        frame = lender.frames[0x50_0000]
        if end == "unshare":
            await exo.share_page(frame, made.kernel.first_environment, Sharing.HOLD, 15)
        else:
            lend_from = made.environment(lender.number)
            made.kernel.frames.used[frame].loans[lend_from, made.environment(borrower.number)] = READ_WRITE
        if end == "unshare":
            await exo.share_page(frame, borrower.number, Sharing.LOAN, READ_WRITE)
        await exo.create_mapping(PLACE, frame, READ_WRITE, borrower.number)
        await exo.start(borrower.number, 0x40_0000, 0x70_1000, 0)
        await settle()
        assert made.notes(borrower, 2) != [0, 0] or made.words(frame)[0], "it did touch the page"
        if end == "unshare":
            await exo.unshare_page(frame, borrower.number)
        elif end == "dealloc":
            await exo.dealloc_page(frame, lender.number)
        elif end == "destroy the lender":
            await exo.destroy(lender.number)
        else:
            await exo.wake(lender.number)
            await made.end_of(lender)
        audit(made.kernel)
        await exo.wake(borrower.number)
        await made.end_of(borrower)
        death = made.death_of(borrower.number)
        assert death is not None
        assert death.cause is Cause.NO_FAULT_HANDLER
        assert death.where == PLACE
        if end != "destroy the lender":
            await refused(exo.destroy(lender.number))

    played(play)


def test_a_co_holder_keeps_the_frame_when_the_other_lets_go() -> None:
    async def play(made: Machine) -> None:
        first, second = await made.guest("exit 0", start=False), await made.guest(TOUCH, start=False)
        frame = first.frames[0x50_0000]
        await made.fill(frame, b"\x07" * 8)
        await exo.share_page(frame, second.number, Sharing.HOLD, 15)
        await exo.create_mapping(PLACE, frame, READ_WRITE, second.number)
        await exo.start(second.number, 0x40_0000, 0x70_1000, 0)
        await settle()
        await exo.dealloc_page(frame, first.number)
        assert 0x50_0000 not in {va for _, va in made.kernel.frames.used[frame].mappings}
        audit(made.kernel)
        await exo.wake(second.number)
        await settle()
        assert second.number in made.kernel.environments
        assert made.notes(second, 1)[0] == 0x0707070707070707
        for guest in (first, second):
            await exo.destroy(guest.number)

    played(play)


def test_who_lets_go_has_no_way_back_by_an_access_list_of_its_own() -> None:
    """It opened the frame to its own name while it held it; the other holder never saw that list."""

    async def play(made: Machine) -> None:
        first, second = await exo.create_environment(), await exo.create_environment()
        for number in (first, second):
            await exo.start_coroutine(number, run_for(number))
        await made.end_of(first)
        await made.end_of(second)
        assert found == [Error.DENIED]

    found: list[Error | None] = []
    numbers: list[int] = []

    async def run_for(number: int) -> None:
        numbers.append(number)
        await exo.yield_()
        if number != numbers[0]:
            await exo.block(Event.TIME, 0, 500_000)
            return
        frame = await exo.alloc_page()
        await exo.set_access(Subject.FRAME, frame, 0, 0, 15)
        kernel = holder.kernel
        kernel.frames.hold(kernel.environments[numbers[1]], kernel.frames.get(frame))
        await exo.create_mapping(PLACE, frame, 3)
        await exo.dealloc_page(frame)
        found.append(await refused(exo.create_mapping(PLACE, frame, 1)))
        audit(kernel)

    with machine() as holder:
        holder.run(lambda: play(holder))


def test_a_hold_cannot_be_forced_on_who_does_not_want_to_pay_for_it() -> None:
    """Otherwise anybody could fill another's quota."""
    result = attack(
        "exo share_page, {data_frame}, {victim}, 1, 15\n note rax\n"
        " exo share_page, {data_frame}, {victim}, 0, 3\n note rax\n exit 1"
    )
    assert result.error(0) is Error.DENIED
    assert result.error(1) is None


@pytest.mark.parametrize("slot", [1, 15, 16, 1 << 40])
def test_an_empty_slot_forges_nothing(slot: int) -> None:
    result = attack(
        f"mov rdi, {slot}\n exo forge_capability, rdi, 0, 15, 2\n note rax\n mov rsi, {slot}\n"
        f" exo give_capability, 0, rsi, 15, 3\n"
        "note rax\n exit 1"
    )
    assert [result.error(i) for i in (0, 1)] == [Error.BAD_ARGUMENT] * 2


@pytest.mark.parametrize("component", [0x1_0000, 0x1_0000 + 4097, (1 << 64) - 1])
def test_an_environments_name_is_not_forged(component: int) -> None:
    result = attack(
        f"mov rsi, {component}\n exo forge_capability, 0, rsi, 15, 2\n note rax\n exo destroy, {{victim}}\n"
        f" note rax\n exit 1"
    )
    assert result.error(0) is Error.BAD_ARGUMENT
    assert result.error(1) is Error.DENIED


def test_forging_never_adds_a_permission() -> None:
    made = attack(
        "exo forge_capability, 0, 1, 1, 2\n note rax\n exo forge_capability, 2, 1, 15, 3\n note rax\n"
        "exo set_access, {Subject_FRAME}, {data_frame}, 0, 3, 15\n note rax\n exit 1",
    )
    assert made.status == 1
    ring = made.machine.environment(made.guest.number).ring
    assert ring[2] is not None
    assert ring[3] is not None
    assert ring[2].permissions == ring[3].permissions == 1
    assert len(ring[3].name) == len(ring[2].name) + 1


def test_a_child_does_not_escape_its_creators_control() -> None:
    result = attack(
        "exo set_access, {Subject_ENVIRONMENT}, 0, 0, 0, 0\n note rax\n exo drop_capability, 0\n again: jmp again",
        prepare=_destroyer,
    )
    assert result.error(0) is Error.BAD_ARGUMENT
    assert result.cause is Cause.DESTROYED


async def _destroyer(made: Machine, guest: Any, victim: Any) -> None:
    async def wait_and_destroy() -> None:
        await exo.block(Event.TIME, 0, await exo.time() + 600_000)
        await exo.destroy(guest.number)

    other = await exo.create_environment()
    await exo.give_capability(other, 0, 15, 1)
    await exo.start_coroutine(other, wait_and_destroy())


def test_a_mapping_by_capability_ends_with_the_capability() -> None:
    async def play(made: Machine) -> None:
        frame = await exo.alloc_page()
        await exo.forge_capability(0, 7, 15, 2)
        await exo.set_access(Subject.FRAME, frame, 1, 2, 3)
        for how in ("another", "overwrite", "list"):
            guest = await made.guest(TOUCH, start=False)
            await exo.give_capability(guest.number, 2, 15, 5)
            await exo.create_mapping(PLACE, frame, READ_WRITE, guest.number)
            await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
            await settle()
            if how == "list":
                await exo.set_access(Subject.FRAME, frame, 1, 2, 0)
            elif how == "overwrite":
                await exo.give_capability(guest.number, 2, 0, 5)
            else:
                await exo.forge_capability(0, 8, 15, 3)
                await exo.give_capability(guest.number, 3, 15, 5)
            audit(made.kernel)
            await exo.wake(guest.number)
            await made.end_of(guest)
            death = made.death_of(guest.number)
            assert death is not None
            assert death.where == PLACE, how

    played(play)


def test_numbers_are_never_used_again() -> None:
    async def play(made: Machine) -> None:
        seen = set()
        for _ in range(300):
            number = await exo.create_environment(5)
            assert number not in seen
            seen.add(number)
            await exo.destroy(number)
            for call in (exo.destroy, exo.wake, exo.yield_):
                assert await refused(call(number)) is Error.NO_SUCH_ENVIRONMENT

    played(play)


def test_when_the_numbers_are_used_up_no_environment_is_made() -> None:
    """They have 32 bits in the exposed pages; one more would be taken for another's."""
    assert lifecycle.LAST_GENERATION * 4096 + 4095 < 0xFFFF_FFFF

    async def play(made: Machine) -> None:
        made.kernel._generation = lifecycle.LAST_GENERATION - 1
        last = await exo.create_environment()
        assert last < 0xFFFF_FFFF
        audit(made.kernel)
        assert await refused(exo.create_environment()) is Error.TOO_MANY
        await exo.destroy(last)

    played(play)


def test_a_childs_quota_is_not_more_than_its_parents() -> None:
    result = attack(
        "exo create_environment, {ANY}\n note rax\n mov rbx, rax\n exo set_quota, rbx, 41, 0\n note rax\n"
        " exo set_quota, 0, 1000, 0\n"
        "note rax\n exo set_quota, rbx, 40, 41\n note rax\n exo create_environment, 0\n note rax\n"
        " exo destroy, rbx\n exit 1",
        quota=40,
    )
    assert result.machine.environment(result.notes[0]).quota == 40
    assert [result.error(i) for i in range(1, 5)] == [Error.BAD_ARGUMENT] * 4


def test_a_batch_makes_no_call_that_single_calls_would_not() -> None:
    """Every slot refused, and the results stored where they belong."""
    result = attack(
        """
        mov rbx, {DATA}
        mov rax, 0x45580012
        mov [rbx], rax
        mov rax, {FREE}
        mov [rbx + 8], rax
        mov rax, {victim_frame}
        mov [rbx + 16], rax
        mov qword ptr [rbx + 24], 3
        mov rax, 0x45580003
        mov [rbx + 64], rax
        mov rax, 0x45580035
        mov [rbx + 128], rax
        mov rax, 0x45580021
        mov [rbx + 192], rax
        mov rax, 0x45580039
        mov [rbx + 256], rax
        mov rax, 0x45580037
        mov [rbx + 320], rax
        mov rax, 60
        mov [rbx + 384], rax
        exo batch, {DATA}, 7
        note rax
        note [rbx + 56]
        note [rbx + 120]
        note [rbx + 184]
        note [rbx + 248]
        note [rbx + 312]
        note [rbx + 376]
        note [rbx + 440]
        exo batch, {DATA}, 65
        note rax
        exo batch, {CODE}, 1
        note 0
        exit 1
        """
    )
    assert result.notes[0] == 7
    assert result.error(1) is Error.DENIED
    assert [result.error(i) for i in (2, 3, 4, 5, 7)] == [Error.NO_SUCH_CALL] * 5
    assert result.error(6) is Error.ONLY_PYTHON
    assert result.error(8) is Error.BAD_ARGUMENT
    assert result.cause is Cause.NO_FAULT_HANDLER, "a batch in read-only memory is a fault"


def test_a_batch_may_unmap_itself() -> None:
    result = attack(
        "exo alloc_page, {ANY}, 0\n mov r12, rax\n mov rbx, {FREE}\n exo create_mapping, rbx, r12, 3, 0\n"
        " mov rax, 0x45580011\n"
        "mov [rbx], rax\n mov [rbx + 8], r12\n mov rax, 0x45580000\n mov [rbx + 64], rax\n exo batch, rbx, 2\n"
        " note rax\n exit 1"
    )
    assert result.status == 1
    assert result.notes[0] == 0


def test_frames_of_an_ended_environment_are_free_for_anybody() -> None:
    result = attack(
        "exo alloc_page, {ANY}, 0\n exo create_mapping, {FREE}, rax, 3, 0\n exo create_environment, 20\n exit 1"
    )
    assert result.status == 1


def test_who_lets_go_loses_its_own_mappings_even_if_it_controls_another_holder() -> None:
    """Letting go means letting go: control of the other holder is a right to map the frame again, not to keep a mapping."""

    async def play(made: Machine) -> None:
        child, frame = await exo.create_environment(), await exo.alloc_page()
        await exo.share_page(frame, child, Sharing.HOLD, 15)
        await exo.create_mapping(PLACE, frame, READ_WRITE)
        await exo.create_mapping(PLACE, frame, READ_WRITE, child)
        await exo.dealloc_page(frame)
        assert [who.number for who, _ in made.kernel.frames.used[frame].mappings] == [child]
        assert await refused(exo.remove_mapping(PLACE)) is Error.NOT_MAPPED
        await exo.create_mapping(PLACE, frame, READ_WRITE)
        await exo.destroy(child)
        assert await refused(exo.remove_mapping(PLACE)) is Error.NOT_MAPPED

    played(play)
