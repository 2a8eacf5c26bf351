"""Wrong behaviour with the processor: each case is bounded, and the others are unharmed."""

import pytest

from exokernel.abi import layout, pages
from exokernel.abi.errors import Error
from exokernel.abi.flags import Event, Sharing
from exokernel.kernel.death import Cause
from tests.machine_kit import READ_WRITE, Guest, Machine, exo, machine

from .attack import attack
from .test_processor_time import COUNTING, share_of_the_counter

SETTINGS = {"quantum": 10_000, "cpu_release_deadline": 1_000, "overruns_allowed": 3}
ASKED = "exo set_upcall, {Upcall_PLEASE_RELEASE_CPU}, &release, 0\n exo set_upcall, {Upcall_RESUME_CPU}, &resume, 0\n"
STUBBORN = {
    "a handler that loops": ASKED + "spin: jmp spin\n release: jmp release\n resume: jmp resume",
    "a handler that returns and goes on": ASKED
    + "spin: jmp spin\n release: push rax\n mov rax, {ACTIVE}\n mov qword ptr [rax], 0\n pop rax\n pop rdi\n iretq\n"
    + "resume: hlt",
    "a critical section for ever": ASKED + "mov rax, {CRITICAL}\n mov qword ptr [rax], 1\n spin: jmp spin\n"
    "release: hlt\n resume: hlt",
    "a handler that says it is running": ASKED + "mov rax, {ACTIVE}\n mov qword ptr [rax], -1\n spin: jmp spin\n"
    "release: hlt\n resume: hlt",
    "wiping the word that asks": ASKED + "mov rax, {CRITICAL}\n mov qword ptr [rax], 1\n mov rbx, {CPU_WANTED}\n"
    "spin: mov qword ptr [rbx], 0\n jmp spin\n release: hlt\n resume: hlt",
}


@pytest.mark.parametrize("name", STUBBORN)
@pytest.mark.parametrize("cpus", [1, 2])
def test_who_never_releases_the_processor_when_asked_is_ended(name: str, cpus: int) -> None:
    result = attack(STUBBORN[name], cpus=cpus, **SETTINGS)
    assert result.cause is Cause.OVERRUN


HARMLESS = {
    "a resume handler that loops": ASKED + "exo yield, 0\n hlt\n release: hlt\n resume: jmp resume",
    "a release handler on a stack that is not there": "exo set_upcall_stack, 0x10000000, 4096, 0, 0\n"
    + ASKED
    + "spin: jmp spin\n release: hlt\n resume: hlt",
    "a resume entry that is no memory": "exo set_upcall, {Upcall_RESUME_CPU}, 0x66000000, 0\n exo yield, 0\n hlt",
    "more contexts than there are": "lea rbx, [rip + other]\n again: exo create_context, rbx, {DATA}, 0, 1, 0\n jmp again\n"
    "other: jmp other",
    "contexts that end each other": "lea rbx, [rip + other]\n again: exo create_context, rbx, {STACK}, 0, 1, 0\n"
    "exo end_context, rax\n dec r12\n jmp again\n other: exo end_context, 0\n jmp other",
    "predicates that never hold": "again: mov rax, {DATA}\n mov qword ptr [rax + 8], rax\n mov rdx, 9\n"
    "mov qword ptr [rax + 24], rdx\n exo time\n lea rdx, [rax + 300]\n exo block_until, {DATA}, 1, rdx\n jmp again",
}


@pytest.mark.parametrize("name", HARMLESS)
@pytest.mark.parametrize("cpus", [1, 2])
def test_who_only_wastes_its_own_time_harms_nobody(name: str, cpus: int) -> None:
    """It runs beside the innocent until that one has ended; then it is destroyed."""

    async def kill(made: Machine, guest: Guest, victim: Guest) -> dict[str, int]:
        async def later() -> None:
            await exo.block(Event.TIME, 0, 4_000_000)
            if guest.number in made.kernel.environments:
                await exo.destroy(guest.number)

        reaper = await exo.create_environment(30)
        await exo.give_capability(reaper, 0, 15, 1)
        await exo.start_coroutine(reaper, later())
        return {}

    attack(HARMLESS[name], prepare=kill, cpus=cpus, **SETTINGS)


def test_taking_every_slice_is_bounded_by_what_the_family_may_own() -> None:
    source = "again: exo alloc_slice, 0, {ANY}, 0\n test rax, rax\n jns again\n mov rbx, rax\n note rbx\n spin: jmp spin"
    with machine(quantum=10_000) as made:
        guests: list[Guest] = []

        async def init() -> None:
            greedy = await exo.create_environment(60)
            await exo.set_limits(greedy, 5, layout.SLICES // 4)
            guests.append(await made.guest(COUNTING))
            guests.append(await made.guest(source, environment=greedy))
            await exo.block(Event.TIME, 0, 20_000_000)

        made.run(init, 8_000_000)
        counted, taken = (made.environment(guest.number).accounts.instructions for guest in guests)
        assert made.notes(guests[1], 1) == [(1 << 64) - Error.OVER_QUOTA]
        assert abs(counted / (counted + taken) - 3 / 8) < 0.03, "its quarter, and half of the rest"


def test_a_bomb_of_environments_in_machine_code_is_bounded_and_the_others_go_on() -> None:
    source = "again: exo create_environment, 8\n mov rbx, rax\n test rax, rax\n jns again\n note rbx\n exit 1"

    async def bound(made: Machine, guest: Guest, victim: Guest) -> dict[str, int]:
        await exo.set_limits(guest.number, 10, 0)
        return {}

    async def count(made: Machine, guest: Guest, victim: Guest) -> int:
        return sum(environment.parent == guest.number for environment in made.kernel.environments.values())

    result = attack(source, prepare=bound, after=count, quota=400)
    assert result.error(0) is Error.TOO_MANY
    assert result.extra == 10


def test_yielding_to_one_that_is_dead_or_was_never_there_is_refused() -> None:
    async def dead(made: Machine, guest: Guest, victim: Guest) -> dict[str, int]:
        number = await exo.create_environment(20)
        await exo.destroy(number)
        return {"dead": number, "new": await exo.create_environment(20)}

    result = attack(
        "exo yield, {dead}\n note rax\n exo yield, 99\n note rax\n exo yield, {new}\n note rax\n exit 1", prepare=dead
    )
    assert [result.error(index) for index in range(2)] == [Error.NO_SUCH_ENVIRONMENT] * 2
    assert result.notes[2] == 0, "one that cannot run yet: the time goes to anybody"


def test_yielding_to_a_stranger_gives_it_time_and_nothing_else() -> None:
    assert share_of_the_counter(["again: exo yield, 0\n jmp again"] * 2) > 0.85


def test_waking_another_without_right_is_refused() -> None:
    result = attack("exo wake, {victim}\n note rax\n exit 1")
    assert result.error(0) is Error.DENIED


LOCK = 0xA0_0000
TAKE = f"""
mov r12, {LOCK}
mov rbx, {{me}}
take: xor eax, eax
lock cmpxchg qword ptr [r12], rbx
jz taken
mov rcx, rax
and rcx, {layout.MAXIMUM_ENVIRONMENTS - 1}
imul rcx, rcx, {pages.EnvironmentRow.sizeof()}
mov rdx, {layout.ENVIRONMENT_TABLE}
mov rdx, qword ptr [rdx + rcx]
mov r8, rax
mov r9, 0x200000000
or r8, r9
cmp rdx, r8
je take
lock cmpxchg qword ptr [r12], rbx
jnz take
note 77
taken:
"""
"""The lock is the holder's number; who finds one there that lives no more, by the exposed table, takes its place."""


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_spinlock_whose_holder_has_died_is_found_out_by_what_the_kernel_exposes(cpus: int) -> None:
    with machine(cpus=cpus, quantum=5_000) as made:

        async def init() -> None:
            lock = await exo.alloc_page()
            guests = []
            for end in ("mov rax, [0x10]", "mov qword ptr [r12], 0\n note 1\n exit 7", "mov qword ptr [r12], 0\n exit 7"):
                guest = await made.guest(TAKE + end, start=False)
                await exo.share_page(lock, guest.number, Sharing.LOAN, READ_WRITE)
                await exo.create_mapping(LOCK, lock, READ_WRITE, guest.number)
                guests.append(guest)
            await exo.start(guests[0].number, 0x40_0000, 0x70_1000, 0)
            assert await made.end_of(guests[0]) == 128
            assert made.words(lock)[0] == guests[0].number, "it died with the lock"
            for guest in guests[1:]:
                await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
            assert [await made.end_of(guest) for guest in guests[1:]] == [7, 7]
            assert made.words(lock)[0] == 0
            assert 77 in (*made.notes(guests[1], 1), *made.notes(guests[2], 1))

        made.run(init)


def test_blocking_for_ever_harms_nobody_else() -> None:
    with machine() as made:
        numbers: list[int] = []

        async def init() -> None:
            sleeper = await made.guest("exo block, {Event_WOKEN}, 0, {FOREVER}\n exit 3")
            worker = await made.guest("mov rcx, 100000\n a: dec rcx\n jnz a\n exit 4")
            assert await made.end_of(worker) == 4
            numbers.append(sleeper.number)
            await made.end_of(sleeper)

        made.run(init)
        assert [death.environment for death in made.kernel.deaths if death.cause is Cause.DEADLOCK] == numbers
