"""Ask, wait, take: whom, when, how long, and what the record says."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from exokernel.abi import pages
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import ANY, FOREVER, Event, Taken
from exokernel.abi.layout import PAGE_SIZE
from exokernel.kernel.environment import Environment
from exokernel.policy.memory import SeizeLargest, SeizeOldest
from tests.kernel.audit import audit
from tests.machine_kit import CODE, READ_WRITE, STACK_TOP, Guest, Machine, exo, machine

DEADLINE = 50_000
HARD = 1_000_000
ASKED = "exo set_upcall, {Upcall_PLEASE_RELEASE_PAGE}, &asked, 0\n exo set_upcall, {Upcall_PAGES_TAKEN}, &taken, 0\n"
RETURN = "push rax\n mov rax, {ACTIVE}\n mov qword ptr [rax], 0\n pop rax\n pop rdx\n pop rsi\n pop rdi\n iretq\n"
TAKEN_RETURN = "taken: mov rax, {ACTIVE}\n mov qword ptr [rax], 0\n mov [r15], rdi\n lea r15, [r15 + 8]\n pop rdi\n iretq\n"


def played(play: Callable[[Machine], Awaitable[Any]], **options: Any) -> Machine:
    with machine(**{"release_deadline": DEADLINE, "release_hard_limit": HARD, "quantum": 10_000, **options}) as made:
        made.run(lambda: play(made), 100_000_000)
        assert not made.kernel.environments, "somebody is left"
        return made


def own(made: Machine, guest: Guest) -> Any:
    environment = made.environment(guest.number)
    return pages.OwnPage.parse(bytes(made.memory.view[environment.own : environment.own + PAGE_SIZE]))


def environment(made: Machine, guest: Guest) -> Environment:
    return made.kernel.environments[guest.number]


async def sleep(cycles: int) -> None:
    await exo.block(Event.TIME, 0, await exo.time() + cycles)


async def end(made: Machine, *guests: Guest) -> None:
    for guest in guests:
        if guest.number in made.kernel.environments:
            await exo.destroy(guest.number)


def test_the_request_names_count_frame_and_deadline() -> None:
    async def play(made: Machine) -> None:
        guest = await made.guest(
            ASKED + "spin: jmp spin\n asked: note rdi\n note rsi\n note rdx\n spin2: jmp spin2\n taken: jmp taken"
        )
        await sleep(2_000)
        made.kernel.revocation.ask(environment(made, guest), 3, None)
        await sleep(20_000)
        assert made.notes(guest, 3) == [3, ANY, DEADLINE]
        assert own(made, guest).frames_wanted == 3
        await end(made, guest)

    played(play)


def test_the_deadline_counts_only_while_the_victim_runs() -> None:
    """It sleeps in its handler: its time stands still, and nothing is taken before the hard limit."""

    async def play(made: Machine) -> None:
        guest = await made.guest(
            ASKED + "spin: jmp spin\n asked: exo block, {Event_WOKEN}, 0, {FOREVER}\n jmp asked\n taken: jmp taken"
        )
        await sleep(1_000)
        held = len(environment(made, guest).held)
        made.kernel.revocation.ask(environment(made, guest), 1, None)
        await sleep(HARD - 100_000)
        assert len(environment(made, guest).held) == held
        request = environment(made, guest).request
        assert request is not None
        assert DEADLINE - 5_000 < request.remaining < DEADLINE
        await sleep(200_000)
        assert len(environment(made, guest).held) == held - 1
        assert environment(made, guest).request is None
        await end(made, guest)

    played(play)


def test_a_running_victim_has_exactly_its_deadline() -> None:
    async def play(made: Machine) -> None:
        guest = await made.guest(ASKED + "spin: jmp spin\n asked: note 1\n loop: jmp loop\n taken: jmp taken")
        await sleep(1_000)
        victim = environment(made, guest)
        before = victim.accounts.instructions
        made.kernel.revocation.ask(victim, 1, None)
        while victim.request is not None:
            await sleep(500)
        used = victim.accounts.instructions - before
        assert DEADLINE - 12_000 < used <= DEADLINE + 12_000
        await end(made, guest)

    played(play)


def test_the_deadline_stands_still_while_the_victim_writes_up_to_the_hard_limit() -> None:
    async def play(made: Machine) -> None:
        sector = await exo.alloc_sectors(8)
        guest = await made.guest(
            ASKED + f"spin: jmp spin\n asked: exo write_sectors, {sector}, 8, {{data_frame}}, 0\n mov rbx, rax\n"
            "wait: jmp wait\n taken: jmp taken",
            start=False,
        )
        await exo.share_sectors(sector, guest.number, 1, 15)
        await exo.start(guest.number, CODE, STACK_TOP, 0)
        await sleep(1_000)
        made.disk.service_cycles = lambda *request: 600_000  # type: ignore[method-assign]
        victim = environment(made, guest)
        held = len(victim.held)
        made.kernel.revocation.ask(victim, 1, None)
        await sleep(400_000)
        assert len(victim.held) == held, "taken while its write was under way"
        assert victim.writes == 1
        await sleep(350_000)
        assert victim.writes == 0
        assert len(victim.held) == held - 1
        await end(made, guest)

    played(play)


def test_a_write_that_takes_for_ever_helps_no_longer_than_the_hard_limit() -> None:
    async def play(made: Machine) -> None:
        sector = await exo.alloc_sectors(8)
        guest = await made.guest(
            ASKED + f"spin: jmp spin\n asked: exo write_sectors, {sector}, 8, {{data_frame}}, 0\n wait: jmp wait\n"
            f" taken: jmp taken",
            start=False,
        )
        await exo.share_sectors(sector, guest.number, 1, 15)
        await exo.start(guest.number, CODE, STACK_TOP, 0)
        await sleep(1_000)
        made.disk.service_cycles = lambda *request: 10 * HARD  # type: ignore[method-assign]
        victim = environment(made, guest)
        held = len(victim.held)
        made.kernel.revocation.ask(victim, 1, None)
        await sleep(HARD - 50_000)
        assert len(victim.held) == held
        await sleep(100_000)
        assert len(victim.held) == held - 1
        await end(made, guest)

    played(play)


def test_a_request_wakes_a_blocked_victim_and_its_block_still_completes() -> None:
    """It is blocked for ever when it is asked; its handler runs and frees the frame; then it waits on, and is woken."""

    async def play(made: Machine) -> None:
        guest = await made.guest(
            ASKED + "exo alloc_page, {ANY}, 0\n mov r12, rax\n mov rbp, 0x77\n"
            " exo block, {Event_WOKEN}, 0, {FOREVER}\n note rax\n note rbp\n exit 5\n"
            "asked: push rax\n push r10\n exo dealloc_page, r12, 0\n note 99\n pop r10\n pop rax\n"
            + RETURN
            + "taken: jmp taken"
        )
        await sleep(5_000)
        victim = environment(made, guest)
        assert not victim.ready
        made.kernel.revocation.ask(victim, 1, None)
        await sleep(20_000)
        assert made.notes(guest, 2) == [99, 0]
        assert victim.request is None
        assert victim.accounts.taken == 0
        assert not victim.ready, "it waits again"
        await exo.wake(guest.number)
        assert await made.end_of(guest) == 5
        assert made.notes(guest, 3) == [99, 1, 0x77]

    played(play)


def test_a_request_waits_for_a_critical_section_and_for_a_handler_of_its_kind() -> None:
    async def play(made: Machine) -> None:
        guest = await made.guest(
            ASKED + "mov rbx, {CRITICAL}\n mov qword ptr [rbx], 1\n mov rcx, 15000\n a: dec rcx\n jnz a\n note 1\n"
            " mov qword ptr [rbx], 0\n"
            "mov rcx, 2000\n b: dec rcx\n jnz b\n exo yield, 0\n mov rcx, 20000\n c: dec rcx\n jnz c\n note 3\n exit 1\n"
            "asked: note 2\n" + RETURN + "taken: jmp taken"
        )
        await sleep(1_500)
        made.kernel.revocation.ask(environment(made, guest), 1, None)
        assert await made.end_of(guest) == 1
        assert made.notes(guest, 3) == [1, 2, 3]

    played(play, release_deadline=10_000_000, release_hard_limit=100_000_000)


def test_a_request_enlarged_while_its_handler_runs_is_told_again() -> None:
    async def play(made: Machine) -> None:
        guest = await made.guest(
            ASKED + "spin: jmp spin\n asked: note rdi\n mov rcx, 8000\n w: dec rcx\n jnz w\n" + RETURN + "taken: jmp taken"
        )
        await sleep(1_000)
        victim = environment(made, guest)
        made.kernel.revocation.ask(victim, 1, None)
        await sleep(5_000)
        made.kernel.revocation.ask(victim, 2, None)
        await sleep(30_000)
        assert made.notes(guest, 2) == [1, 3]
        await end(made, guest)

    played(play, release_deadline=10_000_000, release_hard_limit=100_000_000)


def _with_pages(made: Machine, backed: bool, states: list[tuple[str, int, Taken]]) -> Callable[[], Awaitable[None]]:
    async def play() -> None:
        guest = await made.guest(ASKED + "spin: jmp spin\n asked: jmp asked\n" + TAKEN_RETURN, start=False)
        mine = guest.frames | {}
        for frame in mine.values():
            await exo.reserve_page(frame, 1, guest.number)
        sector = await exo.alloc_sectors(16)
        await exo.share_sectors(sector, guest.number, 1, 15)
        places = {}
        for index, name in enumerate(("dirty", "clean")):
            va = 0xA0_0000 + index * PAGE_SIZE
            frame = places[name] = await made.give(guest.number, va)
            await made.fill(frame, name.encode())
            if backed:
                await exo.set_backing(frame, sector + 8 * index, guest.number)
        victim = environment(made, guest)
        made.kernel.frames.used[places["clean"]].clean.add(victim)
        await exo.start(guest.number, CODE, STACK_TOP, 0)
        await sleep(1_000)
        made.kernel.revocation.ask(victim, 2, None)
        await sleep(DEADLINE * 3)
        assert set(victim.held) == set(mine.values()), "the reserved ones are still there, and the others gone"
        page = own(made, guest)
        assert page.taken_total == 2
        for record in page.taken[:2]:
            name = next(name for name, frame in places.items() if frame == record.frame)
            states.append((name, record.va, Taken(record.state)))
            assert (record.sector == ANY) == (not backed)
        assert made.notes(guest, 1)[0] == 2, "pages_taken came, and said two"
        await sleep(300_000)
        written = [made.disk.read(sector + 8 * index, 1)[:5] for index in range(2)]
        assert written == ([b"dirty", bytes(5)] if backed else [bytes(5)] * 2)
        audit(made.kernel)
        await end(made, guest)

    return play


@pytest.mark.parametrize("backed", [True, False])
def test_what_is_taken_is_saved_if_it_is_dirty_and_backed_and_the_record_says_so(backed: bool) -> None:
    states: list[tuple[str, int, Taken]] = []
    played(lambda made: _with_pages(made, backed, states)())
    assert sorted(states) == [
        ("clean", 0xA0_1000, Taken.CLEAN),
        ("dirty", 0xA0_0000, Taken.SAVED if backed else Taken.LOST),
    ]


def test_a_frame_is_dirty_after_a_store_and_clean_after_its_bit_is_cleared() -> None:
    async def play(made: Machine) -> None:
        guest = await made.guest(
            "mov rbx, {DATA}\n mov [rbx], rax\n exo block, 1, 0, {FOREVER}\n"
            " exo clear_page_bits, {DATA}, 1, 64\n exo block, 1, 1, {FOREVER}\n"
            "mov [rbx], rax\n exo block, 1, 2, {FOREVER}\n exo remove_mapping, {DATA}, 0\n exo block, 1, 3, {FOREVER}"
        )
        victim = environment(made, guest)
        frame = made.kernel.frames.used[guest.frames[0x50_0000]]
        seen = []
        for _ in range(4):
            await sleep(20_000)
            seen.append(made.kernel.frames.is_dirty(victim, frame))
            await exo.wake(guest.number)
        assert seen == [True, False, True, True]
        await end(made, guest)

    played(play)


def test_the_kernels_own_stores_and_the_disks_make_a_frame_dirty_too() -> None:
    async def play(made: Machine) -> None:
        frame, sector = await exo.alloc_page(), await exo.alloc_sectors(8)
        first = made.kernel.environments[made.kernel.first_environment]
        dirty = made.kernel.frames.is_dirty
        it = made.kernel.frames.used[frame]
        assert not dirty(first, it)
        await exo.create_mapping(0x9000, frame, READ_WRITE)
        await exo.read(0x9000, 8)
        assert not dirty(first, it)
        await exo.write(0x9000, b"x")
        assert dirty(first, it)
        await exo.clear_page_bits(0x9000, 1, 64)
        assert not dirty(first, it)
        await exo.block(Event.DISK, await exo.read_sectors(sector, 8, frame))
        assert dirty(first, it)

    played(play)


def test_no_wake_up_is_lost_between_no_frame_and_block() -> None:
    """A frame comes free after NO_FRAME and before the block: the block returns at once."""
    ended: list[int] = []

    async def play(made: Machine) -> None:
        async def short() -> None:
            for _ in range(len(made.kernel.frames.free)):
                await exo.alloc_page()
            with pytest.raises(Refused) as refused:
                await exo.alloc_page()
            assert refused.value.error is Error.NO_FRAME
            await sleep(1_000_000)
            ended.append(await exo.block(Event.FRAMES, 0, FOREVER))
            await exo.alloc_page()

        spare = [await exo.alloc_page() for _ in range(10)]
        other = await exo.create_environment()
        await exo.start_coroutine(other, short())
        await sleep(700_000)
        await exo.dealloc_page(spare[0])
        assert await exo.block(Event.EXIT, other) == 0

    played(play, frames=300)
    assert ended == [1]


@pytest.mark.parametrize("policy", [SeizeLargest, SeizeOldest])
def test_in_seize_mode_nobody_is_asked_and_the_oldest_go(policy: Any) -> None:
    async def play(made: Machine) -> None:
        guest = await made.guest(
            ASKED + "grab: exo alloc_page, {ANY}, 0\n test rax, rax\n js full\n mov rsi, rax\n mov rdi, r12\n"
            " shl rdi, 12\n add rdi, 0xa00000\n"
            "inc r12\n exo create_mapping, rdi, rsi, 3, 0\n cmp r12, 170\n jb grab\n full: mov rbx, 0xa00000\n"
            " mov rcx, 10\n"
            "use: mov rax, [rbx]\n add rbx, 4096\n dec rcx\n jnz use\n jmp full\n asked: exit 9\n" + TAKEN_RETURN
        )
        for frame in guest.frames.values():
            await exo.reserve_page(frame, 1, guest.number)
        await sleep(900_000)
        victim = environment(made, guest)
        recent = [frame for (va, frame) in _mapped(made, guest) if 0xA0_0000 <= va < 0xA0_A000]
        other = await exo.create_environment()
        for _ in range(len(made.kernel.frames.free) + 20):
            await exo.alloc_page(ANY, other)
        assert victim.accounts.taken + made.kernel.environments[other].accounts.taken >= 20
        assert policy is SeizeOldest or victim.accounts.taken >= 20
        assert set(recent) <= set(victim.held), "what it uses all the time was taken"
        assert guest.number in made.kernel.environments
        audit(made.kernel)
        await exo.destroy(other)
        await end(made, guest)

    played(play, policy=policy(), frames=300, sample_every=20_000)


def _mapped(made: Machine, guest: Guest) -> list[tuple[int, int]]:
    who = environment(made, guest)
    return [
        (va, frame.number)
        for frame in made.kernel.frames.used.values()
        for environment_, va in frame.mappings
        if environment_ is who
    ]


def test_a_python_library_is_asked_and_answers_with_frames_of_its_choice() -> None:
    asked: list[tuple[int, int]] = []

    class Library:
        async def please_release_page(self, context: int, count: int, frame: int, deadline: int) -> None:
            asked.append((count, frame))
            for number in sorted(mine)[:count]:
                await exo.dealloc_page(number)

    mine: list[int] = []

    async def play(made: Machine) -> None:
        async def program() -> None:
            mine.extend([await exo.alloc_page() for _ in range(6)])
            await exo.block(Event.WOKEN, 0)

        other = await exo.create_environment()
        await exo.set_library(other, Library())
        await exo.start_coroutine(other, program())
        await sleep(10_000)
        made.kernel.revocation.ask(made.kernel.environments[other], 2, None)
        await sleep(10_000)
        assert set(made.kernel.environments[other].held) == set(sorted(mine)[2:])
        assert made.kernel.environments[other].accounts.taken == 0
        await exo.wake(other)
        await exo.block(Event.EXIT, other)

    played(play)
    assert asked == [(2, ANY)]
