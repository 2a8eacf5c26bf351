"""Programs in Python over a Python library OS: how they are found, and how they are started.

A program is a file with `async def main(exo, arguments)`, whose docstring begins with a sentence about it.  It acts
with the authority of its environment alone: `exo` is the table of down-calls with the functions of the library OS
added, and `exo.read` and `exo.write` go through the environment's page tables, so that they page-fault into the
library OS like any load and store.  What `main` returns is the exit status, and nothing is 0.
"""

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import ANY, Rights, Sharing
from exokernel.abi.layout import PAGE_SIZE
from libos.base import LibraryOS
from libos.files.linked import LinkedFiles
from libos.image import LoadError
from libos.names import load_module
from libos.plan import Program, swap_sectors
from libos.protection import PythonHandler
from libos.startup import Region, RegionKind, StartBlock, StartFlag

HEAP: Final = 0x40_0000
_HERE: Final = 0
"""The functions of a library OS are given the context that called; a program in Python is context 0."""
_EVERYTHING: Final = int(Rights.READ | Rights.WRITE | Rights.CONTROL)


class LinkedExo(LinkedFiles, Exo):
    """The down-calls, and the functions of `libos.interface` that are more than one down-call.

    A program in Python cannot fork: a coroutine has no registers that could be copied.  Nor can it make threads: they are
    contexts of machine code, and the kernel gives an environment one coroutine beside its handlers.
    """

    def __init__(self, library: LibraryOS) -> None:
        self._library = library

    async def os_region(self, size: int) -> int:
        """The address of `size` bytes of pages of zeros, or 0."""
        return await self._library.os_region(_HERE, size)

    async def os_alloc(self, size: int) -> int:
        """The address of `size` bytes of the heap, or 0."""
        return await self._library.os_alloc(_HERE, size)

    async def os_free(self, memory: int) -> None:
        """Give memory of the heap back."""
        await self._library.os_free(_HERE, memory)

    async def os_advise(self, memory: int, size: int, advice: int) -> int:
        """Say what is needed of whole pages in a range (`libos.advice.Advice`); 0, or -1 if that makes no sense."""
        return await self._library.os_advise(_HERE, memory, size, advice)

    async def os_protect(self, memory: int, size: int, rights: int) -> int:
        """Say what the program may do with whole pages (`libos.protection.Protection`); 0, or -1 if that makes no sense."""
        return await self._library.os_protect(_HERE, memory, size, rights)

    async def os_on_fault(self, handler: PythonHandler | None) -> None:
        """Have `handler(address, writing)` awaited at every access that os_protect forbids; the access is tried again if
        it gives True, and else ends the program."""
        self._library.handler = handler

    async def os_dirty(self, memory: int) -> int:
        """Whether evicting the page at `memory` would cost a write: 1 or 0; -1 if it is not the program's."""
        return await self._library.os_dirty(_HERE, memory)

    async def os_map_file(self, name: str) -> tuple[int, int] | None:
        """The address and the size in bytes of a file given to the program, or else of one of the mounted file system; None
        if there is none of this name."""
        region = await self._library.map_file(name.encode())
        return None if region is None else (region.va, region.size)


Main = Callable[[LinkedExo, Sequence[str]], Awaitable[int | None]]


@dataclass(frozen=True)
class PythonProgram:
    """A program: the name of its file, the sentence its docstring begins with, and what it does."""

    name: str
    summary: str
    main: Main


def program_from_file(path: Path) -> PythonProgram:
    """The program in a Python file.  Raises LoadError if it cannot be imported or has no `async def main`."""
    module = load_module(path)
    main: Any = getattr(module, "main", None)
    if not inspect.iscoroutinefunction(main):
        raise LoadError(f"{path} has no 'async def main(exo, arguments)', which is what a program begins with.")
    return PythonProgram(path.stem, (module.__doc__ or "").strip().partition("\n")[0], main)


async def load_python_program(exo: Exo, main: Main, program: Program) -> int:
    """Make an environment in which `main` runs over `program.python_library`; gives its number.  See `bring_in`."""
    environment, coroutine = await bring_in(exo, main, program)
    await exo.start_coroutine(environment, coroutine)
    return environment


async def bring_in(
    exo: Exo, main: Main, program: Program, make_environment: Callable[[int], Awaitable[int]] | None = None
) -> tuple[int, Coroutine[Any, Any, None]]:
    """Make an environment for `main` over `program.python_library`; gives its number and what is to be started in it.

    Of `program` the image and the libraries are of no use here.  The caller holds the files, which are lent.
    `make_environment` takes a quota, as the down-call does, and may wait for frames.  Raises LoadError if the library is
    none in Python, or memory or swap space do not suffice.
    """
    library = program.python_library
    if not isinstance(library, LibraryOS):
        raise LoadError(f"{program.name} is written in Python and runs over a library OS in Python; name one.")
    start = _start_block(program)
    environment = 0
    try:
        environment = await (make_environment or exo.create_environment)(ANY if program.quota is None else program.quota)
        sector = await exo.alloc_sectors(swap_sectors(start))
        start = start.at_swap(sector)
        await exo.share_sectors(sector, environment, Sharing.HOLD, _EVERYTHING)
        await exo.free_sectors(sector)
        for file in program.files:
            if file.size:
                await exo.share_sectors(file.sector, environment, Sharing.LOAN, Rights.READ)
        library.attach(start)
        await exo.set_library(environment, library)
    except Refused as refused:
        if environment:
            with suppress(Refused):
                await exo.destroy(environment)
        advice = ""
        if refused.error is Error.NO_SECTORS:
            advice = "; give the machine a larger disk or the program a smaller heap"
        raise LoadError(f"{program.name} could not be started: {refused}{advice}.") from refused
    return environment, _run(main, LinkedExo(library), program.arguments)


async def _run(main: Main, exo: LinkedExo, arguments: Sequence[str]) -> None:
    await exo.exit(await main(exo, arguments) or 0)


def _start_block(program: Program) -> StartBlock:
    """The start block of a program without an image: a heap, and behind a gap each file."""
    regions = [Region(HEAP, program.heap_pages, RegionKind.HEAP, int(Rights.READ | Rights.WRITE), first_page=0)]
    pages, va = program.heap_pages, HEAP + (program.heap_pages + 1) * PAGE_SIZE
    for file in program.files:
        count = -(-file.size // PAGE_SIZE)
        if count:
            regions.append(Region(va, count, RegionKind.FILE, int(Rights.READ), pages, file.sector, file.size, file.name))
            pages, va = pages + count, va + count * PAGE_SIZE
    if program.file_server and program.file_pages:
        regions.append(Region(va, program.file_pages, RegionKind.FILES, int(Rights.READ), pages))
        pages += program.file_pages
    return StartBlock(
        entry=0,
        stack_top=0,
        arguments=0,
        regions=tuple(regions),
        frames=program.frames,
        seed=program.seed,
        flags=StartFlag.REGISTER_BACKING if program.register_backing else StartFlag(0),
        pages=pages,
        swap_pages=program.heap_pages,
        file_server=program.file_server,
        argument_values=program.arguments,
    )
