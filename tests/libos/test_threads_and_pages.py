"""What a thread has stored stays stored, whatever becomes of the page meanwhile: it is moved, taken, or protected by
another thread, on one processor or several."""

from collections.abc import Callable
from pathlib import Path

import pytest

from exokernel.kernel.kernel import Settings
from exokernel.policy.memory import LargestHolder, MemoryPolicy, SeizeLargest
from libos.plan import Program
from tests.libos.machines import Machine, native
from tests.libos.pythonic import over_python

Make = Callable[..., Program]
PROGRAM = """
#include <libos.h>
#include <support.h>
enum { THREADS = 4, PAGES = 24, ROUNDS = 400, NOTHING = -1 };
static uint64_t *memory; /* in each page one word of each thread */
static volatile uint64_t traps;

static void protect(uint64_t page) {
    if (RIGHTS != NOTHING && os_protect(&memory[page * WORDS_PER_PAGE], PAGE_SIZE, RIGHTS)) os_exit(90);
}

static int give_back(void *address, int write) {
    if (!write && RIGHTS == OS_READ) return 0;
    __atomic_add_fetch(&traps, 1, __ATOMIC_SEQ_CST);
    return os_protect((void *)((uintptr_t)address & -(uintptr_t)PAGE_SIZE), PAGE_SIZE, OS_READ_WRITE) == 0;
}

static long work(void *argument) {
    uint64_t me = (uint64_t)argument, random = me + 1, counts[PAGES] = {0};
    double x = (double)(me + 1), seen = x;
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t page = random_next(&random) % PAGES;
        volatile uint64_t *word = &memory[page * WORDS_PER_PAGE + me];
        if (*word != counts[page]) return 1;
        *word = ++counts[page];
        x = x * 2.0 - seen;
        if (x != seen) return 2;
        if (round % 4 == 0) protect(random_next(&random) % PAGES);
    }
    for (uint64_t page = 0; page < PAGES; page++)
        if (memory[page * WORDS_PER_PAGE + me] != counts[page]) return 3;
    return 0;
}

int main(int argc, char **argv) {
    (void)argc, (void)argv;
    long numbers[THREADS], wrong = 0;
    memory = os_region(PAGES * PAGE_SIZE);
    os_on_fault(give_back);
    os_processors(PROCESSORS);
    for (uint64_t i = 0; i < THREADS; i++) numbers[i] = os_thread_create(work, (void *)i);
    for (int i = 0; i < THREADS; i++) {
        long result = os_thread_join(numbers[i]);
        if (result) wrong = result;
    }
    return wrong ? (int)wrong : RIGHTS == NOTHING || traps > 100 ? 0 : 4;
}
"""

both = pytest.mark.parametrize("make", [native, over_python], ids=["native", "python"])
rights = pytest.mark.parametrize("rights", ["NOTHING", "OS_READ", "OS_NO_ACCESS"])


def guest(directory: Path, rights: str, processors: int) -> Path:
    source = directory / "guest.c"
    source.write_text(PROGRAM.replace("RIGHTS", rights).replace("PROCESSORS", str(processors)))
    return source


@both
@rights
@pytest.mark.parametrize(("frames", "cpus", "quantum"), [(0, 2, 2503), (16, 1, 2503), (16, 2, 9001), (32, 4, 2503)])
def test_every_store_is_there_in_the_end(
    make: Make, rights: str, frames: int, cpus: int, quantum: int, tmp_path: Path
) -> None:
    machine = Machine(2048, settings=Settings(quantum=quantum, cpus=cpus))
    (ended,) = machine.run([make(guest(tmp_path, rights, cpus), frames=frames)])
    assert not machine.deaths, machine.deaths
    assert (ended.status, ended.output) == (0, "")
    assert (ended.evictions > 100) == (0 < frames < 32)


@both
@rights
@pytest.mark.parametrize("policy", [LargestHolder, SeizeLargest])
def test_the_kernel_may_ask_and_take(make: Make, rights: str, policy: type[MemoryPolicy], tmp_path: Path) -> None:
    machine = Machine(130 if make is native else 95, policy=policy(), settings=Settings(quantum=5003, cpus=2))
    ends = machine.run([make(guest(tmp_path, rights, 2), register_backing=policy.seize) for _ in range(2)])
    assert not machine.deaths, machine.deaths
    for ended in ends:
        assert (ended.status, ended.output) == (0, "")
    assert sum(ended.accounts.taken if policy.seize else ended.evictions for ended in ends) > 30


ENDS = """
#include <libos.h>
#include <support.h>
static int give_back(void *address, int write) {
    (void)write;
    return os_protect((void *)((uintptr_t)address & -(uintptr_t)PAGE_SIZE), PAGE_SIZE, OS_READ_WRITE) == 0;
}
static long work(void *argument) {
    char *memory = os_region(PAGE_SIZE), *here = (char *)((uintptr_t)&argument & -(uintptr_t)PAGE_SIZE);
    os_on_fault(give_back);
    os_protect(memory, PAGE_SIZE, OS_NO_ACCESS);
    BODY
    return (long)here;
}
int main(int argc, char **argv) {
    (void)argc, (void)argv;
    os_thread_join(os_thread_create(work, NULL));
    return 0;
}
"""


@both
def test_a_thread_that_protects_its_own_stack_ends_the_program(make: Make, tmp_path: Path) -> None:
    source = tmp_path / "guest.c"
    body = "os_protect(here - PAGE_SIZE, 2 * PAGE_SIZE, OS_READ); *(volatile long *)&argument = 1;"
    source.write_text(ENDS.replace("BODY", body))
    (ended,) = Machine().run([make(source)])
    assert ended.status == 139
    assert ended.output.startswith("segmentation fault at 0x")
    assert ended.output.count("\n") == 1


def test_over_python_a_function_of_the_library_runs_no_handler_of_a_thread(tmp_path: Path) -> None:
    source = tmp_path / "guest.c"
    source.write_text(ENDS.replace("BODY", "os_write(memory, 1);"))
    (ended,) = Machine().run([over_python(source)])
    assert (ended.status, ended.output.partition(" at ")[0]) == (139, "segmentation fault")
    (ended,) = Machine().run([native(source)])
    assert (ended.status, ended.output) == (0, "\0")
