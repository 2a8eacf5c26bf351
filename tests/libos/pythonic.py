"""Programs over Python library OSes, for tests: made of compiled applications, of C written in the test, or of
Python."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from exokernel.abi.downcalls import Exo
from exokernel.abi.flags import Event
from exokernel.build import guests
from exokernel.kernel.kernel import Kernel
from exokernel.machine.cpu import FastCpu
from exokernel.machine.disk import Disk
from exokernel.machine.memory import PhysicalMemory
from exokernel.policy.memory import LargestHolder, MemoryPolicy
from exokernel.policy.round_robin import RoundRobin
from libos.base import LibraryOS
from libos.files.server import FileServer, finish_server, start_server
from libos.filesystems.interface import FileSystem
from libos.interface import SONAME
from libos.names import library_named
from libos.plan import Program
from libos.python_programs import Main, load_python_program
from tests.libos.machines import LIMIT, Ended

HEADER = "/* A guest of a test. */\n#include <libos.h>\n#include <support.h>\n"
HEADER += "#define SPEND for (volatile int spent = 0; spent < 10000; spent++)\n"


def over_python(
    application: str | Path,
    *arguments: object,
    library: str | Callable[..., LibraryOS] = "clock",
    frames: int = 0,
    seed: int = 0,
    **options: Any,
) -> Program:
    """A compiled program over a Python library OS, to be run by a Machine."""
    source = application if isinstance(application, Path) else guests.applications()[application].path
    make = library_named(library) if isinstance(library, str) else library
    image: Any = guests.build_application(source)
    libraries: Any = {SONAME: guests.build_stub()}
    return Program(
        source.stem,
        image,
        libraries,
        tuple(map(str, arguments)),
        frames=frames,
        seed=seed,
        python_library=make(frames=frames, seed=seed),
        **options,
    )


def c_program(directory: Path, body: str, name: str = "guest") -> Path:
    """A C file whose `main` is `body`."""
    source = directory / f"{name}.c"
    source.write_text(f"{HEADER}int main(int argc, char **argv) {{\n(void)argc, (void)argv;\n{body}\n}}\n")
    return source


def run_python(
    main: Main,
    *arguments: str,
    library: LibraryOS | None = None,
    machine_frames: int = 1024,
    frames: int = 0,
    policy: MemoryPolicy | None = None,
    heap_pages: int = 256,
    mount: Callable[[Exo], Awaitable[FileSystem]] | None = None,
) -> tuple[Ended, Kernel]:
    """Run a program in Python alone on a machine."""
    kernel = Kernel(PhysicalMemory(machine_frames << 12), FastCpu, Disk(65536), policy or LargestHolder(), RoundRobin())
    nothing: Any = None
    made = library or LibraryOS(frames)
    program = Program("test", nothing, {}, arguments, frames=frames, heap_pages=heap_pages, python_library=made)
    ended: list[tuple[int, int]] = []

    async def init() -> None:
        exo, serving = Exo(), 0
        if mount is not None:
            serving = await exo.create_environment()
            await start_server(exo, serving, FileServer(first.number, mount))
        number = await load_python_program(exo, main, replace(program, file_server=serving))
        ended.append((number, await exo.block(Event.EXIT, number)))
        if serving:
            await finish_server(exo, serving)

    first = kernel.boot_coroutine(init)
    kernel.run(LIMIT)
    if kernel.python_errors:
        raise kernel.python_errors[0]
    ((number, status),) = ended
    accounts = kernel.ended[number].accounts
    text = kernel.console.written.get(number, bytearray()).decode()
    return Ended(status, text, accounts.evictions, accounts.swap_in, accounts.swap_out, accounts), kernel
