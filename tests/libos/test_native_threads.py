"""Threads of the native library OS: what they compute is the host's, however they are switched and on however many
processors; what a switch costs; and that the library keeps the kernel's rules while it has them."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from exokernel.kernel.death import Cause
from exokernel.kernel.kernel import Settings
from exokernel.policy.memory import LargestHolder, MemoryPolicy, Proportional, SeizeLargest
from tests.apps.host import run_on_the_host
from tests.libos.machines import Ended, Machine, native

AT_WORK = Path(__file__).with_name("threads_at_work.c")
START = """
#include "libos.h"
#include "support.h"
struct os_mutex mutex;
struct os_spin spin;
volatile uint64_t shared, flag;
"""


@cache
def on_the_host(*arguments: int) -> str:
    """What the same program prints with the host's threads."""
    ended = run_on_the_host([AT_WORK, *map(str, arguments)])
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.decode()


def machine(**settings: int) -> Machine:
    return Machine(2048, settings=Settings(**settings))


def at_work(computer: Machine, processors: int, *arguments: int, copies: int = 2, **options: Any) -> list[Ended]:
    """Several copies of the program at once; each prints what it prints on the host."""
    ends = computer.run([native(AT_WORK, processors, *arguments, **options)] * copies)
    assert not computer.deaths, computer.deaths
    for ended in ends:
        assert (ended.status, ended.output) == (0, on_the_host(processors, *arguments))
    return ends


def run_guest(directory: Path, text: str, computer: Machine | None = None, copies: int = 1, **options: Any) -> Ended:
    """Run a program whose functions are these."""
    source = directory / "guest.c"
    source.write_text(START + text)
    return (computer or machine()).run([native(source, **options)] * copies)[0]


# One result.


@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize("quantum", [2003, 3001, 7001, 100_000])
def test_the_result_is_the_host_s_on_any_number_of_processors(quantum: int, cpus: int) -> None:
    for processors in {1, cpus, 3}:
        at_work(machine(quantum=quantum, cpus=cpus), processors, 4, 10, 3)


@pytest.mark.parametrize("pager", ["fifo", "clock", "mru", "random"])
@pytest.mark.parametrize(("frames", "cpus"), [(8, 1), (16, 2), (30, 1), (40, 4)])
def test_the_result_is_the_host_s_in_little_memory(pager: str, frames: int, cpus: int) -> None:
    (ended, _) = at_work(machine(quantum=5003, cpus=cpus), cpus, 4, 3, 12, frames=frames, pager=pager)
    assert ended.evictions > 20


@pytest.mark.parametrize("policy", [LargestHolder, Proportional, SeizeLargest])
def test_the_result_is_the_host_s_while_the_kernel_wants_pages_back(policy: type[MemoryPolicy]) -> None:
    computer = Machine(170, policy=policy(), settings=Settings(quantum=5003, cpus=2))
    ends = at_work(computer, 2, 8, 3, 10, register_backing=policy is SeizeLargest)
    taken = sum(ended.accounts.taken for ended in ends)
    assert taken > 0 if policy is SeizeLargest else taken == 0
    assert sum(ended.evictions for ended in ends) + taken > 100


def test_more_threads_than_library_stacks_wait_for_the_disk_at_once() -> None:
    at_work(machine(quantum=9001), 1, 24, 2, 8, frames=120, copies=1)


def test_the_same_run_is_the_same_to_the_cycle() -> None:
    runs = [at_work(machine(quantum=3001, cpus=2), 2, 4, 5, 3) for _ in range(2)]
    assert [ended.accounts for ended in runs[0]] == [ended.accounts for ended in runs[1]]


REGISTERS = """
static uint64_t failures;
static long hold(void *argument) {
    uint64_t pattern = (uint64_t)argument * 0x0101010101010101ull, wrong;
    for (int round = 0; round < 300; round++) {
        __asm__ volatile(
            "wrfsbase %1; movq %1, %%xmm0; movq %1, %%xmm7; movq %1, %%xmm15; pushq %1; fildll (%%rsp); popq %%rbx;"
            "mov %1, %%rax; mov %1, %%rbx; mov %1, %%rdx; mov %1, %%rsi; mov %1, %%rdi; mov %1, %%r8; mov %1, %%r9;"
            "mov %1, %%r10; mov %1, %%r11; mov %1, %%r12; mov %1, %%r14; mov %1, %%r15;"
            "mov $400, %%ecx; cmp %%rax, %%rax; 1: lea -1(%%rcx), %%rcx; jrcxz 2f; jmp 1b; 2: setne %%cl;"
            "movzbl %%cl, %%ecx;"
            "cmp %1, %%rax; setne %%al; or %%al, %%cl; cmp %1, %%rbx; setne %%al; or %%al, %%cl;"
            "cmp %1, %%rdx; setne %%al; or %%al, %%cl; cmp %1, %%rsi; setne %%al; or %%al, %%cl;"
            "cmp %1, %%rdi; setne %%al; or %%al, %%cl; cmp %1, %%r8; setne %%al; or %%al, %%cl;"
            "cmp %1, %%r9; setne %%al; or %%al, %%cl; cmp %1, %%r10; setne %%al; or %%al, %%cl;"
            "cmp %1, %%r11; setne %%al; or %%al, %%cl; cmp %1, %%r12; setne %%al; or %%al, %%cl;"
            "cmp %1, %%r14; setne %%al; or %%al, %%cl; cmp %1, %%r15; setne %%al; or %%al, %%cl;"
            "movq %%xmm0, %%rax; cmp %1, %%rax; setne %%al; or %%al, %%cl; movq %%xmm7, %%rax; cmp %1, %%rax;"
            "setne %%al; or %%al, %%cl; movq %%xmm15, %%rax; cmp %1, %%rax; setne %%al; or %%al, %%cl;"
            "rdfsbase %%rax; cmp %1, %%rax; setne %%al; or %%al, %%cl;"
            "push %%rax; fistpll (%%rsp); popq %%rax; cmp %1, %%rax; setne %%al; or %%al, %%cl; movzbl %%cl, %%ecx;"
            "mov %%rcx, %0"
            : "=&m"(wrong) : "r"(pattern)
            : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r14", "r15", "xmm0", "xmm7",
              "xmm15", "memory", "cc");
        failures += wrong;
    }
    return 0;
}
int main(void) {
    long numbers[3];
    for (long i = 0; i < 3; i++)
        numbers[i] = os_thread_create(hold, (void *)(i + 1));
    for (long i = 0; i < 3; i++)
        os_thread_join(numbers[i]);
    return (int)failures;
}
"""


@pytest.mark.parametrize("quantum", [*range(1500, 1520), 701])
def test_a_preempted_thread_loses_no_register(quantum: int, tmp_path: Path) -> None:
    ended = run_guest(tmp_path, REGISTERS, machine(quantum=quantum))
    assert ended.status == 0
    assert ended.accounts.upcalls > 100


# What it costs.

YIELDS = """
static long yields(void *argument) {
    for (long i = 0; i < (long)argument; i++)
        os_thread_yield();
    return 0;
}
int main(void) {
    os_thread_join(os_thread_create(yields, (void *)1));
    uint64_t begin = os_time();
    long other = os_thread_create(yields, (void *)1000);
    yields((void *)1000);
    os_thread_join(other);
    print_number((os_time() - begin) / 2000);
    return 0;
}
"""
LOCKS = """
int main(void) {
    os_thread_join(os_thread_create((os_thread_entry *)os_thread_self, 0));
    uint64_t begin = os_time();
    for (int i = 0; i < 1000; i++) {
        os_mutex_lock(&mutex);
        os_mutex_unlock(&mutex);
    }
    print_number((os_time() - begin) / 1000);
    return 0;
}
"""


def test_a_switch_saves_what_c_preserves_and_does_not_enter_the_kernel(tmp_path: Path) -> None:
    ended = run_guest(tmp_path, YIELDS)
    assert ended.status == 0
    assert 20 < int(ended.output) <= 120
    assert ended.accounts.downcalls < 200


def test_a_free_mutex_costs_a_few_instructions(tmp_path: Path) -> None:
    ended = run_guest(tmp_path, LOCKS)
    assert ended.status == 0
    assert int(ended.output) <= 25
    assert ended.accounts.downcalls < 100


def test_processors_share_the_work(tmp_path: Path) -> None:
    text = """
    static long work(void *argument) {
        volatile uint64_t sum = 0;
        for (uint64_t i = 0; i < 100000; i++)
            sum += i ^ (uint64_t)argument;
        return 7;
    }
    int main(void) {
        long numbers[8], results = 0;
        uint64_t begin = os_time();
        if (os_processors(0) != (long)CPUS)
            return 1;
        for (long i = 0; i < 8; i++)
            numbers[i] = os_thread_create(work, (void *)i);
        for (long i = 0; i < 8; i++)
            results += os_thread_join(numbers[i]);
        print_number(os_time() - begin);
        return results != 56;
    }
    """
    took = []
    for cpus in (1, 2, 4):
        ended = run_guest(tmp_path, text.replace("CPUS", str(cpus)), machine(cpus=cpus))
        assert ended.status == 0
        took.append(int(ended.output))
    assert all(later < 0.65 * earlier for earlier, later in pairwise(took))


DISK = """
static const char *file;
static size_t size;
static long reads(void *argument) {
    long sum = 0;
    for (size_t i = (size_t)argument; i < size; i += 2 * PAGE_SIZE)
        sum += file[i];
    return sum;
}
static long computes(void *argument) {
    (void)argument;
    while (shared < 600000)
        shared = shared + 1;
    return 0;
}
int main(int argc, char **argv) {
    char *pages = os_region(60 * PAGE_SIZE);
    (void)argc;
    for (int i = 0; i < 60; i++)
        pages[i * PAGE_SIZE] = 1;
    file = os_map_file(argv[1], &size);
    if (size != 80 * PAGE_SIZE)
        return 1;
    uint64_t begin = os_time();
    long sum = 0, a = os_thread_create(reads, 0);
    EARLY
    long b = os_thread_create(computes, 0);
    sum += os_thread_join(b) + reads((void *)PAGE_SIZE);
    LATE
    print_number(os_time() - begin);
    return sum != 80;
}
"""


def reading_and_computing(directory: Path, early: bool) -> int:
    """The cycles it takes if one waits for the first reader before the other thread begins, or only after all."""
    file = directory / "file"
    file.write_bytes(b"\x01" * (80 << 12))
    source, other = directory / "guest.c", "LATE" if early else "EARLY"
    source.write_text(START + DISK.replace("EARLY" if early else "LATE", "sum += os_thread_join(a);").replace(other, ""))
    program = native(source, "file", files=(file,))
    (ended,) = machine(quantum=20_000).run([program])
    assert ended.status == 0
    return int(ended.output)


def test_while_a_thread_waits_for_the_disk_another_runs(tmp_path: Path) -> None:
    together = reading_and_computing(tmp_path, early=False)
    one_after_the_other = reading_and_computing(tmp_path, early=True)
    assert together < one_after_the_other - 1_500_000


# The kernel's rules.

SECTIONS = """
static long sections(void *argument) {
    for (int i = 0; i < 200; i++) {
        os_critical_enter();
        os_critical_enter();
        for (volatile int spent = 0; spent < LENGTH; spent++)
            ;
        os_critical_leave();
        if (argument)
            shared = shared + 1;
        os_critical_leave();
    }
    return 0;
}
int main(void) {
    long other = os_thread_create(sections, (void *)1);
    sections((void *)1);
    os_thread_join(other);
    return shared != 400;
}
"""


def test_a_request_within_a_critical_section_is_honoured_when_the_section_ends(tmp_path: Path) -> None:
    computer = machine(quantum=3000)
    ended = run_guest(tmp_path, SECTIONS.replace("LENGTH", "400"), computer, copies=2)
    assert (ended.status, ended.accounts.overruns) == (0, 0)
    assert ended.accounts.upcalls > 100


def test_a_critical_section_beyond_the_deadline_is_an_overrun(tmp_path: Path) -> None:
    computer = machine(quantum=3000, overruns_allowed=1000)
    ended = run_guest(tmp_path, SECTIONS.replace("LENGTH", "4000"), computer, copies=2)
    assert ended.status == 0
    assert ended.accounts.overruns > 20


def test_a_thread_that_only_looks_is_preempted_for_the_one_it_waits_for(tmp_path: Path) -> None:
    text = """
    static long sets(void *argument) { (void)argument; flag = 1; return 0; }
    int main(void) { os_thread_create(sets, 0); while (!flag); return 5; }
    """
    assert run_guest(tmp_path, text).status == 5


def test_a_spin_lock_is_had_by_one_and_its_owner_may_fault(tmp_path: Path) -> None:
    text = """
    static long work(void *argument) {
        char *pages = argument;
        for (int i = 0; i < 40; i++) {
            os_spin_lock(&spin);
            uint64_t seen = shared;
            pages[i % 20 * PAGE_SIZE] = 1;
            shared = seen + 1;
            os_spin_unlock(&spin);
        }
        return 0;
    }
    int main(void) {
        long numbers[4];
        os_processors(3);
        for (int i = 0; i < 4; i++)
            numbers[i] = os_thread_create(work, os_region(20 * PAGE_SIZE));
        for (int i = 0; i < 4; i++)
            os_thread_join(numbers[i]);
        print_number(shared);
        return 0;
    }
    """
    for cpus in (1, 2):
        ended = run_guest(tmp_path, text, machine(quantum=4001, cpus=cpus), frames=24)
        assert (ended.status, ended.output) == (0, "160")


def test_threads_that_wait_for_each_other_for_ever_are_reported(tmp_path: Path) -> None:
    text = """
    static long stuck(void *argument) { os_mutex_lock(&mutex); return (long)argument; }
    int main(void) { os_mutex_lock(&mutex); return (int)os_thread_join(os_thread_create(stuck, 0)); }
    """
    computer = machine()
    run_guest(tmp_path, text, computer)
    assert [death.cause for death in computer.deaths] == [Cause.DEADLOCK]
    assert "context 0 waits for a predicate over its memory" in computer.deaths[0].detail


# Ends and beginnings.


def test_the_program_ends_with_main_or_with_the_last_thread(tmp_path: Path) -> None:
    forever = "static long forever(void *argument) { (void)argument; for (;;) os_thread_yield(); }"
    assert run_guest(tmp_path, forever + "int main(void) { os_thread_create(forever, 0); return 3; }").status == 3
    late = "static long late(void *argument) { os_thread_yield(); print_text(argument); flush(); return 9; }"
    ended = run_guest(tmp_path, late + 'int main(void) { os_thread_create(late, "late"); os_thread_exit(4); }')
    assert (ended.status, ended.output) == (0, "late")


def test_a_thread_is_joined_once_and_its_room_is_used_again(tmp_path: Path) -> None:
    text = """
    static long gives(void *argument) { return (long)argument + os_thread_self() * 0; }
    int main(void) {
        if (os_thread_self() != 0 || os_thread_join(0) != -1 || os_thread_join(77) != -1)
            return 1;
        for (long i = 0; i < 300; i++) {
            long number = os_thread_create(gives, (void *)i);
            if (number <= 0 || os_thread_join(number) != i || os_thread_join(number) != -1)
                return 2;
        }
        return 0;
    }
    """
    assert run_guest(tmp_path, text).status == 0


def test_when_there_is_no_room_for_a_thread_the_others_go_on(tmp_path: Path) -> None:
    text = """
    static long counts(void *argument) {
        os_mutex_lock(&mutex);
        shared++;
        os_mutex_unlock(&mutex);
        return (long)argument;
    }
    int main(void) {
        uint64_t made = 0;
        while (made < 10000 && os_thread_create(counts, 0) > 0)
            made++;
        while (shared < made)
            os_thread_yield();
        print_number(made);
        return made == 10000;
    }
    """
    ended = run_guest(tmp_path, text)
    assert ended.status == 0
    assert int(ended.output) > 50


def test_a_program_with_threads_is_not_forked_but_may_have_been_before(tmp_path: Path) -> None:
    text = """
    static long computes(void *argument) { (void)argument; while (!flag) shared = shared + 1; return 0; }
    int main(void) {
        long child = os_fork();
        if (child == 0) {
            for (int i = 0; i < 20; i++)
                os_yield();
            return 6;
        }
        long number = os_thread_create(computes, 0);
        if (os_fork() != -1)
            return 1;
        long status = os_wait(child);
        flag = 1;
        os_thread_join(number);
        return status == 6 && shared > 0 && os_wait(child) == 6 ? 0 : 2;
    }
    """
    assert run_guest(tmp_path, text, machine(quantum=5000)).status == 0
