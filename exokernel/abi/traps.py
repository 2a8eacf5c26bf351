"""What a coroutine can ask of the kernel: each of these is yielded to it, exactly as `syscall` enters it.

A Python context is `async def` code.  Awaiting one of these objects is trapping; the kernel sends the answer back in.  A
refused down-call raises `Refused`.  A read or write goes through the environment's own page tables with the
environment's own rights and can page-fault like any load: the fault is delivered, and the access is tried again.
"""

import types
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from exokernel.abi.errors import Error, Refused


@dataclass(frozen=True, slots=True)
class DownCallTrap:
    """A down-call: `number` as it would stand in rax, and the arguments."""

    number: int
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class ReadTrap:
    """Load `size` bytes at `va`; answered with bytes.  `or_refused`: where it would page-fault it is refused instead."""

    va: int
    size: int
    or_refused: bool = False


@dataclass(frozen=True, slots=True)
class WriteTrap:
    """Store `data` at `va`; answered with None.  `or_refused`: where it would page-fault it is refused instead."""

    va: int
    data: bytes
    or_refused: bool = False


Trapping = DownCallTrap | ReadTrap | WriteTrap


@types.coroutine
def trap(request: Trapping) -> Generator[Trapping, Any, Any]:
    """Enter the kernel.  Returns what the kernel answers; raises Refused if it answers with an Error."""
    answer = yield request
    if type(answer) is Error:
        raise Refused(answer)
    return answer
