"""What a program may do with its own pages, as far as that is its own affair: `os_protect`, and how its handler is run.

A page-table entry can forbid writing and not reading, so a resident page that may not be read is mapped elsewhere
(`libos.startup.HIDDEN`).  An access that the program has forbidden changes nothing, not even which page is resident: its
handler is called.

That of a native program runs in the context that faulted, on its own stack, as if the instruction had called it: the
library stores four words there and lets the context go on at `run_handler` (libos/native/run_handler.S), which is in the
stub.  Storing them may itself page-fault, since no section is occupied here.  The handler of a program in Python is an
async function and is awaited.

The idea is from A. W. Appel and K. Li, Virtual Memory Primitives for User Programs, ASPLOS 1991.
"""

import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from exokernel.abi.direct import direct
from exokernel.abi.downcalls import Exo
from exokernel.abi.layout import PAGE_SHIFT, PAGE_SIZE, RED_ZONE
from libos.interface import PROTECTION
from libos.paging import Paging

_RSP: Final = 7
_RIP: Final = 16
_WORDS: Final = struct.Struct("<4Q")


@direct
class Protection(IntEnum):
    """The values of the interface's OS_NO_ACCESS and so on."""

    NO_ACCESS = PROTECTION["OS_NO_ACCESS"][0]
    READ = PROTECTION["OS_READ"][0]
    READ_WRITE = PROTECTION["OS_READ_WRITE"][0]


@dataclass(frozen=True)
class NativeHandler:
    """A function of a native program: its address, and that of `run_handler` in the stub."""

    function: int
    run_handler: int


PythonHandler = Callable[[int, bool], Awaitable[bool]]
"""Takes the address and whether it was a write; gives whether the access is to be tried again."""
Handler = NativeHandler | PythonHandler


async def protect(paging: Paging, va: int, size: int, rights: int) -> bool:
    """Let the program do no more than `rights` (Protection) with the pages from `va` on; False if these are not whole pages
    of its own, or may never be used so."""
    if va % PAGE_SIZE or size % PAGE_SIZE or rights not in Protection.__members__.values():
        return False
    numbers = range(va >> PAGE_SHIFT, va + size >> PAGE_SHIFT)
    for number in numbers:
        region = paging.regions.at(number << PAGE_SHIFT)
        if region is None or rights & ~region.rights:
            return False
    await paging.enter()
    for number in numbers:
        await paging.protect(number, rights)
    await paging.leave()
    return True


async def run_native_handler(
    exo: Exo, context: int, registers: tuple[int, ...], handler: NativeHandler, va: int, writing: bool
) -> None:
    """Let a stopped context, which has these registers, go on in the handler."""
    words = registers[_RSP] - RED_ZONE - _WORDS.size
    await exo.write(words, _WORDS.pack(handler.function, va, writing, registers[_RIP]))
    await exo.set_register(context, _RSP, words)
    await exo.set_register(context, _RIP, handler.run_handler)
