"""Wakeup predicates: sums of products over one's own memory, evaluated before anybody waits in vain."""

from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from exokernel.abi import layout, pages
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import ANY, Compare, Event, Sharing
from exokernel.kernel.death import Cause
from tests.machine_kit import READ_WRITE, Machine, examples, exo, machine, run

TERMS = 0x2_0000
WORDS = 0x3_0000


def term(tag: int, va: int, compare: Compare, value: int) -> bytes:
    return pages.PredicateTerm.build({"tag": tag, "va": va, "compare": int(compare), "value": value})


async def memory() -> int:
    """A page for the terms and one for the words, in the caller's own memory; gives the frame of the words."""
    await exo.create_mapping(TERMS, await exo.alloc_page(), READ_WRITE)
    frame = await exo.alloc_page()
    await exo.create_mapping(WORDS, frame, READ_WRITE)
    return frame


async def until(*terms: bytes, deadline: int = 1 << 40) -> int:
    await exo.write(TERMS, b"".join(terms))
    return await exo.block_until(TERMS, len(terms), deadline)


async def refusal(call: Any) -> Error | None:
    try:
        await call
    except Refused as refused:
        return refused.error
    return None


def test_the_first_product_that_holds_names_its_tag() -> None:
    async def init(made: Machine) -> None:
        await memory()
        await exo.write(WORDS, (5).to_bytes(8, "little") + (7).to_bytes(8, "little"))
        both = [term(1, WORDS, Compare.EQUAL, 5), term(1, WORDS + 8, Compare.EQUAL, 8)]
        assert await until(*both, term(2, WORDS + 8, Compare.GREATER, 6)) == 2
        assert await until(term(3, WORDS, Compare.LESS, 6), term(4, WORDS, Compare.LESS, 6)) == 3

    run(init)


COMPARISONS = {
    Compare.EQUAL: lambda a, b: a == b,
    Compare.NOT_EQUAL: lambda a, b: a != b,
    Compare.LESS: lambda a, b: a < b,
    Compare.LESS_OR_EQUAL: lambda a, b: a <= b,
    Compare.GREATER: lambda a, b: a > b,
    Compare.GREATER_OR_EQUAL: lambda a, b: a >= b,
}
values = st.integers(0, 3) | st.sampled_from([(1 << 64) - 1, 1 << 63])


@given(
    st.lists(values, min_size=4, max_size=4),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from(Compare), values), min_size=1, max_size=12),
)
@examples(60)
def test_a_predicate_is_the_sum_of_the_products_of_neighbouring_terms(
    words: list[int], terms: list[tuple[int, int, Compare, int]]
) -> None:
    async def init(made: Machine) -> None:
        await memory()
        await exo.write(WORDS, b"".join(word.to_bytes(8, "little") for word in words))
        products: list[tuple[int, list[bool]]] = []
        for tag, place, compare, value in terms:
            if not products or products[-1][0] != tag:
                products.append((tag, []))
            products[-1][1].append(COMPARISONS[compare](words[place], value))
        expected = next((tag for tag, truths in products if all(truths)), None)
        given_terms = [term(tag, WORDS + 8 * place, compare, value) for tag, place, compare, value in terms]
        waits = until(*given_terms, deadline=await exo.time() + 5000)
        if expected is None:
            assert await refusal(waits) is Error.TIMED_OUT
        else:
            assert await waits == expected

    run(init)


def test_another_environments_store_to_shared_memory_wakes_it_without_a_call() -> None:
    with machine() as made:
        waited: list[int] = []

        async def init() -> None:
            frame = await memory()
            guest = await made.guest(
                "mov r12, 0xa00000\n mov rcx, 20000\n a: dec rcx\n jnz a\n mov qword ptr [r12], 42\n"
                "mov rcx, 20000\n b: dec rcx\n jnz b\n exit 0",
                start=False,
            )
            await exo.share_page(frame, guest.number, Sharing.LOAN, READ_WRITE)
            await exo.create_mapping(0xA0_0000, frame, READ_WRITE, guest.number)
            await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
            begun = await exo.time()
            downcalls = made.environment(guest.number).accounts.downcalls
            assert await until(term(9, WORDS, Compare.EQUAL, 42)) == 9
            waited.append(await exo.time() - begun)
            assert made.environment(guest.number).accounts.downcalls <= downcalls + 1
            await made.end_of(guest)

        made.run(init)
        assert 20_000 < waited[0] < 250_000


def guest_waits(event: str) -> str:
    """Assembly that waits until the word at DATA is not zero and notes the answer."""
    return f"""
    mov rax, {{STACK}}
    mov qword ptr [rax], 3
    mov rbx, {{DATA}}
    mov qword ptr [rax + 8], rbx
    mov qword ptr [rax + 16], {{Compare_NOT_EQUAL}}
    mov qword ptr [rax + 24], 0
    {event}
    exo block_until, {{STACK}}, 1, {{FOREVER}}
    note rax
    exit 0
    """


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_machine_code_waits_for_a_word_as_well(cpus: int) -> None:
    with machine(cpus=cpus) as made:
        answers: list[int] = []

        async def init() -> None:
            guest = await made.guest(guest_waits(""))
            await exo.block(Event.TIME, 0, 300_000)
            assert made.environment(guest.number).contexts[0].wait is not None
            await made.fill(guest.frames[0x50_0000], (1).to_bytes(8, "little"))
            assert await made.end_of(guest) == 0
            answers.extend(made.notes(guest, 1))

        made.run(init)
        assert answers == [3]


def test_a_page_that_is_lost_wakes_it_with_an_error() -> None:
    with machine() as made:
        answers: list[int] = []

        async def init() -> None:
            guest = await made.guest(guest_waits(""))
            await exo.block(Event.TIME, 0, 300_000)
            await exo.remove_mapping(0x50_0000, guest.number)
            await made.end_of(guest)
            answers.extend(made.notes(guest, 1))

        made.run(init)
        assert answers[0] == (1 << 64) - Error.NOT_MAPPED


def test_a_page_that_is_another_frame_now_has_been_lost_too() -> None:
    with machine() as made:
        answers: list[int] = []

        async def init() -> None:
            guest = await made.guest(guest_waits(""))
            await exo.block(Event.TIME, 0, 300_000)
            other = await exo.alloc_page(ANY, guest.number)
            await made.fill(other, b"\x01" * 8)
            await exo.create_mapping(0x50_0000, other, READ_WRITE, guest.number)
            await made.end_of(guest)
            answers.extend(made.notes(guest, 1))

        made.run(init)
        assert answers[0] == (1 << 64) - Error.NOT_MAPPED


def test_memory_that_is_not_the_callers_is_refused() -> None:
    async def init(made: Machine) -> None:
        await memory()
        for va in (0x66_0000, 0, layout.USER_END - 8, layout.SUPERVISOR, 1 << 47):
            error = await refusal(until(term(1, va, Compare.EQUAL, 0)))
            assert error in (Error.NOT_MAPPED, Error.BAD_ARGUMENT), hex(va)
        assert await refusal(until(term(1, WORDS + 4, Compare.EQUAL, 0))) is Error.BAD_ARGUMENT
        assert await refusal(until(pages.PredicateTerm.build({"tag": 1, "va": WORDS, "compare": 6, "value": 0})))
        assert await until(term(1, layout.EXPOSED, Compare.NOT_EQUAL, 0)) == 1, "what is exposed may be waited for"

    run(init)


def test_terms_have_a_quota() -> None:
    async def init(made: Machine) -> None:
        await memory()
        many = [term(1, WORDS, Compare.EQUAL, 1)] * (layout.PREDICATE_TERMS + 1)
        assert await refusal(until(*many)) is Error.TOO_MANY
        assert await refusal(until(*many[1:], deadline=await exo.time() + 1000)) is Error.TIMED_OUT
        assert made.environment(made.kernel.first_environment).watching == 0

    run(init)


def test_it_is_evaluated_before_the_clock_jumps() -> None:
    """Nobody else runs: a disk read fills the word, and the wait ends then and not at the next event after."""

    async def init(made: Machine) -> None:
        frame = await memory()
        sector = await exo.alloc_sectors(8)
        await exo.write(WORDS, b"\x07" * 4096)
        await exo.block(Event.DISK, await exo.write_sectors(sector, 8, frame))
        await exo.write(WORDS, bytes(4096))
        begun = await exo.time()
        await exo.read_sectors(sector, 8, frame)
        assert await until(term(1, WORDS, Compare.NOT_EQUAL, 0), deadline=begun + 50_000_000) == 1
        assert await exo.time() - begun < 1_000_000

    run(init)


def test_one_that_can_never_hold_is_a_deadlock_and_the_report_says_what_is_waited_for() -> None:
    with machine() as made:

        async def init() -> None:
            await memory()
            await until(term(1, WORDS, Compare.EQUAL, 77), deadline=(1 << 64) - 1)

        made.run(init)
        (death,) = made.kernel.deaths
        assert death.cause is Cause.DEADLOCK
        assert "[0x30000] eq 0x4d" in death.detail


def test_many_who_wait_for_predicates_do_not_stop_one_who_works() -> None:
    with machine(frames=4096, quantum=5_000) as made:

        async def init() -> None:
            waiting = [await made.guest(guest_waits("")) for _ in range(20)]
            worker = await made.guest("mov rcx, 300000\n a: dec rcx\n jnz a\n exit 5")
            assert await made.end_of(worker) == 5
            for guest in waiting:
                assert made.environment(guest.number).contexts[0].wait is not None
                await exo.destroy(guest.number)

        made.run(init)
