"""The native library OS on the kernel: real programs, every pager, little memory, a kernel that takes what it likes."""

from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from exokernel.abi.flags import Event
from exokernel.abi.layout import EXPOSED, FRAME_TABLE
from exokernel.abi.pages import FRAME_HOLDERS_SHIFT, MachinePage, offset_of
from exokernel.kernel.kernel import Settings
from exokernel.policy.memory import (
    LargestHolder,
    MemoryPolicy,
    Oldest,
    Proportional,
    SeizeLargest,
    SeizeOldest,
)
from exokernel.policy.views import MemoryView
from libos.image import LoadError
from libos.plan import Program
from tests.apps.oracles import expected_output
from tests.libos.machines import Ended, Machine, native

PAGERS = ("fifo", "clock", "mru", "random")
WALK = ("pagewalk", "--pattern", "random", "--pages", 40, "--steps", 800, "--write", 50)
CASES: tuple[tuple[object, ...], ...] = (
    ("hello", "one", "two"),
    ("quicksort", 12000),
    ("matmul", 40),
    ("hashjoin", 1500, 2500),
    ("pagewalk", "--pattern", "loop", "--pages", 50, "--steps", 900, "--write", 30),
    ("pagewalk", "--pattern", "zipf", "--pages", 50, "--steps", 900, "--write", 30),
    WALK,
)


def run(case: tuple[object, ...], pager: str | Path = "fifo", machine: Machine | None = None, **options: Any) -> Ended:
    """Run one program to its end; it must print what it should."""
    machine = machine or Machine()
    (ended,) = machine.run([native(str(case[0]), *case[1:], pager=pager, **options)])
    assert not machine.deaths, machine.deaths
    assert (ended.status, ended.output) == (0, expected_output(list(map(str, case))).decode())
    return ended


def guest(directory: Path, body: str, *arguments: object, **options: Any) -> Program:
    """A program whose main has this body."""
    source = directory / "guest.c"
    start = '#include "libos.h"\n#include "support.h"\nint main(int argc, char **argv) { (void)argc, (void)argv;\n'
    source.write_text(start + body + "\nreturn 0; }\n")
    return native(source, *arguments, **options)


def run_guest(directory: Path, body: str, machine: Machine | None = None, **options: Any) -> Ended:
    (ended,) = (machine or Machine()).run([guest(directory, body, **options)])
    return ended


@pytest.mark.parametrize("pager", PAGERS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case[:3])))
def test_programs_print_what_they_should_in_little_memory(case: tuple[object, ...], pager: str) -> None:
    plenty = run(case, pager)
    little = run(case, pager, frames=20)
    assert plenty.evictions == 0
    assert little.accounts.held_peak <= plenty.accounts.held_peak


def test_a_program_runs_in_the_fewest_frames_there_may_be() -> None:
    assert run(WALK, "fifo", frames=8).evictions > 500
    with pytest.raises(LoadError, match=r"cannot run in 7 frames.*give it more\.$"):
        run(WALK, "fifo", frames=7)


def test_the_bound_on_resident_pages_is_kept() -> None:
    base = run(("hello",)).accounts.held_peak
    assert run(WALK, frames=16).accounts.held_peak <= base + 16 + 2


def test_the_right_pager_saves_faults_on_a_loop() -> None:
    loop = ("pagewalk", "--pattern", "loop", "--pages", 50, "--steps", 1500, "--write", 30)
    faults = {pager: run(loop, pager, frames=40).accounts.faults for pager in PAGERS}
    assert faults["mru"] < faults["random"] < faults["fifo"]


def test_only_dirty_pages_are_written_out() -> None:
    walk = ("pagewalk", "--pattern", "loop", "--pages", 50, "--steps", 1500, "--write", 0)
    ended = run(walk, frames=30)
    assert ended.evictions > 1000
    assert ended.swap_out < 100


def test_a_pager_of_twenty_lines_from_anywhere_will_do(tmp_path: Path) -> None:
    source = tmp_path / "mine.c"
    source.write_text(
        """/* Evicts the page with the highest number. */
#include "pager.h"
static uint8_t *here;
static uint32_t count;
void pager_start(uint32_t pages, uint32_t frames, uint64_t seed) {
    (void)frames, (void)seed;
    count = pages;
    here = pager_memory(pages);
}
void pager_admit(uint32_t page) { here[page] = 1; }
void pager_forget(uint32_t page) { here[page] = 0; }
uint32_t pager_victim(void) {
    for (uint32_t page = count; page-- > 0;)
        if (here[page] && !page_accessed(page))
            return page;
    for (uint32_t page = count; page-- > 0;)
        if (here[page])
            page_clear_accessed(page);
    for (uint32_t page = count;; page--)
        if (here[page - 1])
            return page - 1;
}
"""
    )
    assert run(WALK, source, frames=20).evictions > 100


def test_a_pager_that_names_a_page_that_is_not_there_is_found_out(tmp_path: Path) -> None:
    source = tmp_path / "wrong.c"
    source.write_text(
        """/* Always wrong. */
#include "pager.h"
void pager_start(uint32_t pages, uint32_t frames, uint64_t seed) { (void)pages, (void)frames, (void)seed; }
void pager_admit(uint32_t page) { (void)page; }
void pager_forget(uint32_t page) { (void)page; }
uint32_t pager_victim(void) { return 77777; }
"""
    )
    (ended,) = Machine().run([native("pagewalk", *WALK[1:], pager=source, frames=10)])
    assert ended.status == 134
    assert ended.output == "The pager named page 77777 as its victim, which is not resident.\n"


# What a program may not do.

FAULTS = {
    "a null pointer": ("*(volatile int *)0 = 1;", "segmentation fault at 0x0 (write), rip 0x"),
    "an address that is nobody's": ("return *(volatile int *)0x123456789000;", " at 0x123456789000 (read), rip 0x"),
    "its own text": ("*(volatile int *)(void *)main = 1;", " (write), rip 0x"),
    "data as code": ("static char code[8]; code[0] = 0; ((void (*)(void))(void *)code)();", " (execute), rip 0x"),
    "beyond the heap": ("char *p = os_region(4096); p[4096] = 1;", " (write), rip 0x"),
    "a file before it is mapped": ("return *(volatile char *)((char *)os_region(4096) + (1025 << 12));", " (read)"),
    "a mapped file": ("*(char *)os_map_file(argv[1], 0) = 1;", " (write), rip 0x"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_touching_what_is_not_the_program_s_ends_it_with_a_sentence(case: str, tmp_path: Path) -> None:
    body, words = FAULTS[case]
    program = guest(tmp_path, f'#pragma GCC diagnostic ignored "-Wpedantic"\n{body}', "/etc/hostname")
    file = tmp_path / "file"
    file.write_bytes(b"x" * 5000)
    body_program = Program(
        program.name,
        program.image,
        program.libraries,
        ("file",),
        (file,),  # type: ignore[arg-type]
    )
    (ended,) = Machine().run([body_program])
    assert ended.status == 139
    assert ended.output.startswith("segmentation fault at 0x")
    assert words in ended.output


TRAPS = {
    "a division by zero": ("volatile int zero = 0, one = 1000; return one / zero;", "trap: exception 0 at rip 0x"),
    "an illegal instruction": ('__asm__ volatile("ud2");', "trap: exception 6 at rip 0x"),
    "a privileged instruction": ('__asm__ volatile("hlt");', "trap: privileged instruction, vector 13 at rip 0x"),
    "a software interrupt": ('__asm__ volatile("int $0x80");', "trap: software interrupt 128 at rip 0x"),
    "a Linux system call": ('__asm__ volatile("syscall" : : "a"(39));', "trap: foreign system call 39 at rip 0x"),
}


@pytest.mark.parametrize("case", TRAPS)
def test_a_trap_ends_the_program_with_a_sentence(case: str, tmp_path: Path) -> None:
    body, words = TRAPS[case]
    ended = run_guest(tmp_path, body)
    assert ended.status == 132
    assert ended.output.startswith(words)


def test_up_calls_preserve_every_register_and_the_red_zone(tmp_path: Path) -> None:
    ended = run_guest(
        tmp_path,
        r"""
        char *memory = os_region(64 << 12);
        for (int round = 0; round < 300; round++) {
            uint64_t sum;
            __asm__ volatile(
                "mov $0x1111, %%rax; mov $0x2222, %%rcx; mov $0x3333, %%rdx; mov $0x4444, %%rsi; mov $0x5555, %%rdi;"
                "mov $0x6666, %%r8; mov $0x7777, %%r9; mov $0x8888, %%r10; mov $0x9999, %%r11;"
                "movq $0x1234, -8(%%rsp); movq $0x5678, -120(%%rsp); stc;"
                "incb (%1);"
                "adc $0, %%rax; add %%rcx, %%rax; add %%rdx, %%rax; add %%rsi, %%rax; add %%rdi, %%rax;"
                "add %%r8, %%rax; add %%r9, %%rax; add %%r10, %%rax; add %%r11, %%rax;"
                "add -8(%%rsp), %%rax; add -120(%%rsp), %%rax; mov %%rax, %0"
                : "=r"(sum) : "r"(memory + (round * 7 % 64 << 12))
                : "rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "cc", "memory");
            if (sum != 0x1111 * 45 + 0x1234 + 0x5678 + 1)
                return 1;
        }
        """,
        frames=12,
    )
    assert ended.status == 0
    assert ended.accounts.faults > 250


# Advice, files, the heap.


def test_discarded_pages_give_their_frames_up_and_read_as_zeros(tmp_path: Path) -> None:
    ended = run_guest(
        tmp_path,
        """
        char *memory = os_region(20 << 12);
        for (int i = 0; i < 20; i++) memory[i << 12] = 1;
        if (os_advise(memory + 100, (19 << 12) - 100, OS_DISCARD)) return 1;
        if (!memory[0]) return 2;
        if (!memory[19 << 12]) return 3;
        for (int i = 1; i < 19; i++) if (memory[i << 12]) return 4;
        if (os_advise(memory, 21 << 12, OS_DISCARD) != -1) return 5;
        if (os_advise(memory, 4096, 3) != -1) return 6;
        if (os_advise((void *)0x1000, 8192, OS_DISCARD) != -1) return 7;
        """,
        frames=16,
    )
    assert ended.status == 0


def test_recomputable_pages_are_never_written_out(tmp_path: Path) -> None:
    body = """
        char *memory = os_region(60 << 12);
        if (argc > 1 && os_advise(memory, 60 << 12, OS_RECOMPUTABLE)) return 1;
        int zeros = 0;
        for (int round = 0; round < 3; round++)
            for (int i = 0; i < 60; i++) {
                zeros += round && !memory[i << 12];
                memory[i << 12] = 1;
            }
        return zeros ? 9 : 0;
    """
    kept, recomputed = Machine().run([guest(tmp_path, body, frames=20), guest(tmp_path, body, "yes", frames=20)])
    assert (kept.status, recomputed.status) == (0, 9)
    assert kept.swap_out > 60
    assert recomputed.swap_out < 10


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4095, 4096, 4097, 20_000])
def test_a_mapped_file_has_its_bytes_and_zeros_behind_them(size: int, tmp_path: Path) -> None:
    file = tmp_path / "words"
    file.write_bytes(bytes(1 + i % 251 for i in range(size)))
    program = guest(
        tmp_path,
        """
        size_t size;
        char *dirt = os_region(12 << 12);
        for (int i = 0; i < 12 << 12; i++) dirt[i] = 99;
        const unsigned char *file = os_map_file(argv[1], &size);
        if (!file || os_map_file("nothing", &size)) return 1;
        for (size_t i = 0; i < size; i++) if (file[i] != 1 + i % 251) return 2;
        for (size_t i = size; i & 4095; i++) if (file[i]) return 3;
        print_number(size);
        """,
        "words",
        files=(file,),
        frames=10,
    )
    (ended,) = Machine().run([program])
    assert (ended.status, ended.output) == (0, str(size))


def test_the_heap_ends_where_the_program_s_bound_says(tmp_path: Path) -> None:
    body = """
        int got = 0;
        while (os_alloc(4000)) got++;
        if (os_region(4096) || os_region(0)) return 1;
        print_number(got);
    """
    ended = run_guest(tmp_path, body, heap_pages=64)
    assert ended.status == 0
    assert 60 <= int(ended.output) <= 65


def test_freeing_twice_is_found_out(tmp_path: Path) -> None:
    ended = run_guest(tmp_path, "void *p = os_alloc(100); os_free(p); os_free(p);")
    assert ended.status == 134
    assert ended.output == "os_free: this is no block of the heap, or it was freed before.\n"


# Several programs, and a kernel that asks and takes.

MIX = (
    ("quicksort", 40_000),
    ("pagewalk", "--pattern", "zipf", "--pages", 90, "--steps", 1500, "--write", 30),
    ("pagewalk", "--pattern", "random", "--pages", 60, "--steps", 1500, "--write", 50),
    ("hashjoin", 2500, 4000),
    ("forkdemo", 20, 2),
)


def run_mix(machine: Machine, **options: Any) -> list[Ended]:
    """Five programs at once, each with another pager; each must print what it should."""
    programs = [native(str(case[0]), *case[1:], pager=PAGERS[i % len(PAGERS)], **options) for i, case in enumerate(MIX)]
    ends = machine.run(programs)
    assert not machine.deaths, machine.deaths
    for case, ended in zip(MIX, ends, strict=True):
        output = ended.output
        if case[0] == "forkdemo":
            output = "".join([*(machine.children[n] for n in sorted(machine.children, reverse=True)), output])
        expected = expected_output(list(map(str, case))).decode()
        assert (case, ended.status) == (case, 0), output
        assert sorted(output.splitlines()) == sorted(expected.splitlines())
    return ends


@pytest.mark.parametrize("policy", [LargestHolder, Proportional, Oldest])
@pytest.mark.parametrize("frames", [215, 260])
def test_who_is_asked_gives_and_nothing_is_taken(policy: type[MemoryPolicy], frames: int) -> None:
    ends = run_mix(Machine(frames, policy=policy()))
    assert sum(ended.evictions for ended in ends) > 0
    assert sum(ended.accounts.taken for ended in ends) == 0


@pytest.mark.parametrize("policy", [SeizeLargest, SeizeOldest])
@pytest.mark.parametrize("frames", [215, 260])
def test_a_kernel_that_takes_pages_loses_none_that_have_backing(policy: type[MemoryPolicy], frames: int) -> None:
    ends = run_mix(Machine(frames, policy=policy()), register_backing=True)
    assert sum(ended.accounts.taken for ended in ends) > 0


def test_the_very_frame_that_somebody_wants_is_given_back(tmp_path: Path) -> None:
    got: list[int] = []

    async def want_frames(exo: Exo, numbers: list[int]) -> None:
        """Ask for frames of the program that are not reserved, one after the other."""
        await exo.block(Event.TIME, 0, await exo.time() + 2_000_000)
        frames = int.from_bytes(await exo.read(EXPOSED + offset_of(MachinePage, "frames"), 8), "little")
        table = await exo.read(FRAME_TABLE, 8 * frames)
        words = [int.from_bytes(table[8 * i : 8 * i + 8], "little") for i in range(frames)]
        mine = [i for i, word in enumerate(words) if word == numbers[0] | 1 << FRAME_HOLDERS_SHIFT]
        for frame in mine[5:10]:
            with pytest.raises(Refused, match="frame_busy"):
                await exo.alloc_page(frame)
            await exo.block(Event.TIME, 0, await exo.time() + 500_000)
            got.append(await exo.alloc_page(frame))

    program = guest(
        tmp_path,
        """
        char *memory = os_region(40 << 12);
        for (int i = 0; i < 40; i++) memory[i << 12] = (char)(i + 1);
        for (uint64_t end = os_time() + 20000000; os_time() < end;) os_yield();
        for (int i = 0; i < 40; i++) if (memory[i << 12] != (char)(i + 1)) return 1;
        """,
    )
    (ended,) = Machine().run([program], want_frames)
    assert ended.status == 0
    assert len(got) == 5
    assert (ended.evictions, ended.accounts.taken) == (5, 0)


def test_pages_saved_after_a_missed_deadline_come_back(tmp_path: Path) -> None:
    settings = Settings(release_deadline=300, release_hard_limit=2000)
    ends = run_mix(Machine(230, settings=settings), register_backing=True)
    assert sum(ended.accounts.taken for ended in ends) > 0


def test_a_page_taken_without_backing_is_missed_with_a_sentence() -> None:
    machine = Machine(120, settings=Settings(release_deadline=1, release_hard_limit=2))
    walk = ("pagewalk", "--pattern", "random", "--pages", 60, "--steps", 3000, "--write", 50)
    ends = machine.run([native(str(walk[0]), *walk[1:]), native(str(walk[0]), *walk[1:])])
    lost = [ended for ended in ends if ended.status == 135]
    assert lost
    for ended in lost:
        assert ended.output.startswith("The page at 0x")
        assert ended.output.endswith(" was taken by force and its contents are lost.\n")


class Chaos(SeizeLargest):
    """Takes any frames of anybody, whenever it is asked for one."""

    name: ClassVar[str] = "chaos"

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = Random(seed)

    def pick(self, view: MemoryView, requester: int, count: int) -> list[int]:
        frames = sorted(frame.number for frame in view.frames())
        self._random.shuffle(frames)
        return frames[: max(count, self._random.randrange(1, 40))]


@pytest.mark.parametrize("seed", range(6))
def test_taking_any_frame_at_any_instruction_loses_nothing(seed: int) -> None:
    """Slices end in the middle of handlers, and what is taken may be what a handler has in hand."""
    settings = Settings(quantum=(100_000, 3000, 1500, 700)[seed % 4])
    run_mix(Machine(230, policy=Chaos(seed), settings=settings), register_backing=True)


class TakesAll(SeizeLargest):
    """Takes every frame of everybody else at once."""

    name: ClassVar[str] = "all"

    def pick(self, view: MemoryView, requester: int, count: int) -> list[int]:
        return [frame.number for frame in view.frames() if requester not in frame.holders]


def test_more_pages_taken_at_once_than_there_are_records_come_back(tmp_path: Path) -> None:
    sleeper = guest(
        tmp_path,
        """
        char *memory = os_region(200 << 12);
        int sum = 0;
        for (int i = 0; i < 200; i++) if (i % 3) memory[i << 12] = (char)i; else sum += memory[i << 12];
        for (uint64_t end = os_time() + 30000000; os_time() < end;) os_yield();
        for (int i = 0; i < 200; i++) if (memory[i << 12] != (i % 3 ? (char)i : 0)) return 1;
        return sum;
        """,
        register_backing=True,
    )
    eater = native("pagewalk", "--pattern", "loop", "--pages", 150, "--steps", 400, register_backing=True)
    slept, _ = Machine(330, policy=TakesAll()).run([sleeper, eater])
    assert slept.status == 0
    assert slept.accounts.taken > 96


def test_clean_pages_are_not_written_before_they_are_taken() -> None:
    walk = ("pagewalk", "--pattern", "loop", "--pages", 90, "--steps", 2000, "--write", 0)
    machine = Machine(150, policy=SeizeOldest())
    ended = run(walk, machine=machine, register_backing=True)
    assert ended.accounts.taken > 500
    assert ended.accounts.sectors_written < 8 * 150


@pytest.mark.parametrize("seed", range(4))
def test_frames_that_pass_from_parent_to_child_stay_apart(seed: int, tmp_path: Path) -> None:
    """What is taken from a parent may be its child's at once; the parent must not mistake it for its own."""
    family = guest(
        tmp_path,
        """
        enum { CHILDREN = 3, PAGES = 24 };
        uint64_t *memory = os_region(PAGES << 12);
        long child[CHILDREN];
        uint64_t me = 100;
        for (int i = 0; i < PAGES; i++) memory[i << 9] = me + i;
        for (int c = 0; c < CHILDREN; c++) {
            child[c] = os_fork();
            if (child[c] < 0) return 1;
            if (child[c] == 0) { me += (c + 1) * 1000; break; }
        }
        for (int round = 1; round < 12; round++) {
            for (int i = 0; i < PAGES; i++) {
                if (round > 1 && memory[i << 9] != me + round - 1 + i) return 2;
                memory[i << 9] = me + round + i;
            }
            os_yield();
        }
        if (me > 100) return 0;
        for (int c = 0; c < CHILDREN; c++) if (os_wait(child[c])) return 3;
        """,
        register_backing=True,
    )
    machine = Machine(170, policy=Chaos(seed), settings=Settings(quantum=(200, 400, 900)[seed % 3]))
    (ended,) = machine.run([family])
    assert (ended.status, machine.deaths) == (0, [])


# Fork.


def test_a_forked_child_has_its_own_copy_and_the_parent_keeps_its_own(tmp_path: Path) -> None:
    body = """
        static int data = 5;
        char *memory = os_region(30 << 12), *heap = os_alloc(50000);
        for (int i = 0; i < 30; i++) memory[i << 12] = (char)i;
        heap[49999] = 3;
        long child = os_fork();
        if (child < 0) return 1;
        if (child == 0) {
            for (int i = 0; i < 30; i++) if (memory[i << 12] != (char)i) return 2;
            if (data != 5 || heap[49999] != 3) return 3;
            for (int i = 0; i < 30; i++) memory[i << 12] = (char)(i + 100);
            data = heap[49999] = 9;
            os_free(heap);
            for (int i = 0; i < 30; i++) if (memory[i << 12] != (char)(i + 100)) return 4;
            return 42;
        }
        if (os_wait(child) != 42) return 5;
        if (os_wait(child + 1) != -1 || os_wait(0) != -1) return 6;
        for (int i = 0; i < 30; i++) if (memory[i << 12] != (char)i) return 7;
        return data != 5 || heap[49999] != 3;
    """
    for frames in (0, 24, 12):
        assert run_guest(tmp_path, body, frames=frames).status == 0


def test_fork_copies_nothing_until_it_is_written(tmp_path: Path) -> None:
    body = """
        char *memory = os_region(100 << 12);
        for (int i = 0; i < 100; i++) memory[i << 12] = 1;
        uint64_t before = EXO_FREE;
        long child = os_fork();
        if (child == 0) {
            for (int i = 0; i < 100; i++) if (!memory[i << 12]) return 1;
            return (int)(before - EXO_FREE);
        }
        return (int)os_wait(child);
    """.replace("EXO_FREE", "(*(volatile uint64_t *)0x7f0000000020)")
    ended = run_guest(tmp_path, body)
    assert 5 < ended.status < 45, "page tables and the library's own pages, and hardly more"


def test_fork_gives_minus_one_when_there_is_no_room(tmp_path: Path) -> None:
    body = """
        char *memory = os_region(8 << 12);
        for (int i = 0; i < 8; i++) memory[i << 12] = 1;
        if (os_fork() != -1) return 1;
        for (int i = 0; i < 8; i++) if (memory[i << 12]++ != 1) return 2;
    """
    machine = Machine(sectors=12_000)
    assert run_guest(tmp_path, body, machine).status == 0
    assert not machine.children


# The loader.


def test_shared_text_is_one_copy_however_many_programs_use_it() -> None:
    def frames_of_the_loader(programs: int) -> int:
        machine = Machine()
        machine.run([native("hello") for _ in range(programs)])
        return int(machine.kernel.ended[machine.kernel.first_environment].accounts.held_peak)

    assert frames_of_the_loader(1) == frames_of_the_loader(5)


def test_a_program_that_needs_a_library_nobody_gave_is_refused() -> None:
    program = native("hello")
    without = Program(program.name, program.image, {})
    with pytest.raises(LoadError, match=r"hello.* needs the library libos\.so\.1, which was not given; name"):
        Machine().run([without])


def test_a_disk_too_small_for_the_swap_extent_is_refused_in_words() -> None:
    with pytest.raises(LoadError, match=r"The disk has no \d+ free sectors in a row for swapping hello; give"):
        Machine(sectors=1000).run([native("hello")])


def test_a_quota_too_small_for_the_library_is_refused_in_words() -> None:
    with pytest.raises(LoadError, match=r"hello could not be started: .*over_quota"):
        Machine().run([native("hello", quota=8)])


def test_arguments_are_passed_on_and_too_long_ones_refused() -> None:
    words = [f"word{i}" * 20 for i in range(100)]
    (ended,) = Machine().run([native("hello", *words)])
    assert ended.output.splitlines()[1:] == words
    with pytest.raises(LoadError, match="The arguments of hello take"):
        Machine().run([native("hello", "x" * (2 << 20))])


def test_a_program_too_large_for_the_library_s_reserved_memory_is_told_so() -> None:
    (ended,) = Machine(sectors=500_000).run([native("hello", heap_pages=30_000)])
    assert ended.status == 0
    (ended,) = Machine(sectors=500_000).run([native("hello", heap_pages=55_000)])
    assert ended.status == 134
    assert "give the program a smaller heap" in ended.output
    with pytest.raises(LoadError, match="at most 65535 can be kept track of; give it a smaller heap"):
        Machine(sectors=600_000).run([native("hello", heap_pages=70_000)])
