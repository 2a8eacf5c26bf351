"""Calls between environments, over the native and over a Python library OS: the same programs, the same answers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exokernel.abi.downcalls import Exo
from exokernel.abi.flags import Event
from exokernel.kernel.kernel import Settings
from libos.plan import Program
from tests.libos.machines import Ended, Machine, native
from tests.libos.pythonic import HEADER, over_python

Over = Callable[..., Program]
SERVER = """
enum { SUM, EXIT, FAULT, LOOP, DEEP, COUNT, WHO };
static volatile uint64_t count;
static uint64_t deep(uint64_t n) { volatile char space[3000]; space[0] = 1; return n ? deep(n - 1) + space[0] : 0; }
static uint64_t handle(long caller, uint64_t operation, uint64_t a, uint64_t b, uint64_t c) {
    count++;
    if (operation == SUM) return a + 2 * b + 3 * c;
    if (operation == EXIT) os_exit((int)a);
    if (operation == FAULT) return *(volatile uint64_t *)a;
    if (operation == LOOP) for (;;) count++;
    if (operation == DEEP) return deep(a);
    return operation == WHO ? (uint64_t)caller : count;
}
static long fork_server(void) {
    const long child = os_fork();
    if (child == 0) { os_rpc_serve(handle); os_exit(99); }
    return child;
}
"""


@pytest.fixture(params=[native, over_python], ids=["native", "python"])
def over(request: pytest.FixtureRequest) -> Any:
    return request.param


def program(directory: Path, over: Over, body: str, **options: Any) -> Program:
    source = directory / "guest.c"
    source.write_text(f"{HEADER}{SERVER}int main(int argc, char **argv) {{\n(void)argc, (void)argv;\n{body}\n}}\n")
    return over(source, **options)


def run(directory: Path, over: Over, body: str, machine: Machine | None = None, **options: Any) -> Ended:
    machine = machine or Machine()
    (ended,) = machine.run([program(directory, over, body, **options)])
    assert not machine.deaths, machine.deaths
    return ended


@pytest.mark.parametrize("frames", [0, 9])
def test_calls_are_answered_one_after_the_other(tmp_path: Path, over: Over, frames: int) -> None:
    body = """
    uint64_t result = 0;
    const long server = fork_server();
    for (uint64_t i = 0; i < 20; i++) {
        if (os_rpc_call(server, SUM, i, 1ull << 60, ~0ull, &result) != 0 || result != i + (1ull << 61) - 3) return 1;
    }
    if (os_rpc_call(server, DEEP, 20, 0, 0, &result) != 0 || result != 20) return 2;
    if (os_rpc_call(server, WHO, 0, 0, 0, &result) != 0 || result != (uint64_t)os_self()) return 3;
    if (os_rpc_call(server, COUNT, 0, 0, 0, NULL) != 0 || os_rpc_call(server, COUNT, 0, 0, 0, &result) != 0) return 4;
    if (result != 24 || count != 0) return 5;
    if (os_rpc_call(server, EXIT, 8, 0, 0, &result) != OS_RPC_NOBODY || result != 24) return 6;
    return os_wait(server) == 8 ? 0 : 7;"""
    assert run(tmp_path, over, body, frames=frames).status == 0


def test_who_is_not_there_is_nobody(tmp_path: Path, over: Over) -> None:
    body = """
    const long server = fork_server();
    if (os_rpc_call(server, EXIT, 8, 0, 0, NULL) != OS_RPC_NOBODY || os_wait(server) != 8) return 1;
    if (os_rpc_call(server, SUM, 1, 1, 1, NULL) != OS_RPC_NOBODY) return 2;
    if (os_rpc_call(os_self(), SUM, 1, 1, 1, NULL) != OS_RPC_NOBODY || os_rpc_call(0, SUM, 1, 1, 1, NULL) == 0) return 3;
    return os_rpc_call(-1, SUM, 1, 1, 1, NULL) == OS_RPC_NOBODY ? 0 : 4;"""
    assert run(tmp_path, over, body).status == 0


@pytest.mark.parametrize("address", ["0", "64", "0x7fff0000"])
def test_a_server_that_ends_with_a_fault_is_nobody(tmp_path: Path, over: Over, address: str) -> None:
    body = f"""
    const long server = fork_server();
    if (os_rpc_call(server, FAULT, {address}, 0, 0, NULL) != OS_RPC_NOBODY) return 1;
    return os_wait(server) == 139 ? 0 : 2;"""
    assert run(tmp_path, over, body).status == 0


@pytest.mark.parametrize("operation", ["LOOP", "SUM"])
def test_who_does_not_answer_is_late(tmp_path: Path, over: Over, operation: str) -> None:
    body = f"""
    const long server = {"fork_server();" if operation == "LOOP" else "os_fork(); if (server == 0) for (;;) count++;"}
    return os_rpc_call(server, {operation}, 0, 0, 0, NULL) == OS_RPC_LATE ? 0 : 1;"""
    machine = Machine()

    async def destroyer(exo: Exo, numbers: list[int]) -> None:
        await exo.block(Event.EXIT, numbers[0])
        for number in list(machine.kernel.environments):
            if number not in (numbers[0], machine.kernel.first_environment):
                await exo.destroy(number)

    (ended,) = machine.run([program(tmp_path, over, body)], beside=destroyer)
    assert ended.status == 0


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_several_clients_are_all_served(tmp_path: Path, over: Over, cpus: int) -> None:
    body = """
    uint64_t result;
    volatile uint64_t *sums = os_shared();
    const long server = fork_server();
    long clients[3];
    for (uint64_t n = 0; n < 3; n++) {
        if ((clients[n] = os_fork()) != 0) continue;
        for (uint64_t i = 0; i < 30; i++) {
            if (os_rpc_call(server, SUM, i, n, 0, &result) != 0) os_exit(9);
            sums[n] += result;
            os_yield();
        }
        os_exit(0);
    }
    for (uint64_t n = 0; n < 3; n++) if (os_wait(clients[n]) != 0 || sums[n] != 435 + 60 * n) return 1;
    os_rpc_call(server, COUNT, 0, 0, 0, &result);
    os_rpc_call(server, EXIT, 0, 0, 0, NULL);
    return result == 91 ? 0 : 2;"""
    machine = Machine(settings=Settings(cpus=cpus, quantum=3_000))
    assert run(tmp_path, over, body, machine).status == 0


def test_the_child_of_a_server_serves_nobody_until_it_says_so(tmp_path: Path) -> None:
    body = """
    uint64_t result;
    const long server = fork_server();
    if (os_rpc_call(server, SUM, 1, 0, 0, &result) != 0) return 1;
    os_rpc_call(server, EXIT, 0, 0, 0, NULL);
    const long child = os_fork();
    if (child == 0) {
        for (int i = 0; i < 50; i++) os_yield();
        os_rpc_serve(handle);
    }
    if (os_rpc_call(child, SUM, 5, 0, 0, &result) != 0 || result != 5) return 2;
    os_rpc_call(child, EXIT, 0, 0, 0, NULL);
    return 0;"""
    for each in (native, over_python):
        assert run(tmp_path, each, body).status == 0


def test_a_reply_tells_nothing_but_the_result(tmp_path: Path) -> None:
    body = """
    const long server = fork_server();
    while (os_rpc_call(server, SUM, 1, 0, 0, NULL) != 0) {}
    register uint64_t b __asm__("r10") = SUM, c __asm__("r8") = 5, d __asm__("r9") = 7;
    uint64_t a = SUM, result;
    b = 1;
    __asm__ volatile("syscall" : "=a"(result), "+d"(a), "+r"(b), "+r"(c), "+r"(d)
        : "a"(0x45580028), "D"(server), "S"(~0ull) : "rcx", "r11", "memory");
    const bool clean = result == 0 && a == 1 + 10 + 21 && !b && !c && !d;
    os_rpc_call(server, EXIT, 0, 0, 0, NULL);
    return clean ? 0 : 1;"""
    assert run(tmp_path, native, body).status == 0
