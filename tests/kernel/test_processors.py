"""Several processors over one memory: in order, repeatable, each with its own slices, and none with a stale translation."""

from typing import Any

import pytest

from exokernel.abi.flags import ANY, Begin, Event, Sharing
from tests.kernel.audit import audit
from tests.machine_kit import CODE, DATA, READ_WRITE, STACK_TOP, Guest, Machine, exo, machine

COUNTS = 20_000


async def shared_word(made: Machine, sources: list[str]) -> tuple[list[Guest], int]:
    """Guests that all have one frame at 0xA0_0000; not started yet."""
    frame = await exo.alloc_page()
    guests = []
    for source in sources:
        guest = await made.guest(source, start=False)
        await exo.share_page(frame, guest.number, Sharing.LOAN, READ_WRITE)
        await exo.create_mapping(0xA0_0000, frame, READ_WRITE, guest.number)
        guests.append(guest)
    return guests, frame


def increments(instruction: str) -> str:
    return f"mov r12, 0xa00000\n mov rcx, {COUNTS}\n again: {instruction}\n dec rcx\n jnz again\n exit 0"


def counted(instruction: str, cpus: int, window: int = 50) -> tuple[int, int]:
    """What a shared counter comes to when one guest for each processor counts, and the virtual time it took."""
    result: list[int] = []
    with machine(cpus=cpus, window=window, quantum=3_000) as made:

        async def init() -> None:
            guests, frame = await shared_word(made, [increments(instruction)] * max(cpus, 2))
            for guest in guests:
                await exo.start(guest.number, CODE, STACK_TOP, 0)
            for guest in guests:
                assert await made.end_of(guest) == 0
            result.append(made.words(frame)[0])
            audit(made.kernel)

        made.run(init)
        return result[0], made.kernel.clock.now


LOCKED = ["lock inc qword ptr [r12]", "lock add qword ptr [r12], 1", "mov rax, 1\n lock xadd qword ptr [r12], rax"]
PLAIN = ["inc qword ptr [r12]", "add qword ptr [r12], 1", "mov rax, qword ptr [r12]\n inc rax\n mov qword ptr [r12], rax"]


@pytest.mark.parametrize("instruction", LOCKED)
@pytest.mark.parametrize("cpus", [2, 3, 4])
def test_a_locked_instruction_is_atomic(instruction: str, cpus: int) -> None:
    assert counted(instruction, cpus)[0] == cpus * COUNTS


@pytest.mark.parametrize("instruction", PLAIN)
def test_a_plain_read_modify_write_loses_updates_between_processors(instruction: str) -> None:
    assert COUNTS <= counted(instruction, 2)[0] < 2 * COUNTS


@pytest.mark.parametrize("instruction", PLAIN[:2])
def test_one_instruction_is_not_torn_on_a_single_processor(instruction: str) -> None:
    assert counted(instruction, 1)[0] == 2 * COUNTS


def test_the_same_machine_gives_the_same_interleaving_and_another_window_another() -> None:
    lost = {window: counted(PLAIN[2], 2, window) for window in (20, 50, 300)}
    assert lost == {window: counted(PLAIN[2], 2, window) for window in (20, 50, 300)}
    assert len(set(lost.values())) > 1


def test_four_processors_do_four_times_the_work_in_the_time() -> None:
    def cycles(cpus: int) -> int:
        with machine(cpus=cpus) as made:

            async def init() -> None:
                guests = [await made.guest("mov rcx, 1000000\n a: dec rcx\n jnz a\n exit 0") for _ in range(4)]
                for guest in guests:
                    await made.end_of(guest)

            made.run(init)
            return made.kernel.clock.now

    one, four = cycles(1), cycles(4)
    assert 3.5 < one / four < 4.1


def test_a_mapping_that_is_removed_is_gone_on_every_processor() -> None:
    """The victim reads the page in a loop on one processor while it is taken away from another."""
    with machine(cpus=2, window=100) as made:
        seen: list[int] = []

        async def init() -> None:
            secret = await exo.alloc_page()
            await made.fill(secret, b"\x11" * 4096)
            victim = await made.guest("mov r12, 0xa00000\n again: mov rbx, qword ptr [r12]\n jmp again", start=False)
            await exo.share_page(secret, victim.number, Sharing.LOAN, 1)
            await exo.create_mapping(0xA0_0000, secret, 1, victim.number)
            await exo.start(victim.number, CODE, STACK_TOP, 0)
            await exo.block(Event.TIME, 0, 200_000)
            assert victim.number in made.kernel.environments
            await exo.unshare_page(secret, victim.number)
            await made.fill(secret, b"\x22" * 4096)
            await made.end_of(victim)
            death = made.death_of(victim.number)
            assert death is not None
            assert death.where == 0xA0_0000
            seen.append(death.registers[1])

        made.run(init)
        assert seen == [0x1111_1111_1111_1111]


def test_contexts_of_one_environment_run_on_several_processors_at_once() -> None:
    source = f"""
    lea rdi, [rip + other]
    mov rsi, {DATA + 0x800}
    mov rdx, 7
    mov r10, {int(Begin.READY)}
    xor r8, r8
    exo create_context, rdi, rsi, rdx, r10, r8
    note rax
    mov rcx, 400000
    a: dec rcx
    jnz a
    mov r12, {DATA}
    wait: mov rax, qword ptr [r12]
    test rax, rax
    jz wait
    note rax
    exit 0
    other: mov rcx, 400000
    b: dec rcx
    jnz b
    mov r12, {DATA}
    mov qword ptr [r12], rdi
    exo end_context, {ANY}
    hlt
    """

    def cycles(cpus: int) -> int:
        with machine(cpus=cpus) as made:
            taken: list[int] = []

            async def init() -> None:
                begun = await exo.time()
                guest = await made.guest(source)
                assert await made.end_of(guest) == 0
                taken.append(await exo.time() - begun)
                assert made.notes(guest, 2) == [1, 7]

            made.run(init)
            return taken[0]

    one, two = cycles(1), cycles(2)
    assert one > 1_500_000
    assert two < 1_100_000


def test_contexts_of_one_environment_take_turns_on_one_processor() -> None:
    source = f"""
    lea rdi, [rip + other]
    exo create_context, rdi, {DATA + 0x800}, 0, 1, 0
    mov r12, {DATA}
    a: inc qword ptr [r12]
    jmp a
    other: mov r12, {DATA + 8}
    b: inc qword ptr [r12]
    jmp b
    """
    with machine(quantum=10_000) as made:
        guests: list[Guest] = []

        async def init() -> None:
            guests.append(await made.guest(source))
            await made.guest("a: jmp a")
            await exo.block(Event.TIME, 0, 1 << 40)

        made.run(init, 1_000_000)
        first, second = made.words(guests[0].frames[DATA])[:2]
        assert first > 80_000
        assert abs(first - second) < 12_000


def test_nobody_sees_time_go_backward_when_it_moves_between_processors() -> None:
    source = (
        "mov r13, 3000\n again: exo time\n cmp rax, rbx\n jb back\n mov rbx, rax\n exo yield, 0\n dec r13\n jnz again\n"
    )
    source += "exit 0\n back: exit 1"
    with machine(cpus=3, window=5_000, quantum=2_000) as made:

        async def init() -> None:
            guests = [await made.guest(source) for _ in range(5)]
            for guest in guests:
                assert await made.end_of(guest) == 0

        made.run(init)


def test_each_processor_has_a_vector_of_slices() -> None:
    with machine(cpus=2, quantum=10_000) as made:
        guests: list[Guest] = []

        async def init() -> None:
            guests.extend([await made.guest("a: jmp a") for _ in range(6)])
            for position in range(0, 64, 2):
                await exo.alloc_slice(1, position, guests[0].number)
            await exo.block(Event.TIME, 0, 1 << 40)

        made.run(init, 3_000_000)
        used = [made.environment(guest.number).accounts.cycles for guest in guests]
        assert sum(used) > 5_500_000
        assert used[0] > 1.25 * max(used[1:])


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_a_pause_changes_nothing_on_any_number_of_processors(cpus: int) -> None:
    def trace(step: int) -> list[Any]:
        with machine(cpus=cpus, quantum=2_000, window=300) as made:
            guests: list[Guest] = []

            async def init() -> None:
                made_, _ = await shared_word(made, [increments(PLAIN[2])] * 3)
                guests.extend(made_)
                for guest in guests:
                    await exo.start(guest.number, CODE, STACK_TOP, 0)
                for guest in guests:
                    await made.end_of(guest)

            made.kernel.boot_coroutine(init)
            while made.kernel.run(made.kernel.clock.now + step).name == "TIME":
                pass
            accounts = [made.environment(guest.number).accounts for guest in guests]
            return [(a.instructions, a.kernel_cycles, a.ended_at) for a in accounts]

    if cpus == 1:
        assert trace(1 << 40) == trace(777) == trace(10_001)
    else:
        assert trace(777) == trace(777)
