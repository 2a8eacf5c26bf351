"""ELF images as a loader sees them: checked, and never believed further than checked.

`parse` takes the bytes of an executable or a shared object apart and refuses what a program here must not have: text
that would have to be written, memory that is writable and executable, segments that overlap or leave the user half,
data shared by copying.  Section headers are not looked at, as in any loader.  Structures are those of the System V
ABI, AMD64 supplement.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from typing import Any, Final

from construct import Array, Int8ul, Int16ul, Int32ul, Int64sl, Int64ul, Struct
from elftools.common.exceptions import ELFError
from elftools.construct import ConstructError
from elftools.elf.elffile import ELFFile
from elftools.elf.enums import ENUM_RELOC_TYPE_x64

from exokernel.abi.flags import Rights
from exokernel.abi.layout import PAGE_SIZE, USER_BEGIN, USER_END

LARGEST: Final = 256 << 20
SEGMENTS_MAXIMUM: Final = 32
_HEADER_SIZE: Final = 64
_PROGRAM_HEADER_SIZE: Final = 56
_SECTION_FIELDS: Final = (slice(40, 48), slice(60, 64))

_Dynamic: Final = Struct("tag" / Int64ul, "value" / Int64ul)
_Symbol: Final = Struct(
    "name" / Int32ul, "info" / Int8ul, "other" / Int8ul, "section" / Int16ul, "value" / Int64ul, "size" / Int64ul
)
_Relocation: Final = Struct("offset" / Int64ul, "type" / Int32ul, "symbol" / Int32ul, "addend" / Int64sl)
_RELOCATION_NAMES: Final = {number: name for name, number in ENUM_RELOC_TYPE_x64.items() if isinstance(number, int)}


class LoadError(Exception):
    """A program cannot be loaded; the message says which file, what is wrong, and what to do."""


class Tag(IntEnum):
    """The entries of the dynamic section that a loader needs."""

    NULL = 0
    NEEDED = 1
    PLTRELSZ = 2
    HASH = 4
    STRTAB = 5
    SYMTAB = 6
    RELA = 7
    RELASZ = 8
    SONAME = 14
    REL = 17
    TEXTREL = 22
    JMPREL = 23
    FLAGS = 30
    RELR = 36


class RelocationType(IntEnum):
    """The relocations that are applied; all others are refused by name."""

    ABSOLUTE = 1
    GLOB_DAT = 6
    JUMP_SLOT = 7
    RELATIVE = 8


_TEXTREL_FLAG: Final = 4
_WEAK: Final = 2
_BINDINGS: Final = (1, _WEAK)


@dataclass(frozen=True)
class Segment:
    """A run of memory: `contents` at `va`, zeros up to `size` bytes, with `rights` (Rights)."""

    va: int
    size: int
    contents: bytes
    rights: int

    @property
    def first_page(self) -> int:
        return self.va & -PAGE_SIZE

    @property
    def end_page(self) -> int:
        """The first address behind its last page."""
        return -(-(self.va + self.size) // PAGE_SIZE) * PAGE_SIZE

    @property
    def writable(self) -> bool:
        return bool(self.rights & Rights.WRITE)


@dataclass(frozen=True)
class Relocation:
    """One word to be filled in: `symbol` is empty for one that needs none."""

    offset: int
    type: RelocationType
    symbol: str
    weak: bool
    addend: int


@dataclass(frozen=True)
class Image:
    """A checked image.  Addresses are as in the file; a shared object is moved by a base."""

    name: str
    digest: str
    movable: bool
    entry: int
    soname: str
    needed: tuple[str, ...]
    segments: tuple[Segment, ...]
    relocations: tuple[Relocation, ...]
    exports: Mapping[str, int]

    @cached_property
    def end(self) -> int:
        """The first address behind its last page."""
        return max(segment.end_page for segment in self.segments)


class _Parser:
    """Takes one file apart.  Every offset and count from the file is checked before it is used."""

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self.data = data
        self.segments: list[Segment] = []
        self.tags: dict[int, int] = {}
        self.needed: list[int] = []

    def refuse(self, what: str, remedy: str = "build it again") -> LoadError:
        return LoadError(f"{self.name} {what}; {remedy}.")

    def damaged(self, what: str) -> LoadError:
        return self.refuse(f"is damaged: {what}", "copy or build it again")

    def parse(self) -> Image:
        if self.data[:4] != b"\x7fELF":
            raise self.refuse("is not an ELF image", "name a program or library built for x86-64")
        if len(self.data) < _HEADER_SIZE:
            raise self.damaged("it ends in the middle of the ELF header")
        if self.data[4] != 2 or self.data[5] != 1:
            raise self.refuse("is not a 64-bit little-endian image", "build it for x86-64")
        elf = self._opened()
        header = elf.header
        if header["e_machine"] != "EM_X86_64":
            raise self.refuse(f"is for another processor ({header['e_machine']})", "build it for x86-64")
        if header["e_type"] not in ("ET_EXEC", "ET_DYN"):
            raise self.refuse("is neither a program nor a shared object", "link it first")
        movable = header["e_type"] == "ET_DYN"
        dynamic = self._read_segments(elf, movable)
        if dynamic is not None:
            self._read_dynamic(dynamic)
        entry = int(header["e_entry"])
        if entry and not any(s.va <= entry < s.va + s.size and s.rights & Rights.EXECUTE for s in self.segments):
            raise self.damaged(f"its entry {entry:#x} is not in executable memory")
        return Image(
            self.name,
            sha256(self.data).hexdigest(),
            movable,
            entry,
            self._string_of(Tag.SONAME),
            tuple(self._string(offset) for offset in self.needed),
            tuple(self.segments),
            tuple(self._relocations()),
            self._exports(),
        )

    def _opened(self) -> ELFFile:
        data = bytearray(self.data)
        for field in _SECTION_FIELDS:
            data[field] = bytes(field.stop - field.start)
        try:
            elf = ELFFile(BytesIO(data))
        except (ELFError, ConstructError, ValueError, KeyError) as error:
            raise self.damaged(f"its ELF header makes no sense ({error})") from None
        count, size, offset = (int(elf.header[field]) for field in ("e_phnum", "e_phentsize", "e_phoff"))
        if size != _PROGRAM_HEADER_SIZE or not 0 < count <= SEGMENTS_MAXIMUM:
            raise self.damaged(f"it says it has {count} program headers of {size} bytes")
        if offset + count * size > len(self.data):
            raise self.damaged("it ends before its program headers do")
        return elf

    def _read_segments(self, elf: ELFFile, movable: bool) -> tuple[int, int] | None:
        dynamic = None
        for index in range(int(elf.header["e_phnum"])):
            header = self._program_header(elf, index)
            kind = header["p_type"]
            if kind == "PT_LOAD":
                self._read_segment(header, movable)
            elif kind == "PT_DYNAMIC":
                dynamic = int(header["p_vaddr"]), int(header["p_filesz"])
            elif kind == "PT_TLS":
                raise self.refuse("has thread-local variables, which no library OS sets up", "make them static")
            elif kind == "PT_INTERP":
                raise self.refuse("asks for a dynamic linker of its own", "link it with --no-dynamic-linker")
        if not self.segments:
            raise self.damaged("it has nothing to load")
        self.segments.sort(key=lambda segment: segment.va)
        for lower, upper in zip(self.segments, self.segments[1:], strict=False):
            if lower.va + lower.size > upper.va:
                raise self.damaged(f"its segments at {lower.va:#x} and {upper.va:#x} overlap")
            if lower.end_page > upper.first_page and lower.rights != upper.rights:
                raise self.refuse(
                    f"has text and data on one page, at {upper.first_page:#x}", "link it with -z separate-code"
                )
        return dynamic

    def _program_header(self, elf: ELFFile, index: int) -> Any:
        try:
            return elf.structs.Elf_Phdr.parse(
                self.data[int(elf.header["e_phoff"]) + index * _PROGRAM_HEADER_SIZE :][:_PROGRAM_HEADER_SIZE]
            )
        except (ELFError, ConstructError) as error:
            raise self.damaged(f"its program header {index} makes no sense ({error})") from None

    def _read_segment(self, header: Any, movable: bool) -> None:
        va, size, offset, stored = (int(header[f]) for f in ("p_vaddr", "p_memsz", "p_offset", "p_filesz"))
        flags = int(header["p_flags"])
        if size == 0:
            return
        if stored > size:
            raise self.damaged(f"its segment at {va:#x} has more bytes in the file than in memory")
        if stored and offset + stored > len(self.data):
            raise self.damaged(f"it ends before its segment at {va:#x} does")
        if size > LARGEST or va + size > USER_END or (not movable and va < USER_BEGIN):
            raise self.refuse(f"has a segment of {size} bytes at {va:#x}, outside the memory a program can have")
        if stored and va % PAGE_SIZE != offset % PAGE_SIZE:
            raise self.refuse(f"has a segment at {va:#x} that does not lie on pages", "link it with -z max-page-size=4096")
        rights = Rights.READ | (Rights.WRITE if flags & 2 else 0) | (Rights.EXECUTE if flags & 1 else 0)
        if rights & Rights.WRITE and rights & Rights.EXECUTE:
            raise self.refuse(
                f"has a segment at {va:#x} that is writable and executable, and memory here is one or the other",
                "link it with -z separate-code",
            )
        self.segments.append(Segment(va, size, self.data[offset : offset + stored], int(rights)))

    # The dynamic section.

    def _bytes(self, va: int, size: int, what: str) -> bytes:
        for segment in self.segments:
            if segment.va <= va and va + size <= segment.va + len(segment.contents):
                return segment.contents[va - segment.va : va - segment.va + size]
        raise self.damaged(f"its {what} at {va:#x} lies outside its segments")

    def _rows(self, structure: Any, va: int, count: int, what: str) -> Iterator[Any]:
        data = self._bytes(va, count * structure.sizeof(), what)
        yield from Array(count, structure).parse(data)

    def _read_dynamic(self, where: tuple[int, int]) -> None:
        va, size = where
        for row in self._rows(_Dynamic, va, size // _Dynamic.sizeof(), "dynamic section"):
            if row.tag == Tag.NULL:
                break
            if row.tag == Tag.NEEDED:
                self.needed.append(row.value)
            else:
                self.tags[row.tag] = row.value
        if Tag.TEXTREL in self.tags or self.tags.get(Tag.FLAGS, 0) & _TEXTREL_FLAG:
            raise self.refuse("wants to change its own text when loaded", "compile it with -fPIC")
        if Tag.REL in self.tags or Tag.RELR in self.tags:
            raise self.refuse("has relocations of a form that x86-64 images here do not use", "link it without them")

    def _string(self, offset: int) -> str:
        table = self.tags.get(Tag.STRTAB, 0)
        for segment in self.segments:
            start = table + offset - segment.va
            if 0 <= start < len(segment.contents):
                end = segment.contents.find(b"\0", start)
                if end >= 0:
                    return segment.contents[start:end].decode("utf-8", "replace")
        raise self.damaged(f"a name at {table + offset:#x} lies outside its segments")

    def _string_of(self, tag: Tag) -> str:
        return self._string(self.tags[tag]) if tag in self.tags else ""

    def _symbol(self, index: int) -> Any:
        return next(self._rows(_Symbol, self.tags.get(Tag.SYMTAB, 0) + index * _Symbol.sizeof(), 1, "symbol"))

    def _exports(self) -> dict[str, int]:
        if Tag.HASH not in self.tags:
            if "libpager" in self._string_of(Tag.SONAME) or "libos" in self._string_of(Tag.SONAME):
                raise self.refuse("has no symbol hash table that is understood", "link it with --hash-style=sysv")
            return {}
        count = int.from_bytes(self._bytes(self.tags[Tag.HASH] + 4, 4, "symbol hash table"), "little")
        exports = {}
        for symbol in self._rows(_Symbol, self.tags.get(Tag.SYMTAB, 0), count, "symbol table"):
            if symbol.section and symbol.info >> 4 in _BINDINGS and not symbol.other & 3:
                exports[self._string(symbol.name)] = symbol.value
        return exports

    def _relocations(self) -> Iterator[Relocation]:
        for table, length in ((Tag.RELA, Tag.RELASZ), (Tag.JMPREL, Tag.PLTRELSZ)):
            count = self.tags.get(length, 0) // _Relocation.sizeof()
            if not count:
                continue
            for row in self._rows(_Relocation, self.tags.get(table, 0), count, "relocations"):
                yield self._relocation(row)

    def _relocation(self, row: Any) -> Relocation:
        if row.type not in RelocationType.__members__.values():
            name = _RELOCATION_NAMES.get(row.type, f"type {row.type}")
            remedy = "build it with the options that guests are built with"
            if name == "R_X86_64_COPY":
                remedy = "let it call functions instead of sharing variables"
            raise self.refuse(f"has a relocation {name}, which is not supported", remedy)
        if not any(s.writable and s.va <= row.offset and row.offset + 8 <= s.va + s.size for s in self.segments):
            raise self.refuse(f"has a relocation at {row.offset:#x}, outside its writable data", "compile it with -fPIC")
        kind = RelocationType(row.type)
        if kind is RelocationType.RELATIVE:
            return Relocation(row.offset, kind, "", False, row.addend)
        symbol = self._symbol(row.symbol)
        return Relocation(row.offset, kind, self._string(symbol.name), symbol.info >> 4 == _WEAK, row.addend)


def parse(name: str, data: bytes) -> Image:
    """The image in `data`; `name` is what the user calls it.  Raises LoadError."""
    return _Parser(name, data).parse()
