"""Threads of compiled programs over a Python library OS, whoever schedules them, on any number of processors."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from exokernel.kernel.kernel import Settings
from libos.base import LibraryOS
from libos.image import LoadError
from libos.names import library_from_file, library_named, schedulers
from libos.scheduling import SCHEDULERS, Priority, RoundRobin, ThreadStrategy
from libos.threads import THREADS
from tests.libos.machines import Ended, Machine
from tests.libos.pythonic import HEADER, over_python

LONG = 50_000_000
"""A slice longer than these programs run."""

TWENTY_LINES = '''
from libos.scheduling import ThreadStrategy


class MyScheduler(ThreadStrategy):
    """Who became ready last runs first."""

    name = "mine"

    def __init__(self, seed=0):
        super().__init__(seed)
        self.stack = []

    def ready(self, thread):
        self.stack.append(thread)

    def next(self):
        return self.stack.pop() if self.stack else None
'''

WORKERS = """
static struct os_mutex mutex;
static struct os_condition changed;
static struct os_barrier barrier;
static struct os_spin spin;
static volatile uint64_t count, inside, most, spun, turn, last;
static double sums[4];
static long work(void *argument) {
    const long number = (long)argument;
    for (int i = 0; i < 20; i++) {
        os_mutex_lock(&mutex);
        if (++inside > most) most = inside;
        const uint64_t seen = count;
        for (volatile int k = 0; k < 100; k++) sums[number] += 0.5;
        count = seen + 1;
        inside--;
        os_mutex_unlock(&mutex);
        for (volatile int k = 0; k < 500; k++);
        os_spin_lock(&spin);
        spun++;
        os_spin_unlock(&spin);
        if (i % 5 == 4 && os_barrier_wait(&barrier, 4)) last++;
        if (i % 3 == 0) os_thread_yield();
    }
    os_mutex_lock(&mutex);
    while (turn != (uint64_t)number) os_condition_wait(&changed, &mutex);
    print_text("thread "); print_number(os_thread_self()); print_text(" sees "); print_number(count); print_line("");
    turn++;
    os_condition_broadcast(&changed);
    os_mutex_unlock(&mutex);
    return 100 + number;
}
int main(void) {
    os_processors(4);
    long threads[4], sum = 0;
    for (long i = 0; i < 4; i++) threads[i] = os_thread_create(work, (void *)i);
    for (long i = 0; i < 4; i++) sum += os_thread_join(threads[i]);
    if (most != 1 || spun != 80 || last != 4 || sums[0] + sums[1] + sums[2] + sums[3] != 4000) return 1;
    return sum == 406 ? 0 : 2;
}
"""
WORKERS_SAY = "".join(f"thread {number} sees 80\n" for number in (1, 2, 3, 4))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Ended]:
    """Runs a program's text alone on a machine."""

    def run_text(
        text: str,
        scheduler: Callable[[int], ThreadStrategy] = RoundRobin,
        cpus: int = 1,
        quantum: int = 100_000,
        **options: Any,
    ) -> Ended:
        source = tmp_path / "guest.c"
        source.write_text(HEADER + text)
        machine = Machine(settings=Settings(cpus=cpus, quantum=quantum))
        library = options.pop("library", partial(LibraryOS, scheduler=scheduler))
        (ended,) = machine.run([over_python(source, library=library, **options)])
        assert not machine.deaths
        return ended

    return run_text


@pytest.mark.parametrize("quantum", [4_000, 100_000])
@pytest.mark.parametrize("cpus", [1, 2, 4])
@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_a_program_does_the_same_whoever_schedules_it_and_wherever(
    run: Callable[..., Ended], scheduler: type[ThreadStrategy], cpus: int, quantum: int
) -> None:
    ended = run(WORKERS, scheduler, cpus, quantum)
    assert (ended.status, ended.output) == (0, WORKERS_SAY)


@pytest.mark.parametrize("frames", [10, 30])
@pytest.mark.parametrize("cpus", [1, 2])
def test_it_does_the_same_in_little_memory(run: Callable[..., Ended], cpus: int, frames: int) -> None:
    ended = run(WORKERS, cpus=cpus, frames=frames)
    assert (ended.status, ended.output) == (0, WORKERS_SAY)


def test_several_processors_are_faster(run: Callable[..., Ended]) -> None:
    text = """
    static long work(void *argument) { for (volatile int i = 0; i < 200000; i++); return (long)argument; }
    int main(int argc, char **argv) {
        const long cpus = os_processors(argc > 1 ? 1 : 8);
        const uint64_t before = os_time();
        long threads[4];
        for (long i = 0; i < 4; i++) threads[i] = os_thread_create(work, 0);
        for (long i = 0; i < 4; i++) os_thread_join(threads[i]);
        print_number(os_time() - before); print_line("");
        return (int)cpus + (argv == 0);
    }
    """
    alone, four = run(text), run(text, cpus=4)
    assert (alone.status, four.status) == (1, 4)
    assert int(four.output) < int(alone.output) * 0.35


TOUCHING = """
static volatile uint64_t progress, ended;
static long compute(void *argument) { while (!ended) progress++; return (long)argument; }
int main(void) {
    volatile char *memory = os_region(60 * PAGE_SIZE);
    os_thread_create(compute, 0);
    uint64_t went_on = 0, faults = 0;
    for (int round = 0; round < 3; round++)
        for (int page = 0; page < 60; page++) {
            const uint64_t before = progress, began = os_time();
            memory[page * PAGE_SIZE]++;
            if (os_time() - began > 50000) { faults++; went_on += progress != before; }
        }
    ended = 1;
    print_number(went_on * 100 / faults); print_line("");
    return faults > 60 ? 0 : 1;
}
"""


@pytest.mark.parametrize("quantum", [LONG, 1_000_000])
def test_while_a_thread_waits_for_the_disk_another_runs(run: Callable[..., Ended], quantum: int) -> None:
    ended = run(TOUCHING, scheduler=Priority, frames=20, quantum=quantum)
    assert ended.status == 0
    assert int(ended.output) > 95


def test_a_thread_whose_page_has_come_takes_over_if_it_has_precedence(run: Callable[..., Ended]) -> None:
    first = run(TOUCHING, scheduler=Priority, frames=20, quantum=1_000_000)
    second = run(TOUCHING, scheduler=RoundRobin, frames=20, quantum=1_000_000)
    assert (first.status, second.status) == (0, 0)
    assert first.accounts.ended_at < second.accounts.ended_at / 2


def test_a_thread_that_computes_is_preempted_for_another_although_the_program_is_alone(run: Callable[..., Ended]) -> None:
    text = """
    static volatile int go;
    static long set(void *argument) { go = 1; return (long)argument; }
    int main(void) { os_thread_create(set, 0); while (!go); return 7; }
    """
    assert run(text).status == 7


def test_nobody_takes_the_place_of_a_thread_in_a_critical_section(run: Callable[..., Ended]) -> None:
    text = """
    static volatile int go;
    static long set(void *argument) { go = 1; return (long)argument; }
    int main(void) {
        os_critical_enter();
        os_critical_enter();
        os_thread_create(set, 0);
        for (volatile int i = 0; i < 200000; i++);
        os_critical_leave();
        os_thread_yield();
        if (go) return 1;
        os_critical_leave();
        os_thread_yield();
        return go ? 0 : 2;
    }
    """
    assert run(text, quantum=20_000).status == 0


def test_the_first_in_rank_runs(run: Callable[..., Ended]) -> None:
    text = """
    static long say(void *argument) { print_number((uint64_t)argument); flush(); return 0; }
    int main(void) {
        os_critical_enter();
        for (long i = 1; i <= 5; i++) os_thread_create(say, (void *)i);
        print_text("m"); flush();
        os_critical_leave();
        print_text("n"); flush();
        os_thread_exit(0);
    }
    """

    class LastFirst(Priority):
        def rank(self, thread: int) -> int:
            return -thread

    assert run(text, LastFirst).output == "m54321n"
    assert run(text, Priority).output == "mn12345"


def test_results_are_given_once_and_to_one(run: Callable[..., Ended]) -> None:
    text = """
    static long other;
    static long wait(void *argument) { return argument ? os_thread_join(other) : -5; }
    static long leave(void *argument) { os_thread_exit((long)argument * 2); }
    int main(void) {
        other = os_thread_create(wait, 0);
        if (os_thread_join(other) != -5 || os_thread_join(other) != -1) return 1;
        if (os_thread_join(os_thread_self()) != -1 || os_thread_join(77) != -1 || os_thread_join(-1) != -1) return 2;
        other = os_thread_create(leave, (void *)21);
        long waiter = os_thread_create(wait, &other);
        os_thread_yield();
        os_thread_yield();
        if (os_thread_join(waiter) != 42) return 3;
        return os_thread_self() == 0 ? 0 : 4;
    }
    """
    assert run(text).status == 0


def test_threads_come_and_go_and_too_many_are_refused(run: Callable[..., Ended]) -> None:
    text = """
    static long nothing(void *argument) { return (long)argument; }
    int main(void) {
        for (long i = 0; i < 100; i++)
            if (os_thread_join(os_thread_create(nothing, (void *)i)) != i) return 100;
        int made = 0;
        while (os_thread_create(nothing, 0) > 0) made++;
        return made;
    }
    """
    assert run(text, heap_pages=1024, quantum=LONG).status == THREADS - 1
    assert run(text, heap_pages=40, quantum=LONG).status == 2


def test_a_program_ends_with_its_last_thread(run: Callable[..., Ended]) -> None:
    text = """
    static long later(void *argument) { os_thread_yield(); print_line("last"); flush(); return (long)argument; }
    int main(void) { os_thread_create(later, 0); os_thread_exit(3); }
    """
    ended = run(text)
    assert (ended.status, ended.output) == (0, "last\n")
    assert run("int main(void) { os_thread_exit(3); }").status == 0


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ("os_mutex_lock(&mutex); os_mutex_lock(&mutex);", 134, "Every thread waits for another one."),
        ("os_mutex_lock(&mutex); os_thread_join(os_thread_create(lock, 0));", 134, "Every thread waits for another one."),
        ("os_mutex_unlock(&mutex);", 134, "is not held by the thread that lets go of it."),
        ("os_condition_wait(&condition, &mutex);", 134, "is not held by the thread that waits with it."),
        ("os_critical_leave();", 134, "os_critical_leave: the thread is in no critical section."),
        ("os_thread_join(os_thread_create(deep, 0));", 139, "segmentation fault at 0x"),
        ("os_thread_join(os_thread_create(lost, 0));", 139, "segmentation fault at 0x0 (execute)"),
        ("os_thread_join(os_thread_create(write, 0));", 139, "segmentation fault at 0x7fff0000 (read)"),
    ],
)
def test_a_program_that_does_wrong_ends_with_a_sentence(
    run: Callable[..., Ended], body: str, status: int, sentence: str
) -> None:
    text = f"""
    static struct os_mutex mutex;
    static struct os_condition condition;
    static long lock(void *argument) {{ os_mutex_lock(&mutex); return (long)argument; }}
    static long deep(void *argument) {{ volatile char here[999]; here[0] = 1; return deep((void *)here) + (long)argument; }}
    static long lost(void *argument) {{ ((void (*)(void))argument)(); return 1; }}
    static long write(void *argument) {{ return os_write((void *)0x7fff0000, 5) + (long)argument; }}
    int main(void) {{ (void)condition, (void)lock, (void)deep, (void)lost, (void)write, (void)mutex; {body} return 0; }}
    """
    ended = run(text, heap_pages=64)
    assert ended.status == status
    assert sentence in ended.output
    assert ended.output.count("\n") == 1


@pytest.mark.parametrize("cpus", [1, 2])
def test_a_forked_program_has_the_thread_that_forked(run: Callable[..., Ended], cpus: int) -> None:
    text = """
    static struct os_mutex mutex;
    static volatile int mine;
    static long idle(void *argument) { for (;;) os_thread_yield(); return (long)argument; }
    static long fork(void *argument) {
        os_mutex_lock(&mutex);
        long child = os_fork();
        if (child == 0) {
            mine = 5;
            os_mutex_unlock(&mutex);
            long other = os_thread_create(fork, 0);
            if (argument == 0) os_exit(9);
            if (os_thread_self() != 0 || other < 1) os_exit(8);
            return 0;
        }
        os_mutex_unlock(&mutex);
        return os_wait(child) + (long)argument;
    }
    int main(void) {
        os_processors(2);
        os_thread_create(idle, 0);
        long status = os_thread_join(os_thread_create(fork, (void *)100));
        return status == 100 && mine == 0 ? 0 : (int)status;
    }
    """
    assert run(text, cpus=cpus).status == 0


def test_text_is_written_out_of_pages_that_are_not_there(run: Callable[..., Ended]) -> None:
    text = """
    static char *text;
    static long write(void *argument) { return os_write(text, 50000) + (long)argument; }
    int main(void) {
        text = os_region(50000);
        for (int i = 0; i < 50000; i++) text[i] = (char)('a' + i % 26);
        return os_thread_join(os_thread_create(write, 0)) == 50000 ? 0 : 1;
    }
    """
    ended = run(text, frames=15)
    assert ended.status == 0
    assert ended.output == "".join(chr(97 + i % 26) for i in range(50000))


class Stubborn(RoundRobin):
    """Names whom it likes."""

    name = "stubborn"
    answer: int | None = 99

    def next(self) -> int | None:
        return super().next() if not self._queue or self._queue[0] == 0 else self.answer


class Idle(Stubborn):
    answer = None


@pytest.mark.parametrize(("scheduler", "what"), [(Stubborn, "named thread 99, which is not"), (Idle, "named no thread")])
def test_a_scheduler_that_breaks_the_rules_is_told(
    run: Callable[..., Ended], scheduler: type[ThreadStrategy], what: str
) -> None:
    ended = run(WORKERS, scheduler)
    assert ended.status == 134
    assert ended.output.startswith(f"The scheduler 'stubborn' {what}")


def test_a_scheduler_of_twenty_lines_schedules(run: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "mysched.py").write_text(TWENTY_LINES)
    for inside in ("MyScheduler", ""):
        ended = run(WORKERS, library=library_from_file(tmp_path / "mysched.py", inside))
        assert (ended.status, ended.output) == (0, WORKERS_SAY)
    (tmp_path / "half.py").write_text("from libos.scheduling import ThreadStrategy\nclass Half(ThreadStrategy): pass\n")
    with pytest.raises(LoadError, match="Half does not define next, ready, which a ThreadStrategy must have"):
        library_from_file(tmp_path / "half.py")


def test_a_name_may_have_a_pager_and_a_scheduler(run: Callable[..., Ended]) -> None:
    assert library_named("python+clock+priority")().scheduler is Priority
    assert library_named("priority+fifo")().scheduler is Priority
    assert library_named("lottery")().scheduler is SCHEDULERS["lottery"]
    assert schedulers().keys() == SCHEDULERS.keys()
    for name, sentence in {
        "clock+fifo": "'clock+fifo' names two pagers; a library OS has one.",
        "priority+lottery": "'priority+lottery' names two schedulers; a library OS has one.",
        "clock+priorty": "did you mean 'priority'?",
    }.items():
        with pytest.raises(LoadError) as caught:
            library_named(name)
        assert str(caught.value).endswith(sentence)


@pytest.mark.parametrize("scheduler", SCHEDULERS.values(), ids=SCHEDULERS)
def test_one_thread_may_use_all_that_threads_use(run: Callable[..., Ended], scheduler: type[ThreadStrategy]) -> None:
    text = """
    int main(void) {
        static struct os_mutex mutex;
        static struct os_barrier barrier;
        static struct os_condition condition;
        os_mutex_lock(&mutex);
        os_condition_signal(&condition);
        os_thread_yield();
        os_mutex_unlock(&mutex);
        os_critical_enter();
        os_critical_leave();
        return os_barrier_wait(&barrier, 1) == 1 && os_processors(9) == 1 && os_thread_self() == 0 ? 0 : 1;
    }
    """
    assert run(text, scheduler).status == 0


def test_a_program_without_threads_is_not_asked_for_the_processor() -> None:
    assert not hasattr(LibraryOS(), "please_release_cpu")
