"""The recipes: how each kind of guest is made from its sources.

    application    one C file and apps/support, linked against the stub's names; runs on any library OS
    native base    libos.so.1: libos/native/*.c and *.S, except the parts
    native part    libpager.so.1: one pager_*.c of libos/native, or a user's own file from anywhere
    stub           libos.so.1 once more: each function a call to a library OS in Python

The same sources and compiler give the same bytes, on any computer and in any directory.  Our own sources are compiled
with warnings as errors; for a user's file, warnings are logged.
"""

import logging
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from exokernel.abi import header
from exokernel.build import flags
from exokernel.build.check import check_image, functions_in, undefined_functions
from exokernel.build.compiler import Compiler, CompilerFailed, find_compiler
from exokernel.build.errors import BuildError
from exokernel.build.inputs import inputs_of
from exokernel.build.store import digest, publish, publish_text, scratch, store_directory
from libos import interface

_ROOT: Final = Path(__file__).resolve().parents[2]
APPLICATIONS: Final = _ROOT / "apps"
SUPPORT: Final = APPLICATIONS / "support"
NATIVE: Final = _ROOT / "libos" / "native"
_OURS: Final = (APPLICATIONS, NATIVE)

PAGER_SONAME: Final = "libpager.so.1"
_PAGER_PREFIX: Final = "pager_"
_STUB: Final = "stub.S"
_AT_ONCE: Final = 2

_UNDEFINED = re.compile(r"(?:undefined (?:reference to|symbol:)|undefined hidden symbol:) [`']?([A-Za-z_]\w*)")


@dataclass(frozen=True)
class Source:
    """A C source the user can name.  `summary` is the sentence it opens with."""

    name: str
    path: Path
    summary: str


@dataclass(frozen=True)
class _Recipe:
    """What an image is made from.  `name` is the file the user knows; `soname` is empty for an application."""

    name: str
    sources: tuple[Path, ...]
    include: tuple[Path, ...]
    soname: str
    imports: frozenset[str]
    declared_in: str
    against: tuple[Path, ...] = ()


def _summary(source: Path) -> str:
    first = source.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip()
    return first.removeprefix("//").removeprefix("/*").removesuffix("*/").strip()


def applications() -> dict[str, Source]:
    """The C programs that come with the package, by name."""
    found = sorted(APPLICATIONS.glob("*.c"))
    return {path.stem: Source(path.stem, path, _summary(path)) for path in found}


def native_parts() -> dict[str, Source]:
    """The pagers in C that come with the package, by the name of their policy."""
    named = {path.stem.removeprefix(_PAGER_PREFIX): path for path in sorted(NATIVE.glob(f"{_PAGER_PREFIX}*.c"))}
    return {name: Source(name, path, _summary(path)) for name, path in named.items()}


def build_application(source: Path) -> Path:
    """The image of a C program, built if need be.

    Raises BuildError if there is no compiler or the source does not compile, link, or keep the rules of `check`.
    """
    support = (SUPPORT / "crt0.S", SUPPORT / "support.c")
    functions = frozenset(function.name for function in interface.FUNCTIONS)
    include = (_application_headers(), SUPPORT)
    return _built(
        _Recipe(source.name, (source.absolute(), *support), include, "", functions, "libos.h", against=(build_stub(),))
    )


def build_native_base(directory: Path = NATIVE) -> Path:
    """The image of the native library OS whose sources are all of `directory` but the parts.  Raises BuildError."""
    sources = [*sorted(directory.glob("*.c")), *sorted(directory.glob("*.S"))]
    base = tuple(path.absolute() for path in sources if not path.name.startswith(_PAGER_PREFIX))
    if not base:
        raise BuildError(f"There is no library OS in {directory}: no C or assembly file but parts.")
    return _built(_library(interface.SONAME, base, (directory.absolute(), NATIVE), interface.SONAME))


def build_pager(source: Path) -> Path:
    """The image of a pager in C.  Raises BuildError as `build_application` does."""
    return _built(_library(source.name, (source.absolute(),), (NATIVE,), PAGER_SONAME))


def build_stub() -> Path:
    """The image that hands each function of the interface to a library OS in Python.  Raises BuildError."""
    stub = _application_headers() / _STUB
    return _built(_Recipe(_STUB, (stub,), (), interface.SONAME, frozenset(), "libos.h"))


def build_everything() -> dict[str, Path]:
    """All guests that come with the package: their images by the names of the sources.  Raises BuildError."""
    images = {_STUB: build_stub()}
    images |= {source.path.name: build_application(source.path) for source in applications().values()}
    images |= {source.path.name: build_pager(source.path) for source in native_parts().values()}
    images[interface.SONAME] = build_native_base()
    return images


def _library(name: str, sources: tuple[Path, ...], include: tuple[Path, ...], soname: str) -> _Recipe:
    from libos import startup
    from libos.files import protocol

    headers = {"startup.h": startup.c_header(), "files.h": protocol.c_header(), **_common_headers()}
    functions = frozenset(function.name for function in interface.FUNCTIONS)
    functions |= functions_in((NATIVE / "pager.h").read_text(encoding="utf-8"))
    return _Recipe(name, sources, (_generated(headers), *include), soname, functions, "libos.h or pager.h")


def _common_headers() -> dict[str, str]:
    return {"exo.h": header.c_header(), "libos.h": interface.c_header()}


def _application_headers() -> Path:
    return _generated({**_common_headers(), _STUB: interface.stub_assembly()})


def _generated(files: dict[str, str]) -> Path:
    """The directory in the store that has these files."""
    directory = store_directory() / "include" / digest(part for item in files.items() for part in item)
    for name, text in files.items():
        publish_text(text, directory / name)
    return directory


def _built(recipe: _Recipe) -> Path:
    """The image in the store; a source that is edited while it is being compiled is compiled again."""
    for source in recipe.sources:
        if source.suffix not in (".c", ".S"):
            raise BuildError(f"{source} is not taken for a C source: give it a name that ends in .c.")
    compiler = find_compiler()
    inputs = inputs_of(recipe.sources, recipe.include)
    base = recipe.sources[0].parent
    made_of: list[str | bytes] = [compiler.identity, recipe.soname, *(image.name for image in recipe.against)]
    made_of += [path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py"))]
    made_of += [str(any(path.is_relative_to(ours) for ours in _OURS)) for path in recipe.sources]
    made_of += [digest(sorted(recipe.imports))]
    for path, content in inputs.contents.items():
        made_of += [_logical(path, base), content]
    image = store_directory() / "images" / f"{Path(recipe.name).stem}-{digest(made_of)}"
    if inputs.complete and image.is_file():
        return image
    with scratch() as directory:
        objects = _compiled(compiler, recipe, directory)
        made = directory / "image"
        _link(compiler, recipe, objects, made)
        check_image(made, recipe.name, recipe.imports, recipe.declared_in)
        if inputs_of(recipe.sources, recipe.include) == inputs:
            return publish(made, image)
    return _built(recipe)


def _logical(path: Path, base: Path) -> str:
    """A path as it looks from the sources: an image may depend on no more of it."""
    if path.is_relative_to(_ROOT):
        return str(path.relative_to(_ROOT))
    return path.name if path.is_relative_to(store_directory()) else os.path.relpath(path, base)


def _compiled(compiler: Compiler, recipe: _Recipe, directory: Path) -> list[Path]:
    objects = [directory / f"{number}-{source.stem}.o" for number, source in enumerate(recipe.sources)]
    compile_one = partial(_compile, compiler, recipe)
    if len(objects) == 1:
        compile_one(recipe.sources[0], objects[0])
        return objects
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(compile_one, recipe.sources, objects))
    return objects


def _compile(compiler: Compiler, recipe: _Recipe, source: Path, target: Path) -> None:
    ours = any(source.is_relative_to(directory) for directory in _OURS)
    options = [word for directory in recipe.include for word in ("-I", str(directory))]
    options += [flags.renaming(str(directory)) for directory in (source.parent, _ROOT)]
    if source.suffix == ".S":
        options += flags.ASSEMBLY
    else:
        options += flags.LIBRARY_CODE if recipe.soname else flags.APPLICATION_CODE
        options += flags.STRICT if ours else ()
    try:
        warnings = compiler.compile_object(source, target, options)
    except CompilerFailed as failed:
        raise BuildError(f"{failed}\n{source} does not compile: above is what the compiler says.") from None
    if warnings:
        logging.getLogger(__name__).warning("%s", warnings)


def _link(compiler: Compiler, recipe: _Recipe, objects: Sequence[Path], target: Path) -> None:
    if recipe.soname:
        options = [*flags.LIBRARY_LINK, "-soname", recipe.soname]
    else:
        options = [*flags.APPLICATION_LINK, f"{compiler.base_option}{flags.APPLICATION_BASE:#x}"]
    try:
        compiler.link_image([*objects, *recipe.against], target, options, shared=bool(recipe.soname))
    except CompilerFailed as failed:
        missing = _UNDEFINED.findall(str(failed))
        if "main" in missing:
            raise BuildError(f"{recipe.name} has no function main, with which a program begins.") from None
        if missing:
            raise undefined_functions(recipe.name, missing, recipe.declared_in) from None
        raise BuildError(f"{failed}\n{recipe.name} does not link: above is what the linker says.") from None
