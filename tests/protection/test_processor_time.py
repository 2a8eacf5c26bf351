"""Attacks on the processor: keeping it from others by yielding, waking, asking, charging or waiting."""

import pytest

from exokernel.abi.flags import Event
from tests.machine_kit import Guest, exo, machine

COUNTING = "count: inc qword ptr [r15]\n jmp count"
LONG = 4_000_000


def share_of_the_counter(attackers: list[str], *, quantum: int = 10_000, cycles: int = LONG) -> float:
    """Part of the time that a counting program gets beside attackers, who know each other as {first} and {second}."""
    with machine(quantum=quantum) as made:
        guests: list[Guest] = []

        async def init() -> None:
            numbers = [await exo.create_environment() for _ in attackers]
            names = {"first": numbers[0], "second": numbers[-1]}
            guests.append(await made.guest(COUNTING))
            for number, source in zip(numbers, attackers, strict=True):
                await made.guest(source, environment=number, **names)
            await exo.block(Event.TIME, 0, cycles)
            guests.extend(Guest(number, 0) for number in numbers)
            for guest in guests:
                await exo.destroy(guest.number)

        made.run(init, 50 * cycles)
        counted = made.environment(guests[0].number).accounts.instructions
        return counted / cycles


HANDLES = "exo set_upcall, {Upcall_EVENT}, &handler, 0\n exo set_upcall, {Upcall_PLEASE_RELEASE_PAGE}, &handler, 0\n"
HANDLER = "\nhandler: mov rax, {ACTIVE}\n mov qword ptr [rax], 0\n pop rdx\n pop rsi\n pop rdi\n iretq"

ATTACKS = {
    "two that yield to each other": ["again: exo yield, {second}\n jmp again", "again: exo yield, {first}\n jmp again"],
    "two that wake each other": [
        HANDLES + "again: exo wake, {second}\n exo yield, 0\n jmp again" + HANDLER,
        HANDLES + "again: exo wake, {first}\n exo yield, 0\n jmp again" + HANDLER,
    ],
    "two that wake each other and block": [
        HANDLES + "again: exo wake, {second}\n mov r12, 8000\n w: dec r12\n jnz w\n exo block, 1, rbx, {FOREVER}\n"
        " mov rbx, rax\n jmp again" + HANDLER,
        HANDLES + "again: exo wake, {first}\n mov r12, 8000\n w: dec r12\n jnz w\n exo block, 1, rbx, {FOREVER}\n"
        " mov rbx, rax\n jmp again" + HANDLER,
    ],
    "two that ask each other for a frame": [
        HANDLES + "mov rbx, 400\n again: exo alloc_page, rbx, 0\n inc rbx\n and rbx, 511\n jmp again" + HANDLER,
        HANDLES + "mov rbx, 400\n again: exo alloc_page, rbx, 0\n inc rbx\n and rbx, 511\n jmp again" + HANDLER,
    ],
    "one that charges itself more than its slice": ["again: exo charge, 0x10000000\n jmp again"],
    "one that computes": ["again: jmp again"],
    "one that faults": [
        "exo set_upcall, 0, &handler, 0\n mov rbx, 16\n mov rax, [rbx]\n handler: mov rsp, {STACK_TOP}\n"
        " mov rbx, 16\n mov rax, [rbx]"
    ],
    "one that waits for the very next cycle": [
        "again: exo time\n lea rdx, [rax + 1]\n exo block, {Event_TIME}, 0, rdx\n jmp again"
    ],
    "one that is always in a critical section": ["mov rax, 1\n mov [{CRITICAL}], rax\n again: exo yield, 0\n jmp again"],
}


@pytest.mark.parametrize("name", ATTACKS)
def test_nobody_keeps_the_processor_from_the_rest(name: str) -> None:
    attackers = ATTACKS[name]
    fair = 1 / (len(attackers) + 1)
    assert share_of_the_counter(attackers) > fair / 2


def test_a_directed_yield_gives_the_rest_of_the_slice_and_no_more() -> None:
    with machine(quantum=10_000) as made:
        order: list[tuple[int, int]] = []

        async def init() -> None:
            other = await made.guest("again: jmp again", start=False)
            third = await made.guest(COUNTING, start=False)
            giver = await made.guest(f"again: exo yield, {other.number}\n jmp again", start=False)
            for guest in (giver, other, third):
                await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
            await exo.block(Event.TIME, 0, 1_000_000)
            used = [made.environment(guest.number).accounts.instructions for guest in (other, third)]
            order.append((used[0], used[1]))
            for guest in (giver, other, third):
                await exo.destroy(guest.number)

        made.run(init)
        other, third = order[0]
        assert 1.5 * third < other < 2.5 * third, "its own slices and those it is given"


def test_a_budget_ends_at_exactly_its_instruction() -> None:
    """Two counters that do nothing else have run the same number of instructions to the last one, slice after slice."""
    with machine(quantum=1_000) as made:
        counted: list[int] = []

        async def init() -> None:
            guests = [await made.guest(COUNTING, start=False) for _ in range(2)]
            for guest in guests:
                await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
            await exo.block(Event.TIME, 0, 500_000)
            counted.extend(made.environment(guest.number).accounts.instructions for guest in guests)
            for guest in guests:
                await exo.destroy(guest.number)

        made.run(init)
        assert abs(counted[0] - counted[1]) <= 1_000
        assert min(counted) > 100_000


def test_a_clock_at_the_end_of_time_harms_nobody() -> None:
    """A deadline in the far future is never waited for, and no charge moves the clock beyond 64 bits."""
    with machine() as made:
        ended: list[int] = []

        async def init() -> None:
            guest = await made.guest(
                "mov rdx, 0x3fffffffffffffff\n exo block, {Event_TIME}, 0, rdx\n mov rdi, 0xffffffff\n"
                " exo charge, rdi\n exo time\n"
                "note rax\n mov rdx, -2\n exo block, {Event_TIME}, 0, rdx\n exit 1"
            )
            ended.append(await made.end_of(guest))
            ended.append(made.notes(guest, 1)[0])

        made.run(init)
        assert ended[0] == 128, "it waited for what can never happen"
        assert 1 << 61 < ended[1] < 1 << 63


def test_delivering_a_handler_just_before_a_deadline_leaves_no_empty_budget() -> None:
    """Delivering takes cycles; where they reach beyond the next timed event, that comes first."""
    with machine(quantum=3_000) as made:
        late: list[int] = []

        async def init() -> None:
            guest = await made.guest(HANDLES + "again: exo wake, 0\n jmp again" + HANDLER)
            for offset in range(200):
                deadline = await exo.time() + 2_000 + offset
                await exo.block(Event.TIME, 0, deadline)
                late.append(await exo.time() - deadline)
            await exo.destroy(guest.number)

        made.run(init, 20 * LONG)
        assert len(late) == 200
