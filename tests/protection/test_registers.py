"""Attacks on what another environment, or the kernel, may have left in the processor."""

import pytest

from exokernel.abi.layout import OWN_PAGE
from tests.protection.attack import attack

_PUSHED = "\n".join(
    f"mov [r15 + {8 * i}], {register}"
    for i, register in enumerate(
        ["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14"]
    )
)
READ_ALL = (
    _PUSHED
    + """
    pushfq
    pop rax
    mov [r15 + 112], rax
    rdfsbase rax
    mov [r15 + 120], rax
    rdgsbase rax
    mov [r15 + 128], rax
    mov ax, cs
    movzx eax, ax
    mov [r15 + 136], rax
    mov ax, ss
    movzx eax, ax
    mov [r15 + 144], rax
    fxsave64 [r15 + 512]
    """
)
WORDS = 64
"""Where the FXSAVE area begins in the notes, in words."""


def clean(notes: list[int], *, known: dict[int, int], fcw: int = 0x37F) -> None:
    """Every register is zero or at its default, but for the `known` places."""
    for place in range(17):
        if place == 14:
            assert notes[place] & ~0x246 == 0, f"flags {notes[place]:#x}"
        else:
            assert notes[place] == known.get(place, 0), f"register {place} is {notes[place]:#x}"
    assert notes[17] == 0x23
    assert notes[18] == 0x1B
    area = notes[WORDS : WORDS + 52]
    assert area[0] & 0xFFFF == fcw
    assert area[0] >> 16 & 0xFF == 0, "x87 status"
    assert area[3] & 0xFFFF_FFFF == 0x1F80
    assert not any(area[4:]), "something is left in the x87 or vector registers"


def test_nothing_is_left_in_any_register_at_the_start() -> None:
    result = attack(READ_ALL + "exit 1")
    assert result.status == 1
    clean(result.notes, known={})


@pytest.mark.parametrize(
    "how",
    [
        "exo yield, 0",
        "exo yield, {victim}",
        "exo block, {Event_TIME}, 0, 60000",
        "exo time\n lea rdx, [rax + 30000]\n exo block, {Event_TIME}, 0, rdx",
    ],
)
def test_nothing_is_left_in_any_register_after_resume_cpu(how: str) -> None:
    """It handles `resume_cpu`, so nothing of its own is kept either: not even what it put there itself."""
    result = attack(
        f"""
        exo set_upcall, {{Upcall_RESUME_CPU}}, &back, 0
        mov rax, -1
        movq xmm3, rax
        movq xmm15, rax
        fld1
        mov rbx, rax
        mov r13, rax
        wrfsbase rax
        std
        {how}
        exit 9
        back: mov r15, {{NOTES}}
        {READ_ALL}
        mov rax, rsp
        mov [r15 + 160], rax
        exit 1
        """.replace("wrfsbase rax", "mov rcx, 0x1234\n wrfsbase rcx")
    )
    assert result.status == 1
    known = {5: result.notes[5], 4: result.notes[4]}
    assert result.notes[5] in (1, 2), "the reason"
    assert result.notes[4] < 10
    clean(result.notes, known=known)


def test_who_does_not_handle_resume_cpu_gets_all_of_its_own_back() -> None:
    result = attack(
        """
        mov rax, 0x1122334455667788
        movq xmm7, rax
        mov rbp, rax
        mov rcx, 0x5000
        wrgsbase rcx
        fldpi
        mov r13, 5
        again: exo yield, 0
        dec r13
        jnz again
        movq rax, xmm7
        note rax
        note rbp
        rdgsbase rax
        note rax
        fldpi
        fcompp
        fnstsw ax
        and eax, 0x4500
        note rax
        exit 1
        """
    )
    assert result.notes[:4] == [0x1122334455667788, 0x1122334455667788, 0x5000, 0x4000]


def test_preemption_in_the_middle_of_anything_is_not_noticed() -> None:
    result = attack(
        """
        mov rbx, 0x123456789abcdef0
        movq xmm0, rbx
        xor eax, eax
        mov rcx, 300000
        stc
        work: adc rax, rcx
        movq rdx, xmm0
        cmp rdx, rbx
        jne bad
        dec rcx
        jnz work
        note rax
        exit 1
        bad: exit 2
        """,
        quantum=777,
    )
    assert result.status == 1
    assert result.notes[0] == sum(range(300_001)) + 1


def test_an_up_call_shows_no_register_that_is_not_the_interrupted_ones() -> None:
    result = attack(
        f"""
        exo set_upcall, {{Upcall_PAGE_FAULT}}, &handler, 0
        mov rbx, 0x700
        mov rcx, 0x701
        xor eax, eax
        xor edi, edi
        xor esi, esi
        xor r10, r10
        std
        mov rdx, [rbx + 0x100000]
        exit 9
        handler: {READ_ALL}
        exit 1
        """
    )
    assert result.status == 1
    registers = result.notes[:14]
    assert registers[1] == 0x700
    assert registers[2] == 0x701
    assert registers[5] == 0x100700
    assert result.notes[14] & 0x400 == 0, "the direction flag is clean in a handler"
    assert OWN_PAGE not in registers


@pytest.mark.parametrize("context", [0, 1, 31, 32, 1 << 40])
def test_registers_of_another_are_not_read_nor_set(context: int) -> None:
    result = attack(
        f"""
        mov rdi, {context}
        exo get_registers, rdi, {{DATA}}, {{victim}}
        note rax
        mov rdi, {context}
        exo set_register, rdi, 16, {{CODE}}, {{victim}}
        note rax
        exo destroy, {{victim}}
        note rax
        exo wake, {{victim}}
        note rax
        exo set_upcall, 0, {{CODE}}, {{victim}}
        note rax
        exo set_upcall_stack, {{DATA}}, 4096, {{victim}}, 0
        note rax
        exo set_quota, {{victim}}, 5, 0
        note rax
        exo start, {{victim}}, {{CODE}}, 0, 0
        note rax
        exo give_capability, {{victim}}, 0, 15, 0
        note rax
        exo set_access, {{Subject_ENVIRONMENT}}, {{victim}}, 1, 0, 15
        note rax
        exo destroy, {{init}}
        note rax
        exit 1
        """
    )
    assert result.status == 1
    assert {str(result.error(i)) for i in range(2, 11)} == {str(result.error(2))}
    assert all(result.error(i) is not None for i in range(11))
