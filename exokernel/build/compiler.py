"""Finding a C compiler that makes x86-64 ELF.

The candidates are $CC, cc, gcc, clang, in this order, and then the `ziglang` package from PyPI, which brings a
compiler of its own.  A candidate is believed when a few lines, compiled and linked by it, have the right ELF header.
That answer is kept in the store, for as long as the compiler's executable stays the same file.
"""

import importlib.metadata
import importlib.util
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from exokernel.build import flags
from exokernel.build.errors import BuildError
from exokernel.build.store import digest, publish_text, scratch, store_directory

_ELF64_LITTLE: Final = b"\x7fELF\x02\x01"
_X86_64: Final = 62
_EXECUTABLE: Final = 2
_SHARED_OBJECT: Final = 3

_PROBE = "#include <stdint.h>\nextern int other(void);\nuint64_t probe(void) { return (uint64_t)other(); }\n"
_PROGRAM = "#include <stddef.h>\nint other;\nvoid _start(void) { other = 1; }\n"

_FOREIGN_SEARCH_PATHS: Final = ("CPATH", "C_INCLUDE_PATH")
"""Environment variables that would let a build depend on files that are not among its inputs."""


@dataclass(frozen=True)
class Compiler:
    """A C compiler and its linker.

    `compile` and `link` are the beginnings of their commands.  `is_driver` says that `link` is a compiler, which takes
    a linker's options behind -Xlinker, and not a linker.  `base_option` is how this linker is told where the image
    begins.  `identity` differs between compilers that may make different code.
    """

    compile: tuple[str, ...]
    link: tuple[str, ...]
    is_driver: bool
    base_option: str
    identity: str

    def compile_object(self, source: Path, target: Path, flags: Sequence[str]) -> str:
        """Make an object file; gives the compiler's warnings.  Raises CompilerFailed with its message."""
        return _run([*self.compile, *flags, "-c", str(source), "-o", str(target)])

    def link_image(self, files: Sequence[Path], target: Path, options: Sequence[str], shared: bool) -> str:
        """Make an executable or a shared object; `options` are a linker's.  Raises CompilerFailed with its message."""
        names = [str(file) for file in files]
        if not self.is_driver:
            return _run([*self.link, *(["-shared"] if shared else []), *options, *names, "-o", str(target)])
        passed = [word for option in options for word in ("-Xlinker", option)]
        return _run([*self.link, "-nostdlib", "-shared" if shared else "-no-pie", *passed, *names, "-o", str(target)])


class CompilerFailed(Exception):
    """The compiler or linker ended with an error; the argument is what it printed."""


def _run(command: Sequence[str]) -> str:
    environment = {name: value for name, value in os.environ.items() if name not in _FOREIGN_SEARCH_PATHS}
    environment |= {"LC_ALL": "C", "SOURCE_DATE_EPOCH": "0"}
    environment.setdefault("ZIG_GLOBAL_CACHE_DIR", str(store_directory() / "zig"))
    environment.setdefault("ZIG_LOCAL_CACHE_DIR", environment["ZIG_GLOBAL_CACHE_DIR"])
    try:
        result = subprocess.run(command, env=environment, capture_output=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise CompilerFailed(f"{command[0]}: {error.strerror}") from None
    output = (result.stdout + result.stderr).decode(errors="replace").strip()
    if result.returncode != 0:
        raise CompilerFailed(output or f"{command[0]} ended with status {result.returncode} and printed nothing")
    return output


@dataclass(frozen=True)
class _Candidate:
    compile: tuple[str, ...]
    link: tuple[str, ...]
    is_driver: bool
    fingerprint: str


def _candidates() -> Iterator[_Candidate]:
    try:
        chosen = shlex.split(os.environ.get("CC", ""))
    except ValueError:
        raise BuildError(f"The variable CC has a quote that is not closed: {os.environ['CC']}.") from None
    for words in (chosen, ["cc"], ["gcc"], ["clang"]):
        found = shutil.which(words[0]) if words else None
        if found is None:
            continue
        executable = Path(found).resolve()
        about = executable.stat()
        command = (found, *words[1:])
        yield _Candidate(command, command, True, f"{executable} {words[1:]} {about.st_size} {about.st_mtime_ns}")
    if importlib.util.find_spec("ziglang") is not None:
        zig = (sys.executable, "-m", "ziglang")
        version = importlib.metadata.version("ziglang")
        compile_command = (*zig, "cc", "-target", "x86_64-freestanding")
        yield _Candidate(compile_command, (*zig, "ld.lld"), False, f"ziglang {version} {sys.executable}")


def _is_image(file: Path, kind: int) -> bool:
    header = file.read_bytes()[:20] if file.is_file() else b""
    return header.startswith(_ELF64_LITTLE) and header[16:] == struct.pack("<HH", kind, _X86_64)


def _examined(candidate: _Candidate) -> Compiler | None:
    """The candidate as a compiler, if the images it makes are of our kind."""
    with scratch() as directory:
        library, program = directory / "library.c", directory / "program.c"
        library.write_text(_PROBE)
        program.write_text(_PROGRAM)
        for base_option in ("-Ttext-segment=", "--image-base="):
            compiler = Compiler(candidate.compile, candidate.link, candidate.is_driver, base_option, "")
            image, executable = directory / "library.so", directory / "program"
            try:
                compiler.compile_object(library, directory / "library.o", [*flags.LIBRARY_CODE, flags.renaming("/")])
                compiler.compile_object(program, directory / "program.o", flags.APPLICATION_CODE)
                compiler.link_image([directory / "library.o"], image, flags.LIBRARY_LINK, shared=True)
                at_base = [*flags.APPLICATION_LINK, f"{base_option}{flags.APPLICATION_BASE:#x}"]
                compiler.link_image([directory / "program.o"], executable, at_base, shared=False)
                version = _run([*candidate.compile, "--version"]).partition("\n")[0]
            except CompilerFailed:
                continue
            if _is_image(image, _SHARED_OBJECT) and _is_image(executable, _EXECUTABLE):
                identity = " ".join((version, *candidate.compile[1:], base_option))
                return Compiler(candidate.compile, candidate.link, candidate.is_driver, base_option, identity)
    return None


def find_compiler() -> Compiler:
    """The first compiler that makes x86-64 ELF.  Raises BuildError if there is none on this computer."""
    for candidate in _candidates():
        name = digest([repr(candidate), Path(__file__).read_bytes(), Path(flags.__file__).read_bytes()])
        record = store_directory() / "compilers" / f"{name}.json"
        if record.is_file():
            fields = json.loads(record.read_text())
            return Compiler(**fields | {"compile": tuple(fields["compile"]), "link": tuple(fields["link"])})
        if (compiler := _examined(candidate)) is not None:
            publish_text(json.dumps(asdict(compiler)), record)
            return compiler
    raise BuildError(
        "No C compiler here makes x86-64 ELF programs: install one (on Debian the package gcc), or the one that comes "
        "from PyPI: pip install exokernel[zig]."
    )
