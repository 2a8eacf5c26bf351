"""Attacks by way of the disk: transfers in flight, sectors of others, requests without end."""

import pytest

from exokernel.abi.errors import Error
from exokernel.abi.flags import Sharing
from exokernel.abi.layout import PAGE_SIZE
from exokernel.kernel.death import Cause
from tests.machine_kit import READ_WRITE, Guest, Machine, exo, machine
from tests.protection.attack import attack

BEGIN = "exo alloc_sectors, 8, {ANY}\n mov r13, rax\n exo alloc_page, {ANY}, 0\n mov r12, rax\n"


@pytest.mark.parametrize("call", ["read_sectors", "write_sectors"])
@pytest.mark.parametrize(
    ("sector", "count"),
    [
        ("{victim_sector}", 8),
        ("{victim_sector}", 1),
        ("{victim_sector} + 7", 1),
        (0xFFFFFFFE, 1),
        (0xFFFFFFFF, 8),
        (2047, 8),
        (1000, 1),
    ],
)
def test_nobodys_and_anothers_sectors_are_not_moved(call: str, sector: str, count: int) -> None:
    result = attack(f"mov rdi, {sector}\n exo {call}, rdi, {count}, {{data_frame}}, 0\n note rax\n exit 1")
    assert result.error(0) is Error.BAD_SECTOR


@pytest.mark.parametrize(
    ("start", "count", "offset"),
    [(0, 9, 0), (0, 8, 512), (0, 1, 4096), (0, 1, 100), (0, 1, 1 << 63), (0, 0, 0), (0, 1 << 40, 0)],
)
def test_a_transfer_stays_within_one_frame(start: int, count: int, offset: int) -> None:
    result = attack(
        BEGIN + f"add r13, {start}\n mov rsi, {count}\n mov r10, {offset}\n exo read_sectors, r13, rsi, r12, r10\n"
        f" note rax\n exit 1"
    )
    assert result.error(0) is Error.BAD_ARGUMENT


def test_a_run_that_begins_in_ones_own_sectors_does_not_reach_beyond() -> None:
    result = attack(BEGIN + "add r13, 4\n exo read_sectors, r13, 8, r12, 0\n note rax\n exit 1")
    assert result.error(0) is Error.BAD_SECTOR


@pytest.mark.parametrize("frame", ["{victim_frame}", "{my_root}", "{my_own}", "{victim_root}", "1", "0xffffffff"])
@pytest.mark.parametrize("call", ["read_sectors", "write_sectors"])
def test_no_frame_of_another_and_no_table_is_moved(call: str, frame: str) -> None:
    result = attack(BEGIN + f"mov rdx, {frame}\n exo {call}, r13, 8, rdx, 0\n note rax\n exit 1")
    assert result.error(0) in (Error.DENIED, Error.NO_SUCH_FRAME)


def test_others_extents_are_not_freed_shared_or_opened() -> None:
    result = attack(
        "exo free_sectors, {victim_sector}\n note rax\n exo share_sectors, {victim_sector}, {me}, 1, 15\n note rax\n"
        "exo share_sectors, {victim_sector}, {me}, 0, 1\n note rax\n"
        " exo set_access, {Subject_EXTENT}, {victim_sector}, 0, 0, 15\n"
        "note rax\n exo unshare_sectors, {victim_sector}, {me}\n note rax\n"
        " exo alloc_sectors, 1, {victim_sector}\n note rax\n"
        "exo set_backing, {data_frame}, {victim_sector}, 0\n note rax\n exit 1"
    )
    assert [result.error(i) for i in range(5)] == [Error.DENIED] * 5
    assert [result.error(i) for i in (5, 6)] == [Error.BAD_SECTOR] * 2


@pytest.mark.parametrize("rights", [0, 4, 8, 12, 15, 0x101, 1 << 63 | 1])
def test_an_extent_is_lent_to_read_and_write_and_nothing_else(rights: int) -> None:
    result = attack(BEGIN + f"mov r10, {rights}\n exo share_sectors, r13, {{victim}}, 0, r10\n note rax\n exit 1")
    assert result.error(0) is Error.BAD_ARGUMENT


def test_nobody_is_made_a_holder_by_a_stranger() -> None:
    """Else whoever ends could leave the sectors to somebody who knows nothing of them, and never come back for them."""
    result = attack(BEGIN + "exo share_sectors, r13, {victim}, {Sharing_HOLD}, 15\n note rax\n exit 1")
    assert result.error(0) is Error.DENIED


def test_requests_are_bounded() -> None:
    result = attack(
        BEGIN + "xor rbx, rbx\n more: exo read_sectors, r13, 8, r12, 0\n test rax, rax\n js full\n inc rbx\n jmp more\n"
        "full: note rax\n note rbx\n exo flush\n note rax\n exit 1"
    )
    assert result.status == 1
    assert result.error(0) is Error.TOO_MANY
    assert result.notes[1] == 64
    assert result.error(2) is Error.TOO_MANY


@pytest.mark.parametrize("write", [False, True])
def test_a_frame_freed_under_a_transfer_is_given_to_nobody_until_it_ends(write: bool) -> None:
    """A read must not land in the next owner's page, and a write must not store what the next owner keeps there."""
    call = "write_sectors" if write else "read_sectors"
    result = attack(
        BEGIN
        + f"""
        exo create_mapping, {{FREE}}, r12, {{RW}}, 0
        mov rbx, {{FREE}}
        mov rax, 0x0101010101010101
        mov [rbx], rax
        exo {call}, r13, 8, r12, 0
        exo dealloc_page, r12, 0
        note rax
        exo alloc_page, r12, 0
        note rax
        mov r14, 200
        grab: exo alloc_page, {{ANY}}, 0
        cmp rax, r12
        je caught
        test rax, rax
        js none
        dec r14
        jnz grab
        none: note 1
        exo time
        lea rdx, [rax + 200000]
        exo block, {{Event_TIME}}, 0, rdx
        exo alloc_page, r12, 0
        note rax
        exit 1
        caught: exit 2
        """,
        quota=250,
    )
    assert result.status == 1
    assert result.notes[0] == 0
    assert result.error(1) in (Error.FRAME_BUSY, Error.NO_SUCH_FRAME)
    assert result.error(3) is None, "it is free when the transfer has ended"


@pytest.mark.parametrize("ends", ["exit 1", "cli"])
def test_who_ends_with_writes_in_flight_writes_nothing_onto_the_next_owners_sectors(ends: str) -> None:
    async def after(made: Machine, guest: Guest, victim: Guest) -> tuple[int, bytes]:
        sector = made.notes(guest, 1)[0]
        busy = 0
        while True:
            try:
                await exo.alloc_sectors(8, sector)
                break
            except Exception as refused:
                if refused.error is not Error.BAD_SECTOR:
                    raise
                busy += 1
                await exo.block(3, 0, await exo.time() + 5000)
        contents = made.disk.read(sector, 8)
        made.disk.write(sector, b"M" * 4096)
        await exo.block(3, 0, await exo.time() + 1_000_000)
        assert made.disk.read(sector, 8) == b"M" * 4096, "written after it was given to somebody else"
        return busy, contents

    result = attack(
        BEGIN
        + "note r13\n mov rbx, {FREE}\n exo create_mapping, rbx, r12, 3, 0\n mov rax, -1\n mov [rbx], rax\n mov rbx, 12\n"
        "more: exo write_sectors, r13, 8, r12, 0\n dec rbx\n jnz more\n " + ends,
        after=after,
    )
    busy, contents = result.extra
    assert busy > 0
    assert contents == bytes(4096), "erased before somebody else gets them"


def _lending(write: bool, end: str) -> tuple[bytes, bytes]:
    """A borrower begins a transfer with a lent frame, the loan ends, and the lender goes on using the frame: its bytes
    afterwards, and the borrower's sectors."""
    found: list[bytes] = []
    with machine() as made:

        async def init() -> None:
            frame, sector = await exo.alloc_page(), await exo.alloc_sectors(8)
            await made.fill(frame, b"A" * PAGE_SIZE)
            made.disk.write(sector, b"D" * PAGE_SIZE)
            call = "write_sectors" if write else "read_sectors"
            guest = await made.guest(
                f"exo {call}, {sector}, 8, {frame}, 0\n mov rbx, rax\n exo block, {{Event_WOKEN}}, 0, {{FOREVER}}\n"
                "exo block, {Event_DISK}, rbx, {FOREVER}\n note rax\n exit 1",
                start=False,
            )
            await exo.share_page(frame, guest.number, Sharing.LOAN, READ_WRITE)
            await exo.share_sectors(sector, guest.number, Sharing.LOAN, READ_WRITE)
            await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
            while not made.kernel.disk.busy:
                await exo.yield_()
            if end == "unshare":
                await exo.unshare_page(frame, guest.number)
            elif end == "change":
                await exo.share_page(frame, guest.number, Sharing.LOAN, 4)
            else:
                await exo.destroy(guest.number)
            await made.fill(frame, b"S" * PAGE_SIZE)
            await exo.block(3, 0, await exo.time() + 1_000_000)
            found.extend([made.page(frame), made.disk.read(sector, 8)])
            if end != "destroy":
                await exo.wake(guest.number)
                assert await made.end_of(guest) == 1
                assert made.notes(guest, 1)[0] == (1 << 64) - int(Error.IO_ERROR)

        made.run(init)
    return found[0], found[1]


@pytest.mark.parametrize("end", ["unshare", "change", "destroy"])
def test_a_read_in_flight_does_not_land_in_a_frame_whose_loan_has_ended(end: str) -> None:
    page, _ = _lending(False, end)
    assert page == b"S" * PAGE_SIZE


@pytest.mark.parametrize("end", ["unshare", "change", "destroy"])
def test_a_write_in_flight_does_not_store_what_the_lender_keeps_there_since(end: str) -> None:
    _, sectors = _lending(True, end)
    assert sectors == b"D" * PAGE_SIZE


def _sectors_lost(write: bool, end: str) -> tuple[bytes, bytes]:
    """A borrower begins a transfer with lent sectors, loses its right to them, and the lender goes on using them: the
    borrower's page afterwards, and the sectors."""
    found: list[bytes] = []
    with machine() as made:

        async def init() -> None:
            sector = await exo.alloc_sectors(8)
            call = "write_sectors" if write else "read_sectors"
            guest = await made.guest(
                f"exo {call}, {sector}, 8, {{data_frame}}, 0\n mov rbx, rax\n"
                " exo block, {Event_WOKEN}, 0, {FOREVER}\n exo block, {Event_DISK}, rbx, {FOREVER}\n note rax\n"
                " exo block, {Event_WOKEN}, 1, {FOREVER}\n exit 1",
                start=False,
            )
            await made.fill(guest.frames[0x50_0000], b"B" * PAGE_SIZE)
            if end == "access":
                await exo.forge_capability(0, 7, 15, 4)
                await exo.set_access(1, sector, 0, 4, READ_WRITE)
                await exo.give_capability(guest.number, 4, 15, 5)
            else:
                await exo.share_sectors(sector, guest.number, Sharing.HOLD if end == "hold" else Sharing.LOAN, READ_WRITE)
            await exo.start(guest.number, 0x40_0000, 0x70_1000, 0)
            while not made.kernel.disk.busy:
                await exo.yield_()
            if end == "unshare":
                await exo.unshare_sectors(sector, guest.number)
            elif end == "change":
                await exo.share_sectors(sector, guest.number, Sharing.LOAN, 1 if write else 2)
            elif end == "access":
                await exo.set_access(1, sector, 0, 4, 0)
            else:
                await exo.destroy(guest.number)
            made.disk.write(sector, b"S" * PAGE_SIZE)
            await exo.block(3, 0, await exo.time() + 1_000_000)
            found.append(made.disk.read(sector, 8))
            if end not in ("destroy", "hold"):
                await exo.wake(guest.number)
                await exo.block(3, 0, await exo.time() + 100_000)
                assert made.notes(guest, 1)[0] == (1 << 64) - int(Error.IO_ERROR)
                found.insert(0, made.page(guest.frames[0x50_0000]))
                await exo.wake(guest.number)
                assert await made.end_of(guest) == 1

        made.run(init)
    return found[0], found[-1]


@pytest.mark.parametrize("end", ["unshare", "change", "access"])
def test_a_read_in_flight_does_not_show_what_is_on_sectors_that_are_no_longer_lent(end: str) -> None:
    page, _ = _sectors_lost(False, end)
    assert page == b"B" * PAGE_SIZE


@pytest.mark.parametrize("end", ["unshare", "change", "access", "destroy", "hold"])
def test_a_write_in_flight_does_not_land_on_sectors_that_are_no_longer_lent(end: str) -> None:
    _, sectors = _sectors_lost(True, end)
    assert sectors == b"S" * PAGE_SIZE


def test_sectors_are_erased_before_anybody_else_gets_them() -> None:
    result = attack(
        BEGIN + "mov rbx, {FREE}\n exo create_mapping, rbx, r12, 3, 0\n mov rax, -1\n mov [rbx], rax\n"
        " exo write_sectors, r13, 8, r12, 0\n"
        "mov rsi, rax\n exo block, 0, rsi, {FOREVER}\n exo free_sectors, r13\n note rax\n"
        " exo alloc_sectors, 8, r13\n note rax\n"
        "exo read_sectors, r13, 8, r12, 0\n mov rsi, rax\n exo block, 0, rsi, {FOREVER}\n note [rbx]\n exit 1"
    )
    assert result.notes[0] == 0
    assert result.error(1) is None
    assert result.notes[2] == 0


@pytest.mark.parametrize("value", [0, 1, 999, 1 << 63])
def test_anothers_request_is_not_waited_for(value: int) -> None:
    result = attack(f"mov rsi, {value}\n exo block, {{Event_DISK}}, rsi, {{FOREVER}}\n note rax\n exit 1")
    assert result.error(0) is Error.NO_SUCH_REQUEST
    assert result.cause is None or result.cause is Cause.DEADLOCK
