"""Attacks through the way the kernel enters a library OS."""

import pytest

from exokernel.abi import layout
from exokernel.abi.errors import Error
from exokernel.kernel.death import Cause
from tests.machine_kit import UPCALL_STACK
from tests.protection.attack import attack

FAULT = "mov rbx, 0x12345678\n mov rax, [rbx]\n"


@pytest.mark.parametrize(
    "entry",
    [
        layout.USER_END,
        layout.EXPOSED,
        layout.OWN_PAGE,
        layout.PAGE_TABLES,
        layout.SUPERVISOR,
        layout.SUPERVISOR + 0x900,
        0x8000_0000_0000,
        (1 << 64) - 1,
    ],
)
def test_no_entry_is_set_outside_the_user_half(entry: int) -> None:
    result = attack(f"mov rsi, {entry}\n exo set_upcall, 0, rsi, 0\n note rax\n {FAULT} exit 0")
    assert result.error(0) is Error.BAD_ARGUMENT
    assert result.cause is Cause.NO_FAULT_HANDLER


@pytest.mark.parametrize("entry", [1, 0xFFF, 0x1000, 0x50_0000, 0x6000_0000])
def test_an_entry_that_cannot_be_executed_ends_the_environment(entry: int) -> None:
    """Each fault of the entry is a fault to deliver, until the up-call stack is used up."""
    result = attack(f"mov rsi, {entry}\n exo set_upcall, 0, rsi, 0\n {FAULT} exit 0")
    assert result.cause is Cause.UPCALL_STACK


@pytest.mark.parametrize(
    ("base", "size"),
    [
        (layout.EXPOSED, 4096),
        (layout.OWN_PAGE, 4096),
        (layout.PAGE_TABLES, 4096),
        (layout.SUPERVISOR, 4096),
        (0, 4096),
        (layout.USER_END - 4096, 8192),
        (0x1000, layout.USER_END),
        (0x1000, (1 << 64) - 4096),
        (0x1000, 0),
        (0x1000, 8),
        (0x1008, 4096),
        (0x8000_0000_0000, 4096),
        ((1 << 64) - 4096, 4096),
    ],
)
def test_no_up_call_stack_is_set_outside_the_user_half(base: int, size: int) -> None:
    result = attack(f"mov rdi, {base}\n mov rsi, {size}\n exo set_upcall_stack, rdi, rsi, 0, 0\n note rax\n exit 1")
    assert result.error(0) is Error.BAD_ARGUMENT


@pytest.mark.parametrize(
    "spoil",
    [
        "exo remove_mapping, {UPCALL_STACK} + 4096, 0",
        "exo create_mapping, {UPCALL_STACK} + 4096, {data_frame}, 1, 0",
        "exo set_upcall_stack, 0x10000000, 4096, 0, 0",
        "exo set_upcall_stack, {CODE}, 4096, 0, 0",
    ],
)
def test_an_up_call_stack_that_cannot_be_written_ends_the_environment(spoil: str) -> None:
    result = attack(f"exo set_upcall, 0, &handler, 0\n {spoil}\n {FAULT} exit 0\n handler: exit 0")
    assert result.cause is Cause.UPCALL_STACK


@pytest.mark.parametrize(
    "where",
    [
        layout.EXPOSED + 64,
        layout.OWN_PAGE + 4096,
        layout.FRAME_TABLE + 800,
        layout.PAGE_TABLES + 800,
        layout.SUPERVISOR + 2048,
        64,
        0,
        (1 << 64) - 8,
        0x9000_0000_0000,
    ],
)
def test_the_stack_pointer_does_not_steer_the_delivery(where: int) -> None:
    """The frame goes onto the registered stack unless rsp is already in it, whatever rsp is."""
    result = attack(
        f"exo set_upcall, 0, &handler, 0\n mov rsp, {where}\n {FAULT} exit 0\n handler: note rsp\n"
        f" mov rax, [rsp + 40]\n note rax\n exit 1"
    )
    assert result.status == 1
    assert UPCALL_STACK < result.notes[0] < UPCALL_STACK + 8192
    assert result.notes[1] == where


@pytest.mark.parametrize("offset", [1, 8, 64, 127, 128, 129, 184, 185, 192, 200])
def test_a_stack_almost_used_up_is_never_overrun_downwards(offset: int) -> None:
    """The page below the stack is mapped and writable, and is still none of the kernel's business."""
    result = attack(
        f"exo create_mapping, {UPCALL_STACK - 4096}, {{data_frame}}, 3, 0\n exo set_upcall, 0, &handler, 0\n"
        f"mov rsp, {UPCALL_STACK + offset}\n {FAULT} exit 0\n handler: note rsp\n exit 1"
    )
    assert result.cause is Cause.UPCALL_STACK or result.notes[0] >= UPCALL_STACK
    assert not any(result.machine.words(result.guest.frames[0x50_0000]))


def test_a_handler_that_faults_for_ever_ends() -> None:
    result = attack(f"exo set_upcall, 0, &handler, 0\n {FAULT} exit 0\n handler: {FAULT}")
    assert result.cause is Cause.UPCALL_STACK


def test_a_handler_that_traps_for_ever_ends() -> None:
    result = attack("exo set_upcall, {Upcall_TRAP}, &handler, 0\n cli\n exit 0\n handler: cli\n")
    assert result.cause is Cause.UPCALL_STACK


def test_a_flood_of_wakes_in_a_critical_section_is_one_event() -> None:
    """The kernel counts, but it keeps no list that grows as long as somebody likes."""
    result = attack(
        """
        exo set_upcall, {Upcall_EVENT}, &handler, 0
        mov rbx, {CRITICAL}
        mov qword ptr [rbx], 1
        mov r13, 5000
        flood: exo wake, 0
        dec r13
        jnz flood
        xor r12, r12
        mov qword ptr [rbx], 0
        mov r13, 3000
        rest: exo null
        dec r13
        jnz rest
        exo yield, 0
        note r12
        exit 1
        handler: inc r12
        mov rax, {ACTIVE}
        mov qword ptr [rax], 0
        pop rdx
        pop rsi
        pop rdi
        iretq
        """,
    )
    assert result.status == 1
    assert result.notes[0] == 1


def test_an_up_call_returns_to_ring_3_only_with_ring_3_selectors() -> None:
    """The frame on the stack is the guest's to change; the processor checks it again."""
    result = attack(
        f"exo set_upcall, 0, &handler, 0\n {FAULT} note 1\n exit 0\n handler: pop rsi\n pop rdi\n"
        f" mov qword ptr [rsp + 8], 0x10\n"
        "mov rax, {ACTIVE}\n mov qword ptr [rax], 0\n iretq\n"
    )
    assert result.cause in {Cause.NO_TRAP_HANDLER, Cause.UPCALL_STACK}
    assert result.notes[0] == 0
