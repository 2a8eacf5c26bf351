"""Pipes and shared pages, over the native and over a Python library OS: the same programs, the same answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exokernel.abi.downcalls import Exo
from exokernel.abi.flags import Event
from exokernel.kernel.death import Cause
from exokernel.kernel.kernel import Settings
from exokernel.policy.memory import SeizeOldest
from libos.plan import Program
from tests.apps.oracles import expected_output
from tests.libos.machines import Ended, Machine, native
from tests.libos.pythonic import c_program, over_python

Over = Callable[..., Program]
FORK = """
    long child = os_fork();
    if (child < 0) return 90;
"""


@pytest.fixture(params=[native, over_python], ids=["native", "python"])
def over(request: pytest.FixtureRequest) -> Any:
    return request.param


def run(directory: Path, over: Over, body: str, machine: Machine | None = None, **options: Any) -> Ended:
    machine = machine or Machine()
    (ended,) = machine.run([over(c_program(directory, body), **options)])
    assert all(death.cause is Cause.DESTROYED for death in machine.deaths), machine.deaths
    return ended


@pytest.mark.parametrize("arguments", [(), (0,), (1, 2), (60, 3)])
@pytest.mark.parametrize("frames", [0, 12])
def test_what_is_produced_is_consumed(over: Over, arguments: tuple[int, ...], frames: int) -> None:
    machine = Machine()
    (ended,) = machine.run([over("prodcons", *arguments, frames=frames)])
    assert (ended.status, ended.output) == (0, expected_output(["prodcons", *map(str, arguments)]).decode())
    assert not machine.deaths


@pytest.mark.parametrize("cpus", [2, 3])
def test_producer_and_consumer_may_run_at_the_same_time(over: Over, cpus: int) -> None:
    machine = Machine(settings=Settings(cpus=cpus))
    programs = [over("prodcons", 20, seed) for seed in range(2)]
    for seed, ended in enumerate(machine.run(programs)):
        assert ended.output == expected_output(["prodcons", "20", str(seed)]).decode()


def test_a_kernel_that_takes_pages_leaves_the_ring(over: Over) -> None:
    machine = Machine(frames=135 if over is native else 110, policy=SeizeOldest())
    walk = ("pagewalk", "--pattern", "loop", "--pages", 60, "--steps", 600, "--write", 100)
    programs = [over(*case, register_backing=True, heap_pages=64) for case in (("prodcons", 20, 1), walk)]
    first, second = machine.run(programs)
    assert first.output == expected_output(["prodcons", "20", "1"]).decode()
    assert second.output == expected_output(list(map(str, walk))).decode()
    assert first.accounts.taken
    assert second.accounts.taken > 100


def test_a_pipe_costs_directed_yields_and_no_copy_in_the_kernel(over: Over) -> None:
    (ended,) = Machine().run([over("roundtrips", 50)])
    lines = dict(line.removesuffix(" cycles a round trip").split(": ") for line in ended.output.splitlines())
    assert list(lines) == ["directed yield", "pipe", "protected control transfer"]
    assert ended.status == 0
    if over is native:
        assert int(lines["protected control transfer"]) < int(lines["directed yield"]) < int(lines["pipe"]) < 2500
        # One crossing for each change of environment; the rest are those of beginning and end.
        assert ended.accounts.downcalls < 3 * 50 + 300


def test_the_reader_gets_what_is_there_and_then_the_end(tmp_path: Path, over: Over) -> None:
    body = f"""
    char text[16] = {{0}};
    long pipe = os_pipe();
    {FORK}
    if (child == 0) {{
        os_pipe_close(pipe, OS_READ_END);
        if (os_pipe_write(pipe, "one", 3) != 3 || os_pipe_write(pipe, "two", 3) != 3) return 1;
        if (os_pipe_write(pipe, "", 0)) return 1;
        return os_pipe_close(pipe, OS_WRITE_END);
    }}
    os_pipe_close(pipe, OS_WRITE_END);
    if (os_wait(child) != 0) return 2;
    if (os_pipe_read(pipe, text, 0) != 0 || os_pipe_read(pipe, text, 4) != 4) return 3;
    if (os_pipe_read(pipe, text + 4, 9) != 2) return 3;
    if (memcmp(text, "onetwo", 7) || os_pipe_read(pipe, text, 9) != 0 || os_pipe_read(pipe, text, 9) != 0) return 4;
    return 0;"""
    assert run(tmp_path, over, body).status == 0


@pytest.mark.parametrize(
    "how", ["os_exit(7);", "*(volatile int *)0 = 1;", "os_pipe_close(pipe, OS_WRITE_END); os_exit(7);"]
)
@pytest.mark.parametrize("before", ["", "SPEND;"])
def test_a_reader_that_waits_is_told_when_the_writer_is_gone(tmp_path: Path, over: Over, how: str, before: str) -> None:
    body = f"""
    char text[16];
    long pipe = os_pipe();
    {FORK}
    if (child == 0) {{
        os_pipe_write(pipe, "x", 1);
        for (int i = 0; i < 5; i++) {{ {before} os_yield(); }}
        {how}
    }}
    os_pipe_close(pipe, OS_WRITE_END);
    if (os_pipe_read(pipe, text, 9) != 1) return 1;
    if (os_pipe_read(pipe, text, 9) != 0) return 2;
    return os_wait(child) == 7 ? 0 : 3;"""
    assert run(tmp_path, over, body).status == (3 if "volatile" in how else 0)


@pytest.mark.parametrize("how", ["os_exit(7);", "os_pipe_close(pipe, OS_READ_END); os_exit(7);"])
def test_a_writer_is_told_when_the_reader_is_gone(tmp_path: Path, over: Over, how: str) -> None:
    body = f"""
    char *much = os_region(20000), one;
    long pipe = os_pipe();
    {FORK}
    if (child == 0) {{
        if (os_pipe_read(pipe, &one, 1) != 1) os_exit(8);
        for (int i = 0; i < 5; i++) {{ SPEND; os_yield(); }}
        {how}
    }}
    os_pipe_close(pipe, OS_READ_END);
    if (os_pipe_write(pipe, much, 20000) != -1) return 1;
    if (os_wait(child) != 7) return 2;
    return os_pipe_write(pipe, much, 1) == -1 ? 0 : 3;"""
    assert run(tmp_path, over, body).status == 0


@pytest.mark.parametrize("cpus", [1, 2])
def test_who_waits_is_told_when_the_other_closes_its_end_and_lives_on(tmp_path: Path, over: Over, cpus: int) -> None:
    body = f"""
    char byte, *much = os_region(20000);
    long data = os_pipe(), back = os_pipe();
    {FORK}
    os_pipe_close(child ? data : back, OS_WRITE_END);
    if (child == 0) {{
        os_pipe_close(data, OS_READ_END);
        for (int i = 0; i < 5; i++) {{ SPEND; os_yield(); }}
        os_pipe_close(data, OS_WRITE_END);
        if (os_pipe_read(back, &byte, 1) != 1) return 8;
        for (int i = 0; i < 5; i++) {{ SPEND; os_yield(); }}
        os_pipe_close(back, OS_READ_END);
        for (;;) os_yield();
    }}
    os_pipe_close(back, OS_READ_END);
    if (os_pipe_read(data, &byte, 1) != 0) return 1;
    return os_pipe_write(back, much, 20000) == -1 ? 0 : 2;"""
    machine = Machine(settings=Settings(cpus=cpus))

    async def destroyer(exo: Exo, numbers: list[int]) -> None:
        await exo.block(Event.EXIT, numbers[0])
        for number in list(machine.kernel.environments):
            if number != machine.kernel.first_environment:
                await exo.destroy(number)

    (ended,) = machine.run([over(c_program(tmp_path, body))], beside=destroyer)
    assert ended.status == 0
    assert {death.cause for death in machine.deaths} == {Cause.DESTROYED}


def test_a_child_does_not_pass_on_a_pipe_that_it_did_not_make(tmp_path: Path, over: Over) -> None:
    body = f"""
    long pipe = os_pipe();
    {FORK}
    if (child) return (int)os_wait(child);
    long second = os_fork();
    if (second == 0) return os_pipe_write(pipe, "x", 1) == -1 ? 0 : 1;
    return (int)os_wait(second);"""
    assert run(tmp_path, over, body).status == 0


def test_a_writer_is_told_at_once_when_nobody_is_to_read(tmp_path: Path, over: Over) -> None:
    body = f"""
    long pipe = os_pipe();
    {FORK}
    if (child == 0) os_exit(os_pipe_write(pipe, "a", 1) == 1 ? 7 : 8);
    os_pipe_close(pipe, OS_READ_END);
    if (os_wait(child) != 7) return 1;
    return os_pipe_write(pipe, "a", 1) == -1 ? 0 : 2;"""
    assert run(tmp_path, over, body).status == 0


@pytest.mark.parametrize("quantum", [701, 1_103, 1_907])
@pytest.mark.parametrize("cpus", [1, 2])
def test_the_last_bytes_of_a_writer_are_not_lost_when_it_ends_at_once(
    tmp_path: Path, over: Over, quantum: int, cpus: int
) -> None:
    body = f"""
    for (int round = 0; round < 25; round++) {{
        char byte;
        long pipe = os_pipe();
        {FORK}
        if (child == 0) {{
            for (volatile int spent = 0; spent < 1000 + 37 * round; spent++);
            os_pipe_write(pipe, "x", 1);
            os_exit(0);
        }}
        os_pipe_close(pipe, OS_WRITE_END);
        for (volatile int spent = 0; spent < 1000; spent++);
        if (os_pipe_read(pipe, &byte, 1) != 1 || os_pipe_read(pipe, &byte, 1) != 0) return 1;
        os_pipe_close(pipe, OS_READ_END);
        os_wait(child);
    }}
    return 0;"""
    assert run(tmp_path, over, body, Machine(settings=Settings(quantum=quantum, cpus=cpus))).status == 0


def test_a_reader_destroyed_from_outside_ends_the_writer_s_wait(tmp_path: Path, over: Over) -> None:
    body = f"""
    char *much = os_region(20000), one;
    long pipe = os_pipe();
    {FORK}
    if (child == 0) for (;;) os_yield();
    os_pipe_close(pipe, OS_READ_END);
    print_line("writing");
    flush();
    return os_pipe_write(pipe, much, 20000) == -1 ? 0 : 1;"""
    machine = Machine()

    async def destroyer(exo: Exo, numbers: list[int]) -> None:
        while b"writing" not in machine.kernel.console.written.get(numbers[0], b""):
            await exo.yield_()
        for _ in range(20):
            await exo.yield_()
        (child,) = machine.kernel.environments[numbers[0]].children
        await exo.destroy(child)

    (ended,) = machine.run([over(c_program(tmp_path, body))], beside=destroyer)
    assert ended.status == 0


def test_ends_that_are_not_open_are_refused(tmp_path: Path, over: Over) -> None:
    body = """
    char byte;
    if (os_pipe_read(0, &byte, 1) != -1 || os_pipe_write(-1, &byte, 1) != -1 || os_pipe_close(1000, 1) != -1) return 1;
    long pipe = os_pipe(), second = os_pipe();
    if (pipe < 0 || second < 0 || pipe == second) return 2;
    if (os_pipe_close(pipe, 0) != -1 || os_pipe_close(pipe, 4) != -1) return 3;
    if (os_pipe_write(pipe, "ab", 2) != 2 || os_pipe_close(pipe, OS_WRITE_END)) return 4;
    if (os_pipe_write(pipe, "c", 1) != -1) return 5;
    if (os_pipe_read(pipe, &byte, 1) != 1 || byte != 'a') return 6;
    if (os_pipe_close(pipe, OS_READ_END) || os_pipe_read(pipe, &byte, 1) != -1 || os_pipe_close(pipe, 1) != -1) return 7;
    if (os_pipe_write(second, "z", 1) != 1 || os_pipe_read(second, &byte, 1) != 1 || byte != 'z') return 8;
    return 0;"""
    assert run(tmp_path, over, body).status == 0


def test_pipes_and_shared_pages_are_few_and_come_back(tmp_path: Path, over: Over) -> None:
    body = """
    for (int round = 0; round < 30; round++) {
        long pipes[8];
        for (int i = 0; i < 7; i++) if ((pipes[i] = os_pipe()) < 0) return 1;
        if (round == 29 && (!os_shared() || os_pipe() != -1 || os_shared())) return 2;
        for (int i = 0; i < 7; i++) {
            char byte;
            if (os_pipe_write(pipes[i], "a", 1) != 1 || os_pipe_read(pipes[i], &byte, 1) != 1) return 3;
            if (os_pipe_close(pipes[i], OS_READ_END | OS_WRITE_END)) return 4;
        }
    }
    return 0;"""
    assert run(tmp_path, over, body, frames=10).status == 0


def test_a_shared_page_is_shared_with_every_descendant_and_other_pages_are_not(tmp_path: Path, over: Over) -> None:
    body = f"""
    volatile uint64_t *shared = os_shared(), *own = os_region(4096);
    for (int i = 0; i < 512; i++) if (shared[i]) return 1;
    own[0] = 1;
    {FORK}
    if (child == 0) {{
        long second = os_fork();
        if (second == 0) {{
            shared[1] = 11, own[0] = 12;
            os_exit(5);
        }}
        if (os_wait(second) != 5 || shared[1] != 11 || own[0] != 1) return 2;
        shared[0] = 10, own[0] = 13;
        os_exit(6);
    }}
    if (os_wait(child) != 6 || shared[0] != 10 || shared[1] != 11 || own[0] != 1) return 3;
    return 0;"""
    assert run(tmp_path, over, body, frames=10).status == 0


def test_a_pipe_has_its_maker_and_three_living_children(tmp_path: Path, over: Over) -> None:
    body = """
    char byte;
    long pipe = os_pipe(), go = os_pipe(), children[4];
    for (int i = 0; i < 10; i++) {
        long child = os_fork();
        if (child == 0) os_exit(os_pipe_write(pipe, "x", 1) == 1 ? 0 : 1);
        if (child < 0 || os_wait(child) != 0) return 1;
    }
    for (int i = 0; i < 4; i++) {
        children[i] = os_fork();
        if (children[i] == 0) {
            if (os_fork() == 0) os_exit(os_pipe_write(pipe, "x", 1) == -1 ? 0 : 1);
            os_pipe_close(go, OS_WRITE_END);
            os_exit(os_pipe_read(go, &byte, 1) == 0 && (i != 2 || os_pipe_write(pipe, "y", 1) == 1) ? 0 : 2);
        }
        if ((children[i] < 0) != (i == 3)) return 2;
    }
    os_pipe_close(go, OS_WRITE_END);
    for (int i = 0; i < 3; i++) if (os_wait(children[i]) != 0) return 3;
    char text[20];
    if (os_pipe_read(pipe, text, 20) != 11) return 4;
    return text[9] == 'x' && text[10] == 'y' ? 0 : 5;"""
    assert run(tmp_path, over, body).status == 0


@pytest.mark.parametrize("member", ["0", "~0ull", "1ull << 40", "5000"])
def test_a_ring_with_wrong_counts_is_refused_and_nothing_else_is_touched(tmp_path: Path, over: Over, member: str) -> None:
    body = f"""
    static char before[64], text[9000], after[64];
    long pipe = os_pipe();
    uint64_t *ring = (uint64_t *)((char *)os_shared() - 4096);
    memset(text, 7, sizeof text);
    ring[0] = {member};
    ring[1] = 3;
    if (os_pipe_read(pipe, text, sizeof text) != -1) return 1;
    if (os_pipe_write(pipe, text, sizeof text) != -1) return 2;
    for (int i = 0; i < 64; i++) if (before[i] || after[i]) return 3;
    for (int i = 0; i < 9000; i++) if (text[i] != 7) return 4;
    return 0;"""
    assert run(tmp_path, over, body).status == 0


def test_who_waits_for_oneself_is_named(tmp_path: Path, over: Over) -> None:
    machine = Machine()
    body = "char byte; long pipe = os_pipe(); return (int)os_pipe_read(pipe, &byte, 1);"
    machine.run([over(c_program(tmp_path, body))])
    (death,) = machine.deaths
    assert death.cause is Cause.DEADLOCK
    assert "waits for a predicate over its memory" in death.detail


def test_no_room_for_a_pipe_is_a_refusal(tmp_path: Path, over: Over) -> None:
    body = """
    char *memory = os_region(40 << 12);
    for (int i = 0; i < 40; i++) memory[i << 12] = (char)i;
    long pipe = os_pipe();
    for (int i = 0; i < 40; i++) if (memory[i << 12] != (char)i) return 1;
    return pipe >= 0 ? 0 : 2;"""
    assert run(tmp_path, over, body, quota=70 if over is native else 40).status == 0
