"""Arbitrary down-calls and arbitrary machine code: the kernel refuses or serves, and never falls.

No exception leaves `Kernel.run`, the audit holds afterwards, an innocent environment is unharmed, and machine code and a
coroutine that make the same calls get the same answers.
"""

import random
from typing import Any

import hypothesis.strategies as st
from hypothesis import example, given

from exokernel.abi.downcalls import BY_NAME, TABLE, Kind
from exokernel.abi.errors import Refused
from exokernel.abi.layout import EXPOSED, OWN_PAGE, PAGE_TABLES, SUPERVISOR, USER_END
from exokernel.abi.traps import DownCallTrap, ReadTrap, WriteTrap, trap
from exokernel.kernel.death import Cause
from tests.kernel.audit import audit
from tests.machine_kit import CODE, DATA, NOTES, STACK, UPCALL_STACK, examples, exo, machine
from tests.protection.attack import INTACT, SECRET_BYTES, innocent

EDGES = (
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    15,
    16,
    31,
    32,
    40,
    50,
    55,
    60,
    64,
    255,
    4096,
    4097,
    8194,
    12291,
    0x1000,
    0xFFF,
    CODE,
    DATA,
    NOTES,
    STACK,
    UPCALL_STACK,
    USER_END - 4096,
    USER_END,
    EXPOSED,
    OWN_PAGE,
    PAGE_TABLES,
    SUPERVISOR,
    0xFFFF_FFFF,
    1 << 32,
    1 << 47,
    1 << 63,
    (1 << 64) - 4096,
    (1 << 64) - 1,
)
words = st.sampled_from(EDGES) | st.integers(0, (1 << 64) - 1) | st.integers(30, 90)
numbers = st.sampled_from(sorted(TABLE)) | st.integers(0x4558_0000, 0x4558_00FF)
CALLS = st.lists(st.tuples(numbers, st.tuples(*[words] * 6)), min_size=1, max_size=25)
STOPS = {BY_NAME[name].number for name in ("block", "exit", "destroy")}


def _native(calls: list[tuple[int, tuple[int, ...]]]) -> str:
    lines = []
    for number, values in calls:
        lines += [
            f"mov {register}, {value}"
            for register, value in zip(("rdi", "rsi", "rdx", "r10", "r8", "r9"), values, strict=True)
        ]
        lines += [f"mov eax, {number}", "syscall", "note rax"]
    return "\n".join([*lines, "exit 1"])


@given(CALLS)
@examples(80)
@example([(0x4558_0012, (0x1000, (1 << 64) - 1, 3, 0, 0, 0))])
@example([(0x4558_0003, (USER_END - 8, 64, 0, 0, 0, 0)), (0x4558_0008, ((1 << 64) - 1, 9, 0, 0, 0, 0))])
def test_machine_code_may_call_anything(calls: list[tuple[int, tuple[int, ...]]]) -> None:
    with machine(frames=256, sectors=64) as made:

        async def init() -> None:
            victim = await innocent(made)
            guest = await made.guest(_native(calls), quota=40)
            while guest.number in made.kernel.environments and made.kernel.clock.now < 20_000_000:
                await exo.block(3, 0, await exo.time() + 1_000_000)
                audit(made.kernel)
            if guest.number in made.kernel.environments:
                await exo.destroy(guest.number)
            assert SECRET_BYTES not in made.page(guest.notes)
            assert await made.end_of(victim) == INTACT

        made.run(init)
        assert not made.kernel.python_errors
        assert len(made.kernel.frames.free) == made.free_at_start


odd = words | st.sampled_from([-1, 1 << 64, 1.5, None, "x", b"bytes", (), True, object()])


@given(
    st.lists(st.tuples(st.sampled_from(sorted(TABLE)) | st.integers(), st.lists(odd, max_size=7)), min_size=1, max_size=25),
    st.lists(st.tuples(odd, odd), max_size=4),
)
@examples(150)
def test_a_coroutine_may_await_anything(calls: list[tuple[int, list[Any]]], accesses: list[tuple[Any, Any]]) -> None:
    with machine(frames=256, sectors=64) as made:

        async def wild() -> None:
            for number, arguments in calls:
                if number in STOPS:
                    continue
                row = TABLE.get(number)
                if row is not None and any(argument.kind is Kind.OBJECT for argument in row.arguments):
                    continue
                try:
                    await trap(DownCallTrap(number, tuple(arguments)))
                except Refused:
                    continue
            for va, size in accesses:
                for request in (ReadTrap(va, size), WriteTrap(va, size)):
                    try:
                        await trap(request)
                    except Refused:
                        continue

        async def init() -> None:
            other = await exo.create_environment(40)
            await exo.start_coroutine(other, wild())
            assert await exo.block(4, other) in (0, 128)
            audit(made.kernel)

        made.run(init)
        assert all(death.cause in (Cause.NO_FAULT_HANDLER, Cause.DEADLOCK) for death in made.kernel.deaths)
        assert not made.kernel.python_errors
        assert len(made.kernel.frames.free) == made.free_at_start


@given(st.integers(0, 1 << 32))
@examples(60)
def test_random_bytes_may_be_executed(seed: int) -> None:
    chance = random.Random(seed)
    code = bytes(chance.randrange(256) for _ in range(chance.choice((16, 64, 512, 4096))))
    with machine(frames=256, sectors=64, quantum=20_000) as made:

        async def init() -> None:
            victim = await innocent(made)
            handled = chance.random() < 0.5
            guest = await made.guest("", code=code, quota=60, start=False, argument=DATA)
            if handled:
                for upcall in range(8):
                    await exo.set_upcall(upcall, CODE + chance.randrange(4096), guest.number)
            await exo.start(guest.number, CODE, STACK + 2048, DATA)
            await exo.block(3, 0, await exo.time() + 300_000)
            if guest.number in made.kernel.environments:
                await exo.destroy(guest.number)
            assert SECRET_BYTES not in made.page(guest.notes)
            audit(made.kernel)
            assert await made.end_of(victim) == INTACT

        made.run(init)
        assert not made.kernel.python_errors
        assert len(made.kernel.frames.free) == made.free_at_start


SAME = sorted(
    row.number
    for row in TABLE.values()
    if not row.python_only
    and row.name
    not in {"block", "exit", "destroy", "yield", "time", "charge", "batch"}
    | {"block_until", "call", "send", "reply", "serve", "end_context"}
    and not any(argument.kind in (Kind.BYTES, Kind.BUFFER) for argument in row.arguments)
)


@given(st.lists(st.tuples(st.sampled_from(SAME), st.tuples(*[words] * 6)), min_size=1, max_size=25))
@examples(60)
def test_a_coroutine_and_machine_code_get_the_same_answers(calls: list[tuple[int, tuple[int, ...]]]) -> None:
    """The same calls by two environments that are alike, one after the other on machines of their own."""
    answers: list[list[int]] = [[], []]
    states: list[Any] = []
    for native in (True, False):
        with machine(frames=256, sectors=64) as made:

            async def python() -> None:
                for number, values in calls:
                    try:
                        answer = await trap(DownCallTrap(number, values[: len(TABLE[number].arguments)]))
                    except Refused as refused:
                        answer = -refused.error
                    answers[1].append(answer & (1 << 64) - 1)
                await exo.block(1, 0)

            async def init(made: Any = made, native: bool = native) -> None:
                guest = await made.guest(
                    _native(calls).replace("exit 1", "exo block, 1, 0, {FOREVER}"), quota=60, start=False
                )
                if native:
                    await exo.start(guest.number, CODE, STACK + 4096, 0)
                else:
                    await exo.start_coroutine(guest.number, python())
                await exo.block(3, 0, await exo.time() + 3_000_000)
                if native:
                    answers[0].extend(made.notes(guest, len(calls)))
                environment = made.environment(guest.number)
                states.append(
                    (
                        sorted(environment.held),
                        sorted(environment.tables),
                        sorted(environment.leaves),
                        environment.ring,
                        environment.entries,
                        dict(environment.stacks),
                        sorted(environment.reserved),
                        environment.events[1],
                        {
                            number: sorted((who.number, va, r) for (who, va), r in frame.mappings.items())
                            for number, frame in made.kernel.frames.used.items()
                        },
                    )
                )
                if guest.number in made.kernel.environments:
                    await exo.destroy(guest.number)

            made.run(init)
    assert answers[0] == answers[1]
    assert states[0] == states[1]
