"""The C programs built for the host, with `host_libos.c` as their library OS."""

import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

from exokernel.build import applications
from exokernel.build.guests import SUPPORT
from libos import interface

_FLAGS = (
    "-O1",
    "-std=c11",
    "-fno-builtin",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fsanitize=undefined",
    "-fno-sanitize-recover",
    "-pthread",
)


@cache
def _built(program: str | Path) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler for the host")
    directory = Path(mkdtemp(prefix="host-apps-"))
    (directory / "libos.h").write_text(interface.c_header())
    source = program if isinstance(program, Path) else applications()[program].path
    sources = (source, SUPPORT / "support.c", Path(__file__).with_name("host_libos.c"))
    include = ("-I", str(directory), "-I", str(SUPPORT))
    subprocess.run([compiler, *_FLAGS, *include, *map(str, sources), "-o", str(directory / source.stem)], check=True)
    return directory / source.stem


def run_on_the_host(argv: Sequence[str | Path], under: Sequence[str] = ()) -> subprocess.CompletedProcess[bytes]:
    """Run a program, one of ours by name or any by path as the first argument, to its end; `under` is a command that runs
    commands."""
    program = _built(argv[0])
    return subprocess.run([*under, program, *argv[1:]], capture_output=True, check=False, timeout=120)
