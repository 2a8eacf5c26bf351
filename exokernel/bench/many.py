"""Figures of a crowd: what choosing the next of 1,000 runnable environments costs beside choosing among 10, how long it
takes until they all run, and how much of the host's memory they take."""

import resource
import subprocess
import sys
import time
from typing import Any, Final

from exokernel.abi.layout import PAGE_SIZE
from exokernel.bench.machine import _Machine, figure, in_turns
from exokernel.policy.scheduling import SliceEnd

FEW: Final = 10
MANY: Final = 1_000
DECISIONS: Final = 20_000
QUANTUM: Final = 1_000
FRAMES_EACH: Final = 20
"""Root, tables, own page, code and data, and some to spare."""
SPIN: Final = b"\xeb\xfe"


def _crowd(guests: int) -> _Machine:
    return _Machine(SPIN, guests, QUANTUM, (16 << 20) + guests * FRAMES_EACH * PAGE_SIZE, step=100_000)


def _microseconds_a_choice(guests: int) -> float:
    """One slice ended and the next begun, without running anybody."""
    machine = _crowd(guests)
    kernel = machine.kernel
    (processor,) = kernel.processors
    try:
        if processor.environment is not None:
            kernel.end_slice(processor, SliceEnd.EXPIRED)
        begin = time.perf_counter()
        for _ in range(DECISIONS):
            kernel.choose(processor)
            kernel.clock.now = processor.end
            kernel.end_slice(processor, SliceEnd.EXPIRED)
        return (time.perf_counter() - begin) / DECISIONS * 1e6
    finally:
        machine.close()


def choice(rounds: int) -> dict[str, Any]:
    """Choosing the next of many."""
    ours, few = in_turns(rounds, lambda: _microseconds_a_choice(MANY), lambda: _microseconds_a_choice(FEW))
    return figure(ours, "us", few, f"ending a slice and choosing the next of {MANY:,} environments, beside {FEW}")


_IN_A_PROCESS_OF_ITS_OWN: Final = "from exokernel.bench import many; many.report()"


def report() -> None:
    """Print seconds until a crowd runs, and the most memory this process has had, in MiB."""
    begin = time.perf_counter()
    machine = _crowd(MANY)
    seconds = time.perf_counter() - begin
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    machine.close()


def _in_a_process() -> tuple[float, float]:
    words = [sys.executable, "-c", _IN_A_PROCESS_OF_ITS_OWN]
    seconds, mebibytes = subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()
    return float(seconds), float(mebibytes)


def crowd_start(rounds: int) -> dict[str, Any]:
    """Until all of them run."""
    return figure(min(_in_a_process()[0] for _ in range(2)), "s", 10.0, f"until {MANY:,} environments run, beside 10 s")


def crowd_memory(rounds: int) -> dict[str, Any]:
    """What they take of the host's memory."""
    return figure(_in_a_process()[1], "MiB", 1024.0, f"memory of the host for {MANY:,} environments, beside 1 GiB")
