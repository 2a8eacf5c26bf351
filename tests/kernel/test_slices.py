"""Slices: owned by position, given up, asked for, taken by force, and paid for."""

from typing import Any

import pytest

from exokernel.abi import layout, pages
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import Event
from exokernel.kernel.death import Cause
from exokernel.kernel.environment import Environment
from exokernel.machine.context import Register
from exokernel.machine.costs import FAULT_CROSSING, FULL_STATE_WORDS
from tests.machine_kit import Guest, Machine, exo, machine, run

QUANTUM = 10_000
DEADLINE = 2_000
HANDLES = "exo set_upcall, {Upcall_PLEASE_RELEASE_CPU}, &release, 0\n exo set_upcall, {Upcall_RESUME_CPU}, &resume, 0\n"
SPIN = "spin: inc rbx\n jmp spin\n"
COMPLIES = """
release: inc r12
push rbx
mov rax, {DATA}
mov qword ptr [rax], rsp
mov rax, {CRITICAL}
mov qword ptr [rax], 1
exo yield, 0
hlt
resume: mov rax, {DATA}
mov rsp, qword ptr [rax]
mov r15, {NOTES}
mov qword ptr [r15 + 64], rdi
mov qword ptr [r15 + 72], rdx
inc qword ptr [r15 + 80]
mov rax, {CRITICAL}
mov qword ptr [rax], 0
mov rax, {ACTIVE}
mov qword ptr [rax], 0
pop rbx
pop rdi
mov qword ptr [r15], rbx
iretq
"""
"""Saves rbx, the only register it uses, and the place of the up-call frame; everything else is gone when it comes back."""


def register(environment: Environment, which: Register) -> int:
    """Of context 0, which is machine code."""
    machine = environment.contexts[0].machine
    assert machine is not None
    return machine.words[which]


async def forever() -> None:
    """While `init` lives, so do the notes it has lent."""
    await exo.block(Event.TIME, 0, 1 << 40)


async def two(made: Machine, first: str, second: str = SPIN, **names: int) -> tuple[Guest, Guest]:
    return await made.guest(first, **names), await made.guest(second, **names)


def test_one_that_handles_the_request_keeps_what_it_saved_and_nothing_else() -> None:
    with machine(quantum=QUANTUM, cpu_release_deadline=DEADLINE) as made:
        guests: list[Guest] = []

        async def init() -> None:
            guests.extend(await two(made, HANDLES + SPIN + COMPLIES))
            await forever()

        made.run(init, 30 * QUANTUM)
        notes = made.notes(guests[0], 11)
        counted, reason, context, resumed = notes[0], notes[8], notes[9], notes[10]
        assert resumed >= 10, "it was asked and came back"
        assert (reason, context) == (1, 0)
        environment = made.environment(guests[0].number)
        assert environment.accounts.overruns == 0
        assert register(environment, Register.R12) < resumed, "r12 was not saved, so it starts again from nothing"
        assert counted > 2 * QUANTUM, "rbx was saved"
        other = made.environment(guests[1].number)
        assert abs(environment.accounts.instructions - other.accounts.instructions) < 3 * QUANTUM


def test_the_registers_of_one_that_does_not_handle_it_are_saved_and_charged() -> None:
    with machine(quantum=QUANTUM) as made:
        guests: list[Guest] = []

        async def init() -> None:
            guests.extend(await two(made, SPIN))
            await forever()

        made.run(init, 40 * QUANTUM)
        for guest in guests:
            accounts = made.environment(guest.number).accounts
            assert accounts.kernel_cycles >= 15 * FULL_STATE_WORDS
            assert register(made.environment(guest.number), Register.RBX) > QUANTUM


def test_who_runs_alone_and_handles_nothing_is_not_charged_for_saving() -> None:
    with machine(quantum=QUANTUM) as made:
        guests: list[Guest] = []

        async def init() -> None:
            guests.append(await made.guest(SPIN))
            await forever()

        made.run(init, 20 * QUANTUM)
        accounts = made.environment(guests[0].number).accounts
        assert accounts.kernel_cycles < 20 * FAULT_CROSSING + FULL_STATE_WORDS


def test_who_handles_it_is_asked_also_when_alone_because_it_may_have_threads_that_wait() -> None:
    with machine(quantum=QUANTUM) as made:
        guests: list[Guest] = []

        async def init() -> None:
            guests.append(await made.guest(HANDLES + SPIN + COMPLIES))
            await forever()

        made.run(init, 20 * QUANTUM)
        assert made.environment(guests[0].number).accounts.upcalls > 15


def test_under_a_policy_that_forces_nobody_is_asked() -> None:
    with machine(quantum=QUANTUM, cpu_policy="forced-round-robin") as made:
        guests: list[Guest] = []

        async def init() -> None:
            guests.extend(await two(made, HANDLES + SPIN + COMPLIES))
            await forever()

        made.run(init, 40 * QUANTUM)
        environment = made.environment(guests[0].number)
        assert environment.accounts.upcalls == 0
        assert register(environment, Register.RBX) > 4 * QUANTUM, "it goes on"


IGNORES = (
    HANDLES
    + SPIN
    + "release: inc qword ptr [r15]\n mov rax, {ACTIVE}\n mov qword ptr [rax], 0\n pop rdi\n iretq\n resume: hlt\n"
)


def test_one_that_lets_the_deadline_pass_is_preempted_keeps_its_state_pays_and_is_ended_at_last() -> None:
    allowed = 4
    with machine(quantum=QUANTUM, cpu_release_deadline=DEADLINE, overruns_allowed=allowed) as made:
        slices: list[tuple[int, int, int]] = []
        guests: list[Guest] = []
        end_slice = made.kernel.end_slice

        def ended(processor: Any, how: Any) -> None:
            environment = processor.owner
            slices.append((environment.number, made.kernel.clock.now - processor.began, environment.overruns))
            end_slice(processor, how)

        made.kernel.end_slice = ended  # type: ignore[method-assign]

        async def init() -> None:
            guests.extend(await two(made, IGNORES))
            await made.end_of(guests[0])

        made.run(init, 60 * QUANTUM)
        death = made.death_of(guests[0].number)
        assert death is not None
        assert death.cause is Cause.OVERRUN
        assert made.notes(guests[0], 1) == [allowed + 1]
        mine = [length for number, length, _ in slices if number == guests[0].number]
        assert len(mine) == allowed + 1
        assert QUANTUM + DEADLINE <= mine[0] < QUANTUM + DEADLINE + 1000
        for length in mine[1:]:
            assert QUANTUM - 1000 <= length < QUANTUM + 1000, "what it had too much is taken off the next slice"
        assert guests[1].number in made.kernel.environments, "the other is unharmed"


def test_a_request_inside_a_critical_section_is_honoured_when_it_is_left() -> None:
    """The counter holds the up-call back; the word says by when; the section ends by a yield."""
    section = """
    work: mov rax, {CRITICAL}
    mov qword ptr [rax], 1
    mov rcx, 900
    inside: dec rcx
    jnz inside
    mov rax, {CRITICAL}
    mov qword ptr [rax], 0
    mov rbx, {CPU_WANTED}
    mov rbx, qword ptr [rbx]
    test rbx, rbx
    jz work
    inc qword ptr [r15]
    mov qword ptr [r15 + 8], rbx
    exo yield, 0
    jmp work
    """
    source = "exo set_upcall, {Upcall_PLEASE_RELEASE_CPU}, &release, 0\n" + section
    source += (
        "release: inc qword ptr [r15 + 16]\n mov rax, {ACTIVE}\n mov qword ptr [rax], 0\n exo yield, 0\n pop rdi\n iretq\n"
    )
    with machine(quantum=QUANTUM, cpu_release_deadline=DEADLINE) as made:
        guests: list[Guest] = []

        async def init() -> None:
            guests.extend(await two(made, source))
            await forever()

        made.run(init, 60 * QUANTUM)
        by_counter, wanted, by_upcall = made.notes(guests[0], 3)
        assert by_counter + by_upcall >= 25
        assert by_counter > 20, "nearly all of its time is inside sections"
        assert 0 < wanted < 61 * QUANTUM
        assert made.environment(guests[0].number).accounts.overruns == 0


def test_the_grace_it_used_is_taken_off_the_next_slice_of_one_that_complies() -> None:
    slow = HANDLES + SPIN + COMPLIES.replace("release: inc r12", "release: mov rcx, 500\n wait: dec rcx\n jnz wait")
    with machine(quantum=QUANTUM, cpu_release_deadline=DEADLINE) as made:
        guests: list[Guest] = []

        async def init() -> None:
            guests.extend(await two(made, slow))
            await forever()

        made.run(init, 400 * QUANTUM)
        mine, other = (made.environment(guest.number).accounts.cycles for guest in guests)
        assert abs(mine - other) < 0.03 * mine, (mine, other)


def test_a_slice_by_position_is_run_when_its_position_comes() -> None:
    """A quarter of the vector is one environment's: it has that quarter, and its turn of the rest."""
    with machine(quantum=QUANTUM) as made:
        guests: list[Guest] = []

        async def init() -> None:
            guests.extend(await two(made, SPIN))
            guests.append(await made.guest(SPIN))
            for position in range(0, layout.SLICES, 4):
                assert await exo.alloc_slice(0, position, guests[0].number) == position

        made.run(init, 2 * layout.SLICES * QUANTUM)
        first, second, third = (made.environment(guest.number).accounts.cycles for guest in guests)
        whole = first + second + third
        assert abs(first / whole - (1 / 4 + 3 / 4 / 3)) < 0.03
        assert abs(second / whole - 1 / 4) < 0.03


def test_the_slice_table_shows_the_owners() -> None:
    with machine() as made:

        async def init() -> None:
            child = await exo.create_environment(20)
            await exo.alloc_slice(0, 5, child)
            assert await exo.alloc_slice(0) == 0
            table = await exo.read(layout.SLICE_TABLE, 4 * layout.SLICES)
            owners = [pages.SliceOwner.parse(table[4 * i : 4 * i + 4]) for i in range(layout.SLICES)]
            assert (owners[0], owners[5]) == (made.kernel.first_environment, child)
            assert sum(map(bool, owners)) == 2
            with pytest.raises(Refused) as refused:
                await exo.alloc_slice(0, 5)
            assert refused.value.error is Error.NO_SLICE
            await exo.destroy(child)
            assert await exo.read(layout.SLICE_TABLE + 20, 4) == bytes(4)
            assert await exo.alloc_slice(0, 5) == 5
            await exo.free_slice(0, 5)

        made.run(init)


def test_nobody_owns_more_slices_than_its_family_may() -> None:
    async def init(made: Machine) -> None:
        child = await exo.create_environment(100)
        await exo.set_limits(child, 5, 3)
        mine: list[Error] = []

        async def greedy() -> None:
            grandchild = await exo.create_environment(20)
            await exo.alloc_slice(0, 9, grandchild)
            for _ in range(5):
                try:
                    await exo.alloc_slice()
                except Refused as refused:
                    mine.append(refused.error)
            await exo.destroy(grandchild)
            await exo.alloc_slice()

        await exo.start_coroutine(child, greedy())
        assert await made.end_of(child) == 0
        assert mine == [Error.OVER_QUOTA] * 3
        for _ in range(layout.SLICES * 3 // 4):
            await exo.alloc_slice()
        with pytest.raises(Refused):
            await exo.alloc_slice()

    run(init)


def test_limits_are_given_from_above_and_no_larger_than_ones_own() -> None:
    async def init(made: Machine) -> None:
        child = await exo.create_environment(100)
        await exo.set_limits(child, 5, 3)
        found: list[Error] = []

        async def inner() -> None:
            grandchild = await exo.create_environment(20)
            for target, environments in ((grandchild, 6), (0, 5), (0, 100)):
                try:
                    await exo.set_limits(target, environments, 0)
                except Refused as refused:
                    found.append(refused.error)

        await exo.start_coroutine(child, inner())
        assert await made.end_of(child) == 0
        assert found == [Error.BAD_ARGUMENT] * 3

    run(init)


def test_a_bomb_of_environments_is_bounded_for_the_whole_family() -> None:
    """Children that make children: living descendants never exceed the limit of the first one, and all can go again."""

    async def init(made: Machine) -> None:
        bomb = await exo.create_environment(2000)
        await exo.set_limits(bomb, 12, 0)
        refused: list[Error] = []

        async def explode() -> None:
            for _ in range(4):
                try:
                    child = await exo.create_environment(100)
                except Refused as refusal:
                    refused.append(refusal.error)
                    continue
                await exo.give_capability(child, 0, 15, 1)
                await exo.start_coroutine(child, explode())
            await exo.block(Event.TIME, 0, 10_000_000)

        await exo.start_coroutine(bomb, explode())
        await exo.block(Event.TIME, 0, 5_000_000)
        assert len(made.kernel.environments) == 2 + 12
        assert set(refused) == {Error.TOO_MANY}
        assert await exo.create_environment(20), "others are unharmed"
        await made.end_of(bomb)
        await exo.block(Event.TIME, 0, 12_000_000)
        assert made.environment(bomb).limits.environments_used == 0

    run(init, frames=2048)


def test_a_yield_inside_the_respite_meets_the_request_and_a_handler_that_waits_blocks_it() -> None:
    source = HANDLES + SPIN + COMPLIES.replace("exo yield, 0\nhlt", "mov rdx, 0\n exo block, {Event_TIME}, 0, rdx\n hlt")
    assert "block" not in source.split("release:")[0]
    with machine(quantum=QUANTUM, cpu_release_deadline=DEADLINE) as made:
        guests: list[Guest] = []

        async def init() -> None:
            guests.extend(await two(made, source.replace("mov rdx, 0", "mov rdx, 0x7fffffff")))
            await forever()

        made.run(init, 20 * QUANTUM)
        environment = made.environment(guests[0].number)
        assert environment.contexts[0].wait is not None
        assert environment.accounts.overruns == 0
        assert not environment.pending


def test_a_python_library_is_asked_too() -> None:
    class Polite:
        def __init__(self) -> None:
            self.asked: list[tuple[int, int]] = []

        async def please_release_cpu(self, context: int, deadline: int) -> None:
            self.asked.append((context, deadline))
            await exo.yield_()

    with machine(quantum=QUANTUM, cpu_release_deadline=DEADLINE) as made:
        polite = Polite()
        guests: list[Guest] = []

        async def init() -> None:
            guests.append(await made.guest(SPIN, start=False))
            await exo.set_library(guests[0].number, polite)
            await exo.start(guests[0].number, 0x40_0000, 0x70_1000, 0)
            guests.append(await made.guest(SPIN))

        made.run(init, 40 * QUANTUM)
        assert len(polite.asked) >= 15
        assert set(polite.asked) == {(0, DEADLINE)}
        environment = made.environment(guests[0].number)
        assert environment.accounts.overruns == 0
        assert environment.accounts.instructions > 10 * QUANTUM


def test_a_limit_from_above_is_not_undone_from_below() -> None:
    async def init(made: Machine) -> None:
        parent = await exo.create_environment(300)
        found: list[Error | None] = []

        async def below(above: int) -> None:
            await exo.block(Event.WOKEN, 0)
            try:
                await exo.set_limits(above, 60, 40)
                found.append(None)
            except Refused as refused:
                found.append(refused.error)

        async def middle() -> None:
            child = await exo.create_environment(100)
            await exo.give_capability(child, 0, 15, 1)
            await exo.start_coroutine(child, below(parent))
            await exo.block(Event.EXIT, child)

        await exo.start_coroutine(parent, middle())
        await exo.block(Event.TIME, 0, await exo.time() + 100_000)
        await exo.set_limits(parent, 1, 0)
        child = next(number for number, one in made.kernel.environments.items() if one.parent == parent)
        await exo.wake(child)
        await made.end_of(parent)
        assert found == [Error.BAD_ARGUMENT]

    run(init)
