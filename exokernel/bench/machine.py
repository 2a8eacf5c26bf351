"""Figures of the machine and the bare kernel, with a few bytes of machine code for a guest and no library OS."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import unicorn
from unicorn import x86_const

from exokernel.abi.downcalls import BY_NAME, Exo
from exokernel.abi.flags import ANY, Event, Rights
from exokernel.abi.layout import PAGE_SHIFT, PAGE_SIZE
from exokernel.kernel import calls
from exokernel.kernel.core import SUPERVISOR_FRAME
from exokernel.kernel.kernel import Kernel, Settings
from exokernel.machine.cpu import RING_3_ENTRY, FastCpu, open_engine
from exokernel.machine.disk import Disk
from exokernel.machine.memory import PhysicalMemory
from exokernel.policy.memory import LargestHolder
from exokernel.policy.round_robin import RoundRobin

CODE: Final = 0x40_0000
BEHIND_COUNT: Final = CODE + 5
"""Behind `mov ebx, count`; Unicorn cannot be stopped at the first byte of a page whose neighbour is not mapped."""
DATA: Final = 0x50_0000
SCRATCH: Final = 0x1_0000
READ_WRITE: Final = int(Rights.READ | Rights.WRITE)
TURNS: Final = 3_000_000
CALLS: Final = 50_000

LOOP: Final = (
    b"\xbb"
    + TURNS.to_bytes(4, "little")  #     mov ebx, TURNS
    + b"\x48\x69\xc0\x0d\x66\x19\x00"  # again: imul rax, rax, 1664525
    + b"\x48\x05\x5f\xf3\x6e\x3c"  #            add rax, 1013904223
    + b"\x48\x89\xc1"  #                        mov rcx, rax
    + b"\x48\xc1\xe9\x36"  #                    shr rcx, 54
    + b"\x89\x04\x8f"  #                        mov [rdi + rcx*4], eax
    + b"\xff\xcb"  #                            dec ebx
    + b"\x75\xe5"  #                            jnz again
)
"""Arithmetic and one store in each turn, 7 instructions."""


def _call(name: str) -> bytes:
    return b"\xb8" + BY_NAME[name].number.to_bytes(4, "little") + b"\x0f\x05"  # mov eax, number; syscall


def _repeat(body: bytes, count: int) -> bytes:
    """`body` a number of times, counted in ebx, and the end of the environment."""
    turn = body + b"\xff\xcb"  #                dec ebx
    back = b"\x75" + (-len(turn) - 2 & 0xFF).to_bytes(1, "little")  # jnz
    return b"\xbb" + count.to_bytes(4, "little") + turn + back + _call("exit")


class _Machine:
    """A kernel with `guests` environments that run the same code and may name the next one in rdi."""

    def __init__(
        self,
        code: bytes,
        guests: int = 1,
        quantum: int = 1 << 40,
        memory: int = 16 << 20,
        step: int = 1,
        **settings: int,
    ) -> None:
        """Until all have been started the machine runs `step` cycles at a time; they may run as long as that already."""
        assert calls.complete()
        numbers = Settings(quantum=quantum, **settings)
        self.memory = PhysicalMemory(memory)
        make_cpu = partial(FastCpu, split=numbers.cpus > 1)
        policy = RoundRobin(quantum, cpus=numbers.cpus)
        self.kernel = Kernel(self.memory, make_cpu, Disk(64), LargestHolder(), policy, settings=numbers)
        self._code, self._guests = code, guests
        self.numbers: list[int] = []
        self.kernel.boot_coroutine(self._init)
        self.kernel.run(1)
        while len(self.numbers) < guests or not self._started:
            self.kernel.run(self.kernel.clock.now + step)

    async def _init(self) -> None:
        exo = Exo()
        self._started = False
        for _ in range(self._guests):
            await self._environment(exo)
        for index, number in enumerate(self.numbers):
            other = self.numbers[(index + 1) % len(self.numbers)]
            await exo.start(number, CODE, DATA + PAGE_SIZE, other if self._guests > 1 else DATA)
        self._started = True
        await exo.block(Event.EXIT, self.numbers[0])

    async def _environment(self, exo: Exo) -> None:
        """One more environment with the code and a page of data, not started."""
        number = await exo.create_environment()
        frame = await exo.alloc_page(ANY, number)
        await exo.create_mapping(SCRATCH, frame, READ_WRITE)
        await exo.write(SCRATCH, self._code)
        await exo.remove_mapping(SCRATCH)
        await exo.create_mapping(CODE, frame, int(Rights.READ | Rights.EXECUTE), number)
        await exo.create_mapping(DATA, await exo.alloc_page(ANY, number), READ_WRITE, number)
        self.numbers.append(number)

    def seconds(self) -> float:
        """Host time until everything has ended."""
        begin = time.perf_counter()
        self.kernel.run()
        return time.perf_counter() - begin

    def close(self) -> None:
        """Let go of the engine and the memory."""
        self.kernel.close()
        self.memory.close()


def _timed(code: bytes, guests: int = 1) -> float:
    machine = _Machine(code, guests)
    try:
        return machine.seconds()
    finally:
        machine.close()


def _bare_engine(code: bytes, count: int) -> tuple[unicorn.Uc, _Machine]:
    """An engine without hooks in ring 3, under page tables the kernel made."""
    machine = _Machine(code)
    root = machine.kernel.environments[machine.numbers[0]].root
    engine = open_engine(machine.memory, SUPERVISOR_FRAME << PAGE_SHIFT)
    engine.reg_write(x86_const.UC_X86_REG_CR3, root)
    engine.reg_write(x86_const.UC_X86_REG_RCX, BEHIND_COUNT)
    engine.reg_write(x86_const.UC_X86_REG_R11, 0x202)
    engine.ctl_exits_enabled(False)
    engine.emu_start(RING_3_ENTRY, BEHIND_COUNT)
    engine.reg_write(x86_const.UC_X86_REG_RBX, count)
    engine.reg_write(x86_const.UC_X86_REG_RDI, DATA)
    return engine, machine


def _bare_loop() -> float:
    engine, machine = _bare_engine(LOOP + b"\x0f\x05", TURNS)
    begin = time.perf_counter()
    engine.emu_start(BEHIND_COUNT, CODE + len(LOOP))
    seconds = time.perf_counter() - begin
    del engine
    machine.close()
    return seconds


def bare_stops() -> float:
    """Microseconds of one stop at a `syscall` and one start again through Unicorn's Python wrappers."""
    engine, machine = _bare_engine(_repeat(_call("null"), CALLS), CALLS)
    engine.hook_add(unicorn.UC_HOOK_INSN, lambda uc, _: uc.emu_stop(), None, 1, 0, x86_const.UC_X86_INS_SYSCALL)
    begin = time.perf_counter()
    at = BEHIND_COUNT
    for _ in range(CALLS):
        engine.emu_start(at, 0)
        at = engine.reg_read(x86_const.UC_X86_REG_RIP)
    seconds = time.perf_counter() - begin
    del engine
    machine.close()
    return seconds / CALLS * 1e6


def figure(value: float, unit: str, reference: float, what: str) -> dict[str, Any]:
    """One row of the bench."""
    return {"value": value, "unit": unit, "reference": reference, "ratio": value / reference, "what": what}


def in_turns(rounds: int, value: Callable[[], float], reference: Callable[[], float]) -> tuple[float, float]:
    """The least of each, measured in turns."""
    values, references = [], []
    for _ in range(rounds):
        values.append(value())
        references.append(reference())
    return min(values), min(references)


def guest_speed(rounds: int) -> dict[str, Any]:
    """Guest code under the kernel with the exact clock, beside the same loop on a bare engine."""
    ours, bare = in_turns(3 * rounds, lambda: _timed(LOOP + _call("exit")), _bare_loop)
    millions = (7 * TURNS + 3) / 1e6
    return figure(
        millions / ours,
        "million instructions/s",
        millions / bare,
        "a loop with the exact clock, beside Unicorn without any hook",
    )


def null_downcall(rounds: int) -> dict[str, Any]:
    """An empty down-call from machine code."""
    ours, bare = in_turns(rounds, lambda: _timed(_repeat(_call("null"), CALLS)) / CALLS * 1e6, bare_stops)
    return figure(ours, "us", bare, "an empty down-call, beside emu_start/emu_stop from Unicorn's Python wrappers")


def switch(rounds: int) -> dict[str, Any]:
    """A directed yield from one environment to another."""
    count = CALLS // 2
    ours, bare = in_turns(rounds, lambda: _timed(_repeat(_call("yield"), count), 2) / (2 * count) * 1e6, bare_stops)
    return figure(ours, "us", bare, "a directed yield: one down-call and another address space, beside the same")
