"""Attacks on running code: writable and executable at once by whatever detour, and code that has changed since it ran."""

import pytest

from exokernel.abi.errors import Error
from exokernel.abi.flags import Sharing
from exokernel.kernel.death import Cause
from tests.machine_kit import READ_EXECUTE, READ_WRITE, Guest, Machine, exo, machine
from tests.protection.attack import attack

RETURN = "b8{:02x}000000c3"
"""`mov eax, n; ret`"""


def returning(number: int) -> str:
    return f"mov rax, {int.from_bytes(bytes.fromhex(RETURN.format(number)), 'little')}\n mov [rbx], rax\n"


def test_code_cannot_be_written() -> None:
    assert attack("mov rbx, {CODE}\n mov [rbx], rax\n exit 0").cause is Cause.NO_FAULT_HANDLER


def test_data_and_stack_cannot_be_executed() -> None:
    result = attack(f"mov rbx, {{STACK}}\n {returning(1)} call rbx\n exit 0")
    assert result.cause is Cause.NO_FAULT_HANDLER


@pytest.mark.parametrize(("first", "second"), [(3, 5), (5, 3), (3, 7), (3, 4), (2, 4), (4, 2), (6, 1), (7, 1)])
def test_two_mappings_of_one_environment_do_not_make_a_frame_both(first: int, second: int) -> None:
    result = attack(
        f"exo alloc_page, {{ANY}}, 0\n mov r12, rax\n exo create_mapping, {{FREE}}, r12, {first}, 0\n note rax\n"
        f"exo create_mapping, {{FREE}} + 0x10000, r12, {second}, 0\n note rax\n exit 1"
    )
    assert result.status == 1
    assert Error.WRITE_XOR_EXECUTE in (result.error(0), result.error(1))


def test_one_mapping_may_be_flipped_at_its_place() -> None:
    result = attack(
        "exo alloc_page, {ANY}, 0\n mov r12, rax\n exo create_mapping, {FREE}, r12, 3, 0\n note rax\n"
        "exo create_mapping, {FREE}, r12, 5, 0\n note rax\n exo create_mapping, {FREE}, r12, 3, 0\n note rax\n exit 1"
    )
    assert result.notes[:3] == [0, 0, 0]


@pytest.mark.parametrize("sharing", list(Sharing))
@pytest.mark.parametrize(("mine", "theirs"), [(READ_WRITE, READ_EXECUTE), (READ_EXECUTE, READ_WRITE)])
def test_two_environments_do_not_make_a_frame_both(mine: int, theirs: int, sharing: Sharing) -> None:
    with machine() as made:
        errors: list[object] = []

        async def init() -> None:
            first, second = await made.guest("exit 0", start=False), await made.guest("exit 0", start=False)
            frame = await exo.alloc_page(env=first.number)
            await exo.create_mapping(0xA0_0000, frame, mine, first.number)
            if sharing is Sharing.HOLD:
                await exo.share_page(frame, second.number, sharing, 15)
            else:
                await exo.share_page(frame, made.kernel.first_environment, Sharing.HOLD, 15)
                await exo.share_page(frame, second.number, sharing, 7)
            try:
                await exo.create_mapping(0xA0_0000, frame, theirs, second.number)
            except Exception as refused:
                errors.append(refused.error)
            await exo.destroy(first.number)
            await exo.destroy(second.number)

        made.run(init)
        assert errors == [Error.WRITE_XOR_EXECUTE]


def test_the_disk_does_not_read_into_a_frame_that_somebody_executes() -> None:
    result = attack(
        "exo alloc_sectors, 8, {ANY}\n mov r13, rax\n exo read_sectors, r13, 8, {code_frame}, 0\n note rax\n"
        "exo alloc_page, {ANY}, 0\n mov r12, rax\n exo read_sectors, r13, 8, r12, 0\n note rax\n"
        "exo create_mapping, {FREE}, r12, 5, 0\n note rax\n exo block, {Event_DISK}, [r15 - 16], {FOREVER}\n note rax\n"
        "exo create_mapping, {FREE}, r12, 5, 0\n note rax\n exit 1"
    )
    assert result.status == 1
    assert result.error(0) is Error.WRITE_XOR_EXECUTE
    assert result.error(1) is None
    assert result.error(2) is Error.WRITE_XOR_EXECUTE
    assert result.notes[3:5] == [0, 0]


def test_new_code_runs_after_every_flip() -> None:
    """The same address and the same frame, another routine each time: what was translated before must be forgotten."""
    rounds = "".join(
        f"exo create_mapping, rbx, r12, 3, 0\n {returning(n)} exo create_mapping, rbx, r12, 5, 0\n mov r13, 50\n"
        f"again{n}: call rbx\n dec r13\n jnz again{n}\n note rax\n"
        for n in range(1, 9)
    )
    result = attack(f"mov rbx, {{FREE}}\n exo alloc_page, {{ANY}}, 0\n mov r12, rax\n {rounds} exit 1")
    assert result.status == 1
    assert result.notes[:8] == list(range(1, 9))


def test_new_code_runs_after_a_write_through_another_mapping() -> None:
    rounds = "".join(
        f"exo create_mapping, rbp, r12, 3, 0\n xchg rbx, rbp\n {returning(n)} xchg rbx, rbp\n exo remove_mapping, rbp, 0\n"
        f"exo create_mapping, rbx, r12, 5, 0\n call rbx\n note rax\n exo remove_mapping, rbx, 0\n"
        for n in range(1, 6)
    )
    result = attack(f"mov rbx, {{FREE}}\n mov rbp, 0xb00000\n exo alloc_page, {{ANY}}, 0\n mov r12, rax\n {rounds} exit 1")
    assert result.notes[:5] == [1, 2, 3, 4, 5]


def test_another_frame_at_the_same_address_runs_its_own_code() -> None:
    result = attack(
        f"""
        mov rbx, {{FREE}}
        exo alloc_page, {{ANY}}, 0
        mov r12, rax
        exo alloc_page, {{ANY}}, 0
        mov r13, rax
        exo create_mapping, rbx, r12, 3, 0
        {returning(1)}
        exo create_mapping, rbx, r13, 3, 0
        {returning(2)}
        exo create_mapping, rbx, r12, 5, 0
        call rbx
        note rax
        exo create_mapping, rbx, r13, 5, 0
        call rbx
        note rax
        exo create_mapping, rbx, r12, 5, 0
        call rbx
        note rax
        exo dealloc_page, r12, 0
        call rbx
        exit 0
        """
    )
    assert result.notes[:3] == [1, 2, 1]
    assert result.cause is Cause.NO_FAULT_HANDLER


def test_code_read_from_the_disk_into_a_frame_that_had_run_is_what_runs() -> None:
    async def prepare(made: Machine, guest: Guest, victim: Guest) -> dict[str, int]:
        sector = await exo.alloc_sectors(8)
        made.disk.write(sector, bytes.fromhex(RETURN.format(2)).ljust(512, b"\x90"))
        await exo.share_sectors(sector, guest.number, Sharing.LOAN, 1)
        return {"stored": sector}

    result = attack(
        f"""
        mov rbx, {{FREE}}
        exo alloc_page, {{ANY}}, 0
        mov r12, rax
        exo create_mapping, rbx, r12, 3, 0
        {returning(1)}
        exo create_mapping, rbx, r12, 5, 0
        call rbx
        note rax
        exo remove_mapping, rbx, 0
        exo read_sectors, {{stored}}, 1, r12, 0
        mov rsi, rax
        exo block, {{Event_DISK}}, rsi, {{FOREVER}}
        exo create_mapping, rbx, r12, 5, 0
        call rbx
        note rax
        exit 1
        """,
        prepare=prepare,
    )
    assert result.notes[:2] == [1, 2]


def test_a_frame_that_ran_code_and_is_given_to_another_runs_that_ones_code() -> None:
    """Four programs in turn, the code of each in the very frame of the one before."""
    with machine() as made:
        seen: list[int] = []

        async def init() -> None:
            for number in range(1, 5):
                guest = await made.guest(
                    f"mov r13, 300\n again: mov rax, {number}\n dec r13\n jnz again\n note rax\n exit 1", code_frame=700
                )
                await made.end_of(guest)
                seen.append(made.notes(guest, 1)[0])
                await exo.dealloc_page(guest.notes)

        made.run(init)
        assert seen == [1, 2, 3, 4]
