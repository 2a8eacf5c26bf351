"""Parts of the native library OS compiled for the host, as shared objects that ctypes can drive."""

import ctypes
import shutil
import subprocess
from functools import cache
from itertools import count
from pathlib import Path
from tempfile import mkdtemp

import pytest

from exokernel.abi import header
from libos import interface, startup

NATIVE = Path(__file__).resolve().parents[2] / "libos" / "native"
_HERE = Path(__file__).parent
_WARNINGS = ("-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror")
_SERIAL = count()


@cache
def compiler() -> str:
    found = shutil.which("cc")
    if found is None:
        pytest.skip("there is no C compiler for the host")
    return found


@cache
def include() -> Path:
    """A directory with the generated headers."""
    directory = Path(mkdtemp(prefix="exo-include-"))
    (directory / "exo.h").write_text(header.c_header())
    (directory / "libos.h").write_text(interface.c_header())
    (directory / "startup.h").write_text(startup.c_header())
    return directory


@cache
def _built(source: Path, harness: str) -> Path:
    target = Path(mkdtemp(prefix="exo-host-")) / f"{source.stem}.so"
    options = [*_WARNINGS, "-shared", "-fPIC", "-fno-builtin", "-I", str(include()), "-I", str(NATIVE)]
    subprocess.run([compiler(), *options, str(source), str(_HERE / harness), "-o", str(target)], check=True)
    return target


def fresh(source: Path, harness: str) -> ctypes.CDLL:
    """A copy of the library with its static variables as they are at the start."""
    built = _built(source, harness)
    copy = built.with_name(f"{built.stem}-{next(_SERIAL)}.so")
    shutil.copy(built, copy)
    library = ctypes.CDLL(str(copy))
    copy.unlink()
    return library
