"""Attacks by keeping what the kernel wants back: whatever the handler does, the frames come, and in bounded time."""

import pytest

from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import ANY, Event
from exokernel.kernel.exposed import CRITICAL
from tests.kernel.audit import audit
from tests.machine_kit import Guest, Machine, exo, machine

HARD_LIMIT = 2_000_000
ASKED = "exo set_upcall, {Upcall_PLEASE_RELEASE_PAGE}, &handler, 0\n"
GRAB = (
    ASKED
    + """
grab: exo alloc_page, {ANY}, 0
mov rbx, rax
test rax, rax
js grabbed
mov r12, rax
jmp grab
grabbed: mov rax, 1
mov [{NOTES} + 8], rax
"""
)
RETURN = (
    "\nhandler: lock inc qword ptr [r15]\n mov rax, {ACTIVE}\n mov qword ptr [rax], 0\n pop rdx\n pop rsi\n pop rdi\n iretq"
)
REFUSALS = {
    "a handler that just returns": GRAB + "spin: jmp spin" + RETURN,
    "a handler that loops": GRAB + "spin: jmp spin\n handler: jmp handler",
    "no handler": GRAB.replace("&handler", "0") + "spin: jmp spin",
    "a handler that says it is running for ever": GRAB + "mov rax, -1\n mov [{ACTIVE}], rax\n spin: jmp spin" + RETURN,
    "a critical section": GRAB + "mov rax, 1\n mov [{CRITICAL}], rax\n spin: jmp spin" + RETURN,
    "a critical section in which it blocks for ever": GRAB
    + "mov rax, 1\n mov [{CRITICAL}], rax\n exo block, {Event_WOKEN}, 0, {FOREVER}\n"
    "spin: jmp spin" + RETURN,
    "a handler that blocks for ever": GRAB
    + "spin: jmp spin\n handler: exo block, {Event_WOKEN}, 0, {FOREVER}\n jmp handler",
    "a handler that yields for ever": GRAB + "spin: jmp spin\n handler: exo yield, 0\n jmp handler",
    "a handler that takes the entry away": GRAB
    + "spin: jmp spin\n handler: exo set_upcall, {Upcall_PLEASE_RELEASE_PAGE}, 0, 0\n jmp spin",
    "a handler that writes to the disk for ever": "exo alloc_sectors, 8, {ANY}\n mov r13, rax\n"
    + GRAB
    + "spin: jmp spin\n handler: exo write_sectors, r13, 8, {data_frame}, 0\n mov rsi, rax\n"
    " exo block, 0, rsi, {FOREVER}\n jmp handler",
    "a handler that frees one and takes it again": GRAB
    + "spin: jmp spin\n handler: exo dealloc_page, r12, 0\n exo alloc_page, r12, 0\n jmp handler",
    "wiping what the kernel shows it": GRAB
    + "spin: xor eax, eax\n mov [{FRAMES_WANTED}], rax\n mov [{TAKEN_TOTAL}], rax\n jmp spin"
    + RETURN,
    "frames held together with a partner": GRAB.replace(
        "mov r12, rax", "mov r12, rax\n exo share_page, r12, {partner}, 1, 15"
    )
    + "spin: jmp spin"
    + RETURN,
}


def hunger(refusal: str, wanted: int = 24, **options: object) -> tuple[int, Machine]:
    """A hog fills the memory and refuses; another wants frames. Gives the cycles until it had them."""
    times: list[int] = []
    with machine(frames=420, release_deadline=20_000, release_hard_limit=HARD_LIMIT, quantum=10_000, **options) as made:

        async def hungry() -> None:
            seen = 0
            await exo.block(Event.WOKEN, 0)
            begun = await exo.time()
            for _ in range(wanted):
                while True:
                    try:
                        frame = await exo.alloc_page()
                        await exo.create_mapping(0x5000, frame, 3)
                        assert await exo.read(0x5000, 4096) == bytes(4096)
                        await exo.write(0x5000, b"mine" * 1024)
                        break
                    except Refused as refused:
                        if refused.error is not Error.NO_FRAME:
                            raise
                    seen = await exo.block(Event.FRAMES, seen)
            times.append(await exo.time() - begun)

        async def init() -> None:
            eater = await exo.create_environment()
            await exo.start_coroutine(eater, hungry())
            partner = await made.guest(
                "exo set_upcall, {Upcall_PLEASE_RELEASE_PAGE}, &handler, 0\n again: exo yield, 0\n jmp again" + RETURN
            )
            hog = await made.guest(refusal, start=False, partner=partner.number)
            if "{partner}" in refusal:
                await exo.give_capability(hog.number, 0, 15, 1)
            for guest in (hog, partner):
                for frame in guest.frames.values():
                    await exo.reserve_page(frame, 1, guest.number)
            await exo.start(hog.number, 0x40_0000, 0x70_1000, 0)
            while not made.words(hog.notes)[1]:
                await exo.yield_()
            await exo.wake(eater)
            await exo.block(Event.EXIT, eater)
            audit(made.kernel, own_pages=False)
            for guest in (hog, partner):
                if guest.number in made.kernel.environments:
                    await exo.destroy(guest.number)

        made.run(init, 400 * HARD_LIMIT)
        assert times, f"it starved: {made.kernel.deaths}"
        assert len(made.kernel.frames.free) == made.free_at_start
        return times[0], made


@pytest.mark.parametrize("name", REFUSALS)
def test_frames_come_back_whatever_the_holder_does(name: str) -> None:
    cycles, _ = hunger(REFUSALS[name])
    assert cycles < 30 * HARD_LIMIT


@pytest.mark.parametrize("by", ["anybody", "its creator"])
def test_this_very_frame_is_given_up_to_who_controls_the_holder_and_to_nobody_else(by: str) -> None:
    """A stranger may ask; only the global policy, or who controls the holder, may have it taken."""
    with machine(release_deadline=20_000, release_hard_limit=HARD_LIMIT, quantum=10_000) as made:
        got: list[object] = []

        async def wants(frame: int) -> None:
            for _ in range(40):
                try:
                    got.append(await exo.alloc_page(frame))
                    return
                except Refused as refused:
                    if refused.error is not Error.FRAME_BUSY:
                        raise
                await exo.block(Event.TIME, 0, await exo.time() + 200_000)

        async def init() -> None:
            for refusal in ("spin: jmp spin\n handler: jmp handler", "spin: jmp spin" + RETURN):
                guest = await made.guest(
                    "exo set_upcall, {Upcall_PLEASE_RELEASE_PAGE}, &handler, 0\n mov rax, 0x5afe\n mov [{DATA}], rax\n"
                    + refusal
                )
                await exo.yield_()
                await exo.yield_()
                other = await exo.create_environment()
                if by == "its creator":
                    await exo.give_capability(other, 0, 15, 1)
                frame = guest.frames[0x50_0000]
                await exo.start_coroutine(other, wants(frame))
                await exo.block(Event.EXIT, other)
                if by == "anybody":
                    assert made.words(frame)[0] == 0x5AFE
                    assert guest.number in made.kernel.environments
                audit(made.kernel)
                if guest.number in made.kernel.environments:
                    await exo.destroy(guest.number)

        made.run(init, 400 * HARD_LIMIT)
        assert len(got) == (2 if by == "its creator" else 0)


def test_who_has_no_handler_loses_nothing_to_who_just_names_its_frames() -> None:
    with machine() as made:

        async def greedy(frames: list[int]) -> None:
            for frame in frames:
                for _ in range(3):
                    try:
                        await exo.alloc_page(frame)
                        raise AssertionError(f"frame {frame} was given away")
                    except Refused as refused:
                        if refused.error not in (Error.FRAME_BUSY, Error.NO_SUCH_FRAME):
                            raise

        async def init() -> None:
            guest = await made.guest("again: exo yield, 0\n jmp again")
            other = await exo.create_environment()
            await exo.start_coroutine(other, greedy(list(guest.frames.values())))
            assert await exo.block(Event.EXIT, other) == 0
            assert guest.number in made.kernel.environments
            await exo.destroy(guest.number)

        made.run(init, 400 * HARD_LIMIT)
        assert not made.kernel.python_errors


def test_asking_for_very_frames_does_not_shield_a_partner_from_the_policy() -> None:
    """While the partner asks the hog for one frame after the other, the policy's request must still get through."""
    with machine(frames=420, release_deadline=20_000, release_hard_limit=HARD_LIMIT, quantum=10_000) as made:
        fed: list[int] = []
        cycles: list[int] = []

        async def hungry() -> None:
            await exo.block(Event.WOKEN, 0)
            seen = 0
            while len(fed) < 8:
                try:
                    fed.append(await exo.alloc_page())
                except Refused:
                    seen = await exo.block(Event.FRAMES, seen)

        async def init() -> None:
            eater = await exo.create_environment()
            await exo.start_coroutine(eater, hungry())
            hog: Guest = await made.guest(REFUSALS["a handler that loops"].replace(GRAB, ASKED), start=False)
            shield = await made.guest(
                f"again: exo alloc_page, {hog.frames[0x50_0000]}, 0\n mov rcx, 50\n w: dec rcx\n jnz w\n jmp again",
                start=False,
            )
            await exo.start(hog.number, 0x40_0000, 0x70_1000, 0)
            for _ in range(len(made.kernel.frames.free)):
                await exo.alloc_page(ANY, hog.number)
            await exo.start(shield.number, 0x40_0000, 0x70_1000, 0)
            await exo.block(Event.TIME, 0, await exo.time() + 100_000)
            await exo.wake(eater)
            await exo.block(Event.EXIT, eater, await exo.time() + 20 * HARD_LIMIT)
            cycles.append(made.kernel.clock.now)
            for guest in (hog, shield):
                if guest.number in made.kernel.environments:
                    await exo.destroy(guest.number)

        made.run(init, 400 * HARD_LIMIT)
        assert len(fed) == 8
        assert cycles[0] < 10 * HARD_LIMIT


def test_a_reserved_frame_is_never_taken_and_no_more_than_64_are_reserved() -> None:
    with machine(frames=420, release_deadline=20_000, release_hard_limit=HARD_LIMIT, quantum=10_000) as made:

        async def idle() -> None:
            await exo.block(Event.WOKEN, 0)

        async def init() -> None:
            owner = await exo.create_environment()
            frames = [await exo.alloc_page(ANY, owner) for _ in range(80)]
            for frame in frames[:64]:
                await exo.reserve_page(frame, 1, owner)
            with pytest.raises(Refused) as error:
                await exo.reserve_page(frames[64], 1, owner)
            assert error.value.error is Error.TOO_MANY
            await exo.start_coroutine(owner, idle())
            made.kernel.revocation.ask(made.kernel.environments[owner], 80, None)
            assert set(made.kernel.environments[owner].held) == set(frames[:64])
            for frame in frames[:4]:
                made.kernel.revocation.ask(made.kernel.environments[owner], 1, frame)
            assert set(made.kernel.environments[owner].held) == set(frames[:64])
            audit(made.kernel)
            await exo.destroy(owner)

        made.run(init, 400 * HARD_LIMIT)


def test_a_request_for_very_many_frames_is_carried_out() -> None:
    with machine(frames=4096, release_deadline=1) as made:

        async def idle() -> None:
            await exo.block(Event.WOKEN, 0)

        async def init() -> None:
            owner = await exo.create_environment()
            await exo.start_coroutine(owner, idle())
            for _ in range(3000):
                await exo.alloc_page(ANY, owner)
            environment = made.kernel.environments[owner]
            made.kernel.revocation.ask(environment, 2900, None)
            assert len(environment.held) == 100
            await exo.destroy(owner)

        made.run(init, 400 * HARD_LIMIT)


def test_a_frame_taken_in_the_middle_of_a_call_that_names_it_is_not_mapped() -> None:
    """The call's own price may use up the deadline; what is checked after that must be the frame as it is then."""
    with machine(release_deadline=1_000_000) as made:

        async def init() -> None:
            for remaining in range(200, 400, 5):
                guest = await made.guest(
                    "exo set_upcall, {Upcall_PLEASE_RELEASE_PAGE}, &handler, 0\n exo alloc_page, {ANY}, 0\n mov r12, rax\n"
                    "note rax\n exo block, {Event_WOKEN}, 0, {FOREVER}\n exo create_mapping, {FREE}, r12, 3, 0\n note rax\n"
                    " exo block, {Event_WOKEN}, 1, {FOREVER}\n handler: jmp handler"
                )
                await exo.block(Event.TIME, 0, await exo.time() + 10_000)
                environment = made.kernel.environments[guest.number]
                frame = made.notes(guest, 1)[0]
                made.kernel.exposed.set_own_word(environment, CRITICAL, 1)
                made.kernel.revocation.ask(environment, 1, frame)
                environment.request.remaining = remaining
                await exo.wake(guest.number)
                await exo.block(Event.TIME, 0, await exo.time() + 10_000)
                audit(made.kernel)
                await exo.destroy(guest.number)
                await exo.dealloc_page(guest.notes)

        made.run(init, 400 * HARD_LIMIT)
