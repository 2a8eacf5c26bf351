"""os_protect, os_on_fault, os_dirty: the same for a program over a native library OS and over one in Python."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from exokernel.abi.layout import OWN_PAGE, PAGE_SIZE
from exokernel.abi.pages import OwnPage, offset_of
from exokernel.policy.memory import LargestHolder, MemoryPolicy, SeizeLargest, SeizeOldest
from libos.plan import Program
from libos.protection import Protection
from libos.python_programs import LinkedExo
from tests.apps.oracles import expected_output
from tests.libos.machines import Ended, Machine, native
from tests.libos.pythonic import over_python, run_python

Make = Callable[..., Program]

PRELUDE = """/* A guest of a test. */
#include <libos.h>
#include <support.h>
#define PAGES 24
static char *memory;
static volatile uint64_t traps;
static int give_back(void *address, int write) {
    (void)write;
    traps++;
    return os_protect((void *)((uintptr_t)address & -(uintptr_t)PAGE_SIZE), PAGE_SIZE, OS_READ_WRITE) == 0;
}
static char *page(uint64_t number) { return memory + number * PAGE_SIZE; }
"""
FILL = "memory = os_region(PAGES * PAGE_SIZE); for (int i = 0; i < PAGES; i++) *page(i) = (char)(i + 1);"


def guest(directory: Path, body: str, before: str = "") -> Path:
    source = directory / "guest.c"
    source.write_text(
        f"{PRELUDE}{before}\nint main(int argc, char **argv) {{\n(void)argc, (void)argv;\n{FILL}\n{body}\n}}\n"
    )
    return source


def run(make: Make, application: str | Path, *arguments: object, machine: Machine | None = None, **options: Any) -> Ended:
    machine = machine or Machine()
    (ended,) = machine.run([make(application, *arguments, **options)])
    assert not machine.deaths, machine.deaths
    return ended


both = pytest.mark.parametrize("make", [native, over_python], ids=["native", "python"])
rights = pytest.mark.parametrize("rights", ["OS_READ", "OS_NO_ACCESS"])


# The application.


@both
@pytest.mark.parametrize("options", [(), ("--no-access",)], ids=["read", "none"])
@pytest.mark.parametrize("frames", [0, 40])
def test_every_protected_access_traps_once_and_no_page_is_lost(make: Make, options: tuple[str, ...], frames: int) -> None:
    argv = ("appelli", "110", "100", "5", "--counts", *options)
    ended = run(make, argv[0], *argv[1:], frames=frames)
    assert (ended.status, ended.output.encode()) == (0, expected_output(argv))
    assert (ended.evictions > 100) == bool(frames)


@both
@pytest.mark.parametrize("options", [(), ("--no-access",)], ids=["read", "none"])
def test_what_protection_costs_is_ordered_as_it_should_be(make: Make, options: tuple[str, ...]) -> None:
    ended = run(make, "appelli", "110", "100", "5", *options)
    cycles = {line.split()[0]: int(line.split()[1]) for line in ended.output.splitlines()[1:-1]}
    assert 0 < cycles["dirty"] < cycles["trap"]
    assert 0 < cycles["prot100"] <= cycles["prot1"] / 2
    assert 0 < cycles["unprot"] <= cycles["prot1"] / 2
    assert cycles["trap"] + cycles["prot1"] < cycles["appel2"] < cycles["appel1"]


class Turns(LargestHolder):
    """Asks everybody who has something, the one that has most first, for a few frames: there is no end of asking."""

    batch = 2


@both
@pytest.mark.parametrize("policy", [Turns, SeizeLargest, SeizeOldest])
def test_a_kernel_that_asks_or_takes_leaves_protected_pages_protected(make: Make, policy: type[MemoryPolicy]) -> None:
    argvs = [("appelli", "110", "100", seed, "--counts", *more) for seed, more in (("1", ()), ("2", ("--no-access",)))]
    machine = Machine(frames=230, policy=policy())
    ends = machine.run([make(*argv, register_backing=policy.seize) for argv in argvs])
    assert not machine.deaths
    for argv, ended in zip(argvs, ends, strict=True):
        assert (ended.status, ended.output.encode()) == (0, expected_output(argv))
    lost = [ended.accounts.taken if policy.seize else ended.evictions for ended in ends]
    assert min(lost) > 30


# What a handler is told, and what it may do.


@both
@rights
@pytest.mark.parametrize("frames", [0, 10])
def test_a_handler_is_told_the_address_and_whether_it_was_a_write(
    make: Make, rights: str, frames: int, tmp_path: Path
) -> None:
    source = guest(
        tmp_path,
        f"""
        os_on_fault(told);
        for (int round = 0; round < 3; round++) {{
            if (os_protect(memory, PAGES * PAGE_SIZE, {rights})) return 1;
            for (int i = 0; i < PAGES; i++) {{
                where = 0;
                char *byte = page(i) + i * 100;
                const int writing = round != 1;
                if (writing) *(volatile char *)byte = (char)round; else (void)*(volatile char *)byte;
                if (!writing && {rights} == OS_READ) {{
                    if (where) return 2;
                    continue;
                }}
                if (where != byte || was_write != writing) return 3;
            }}
        }}
        print_number(traps);
        return 0;
        """,
        "static char *volatile where; static volatile int was_write;\n"
        "static int told(void *address, int write) { where = address; was_write = write; return give_back(address, 0); }",
    )
    expected = "48" if rights == "OS_READ" else "72"
    ended = run(make, source, frames=frames)
    assert (ended.status, ended.output) == (0, expected)


CLOBBER = r"""
static int clobber(void *address, int write) {
    __asm__ volatile(
        "pcmpeqd %%xmm0, %%xmm0; movdqa %%xmm0, %%xmm1; movdqa %%xmm0, %%xmm7; movdqa %%xmm0, %%xmm15;"
        "xor %%eax, %%eax; mov $-1, %%rcx; mov $-1, %%rdx; mov $-1, %%r8; mov $-1, %%r9; mov $-1, %%r10; mov $-1, %%r11;"
        "fld1; fld1; fstp %%st(0)"
        ::: "rax", "rcx", "rdx", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm7", "xmm15", "cc", "memory");
    return give_back(address, write);
}
"""


@both
@rights
def test_a_handler_disturbs_no_register_no_flag_and_no_red_zone(make: Make, rights: str, tmp_path: Path) -> None:
    source = guest(
        tmp_path,
        r"""
        os_on_fault(clobber);
        for (int round = 0; round < 60; round++) {
            uint64_t sum, flags, status, vectors[2] = {0x1234, 0x5678}, seen[6] = {0};
            if (os_protect(page(round % PAGES), PAGE_SIZE, RIGHTS)) return 1;
            __asm__ volatile(
                "movq (%4), %%xmm0; movhps 8(%4), %%xmm0; movdqa %%xmm0, %%xmm7; movdqa %%xmm0, %%xmm15; fld1;"
                "mov $0x1111, %%rax; mov $0x2222, %%rcx; mov $0x3333, %%rdx; mov $0x4444, %%rsi; mov $0x5555, %%rdi;"
                "mov $0x6666, %%r8; mov $0x7777, %%r9; mov $0x8888, %%r10; mov $0x9999, %%r11; mov $0xaaaa, %%rbx;"
                "push %%rbp; mov $0xbbbb, %%rbp; sub $3, %%rsp;"
                "movq $0x1234, -8(%%rsp); movq $0x5678, -120(%%rsp); std; stc;"
                "movb $77, (%3);"
                "adc $0, %%rax; add %%rcx, %%rax; add %%rdx, %%rax; add %%rsi, %%rax; add %%rdi, %%rax;"
                "add %%r8, %%rax; add %%r9, %%rax; add %%r10, %%rax; add %%r11, %%rax; add %%rbx, %%rax;"
                "add -8(%%rsp), %%rax; add -120(%%rsp), %%rax; add %%rbp, %%rax; add $3, %%rsp; pop %%rbp;"
                "pushfq; pop %%rcx; cld; mov %%rax, %%rbx; xor %%eax, %%eax;"
                "movdqu %%xmm0, (%5); movdqu %%xmm7, 16(%5); movdqu %%xmm15, 32(%5); fld1; fcompp; fnstsw %%ax"
                : "=&b"(sum), "=&c"(flags), "=&a"(status) : "r"(page(round % PAGES)), "r"(vectors), "r"(seen)
                : "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc", "memory", "xmm0", "xmm7", "xmm15");
            if (sum != 0x1111 * 66 + 0x1234 + 0x5678 + 1 || !(flags >> 10 & 1)) return 2;
            if (!(status >> 14 & 1)) return 6;
            for (int i = 0; i < 6; i += 2) if (seen[i] != 0x1234 || seen[i + 1] != 0x5678) return 3;
            if (*page(round % PAGES) != 77) return 4;
        }
        return traps == 60 ? 0 : 5;
        """.replace("RIGHTS", rights),
        CLOBBER,
    )
    assert run(make, source).status == 0


@both
@rights
def test_a_handler_may_fault_on_pages_that_are_away_and_on_protected_ones(make: Make, rights: str, tmp_path: Path) -> None:
    source = guest(
        tmp_path,
        f"""
        os_on_fault(deep);
        for (int round = 1; round <= 2; round++) {{
            traps = 0;
            if (os_protect(memory, PAGES * PAGE_SIZE, {rights})) return 1;
            ++*page(0);
            for (int i = 0; i < PAGES; i++) if (*page(i) != (char)(i + 1 + round)) return 2;
            if (traps != PAGES) return 3;
        }}
        return 0;
        """,
        """
        /* Its own stack is three pages, and it brings about the next fault before this one is dealt with. */
        static int deep(void *address, int write) {
            volatile char room[3 * PAGE_SIZE];
            const uint64_t number = ((uintptr_t)address - (uintptr_t)memory) / PAGE_SIZE;
            for (size_t i = 0; i < sizeof room; i += 2048) room[i] = (char)number;
            if (number + 1 < PAGES) ++*page(number + 1);
            for (size_t i = 0; i < sizeof room; i += 2048) if (room[i] != (char)number) return 0;
            return give_back(address, write);
        }
        """,
    )
    ended = run(make, source, frames=12)
    assert ended.status == 0
    assert ended.evictions > 100


@both
@rights
def test_forked_environments_have_the_protections_and_the_handler_and_part_company(
    make: Make, rights: str, tmp_path: Path
) -> None:
    source = guest(
        tmp_path,
        f"""
        os_on_fault(give_back);
        if (os_protect(page(4), 12 * PAGE_SIZE, {rights})) return 1;
        long child = os_fork();
        if (child < 0) return 2;
        if (child == 0) {{
            if (os_protect(memory, PAGES * PAGE_SIZE, {rights})) return 1;
            for (int i = 0; i < PAGES; i++) *page(i) += 100;
            for (int i = 0; i < PAGES; i++) if (*page(i) != (char)(i + 101)) return 3;
            return (int)traps;
        }}
        for (int i = 0; i < PAGES; i++) *page(i) += 50;
        if (os_wait(child) != PAGES) return 4;
        for (int i = 0; i < PAGES; i++) if (*page(i) != (char)(i + 51)) return 5;
        return traps == 12 ? 0 : 6;
        """,
    )
    for frames in (0, 12):
        assert run(make, source, frames=frames).status == 0


# What is refused, and what ends a program.

WRONG = {
    "a null pointer": "os_protect(0, PAGE_SIZE, OS_READ)",
    "an address within a page": "os_protect(memory + 8, PAGE_SIZE, OS_READ)",
    "a part of a page": "os_protect(memory, 100, OS_READ)",
    "more than there is": "os_protect(memory, (PAGES + 1) * PAGE_SIZE, OS_READ)",
    "more than an address space": "os_protect(memory, (size_t)-PAGE_SIZE, OS_READ)",
    "text": "os_protect((void *)((uintptr_t)main & -(uintptr_t)PAGE_SIZE), PAGE_SIZE, OS_NO_ACCESS)",
    "rights that there are not": "os_protect(memory, PAGE_SIZE, 2)",
    "a file for writing": 'os_protect((void *)os_map_file("words", 0), PAGE_SIZE, OS_READ_WRITE)',
}


@both
@pytest.mark.parametrize("case", WRONG)
def test_what_makes_no_sense_gives_minus_one_and_changes_nothing(make: Make, case: str, tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(b"x" * 5000)
    source = guest(tmp_path, f"if ({WRONG[case]} != -1) return 1; for (int i = 0; i < PAGES; i++) ++*page(i); return 0;")
    assert run(make, source, files=(tmp_path / "words",)).status == 0


ENDS = {
    "there is no handler": ("os_protect(memory, PAGE_SIZE, OS_READ); *memory = 1;", "(write)"),
    "reading is not allowed": ("os_protect(memory, PAGE_SIZE, OS_NO_ACCESS); return *(volatile char *)memory;", "(read)"),
    "the handler gives 0": ("os_on_fault(no); os_protect(memory, PAGE_SIZE, OS_READ); *memory = 1;", "(write)"),
    "the handler was taken back":
        ("os_on_fault(give_back); os_on_fault(0); os_protect(memory, PAGE_SIZE, OS_READ); *memory = 1;", "(write)"),
    "the stack is protected": (
        "os_on_fault(give_back); char *here = (char *)((uintptr_t)&argc & -(uintptr_t)PAGE_SIZE);"
        "os_protect(here - PAGE_SIZE, 2 * PAGE_SIZE, OS_READ); *(volatile int *)&argc = 1;", "(write)"),
    "code is fetched from it": (
        "os_on_fault(give_back); os_protect(memory, PAGE_SIZE, OS_NO_ACCESS);"
        "__asm__ volatile(\"call *%0\" :: \"r\"(memory));", "(execute)"),
}  # fmt: skip


@both
@pytest.mark.parametrize("case", ENDS)
def test_a_program_ends_with_a_sentence_when(make: Make, case: str, tmp_path: Path) -> None:
    body, words = ENDS[case]
    refuses = "__attribute__((unused)) static int no(void *a, int w) { (void)a, (void)w; traps++; return 0; }"
    ended = run(make, guest(tmp_path, body + "return 0;", refuses))
    assert ended.status == 139
    assert ended.output.startswith("segmentation fault at 0x")
    assert words in ended.output
    assert ended.output.count("\n") == 1


@both
def test_files_can_be_closed_to_oneself_and_opened_again(make: Make, tmp_path: Path) -> None:
    (tmp_path / "words").write_bytes(b"x" * 9000)
    source = guest(
        tmp_path,
        """
        size_t size;
        volatile char *file = (volatile char *)os_map_file("words", &size);
        os_on_fault(open_file);
        for (int round = 0; round < 3; round++) {
            if (os_protect((void *)file, 3 * PAGE_SIZE, OS_NO_ACCESS)) return 1;
            for (size_t i = 0; i < size; i += 100) if (file[i] != 'x') return 2;
        }
        return traps == 9 ? 0 : 3;
        """,
        "static int open_file(void *address, int write) { traps++;\n"
        "return !write && !os_protect((void *)((uintptr_t)address & -(uintptr_t)PAGE_SIZE), PAGE_SIZE, OS_READ); }",
    )
    assert run(make, source, files=(tmp_path / "words",), frames=8).status == 0


# What it leaves behind.


@both
def test_hidden_pages_cost_page_tables_only_while_they_are_hidden(make: Make, tmp_path: Path) -> None:
    source = guest(
        tmp_path,
        """
        volatile uint64_t *tables = (volatile uint64_t *)TABLE_FRAMES;
        const uint64_t before = *tables;
        if (os_protect(memory, PAGES * PAGE_SIZE, OS_NO_ACCESS)) return 1;
        const uint64_t hidden = *tables;
        if (os_protect(memory, PAGES * PAGE_SIZE, OS_READ_WRITE)) return 2;
        print_number(hidden - before);
        print_text(" ");
        print_number(*tables - before);
        return 0;
        """.replace("TABLE_FRAMES", hex(OWN_PAGE + offset_of(OwnPage, "table_frames"))),
    )
    ended = run(make, source)
    assert (ended.status, ended.output) == (0, "2 0")


@both
def test_discarded_pages_stay_protected_and_are_zeros(make: Make, tmp_path: Path) -> None:
    source = guest(
        tmp_path,
        """
        os_on_fault(give_back);
        if (os_protect(memory, PAGES * PAGE_SIZE, OS_READ)) return 1;
        if (os_advise(memory, PAGES * PAGE_SIZE, OS_DISCARD)) return 2;
        for (int i = 0; i < PAGES; i++) if (*page(i)) return 3;
        if (traps) return 4;
        for (int i = 0; i < PAGES; i++) *page(i) = 1;
        return traps == PAGES ? 0 : 5;
        """,
    )
    for backing in (False, True):
        assert run(make, source, frames=10, register_backing=backing).status == 0


@both
@pytest.mark.parametrize("backing", [False, True])
def test_a_page_is_dirty_from_its_first_write_until_it_has_been_saved(make: Make, backing: bool, tmp_path: Path) -> None:
    source = guest(
        tmp_path,
        """
        char *fresh = os_region(PAGES * PAGE_SIZE);
        if (os_dirty(fresh) || os_dirty((void *)8) != -1 || os_dirty(fresh + PAGES * PAGE_SIZE) != -1) return 1;
        *(volatile char *)(fresh + 20) = 1;
        if (os_dirty(fresh) != 1 || os_dirty(fresh + PAGE_SIZE)) return 2;
        for (int rights = 0; rights < 2; rights++) {
            if (os_protect(fresh, PAGE_SIZE, rights) || os_dirty(fresh) != 1) return 3;
            if (os_protect(fresh, PAGE_SIZE, OS_READ_WRITE) || os_dirty(fresh) != 1) return 4;
        }
        for (int round = 0; round < 3; round++) for (int i = 0; i < PAGES; i++) ++*page(i);
        if (os_dirty(fresh)) return 5;
        if (*(volatile char *)(fresh + 20) != 1 || os_dirty(fresh)) return 6;
        *(volatile char *)fresh = 2;
        return os_dirty(fresh) == 1 ? 0 : 7;
        """,
    )
    assert run(make, source, frames=12, register_backing=backing).status == 0


# Programs in Python.


def test_a_program_in_python_handles_its_own_faults() -> None:
    told: list[tuple[int, bool]] = []

    async def main(exo: LinkedExo, arguments: Sequence[str]) -> int:
        begin = await exo.os_region(4 * PAGE_SIZE)

        async def handler(address: int, writing: bool) -> bool:
            told.append(((address - begin) // PAGE_SIZE, writing))
            return await exo.os_protect(address & -PAGE_SIZE, PAGE_SIZE, Protection.READ_WRITE) == 0

        await exo.write(begin, bytes(range(4)) * PAGE_SIZE)
        await exo.os_on_fault(handler)
        assert await exo.os_protect(begin, 2 * PAGE_SIZE, Protection.NO_ACCESS) == 0
        assert await exo.os_protect(begin + 2 * PAGE_SIZE, PAGE_SIZE, Protection.READ) == 0
        assert await exo.os_protect(begin + 4 * PAGE_SIZE, PAGE_SIZE, Protection.READ) == -1
        assert await exo.read(begin, 4 * PAGE_SIZE) == bytes(range(4)) * PAGE_SIZE
        await exo.write(begin + 2 * PAGE_SIZE, b"!")
        assert await exo.os_dirty(begin + 2 * PAGE_SIZE) == 1
        await exo.os_on_fault(None)
        assert await exo.os_protect(begin, PAGE_SIZE, Protection.READ) == 0
        await exo.write(begin, b"!")
        return 0

    ended, _ = run_python(main)
    assert told == [(0, False), (1, False), (2, True)]
    assert ended.status == 139
    assert ended.output == "segmentation fault at 0x400000 (write)\n"


def test_over_python_a_function_of_the_library_runs_no_handler(tmp_path: Path) -> None:
    """The context in which it would have to run is inside the call."""
    body = """os_on_fault(give_back); os_protect(memory, PAGE_SIZE, OS_NO_ACCESS);
        *page(1) = '\\n';
        os_write(memory + PAGE_SIZE - 1, 2); return (int)traps;"""
    ended = run(native, guest(tmp_path, body))
    assert (ended.status, ended.output) == (1, "\0\n")
    ended = run(over_python, guest(tmp_path, body))
    assert (ended.status, ended.output.partition(" at ")[0]) == (139, "segmentation fault")
