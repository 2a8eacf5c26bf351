"""Attacks on memory: another's frames, page tables, exposed pages, nobody's addresses, translations that linger."""

import pytest

from exokernel.abi import layout
from exokernel.abi.errors import Error
from exokernel.abi.flags import Rights, Sharing
from exokernel.abi.layout import PAGE_SIZE
from exokernel.kernel.death import Cause
from tests.machine_kit import CODE, READ_WRITE, Guest, Machine, exo
from tests.protection.attack import attack


@pytest.mark.parametrize("rights", [1, 2, 3, 4, 5, 8, 15])
@pytest.mark.parametrize(
    "frame", ["victim_frame", "victim_code", "victim_root", "victim_own", "my_root", "my_own", "victim_notes"]
)
def test_no_frame_of_another_and_no_table_can_be_mapped(frame: str, rights: int) -> None:
    result = attack(
        f"exo create_mapping, {{FREE}}, {{{frame}}}, {rights}, 0\n note rax\n mov rax, [{{FREE}}]\n note rax\n exit 0"
    )
    assert result.error(0) in (Error.DENIED, Error.NO_SUCH_FRAME, Error.BAD_ARGUMENT)
    assert result.cause is Cause.NO_FAULT_HANDLER


@pytest.mark.parametrize("frame", [0, 1, 2, 3, 35, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 40, (1 << 64) - 1])
def test_no_frame_of_the_machine_and_none_beyond_memory_can_be_mapped(frame: int) -> None:
    result = attack(f"mov rsi, {frame}\n exo create_mapping, {{FREE}}, rsi, {{RW}}, 0\n note rax\n exit 1")
    assert result.error(0) is Error.NO_SUCH_FRAME
    assert result.status == 1


@pytest.mark.parametrize(
    "va",
    [
        layout.EXPOSED,
        layout.DISK_QUEUE,
        layout.ENVIRONMENT_TABLE,
        layout.FRAME_TABLE,
        layout.PAGE_TABLES,
        layout.page_table_entry(CODE),
        layout.page_table_entry(layout.PAGE_TABLES),
        layout.PAGE_TABLES + (layout.PAGE_TABLES >> 9),
        layout.SUPERVISOR,
        layout.SUPERVISOR + 0x900,
        0,
        8,
        0xFFF,
        CODE,
    ],
)
@pytest.mark.parametrize(
    "how", ["mov qword ptr [rbx], 7", "lock inc qword ptr [rbx]", "movups [rbx], xmm0", "xchg [rbx], rax"]
)
def test_a_store_to_what_is_only_shown_or_nobodys_is_a_fault(va: int, how: str) -> None:
    if "movups" in how and va % 16:
        va &= -16
    result = attack(f"mov rbx, {va}\n {how}\n exit 0")
    assert result.cause in (Cause.NO_FAULT_HANDLER, Cause.NO_TRAP_HANDLER)


@pytest.mark.parametrize("va", [layout.SUPERVISOR, layout.SUPERVISOR + 0xA00, 0, 0x20_0000_0000])
def test_a_load_from_the_kernel_half_and_from_page_0_is_a_fault(va: int) -> None:
    assert attack(f"mov rbx, {va}\n mov rax, [rbx]\n note rax\n exit 0").cause is Cause.NO_FAULT_HANDLER


@pytest.mark.parametrize("va", [0x8000_0000_0000, 0xFFFF_7FFF_FFFF_FFF8, 0xDEAD_BEEF_DEAD_BEE8])
def test_a_non_canonical_address_is_an_exception_and_nothing_else(va: int) -> None:
    assert attack(f"mov rbx, {va}\n mov [rbx], rbx\n exit 0").cause in (Cause.NO_FAULT_HANDLER, Cause.NO_TRAP_HANDLER)


def test_the_supervisor_page_is_not_readable_through_the_page_table_window() -> None:
    """The window shows entries; following the supervisor's entry with it would show the machine's own frame."""
    through = layout.PAGE_TABLES | 256 << 12 | layout.SELF_MAP_SLOT << 30 | layout.SELF_MAP_SLOT << 21
    assert attack(f"mov rbx, {through}\n mov rax, [rbx]\n note rax\n exit 0").cause is Cause.NO_FAULT_HANDLER


@pytest.mark.parametrize(
    "va",
    [
        0,
        layout.USER_END,
        layout.USER_END - 0x1000 + 0x1001,
        layout.EXPOSED,
        layout.PAGE_TABLES,
        layout.SUPERVISOR,
        0x8000_0000_0000,
        (1 << 64) - PAGE_SIZE,
        1,
        CODE + 1,
    ],
)
def test_no_mapping_is_made_at_page_0_beyond_the_user_half_or_off_a_page(va: int) -> None:
    result = attack(
        f"mov rdi, {va}\n exo create_mapping, rdi, {{data_frame}}, {{RW}}, 0\n note rax\n mov rdi, {va}\n"
        "exo remove_mapping, rdi, 0\n note rax\n exit 1"
    )
    assert result.status == 1
    assert [result.error(i) for i in (0, 1)] == [Error.BAD_ARGUMENT] * 2


def test_the_last_page_below_the_end_is_usable_and_the_next_byte_is_not() -> None:
    result = attack(
        f"mov rbx, {layout.USER_END - PAGE_SIZE}\n exo create_mapping, rbx, {{data_frame}}, {{RW}}, 0\n note rax\n"
        "mov byte ptr [rbx + 4095], 1\n note 5\n mov qword ptr [rbx + 4089], 1\n exit 0"
    )
    assert result.notes[:2] == [0, 5]
    assert result.cause is Cause.NO_FAULT_HANDLER


@pytest.mark.parametrize("access", ["mov rax, [rbx]", "mov [rbx], rax", "mov rax, [rbx]\n mov [rbx], rax"])
@pytest.mark.parametrize(
    "lose",
    [
        "exo remove_mapping, rbx, 0",
        "exo dealloc_page, r12, 0",
        "exo create_mapping, rbx, {data_frame}, 1, 0\n exo remove_mapping, rbx, 0",
    ],
)
def test_a_page_that_is_gone_is_gone_from_the_tlb_too(lose: str, access: str) -> None:
    """Map, touch so that the processor remembers, lose, touch: the last must fault and must not see what comes next."""
    result = attack(
        f"""
        exo alloc_page, {{ANY}}, 0
        mov r12, rax
        mov rbx, {{FREE}}
        exo create_mapping, rbx, r12, {{RW}}, 0
        mov qword ptr [rbx], 1
        mov rax, [rbx]
        {lose}
        note 77
        {access}
        note 78
        exit 0
        """
    )
    assert result.notes[:2] == [77, 0]
    assert result.cause is Cause.NO_FAULT_HANDLER


def test_a_page_made_read_only_is_read_only_at_once() -> None:
    result = attack(
        """
        mov rbx, {DATA}
        mov qword ptr [rbx], 1
        exo create_mapping, rbx, {data_frame}, {Rights_READ}, 0
        note rax
        mov qword ptr [rbx], 2
        note 78
        exit 0
        """
    )
    assert result.notes[:2] == [0, 0]
    assert result.cause is Cause.NO_FAULT_HANDLER


def test_a_frame_given_to_another_is_zero_there_and_unreachable_here() -> None:
    """The attacker frees a frame that it has in its TLB; a second environment gets it, keeps a word in it, and the attacker
    tries to read and to write that word."""

    async def after(made: Machine, guest: Guest, victim: Guest) -> list[int]:
        await made.end_of(other[0])
        return made.notes(other[0], 3)

    other: list[Guest] = []

    async def prepare(made: Machine, guest: Guest, victim: Guest) -> None:
        other.append(
            await made.guest(
                """
                wait: mov rax, [{NOTES} + 8]
                test rax, rax
                jnz go
                exo yield, 0
                jmp wait
                go: mov r12, rax
                exo alloc_page, r12, 0
                note rax
                exo create_mapping, {FREE}, r12, {RW}, 0
                mov rbx, {FREE}
                mov rbp, [rbx]
                or rbp, [rbx + 4088]
                mov qword ptr [rbx], 0x1234
                mov rax, 1
                mov [{NOTES} + 4088], rax
                mov r13, 40
                again: exo yield, 0
                dec r13
                jnz again
                add rbp, [rbx]
                mov rax, rbp
                mov [{NOTES} + 16], rax
                exit 0
                """
            )
        )
        shared = other[0].notes
        await exo.share_page(shared, guest.number, Sharing.LOAN, READ_WRITE)
        await exo.create_mapping(0xA0_0000, shared, READ_WRITE, guest.number)

    result = attack(
        """
        exo alloc_page, {ANY}, 0
        mov r12, rax
        mov rbx, {FREE}
        exo create_mapping, rbx, r12, {RW}, 0
        mov rax, -1
        mov [rbx], rax
        mov [rbx + 4088], rax
        exo dealloc_page, r12, 0
        mov rax, r12
        mov [0xa00008], rax
        wait: exo yield, 0
        mov rax, [0xa00ff8]
        test rax, rax
        jz wait
        note 1
        mov rax, [rbx]
        note rax
        mov qword ptr [rbx], 0x666
        exit 0
        """,
        prepare=prepare,
        after=after,
    )
    assert result.notes[:2] == [1, 0]
    assert result.cause is Cause.NO_FAULT_HANDLER
    frame, _, word = result.extra
    assert error_free(frame)
    assert word == 0x1234


def error_free(word: int) -> bool:
    return word < 1 << 63


@pytest.mark.parametrize(
    ("bits", "mask", "touch"), [(32, 32, "mov rax, [rbx]"), (64, 64, "mov [rbx], rax"), (32, 32, "mov [rbx], rax")]
)
def test_a_cleared_bit_is_set_again_by_the_next_touch(bits: int, mask: int, touch: str) -> None:
    entry = layout.page_table_entry(0x50_0000)
    result = attack(
        f"""
        mov rbx, {{DATA}}
        mov r12, {entry}
        mov [rbx], rax
        mov rax, [r12]
        note rax
        exo clear_page_bits, rbx, 1, {bits}
        note rax
        mov rax, [r12]
        note rax
        {touch}
        mov rax, [r12]
        note rax
        exit 1
        """
    )
    assert result.status == 1
    before, cleared, without, again = result.notes[:4]
    assert cleared == 1
    assert before & mask == mask
    assert without & mask == 0
    assert again & mask == mask


def test_freed_then_touched_by_a_down_call_is_a_fault_too() -> None:
    result = attack(
        "exo alloc_page, {ANY}, 0\n mov r12, rax\n exo create_mapping, {FREE}, r12, {RW}, 0\n mov rax, 65\n"
        " mov [{FREE}], rax\n"
        "exo console_write, {FREE}, 1\n note rax\n exo dealloc_page, r12, 0\n exo console_write, {FREE}, 1\n"
        " note 9\n exit 0"
    )
    assert result.notes[:2] == [1, 0]
    assert result.cause is Cause.NO_FAULT_HANDLER


def test_sparse_mappings_end_at_the_quota_and_give_their_tables_back() -> None:
    result = attack(
        """
        mov rbx, {FREE}
        mov r13, 0
        spread: exo create_mapping, rbx, {data_frame}, 1, 0
        test rax, rax
        js full
        mov r12, 0x8000000000
        add rbx, r12
        inc r13
        cmp r13, 100
        jne spread
        full: note rax
        note r13
        mov rax, [{TABLE_FRAMES}]
        note rax
        mov rax, [{HELD}]
        note rax
        unspread: mov r12, 0x8000000000
        sub rbx, r12
        exo remove_mapping, rbx, 0
        dec r13
        jnz unspread
        mov rax, [{TABLE_FRAMES}]
        note rax
        exit 1
        """,
        quota=40,
    )
    assert result.status == 1
    assert result.error(0) is Error.OVER_QUOTA
    assert result.notes[2] + result.notes[3] <= 40
    assert result.notes[1] == (40 - result.notes[3] - result.notes[4]) // 3 + 1
    assert result.notes[4] < result.notes[2]


def test_the_quota_bounds_frames_and_a_failed_mapping_takes_no_table() -> None:
    result = attack(
        """
        more: exo alloc_page, {ANY}, 0
        test rax, rax
        jns more
        note rax
        mov rax, [{TABLE_FRAMES}]
        note rax
        mov rbx, 0x700000000000
        exo create_mapping, rbx, {data_frame}, 1, 0
        note rax
        mov rax, [{TABLE_FRAMES}]
        note rax
        exit 1
        """,
        quota=40,
    )
    assert result.error(0) is Error.OVER_QUOTA
    assert result.error(2) is Error.OVER_QUOTA
    assert result.notes[1] == result.notes[3]


@pytest.mark.parametrize("rights", [Rights.WRITE, Rights.EXECUTE])
def test_a_loan_without_read_cannot_be_read_through_a_mapping(rights: Rights) -> None:
    """No page table can withhold reading, so such a loan allows no mapping at all."""

    async def prepare(made: Machine, guest: Guest, victim: Guest) -> dict[str, int]:
        frame = await exo.alloc_page()
        await exo.share_page(frame, guest.number, Sharing.LOAN, rights)
        return {"lent": frame}

    result = attack(
        f"exo create_mapping, {{FREE}}, {{lent}}, {int(rights)}, 0\n note rax\n mov rax, [{{FREE}}]\n exit 0",
        prepare=prepare,
    )
    assert result.error(0) is Error.DENIED
    assert result.cause is Cause.NO_FAULT_HANDLER


def test_mapping_into_another_environment_needs_control() -> None:
    result = attack(
        "exo create_mapping, {FREE}, {data_frame}, {RW}, {victim}\n note rax\n"
        " exo remove_mapping, {DATA}, {victim}\n note rax\n"
        "exo dealloc_page, {victim_frame}, {victim}\n note rax\n exo alloc_page, {ANY}, {victim}\n note rax\n"
        "exo dealloc_page, {victim_frame}, 0\n note rax\n exo share_page, {victim_frame}, {me}, 1, 15\n note rax\n"
        "exo reserve_page, {victim_frame}, 1, 0\n note rax\n exo set_backing, {victim_frame}, {ANY}, 0\n note rax\n"
        "exo unshare_page, {victim_frame}, {me}\n note rax\n exo clear_page_bits, {DATA}, 1, 96\n exit 1"
    )
    assert [result.error(i) for i in range(9)] == [Error.DENIED] * 9


def test_huge_lengths_and_wrapping_addresses_reach_nothing() -> None:
    lines = []
    for va, size in [
        (CODE, 1 << 63),
        (CODE, (1 << 64) - 1),
        ((1 << 64) - 16, 32),
        (0x7FFF_FFFF_FFF0, 32),
        (0x8000_0000_0000, 8),
        (0xFFFF_7FFF_FFFF_FFF0, 64),
        (CODE, (1 << 16) + 1),
    ]:
        lines += [f"mov rdi, {va}", f"mov rsi, {size}", "exo console_write, rdi, rsi", "note rax"]
    lines += ["mov rdi, {CODE}", "mov rsi, 0x100000000000000", "exo batch, rdi, rsi", "note rax", "exit 1"]
    result = attack(
        "exo set_upcall, 0, &skip, 0\n"
        + "\n".join(lines)
        + """
        skip: mov rax, [rsp + 16]
        add rax, 2
        mov [rsp + 16], rax
        mov rsi, {ACTIVE}
        mov qword ptr [rsi], 0
        pop rsi
        pop rdi
        mov rax, -99
        iretq"""
    )
    assert result.status == 1
    allowed = {(1 << 64) - 2, (1 << 64) - 99}
    assert set(result.notes[:8]) <= allowed
    assert not result.machine.kernel.console.written.get(result.guest.number)
