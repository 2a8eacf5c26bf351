"""Python library OSes by name and by path.

    wsclock                the base with the replacement strategy of that name, for every strategy a live pager can use
    clock+priority         the same with a thread scheduler; either may be left out
    ./mypager.py:MyPager   a pager or a scheduler of the user's own, or a whole library OS, out of a Python file

Either way the answer is a function that makes a library OS for one environment, from the resident limit in frames (0:
only the kernel bounds it) and a seed.
"""

import importlib.util
import inspect
import sys
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from libos.base import LibraryOS
from libos.image import LoadError
from libos.replacement import STRATEGIES, Strategy
from libos.scheduling import SCHEDULERS, ThreadStrategy


class LibraryMaker(Protocol):
    """Makes a library OS for one environment."""

    def __call__(self, frames: int = 0, seed: int = 0) -> LibraryOS:
        """A new library OS; `frames` bounds the program's resident pages."""
        ...


def parts() -> dict[str, str]:
    """The strategies a live pager can use, with a sentence about each.  The rest would have to see every reference."""
    return {name: strategy.summary for name, strategy in STRATEGIES.items() if not strategy.needs_every_reference}


def schedulers() -> dict[str, str]:
    """The thread schedulers, with a sentence about each."""
    return {name: scheduler.summary for name, scheduler in SCHEDULERS.items()}


def library_named(name: str) -> LibraryMaker:
    """The base with a pager, a scheduler or both, joined by `+`; `python+` may stand before them.

    Raises LoadError, which suggests the nearest name, or says that a strategy is only for replays or one too many.
    """
    chosen: dict[str, Any] = {}
    for part in name.removeprefix("python+").split("+"):
        if part in parts() and "strategy" not in chosen:
            chosen["strategy"] = STRATEGIES[part]
        elif part in SCHEDULERS and "scheduler" not in chosen:
            chosen["scheduler"] = SCHEDULERS[part]
        else:
            raise LoadError(_why_not(part, name))
    return partial(LibraryOS, **chosen)


def _why_not(part: str, name: str) -> str:
    """Why a part of a name makes no library OS."""
    if part in parts() or part in SCHEDULERS:
        return f"'{name}' names two {'pagers' if part in parts() else 'schedulers'}; a library OS has one."
    if part in STRATEGIES:
        return (
            f"The policy '{part}' must see every reference, which no hardware reports; use it with exo replay, or "
            f"choose one of {', '.join(parts())}."
        )
    near = get_close_matches(part.lower(), [*parts(), *SCHEDULERS], n=1)
    advice = f"choose one of {', '.join(parts())}, and a scheduler: {', '.join(SCHEDULERS)}."
    return f"There is no Python library OS called '{name}'; {f'did you mean {near[0]!r}?' if near else advice}"


def library_from_file(path: Path, name: str = "") -> LibraryMaker:
    """The class `name` of a Python file: a `Strategy` or a `ThreadStrategy` for the base, or a `LibraryOS`; without a
    name the only one there is.

    Raises LoadError with a sentence if there is no such file or class, it is of another kind, or importing it fails.
    """
    found = _class_in(load_module(path), path, name)
    if issubclass(found, LibraryOS):
        return found
    if issubclass(found, Strategy) and found.needs_every_reference:
        raise LoadError(
            f"{path}: {found.__name__} must see every reference, which no hardware reports; it can only be replayed."
        )
    kind = "Strategy" if issubclass(found, Strategy) else "ThreadStrategy"
    missing = sorted(found.__abstractmethods__)
    if missing:
        raise LoadError(f"{path}: {found.__name__} does not define {', '.join(missing)}, which a {kind} must have.")
    if "name" not in vars(found):
        found.name = found.__name__.lower()
    return partial(LibraryOS, strategy=found) if issubclass(found, Strategy) else partial(LibraryOS, scheduler=found)


def load_module(path: Path) -> ModuleType:
    """Import a Python file from wherever it is; a file beside it can be imported by it.  Raises LoadError."""
    if not path.is_file():
        raise LoadError(f"There is no file {path}.")
    specification = importlib.util.spec_from_file_location(f"exokernel_user_{path.stem}", path)
    if specification is None or specification.loader is None:
        raise LoadError(f"{path} is no Python file; its name must end in .py.")
    module = importlib.util.module_from_spec(specification)
    # A dataclass looks its module up by name while the module is being imported.
    sys.modules[specification.name] = module
    sys.path.insert(0, str(path.parent))
    try:
        specification.loader.exec_module(module)
    except Exception as error:
        del sys.modules[specification.name]
        why = f"{type(error).__name__}: {error}"
        raise LoadError(f"{path}{_line_of(error, path)} cannot be imported: {why}.") from error
    finally:
        sys.path.remove(str(path.parent))
    return module


def _line_of(error: BaseException, path: Path) -> str:
    """In which line of the file an exception arose, if it did there."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno},"
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}," if line else ""


_USABLE = LibraryOS | Strategy | ThreadStrategy


def _class_in(module: ModuleType, path: Path, name: str) -> type[LibraryOS] | type[Strategy] | type[ThreadStrategy]:
    own = [thing for thing in vars(module).values() if inspect.isclass(thing) and thing.__module__ == module.__name__]
    usable = [thing for thing in own if issubclass(thing, _USABLE)]
    if not name:
        if len(usable) == 1:
            return usable[0]
        names = ", ".join(f"{path}:{thing.__name__}" for thing in usable)
        advice = f"name one of {names}" if usable else "write a class derived from Strategy, ThreadStrategy or LibraryOS"
        raise LoadError(f"{path} has {len(usable) or 'no'} library OSes; {advice}.")
    found = getattr(module, name, None)
    if found is None:
        near = get_close_matches(name, [thing.__name__ for thing in own], n=1)
        raise LoadError(f"{path} has no class {name}{f'; did you mean {near[0]}?' if near else '.'}")
    if not inspect.isclass(found) or not issubclass(found, _USABLE):
        raise LoadError(
            f"{path}: {name} is neither a Strategy nor a LibraryOS; derive it from one of them.  A scheduler derives from "
            "ThreadStrategy."
        )
    return found
