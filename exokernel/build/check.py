"""Refuses an image that the loader could not run as it is meant to.

The interface between an application, a library OS and its parts is one of functions, and text is shared between
address spaces.  So an image may not write its own text when it is loaded, may not take its data from another image,
may not ask for memory that is both writable and executable, and may not need a function that nobody has.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from elftools.common.exceptions import ELFError
from elftools.elf.constants import P_FLAGS
from elftools.elf.dynamic import DynamicSegment
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_RELOC_TYPE_x64

from exokernel.abi.layout import PAGE_SHIFT
from exokernel.build.errors import BuildError

_RELOCATION_NAMES: Final = {number: name for name, number in ENUM_RELOC_TYPE_x64.items() if isinstance(number, int)}
_COPY: Final = "R_X86_64_COPY"
_APPLIED: Final = frozenset({"R_X86_64_64", "R_X86_64_GLOB_DAT", "R_X86_64_JUMP_SLOT", "R_X86_64_RELATIVE"})


def functions_in(header: str) -> frozenset[str]:
    """The names of the functions a C header declares (and, harmlessly, whatever else stands before a parenthesis)."""
    without_comments = re.sub(r"/\*.*?\*/|//[^\n]*", " ", header, flags=re.DOTALL)
    return frozenset(re.findall(r"\b([A-Za-z_]\w*)\s*\(", without_comments))


def undefined_functions(name: str, symbols: Iterable[str], where: str) -> BuildError:
    """The error for an image that needs what nobody has."""
    listed = ", ".join(dict.fromkeys(symbols))
    return BuildError(f"{name} uses {listed}, not declared in {where}: guests are linked with no other library.")


def check_image(image: Path, name: str, imports: frozenset[str], where: str) -> None:
    """Raise BuildError if `image` breaks a rule; `name` is what the user calls it.

    `imports` are the functions it may use, and `where` names the headers that declare them.
    """
    with image.open("rb") as opened:
        try:
            elf = ELFFile(opened)
            if elf["e_machine"] != "EM_X86_64" or elf.elfclass != 64:
                raise BuildError(f"{name} is not for x86-64: build it with a compiler for that processor.")
            _check_segments(elf, name)
            for segment in elf.iter_segments("PT_DYNAMIC"):
                assert isinstance(segment, DynamicSegment)
                _check_relocations(elf, segment, name)
                _check_symbols(segment, name, imports, where)
        except ELFError as error:
            raise BuildError(f"{name} is not a well-formed ELF file: {error}.") from None


def _check_segments(elf: ELFFile, name: str) -> None:
    rights_of_page: dict[int, int] = {}
    for segment in elf.iter_segments():
        begin, rights = segment["p_vaddr"], segment["p_flags"] & (P_FLAGS.PF_R | P_FLAGS.PF_W | P_FLAGS.PF_X)
        if segment["p_type"] == "PT_TLS":
            raise BuildError(f"{name} has thread-local variables, which no library OS sets up: make them static.")
        if segment["p_type"] == "PT_INTERP":
            raise BuildError(f"{name} asks for a dynamic linker of its own: link it with --no-dynamic-linker.")
        if segment["p_type"] not in ("PT_LOAD", "PT_GNU_STACK"):
            continue
        if rights & P_FLAGS.PF_W and rights & P_FLAGS.PF_X:
            what = "stack" if segment["p_type"] == "PT_GNU_STACK" else f"segment at {begin:#x}"
            raise BuildError(f"{name} has a {what} that is writable and executable: memory here is one or the other.")
        if segment["p_type"] == "PT_GNU_STACK" or segment["p_memsz"] == 0:
            continue
        for page in range(begin >> PAGE_SHIFT, (begin + segment["p_memsz"] - 1 >> PAGE_SHIFT) + 1):
            if rights_of_page.setdefault(page, rights) != rights:
                raise BuildError(
                    f"{name} has text and data on one page, at {page << PAGE_SHIFT:#x}: link it with -z separate-code."
                )


def _check_relocations(elf: ELFFile, dynamic: DynamicSegment, name: str) -> None:
    protected = [
        range(segment["p_vaddr"], segment["p_vaddr"] + segment["p_memsz"])
        for segment in elf.iter_segments("PT_LOAD")
        if not segment["p_flags"] & P_FLAGS.PF_W
    ]
    for relocation in _relocations(dynamic, name):
        kind = _RELOCATION_NAMES.get(relocation["r_info_type"], str(relocation["r_info_type"]))
        number = relocation["r_info_sym"]
        symbol = dynamic.get_symbol(number).name if number else "an address of its own"
        if kind == _COPY:
            raise BuildError(f"{name} copies {symbol}, a variable elsewhere: the interface has functions only.")
        if any(relocation["r_offset"] in part for part in protected):
            raise BuildError(f"{name} would write {symbol} into its text when it is loaded: compile it with -fPIC.")
        if kind not in _APPLIED:
            raise BuildError(f"{name} has a relocation {kind} for {symbol}, which the loader does not apply.")
    for tag in dynamic.iter_tags():
        if tag.entry.d_tag == "DT_TEXTREL" or (tag.entry.d_tag == "DT_FLAGS" and tag.entry.d_val & 4):
            raise BuildError(f"{name} is marked as writing its text when it is loaded: compile it with -fPIC.")


def _relocations(dynamic: DynamicSegment, name: str) -> Iterator[Any]:
    tables: Any = dynamic.get_relocation_tables()
    for kind, table in tables.items():
        if kind not in ("RELA", "JMPREL"):
            raise BuildError(f"{name} has a relocation table of the kind {kind}, which the loader does not apply.")
        yield from table.iter_relocations()


def _check_symbols(dynamic: DynamicSegment, name: str, imports: frozenset[str], where: str) -> None:
    undefined = [symbol for symbol in dynamic.iter_symbols() if symbol.name and symbol["st_shndx"] == "SHN_UNDEF"]
    for symbol in undefined:
        if symbol["st_info"]["type"] in ("STT_OBJECT", "STT_TLS", "STT_COMMON"):
            raise BuildError(f"{name} uses {symbol.name}, a variable elsewhere: the interface has functions only.")
    if unknown := [symbol.name for symbol in undefined if symbol.name not in imports]:
        raise undefined_functions(name, unknown, where)
