"""Attacks with single instructions: privileged ones, other segments, sources of chance, foreign calls."""

import pytest

from exokernel.abi.errors import Error
from exokernel.abi.flags import TrapReason
from exokernel.kernel.death import Cause
from tests.machine_kit import WORD
from tests.protection.attack import attack

PRIVILEGED = {
    "hlt": b"\xf4",
    "cli": b"\xfa",
    "sti": b"\xfb",
    "lgdt": b"\x0f\x01\x13",
    "lidt": b"\x0f\x01\x1b",
    "lldt": b"\x0f\x00\xd0",
    "ltr": b"\x0f\x00\xd8",
    "mov cr3": b"\x0f\x22\xd8",
    "mov cr0": b"\x0f\x22\xc0",
    "mov cr4": b"\x0f\x22\xe0",
    "mov rax, cr3": b"\x0f\x20\xd8",
    "mov cr8": b"\x44\x0f\x22\xc0",
    "wrmsr": b"\x0f\x30",
    "rdmsr": b"\x0f\x32",
    "invlpg": b"\x0f\x01\x3b",
    "swapgs": b"\x0f\x01\xf8",
    "sysret": b"\x0f\x07",
    "sysretq": b"\x48\x0f\x07",
    "lmsw": b"\x0f\x01\xf0",
    "clts": b"\x0f\x06",
    "mov dr7": b"\x0f\x23\xf8",
    "mov rax, dr0": b"\x0f\x21\xc0",
    "wbinvd": b"\x0f\x09",
    "invd": b"\x0f\x08",
    "in al": b"\xec",
    "in eax": b"\xed",
    "in imm": b"\xe4\x60",
    "out al": b"\xee",
    "out imm": b"\xe7\x80",
    "insb": b"\x6c",
    "rep insd": b"\xf3\x6d",
    "outsb": b"\x6e",
    "rep outsd": b"\xf3\x6f",
    "sysenter": b"\x0f\x34",
    "sysexit": b"\x0f\x35",
    "rdpmc": b"\x0f\x33",
    "monitor": b"\x0f\x01\xc8",
    "mwait": b"\x0f\x01\xc9",
    "vmcall": b"\x0f\x01\xc1",
    "vmmcall": b"\x0f\x01\xd9",
    "xsetbv": b"\x0f\x01\xd1",
    "xgetbv": b"\x0f\x01\xd0",
    "sgdt": b"\x0f\x01\x03",
    "sidt": b"\x0f\x01\x0b",
    "smsw": b"\x0f\x01\xe0",
    "str": b"\x0f\x00\xc8",
    "sldt": b"\x0f\x00\xc0",
    "rsm": b"\x0f\xaa",
    "prefixed hlt": b"\x66\xf4",
    "rex cli": b"\x48\xfa",
    "rep in": b"\xf3\xec",
    "segment hlt": b"\x65\xf4",
    "getsec": b"\x0f\x37",
    "invpcid": b"\x66\x0f\x38\x82\x03",
    "skinit": b"\x0f\x01\xde",
}
SEGMENTS = {
    "retf": "push 0x08\n push {CODE}\n .byte 0x48, 0xcb",
    "retf to user code with rpl 0": "push 0x20\n push {CODE}\n .byte 0x48, 0xcb",
    "retf to data": "push 0x1b\n push {CODE}\n .byte 0x48, 0xcb",
    "retf 32": "push 0x23\n push {CODE}\n .byte 0xcb",
    "call far": "lea rax, [rip + place]\n .byte 0xff, 0x18\n place: .long {CODE}\n .short 8",
    "jmp far": "lea rax, [rip + place]\n .byte 0xff, 0x28\n place: .long {CODE}\n .short 8",
    "iretq to the kernel's code": "push 0x10\n push {STACK_TOP}\n push 0x202\n push 0x08\n push {CODE}\n iretq",
    "iretq to nothing": "push 0x1b\n push {STACK_TOP}\n push 0x202\n push 0\n push {CODE}\n iretq",
    "iretq to a local descriptor": "push 0x1b\n push {STACK_TOP}\n push 0x202\n push 0x27\n push {CODE}\n iretq",
    "iretq beyond the table": "push 0x1b\n push {STACK_TOP}\n push 0x202\n push 0x103\n push {CODE}\n iretq",
    "iretq with a kernel stack": "push 0x10\n push {STACK_TOP}\n push 0x202\n push 0x23\n push {CODE}\n iretq",
    "iretd to virtual-8086 mode": "sub rsp, 64\n mov dword ptr [rsp], 0x1000\n mov dword ptr [rsp + 4], 0x23\n"
    " mov dword ptr [rsp + 8], 0x20202\n .byte 0xcf",
    "iretw": "sub rsp, 64\n .byte 0x66, 0xcf",
    "mov ss": "mov eax, 0x1b\n .byte 0x8e, 0xd0",
    "mov ds kernel": "mov eax, 8\n .byte 0x8e, 0xd8",
    "mov fs": "mov eax, 0x13\n .byte 0x8e, 0xe0",
    "pop gs": "push 0x1b\n .byte 0x0f, 0xa9",
    "lss": ".byte 0x0f, 0xb2, 0x23",
    "lfs": ".byte 0x0f, 0xb4, 0x23",
    "int 0x80": "int 0x80",
    "int 14": ".byte 0xcd, 14",
    "int 8": ".byte 0xcd, 8",
    "int3": "int3",
    "int1": ".byte 0xf1",
    "into": ".byte 0xce",
    "ud2": "ud2",
    "divide by zero": "xor ecx, ecx\n div ecx",
    "bound": ".byte 0x62, 0x03",
    "vex": ".byte 0xc5, 0xfd, 0x6f, 0x03",
    "xend outside": ".byte 0x0f, 0x01, 0xd5",
    "jump to 0": "xor eax, eax\n jmp rax",
    "call 0": "xor eax, eax\n call rax",
    "jump to the kernel half": "mov rax, 0xffff800000000900\n jmp rax",
    "jump to data": "mov rax, {DATA}\n jmp rax",
    "jump to the own page": "mov rax, {OWN_PAGE}\n jmp rax",
    "jump to the window": "mov rax, {PAGE_TABLES}\n jmp rax",
    "jump to the machine page": "mov rax, {EXPOSED}\n jmp rax",
    "jump to non-canonical": "mov rax, 0x900000000000\n jmp rax",
    "ret to non-canonical": "mov rax, 0x8000000000000000\n push rax\n ret",
    "run off the end of a page": "mov rax, {CODE} + 4096\n jmp rax",
    "single-step": "pushfq\n or qword ptr [rsp], 0x100\n popfq\n nop\n nop",
    "alignment check": "pushfq\n or qword ptr [rsp], 0x40000\n popfq\n mov rbx, {DATA} + 1\n mov rax, [rbx]\n hlt",
    "io privilege": "pushfq\n or qword ptr [rsp], 0x3000\n popfq\n cli",
    "nested task": "pushfq\n or qword ptr [rsp], 0x4000\n popfq\n .byte 0xcf",
}
RULES = {Cause.PRIVILEGED, Cause.NO_TRAP_HANDLER, Cause.NO_FAULT_HANDLER, Cause.INTERRUPT}


@pytest.mark.parametrize("name", PRIVILEGED)
def test_a_privileged_instruction_ends_who_has_no_handler(name: str) -> None:
    data = ", ".join(map(str, PRIVILEGED[name]))
    result = attack(
        f"mov rbx, {{DATA}}\n mov rsi, rbx\n mov rdi, rbx\n mov edx, 0x60\n mov ecx, 1\n .byte {data}\n note 1\n exit 0"
    )
    assert result.cause in {Cause.PRIVILEGED, Cause.NO_TRAP_HANDLER}
    assert result.notes[0] == 0, "something after it was executed"


@pytest.mark.parametrize("name", SEGMENTS)
def test_no_other_segment_ring_mode_or_forbidden_page_is_entered(name: str) -> None:
    result = attack(f"mov rbx, {{DATA}}\n {SEGMENTS[name]}\n .byte 0x0f, 0x0b\n")
    assert result.cause in RULES
    assert result.notes[0] == 0


def test_a_privileged_instruction_is_told_to_the_handler_which_may_go_on() -> None:
    result = attack(
        """
        exo set_upcall, {Upcall_TRAP}, &handler, 0
        cli
        note 5
        mov eax, 39
        syscall
        note rax
        exit 1
        handler: note rdi
        note rsi
        mov rax, 77
        cmp rdi, {reason}
        je behind
        inc qword ptr [rsp + 24]
        behind: mov rbx, {ACTIVE}
        mov qword ptr [rbx], 0
        pop rdx
        pop rsi
        pop rdi
        iretq
        """.replace("{reason}", str(int(TrapReason.FOREIGN_CALL)))
    )
    assert result.status == 1
    assert result.notes[:6] == [TrapReason.PRIVILEGED, 13, 5, TrapReason.FOREIGN_CALL, 39, 77]


@pytest.mark.parametrize("number", [0, 1, 39, 60, 231, 0x4557_FFFF, 0x4559_0000, 1 << 32 | 0x4558_0000, (1 << 64) - 1])
def test_a_foreign_call_is_not_the_kernels(number: int) -> None:
    result = attack(f"mov rax, {number}\n mov rdi, 7\n syscall\n note 1\n exit 0")
    assert result.cause is Cause.FOREIGN_CALL
    assert result.notes[0] == 0


def test_a_number_in_the_kernels_range_that_names_nothing_is_refused() -> None:
    result = attack(
        "mov rbx, 0x45580000\n again: mov rax, rbx\n mov rdi, -1\n mov rsi, -1\n mov rdx, -1\n mov r10, -1\n"
        " mov r8, -1\n mov r9, -1\n"
        "cmp rbx, 0x45580035\n je skip\n cmp rbx, 0x45580021\n je skip\n cmp rbx, 0x4558002b\n je skip\n"
        "cmp rbx, 0x4558003f\n je skip\n syscall\n skip: inc rbx\n"
        " cmp rbx, 0x45590000\n jne again\n"
        "mov rax, 0x45580077\n syscall\n note rax\n exit 1"
    )
    assert result.status == 1
    assert result.error(0) is Error.NO_SUCH_CALL


CHANCE = {
    "rdrand": b"\x0f\xc7\xf0",
    "rdrand 64": b"\x48\x0f\xc7\xf0",
    "rdrand 16": b"\x66\x0f\xc7\xf0",
    "rdseed": b"\x0f\xc7\xf8",
    "cpuid": b"\x0f\xa2",
    "rdpid": b"\xf3\x0f\xc7\xf8",
    "xgetbv": b"\x0f\x01\xd0",
    "rdpmc": b"\x0f\x33",
    "xbegin": b"\xc7\xf8\0\0\0\0",
    "prefixed rdtsc": b"\x66\x0f\x31",
}


@pytest.mark.parametrize("name", CHANCE)
def test_a_source_of_chance_gives_no_value(name: str) -> None:
    data = ", ".join(map(str, CHANCE[name]))
    result = attack(f"xor eax, eax\n xor ecx, ecx\n .byte {data}\n note rax\n exit 0")
    if result.cause is None:
        assert result.notes[0] in (0, WORD, 0xFFFF_FFFF), "a value came from somewhere"
    else:
        assert result.cause in {Cause.PRIVILEGED, Cause.NO_TRAP_HANDLER}


def test_the_time_stamp_is_the_virtual_clock_and_the_same_every_time() -> None:
    source = (
        "exo time\n mov rbx, rax\n rdtsc\n shl rdx, 32\n or rax, rdx\n sub rax, rbx\n note rax\n mov ecx, 99\n"
        " rdtscp\n shl rdx, 32\n"
        "or rax, rdx\n note rax\n note rcx\n exo time\n note rax\n exit 1"
    )
    first, second = attack(source), attack(source)
    assert first.notes == second.notes
    between, stamp, processor, last = first.notes[:4]
    assert 0 < between < 1000
    assert processor == 0
    assert stamp < last
