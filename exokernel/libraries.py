"""Finding applications and library OSes by name or by path, and building what has to be built.

clock                  a part: the native base with the pager `clock`
native+clock           the same, said in full
python+wsclock         the Python base with the replacement strategy `wsclock`
python+clock+priority  the same with a thread scheduler; a scheduler alone is `python+` the scheduler
./mypager.c            a pager in C over the native base
./mypager.py:MyPager   a replacement strategy over the Python base, or a whole library OS, in Python
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exokernel.build import guests
from exokernel.names import UnknownName, unknown
from libos import interface
from libos import names as python_names
from libos.replacement import STRATEGIES

NATIVE = "native"
PYTHON = "python"
DEFAULT_PART = "fifo"


@dataclass(frozen=True)
class NativeLibrary:
    """A library OS in machine code: the images that answer to its sonames."""

    name: str
    images: dict[str, Path]


@dataclass(frozen=True)
class PythonLibrary:
    """A library OS in Python; `make` gives a new one for each environment, from the resident limit and the seed."""

    name: str
    make: Callable[..., Any]
    images: dict[str, Path]


Library = NativeLibrary | PythonLibrary


@dataclass(frozen=True)
class NamedThing:
    """A row of `exo list`."""

    name: str
    summary: str


def application_names() -> list[NamedThing]:
    """The applications that come with the package."""
    native = [NamedThing(source.name, source.summary) for source in guests.applications().values()]
    return sorted(native + python_applications(), key=lambda thing: thing.name)


def python_applications() -> list[NamedThing]:
    """The applications in Python: modules of `apps` with a `main`."""
    rows = []
    for path in sorted(guests.APPLICATIONS.glob("*.py")):
        if path.stem != "__init__":
            first = path.read_text(encoding="utf-8").partition("\n")[0].strip().strip('"')
            rows.append(NamedThing(path.stem, first))
    return rows


def library_names() -> list[NamedThing]:
    """The library OSes that come with the package."""
    native = [NamedThing(f"{NATIVE}+{part.name}", part.summary) for part in guests.native_parts().values()]
    in_python = python_names.parts() | python_names.schedulers()
    return native + [NamedThing(f"{PYTHON}+{name}", summary) for name, summary in in_python.items()]


def find_application(name: str) -> Path:
    """The source, image or Python file of an application.  Raises UnknownName with the near name."""
    path = Path(name)
    if path.suffix or "/" in name:
        if not path.is_file():
            raise UnknownName(f"There is no application file {name}.")
        return path
    sources = guests.applications()
    if name in sources:
        return sources[name].path
    module = guests.APPLICATIONS / f"{name}.py"
    if module.is_file() and name != "__init__":
        return module
    raise unknown("application", name, [thing.name for thing in application_names()])


def find_library(name: str) -> Library:
    """The library OS called `name`, built.  Raises UnknownName, BuildError."""
    file, _, inside = name.partition(":")
    if file.endswith(".py"):
        return _python(name, python_names.library_from_file(Path(file), inside))
    if file.endswith(".c"):
        if not Path(file).is_file():
            raise UnknownName(f"There is no library OS file {file}.")
        return _native(name, guests.build_pager(Path(file)))
    if "/" in file:
        raise UnknownName(f"{file} is taken for a file, and one with a library OS ends in .c or .py.")
    words = name.removeprefix(f"{PYTHON}+").split("+")
    if any(word in python_names.schedulers() for word in words) and words[0] != NATIVE:
        return _python("+".join((PYTHON, *words)), python_names.library_named("+".join(words)))
    base, _, part = name.partition("+")
    if base not in (NATIVE, PYTHON):
        base, part = NATIVE if base in guests.native_parts() or part else PYTHON, name
    part = part or DEFAULT_PART
    known = guests.native_parts() if base == NATIVE else python_names.parts()
    if part in STRATEGIES and part not in python_names.parts():
        return _python(name, python_names.library_named(part))
    if part not in known or not name:
        everything = [thing.name for thing in library_names()]
        raise unknown("library OS", name, everything + [thing.partition("+")[2] for thing in everything])
    if base == NATIVE:
        return _native(f"{NATIVE}+{part}", guests.build_pager(guests.native_parts()[part].path))
    return _python(f"{PYTHON}+{part}", python_names.library_named(part))


def _native(name: str, pager: Path) -> NativeLibrary:
    return NativeLibrary(name, {interface.SONAME: guests.build_native_base(), guests.PAGER_SONAME: pager})


def _python(name: str, make: Callable[..., Any]) -> PythonLibrary:
    return PythonLibrary(name, make, {interface.SONAME: guests.build_stub()})
