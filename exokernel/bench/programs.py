"""Figures of whole programs under library OSes."""

import subprocess
import sys
import time
from itertools import pairwise
from statistics import median
from typing import Any

from exokernel.abi.layout import PAGE_SHIFT
from exokernel.bench.machine import bare_stops, figure, in_turns
from exokernel.kernel.environment import Context, Environment
from exokernel.scenario import ProgramSpec, Scenario
from exokernel.session import Session

FIRST, LAST = 200, 1_800
"""Faults between which time is taken, so that starting and ending do not count; the median is what is reported."""


def _microseconds_a_fault(libos: str) -> float:
    words = ("--pattern", "loop", "--pages", str(LAST), "--steps", str(LAST), "--write", "100")
    times: list[float] = []
    with Session(Scenario((ProgramSpec("pagewalk", libos, words),), memory=12 << 20)) as session:
        deliver = session.kernel.page_fault
        _warm(session.memory.view[session.kernel.frames.first << PAGE_SHIFT :])

        def timed(environment: Environment, context: Context, va: int, access: int) -> None:
            times.append(time.perf_counter())
            deliver(environment, context, va, access)

        session.kernel.page_fault = timed  # type: ignore[method-assign]
        session.run()
    return median(b - a for a, b in pairwise(times[FIRST:LAST])) * 1e6


def _warm(memory: memoryview) -> None:
    """Touch every page, so that the host's own page faults at first touch are not taken for ours."""
    memory[:] = bytes(len(memory))


def _fault(libos: str, rounds: int, what: str) -> dict[str, Any]:
    ours, bare = in_turns(rounds, lambda: _microseconds_a_fault(libos), bare_stops)
    return figure(ours, "us", bare, what)


def page_fault_native(rounds: int) -> dict[str, Any]:
    """A fault on a fresh page, all the way, under a native library OS."""
    return _fault("native+fifo", rounds, "fault, native up-call, alloc_page, create_mapping, return; beside one bare stop")


def page_fault_python(rounds: int) -> dict[str, Any]:
    """The same under a Python library OS."""
    return _fault("python+fifo", rounds, "the same through a library OS in Python")


def _command(*words: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "exokernel", *words], check=True, capture_output=True)
    return time.perf_counter() - begin


def _empty_python() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import unicorn"], check=True, capture_output=True)
    return time.perf_counter() - begin


def help_text(rounds: int) -> dict[str, Any]:
    """`exo --help`."""
    ours, bare = in_turns(rounds, lambda: _command("--help"), _empty_python)
    return figure(ours, "s", bare, "exo --help, beside a Python that imports unicorn")


def hello(rounds: int) -> dict[str, Any]:
    """`exo run hello`, once the guests are built."""
    _command("run", "hello")
    ours, bare = in_turns(rounds, lambda: _command("run", "hello"), _empty_python)
    return figure(ours, "s", bare, "exo run hello once built, beside a Python that imports unicorn")
