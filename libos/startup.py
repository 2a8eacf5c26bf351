"""The start block: what the loader tells a library OS about the program it has loaded, declared once.

A native library OS finds it as one page of its own memory, whose address it is started with; `c_header` is the same
declaration for C.  A Python library OS is handed the `StartBlock` itself.

A program's memory is a list of regions.  The pages of DATA, ZERO, HEAP and FILE regions are the program's: the library
OS brings them in, moves them out, and knows each by its index, which counts through the regions in the order of the
table.  Page `i` has the eight sectors from `swap_sector + 8 * i` on as its place in the swap extent; pages of FILE and
FILES regions come last and need none.  SHARED and PRIVATE regions are there when the program starts and stay.

    0x1_0000_0000  start block, library stack, window, memory for the library; then the libraries' images
    ...            files of the mounted file system, as they are mapped                          FILE, then FILES
    ...            files given to the program, each from a new page on                                     FILE
    ...            the heap, up to the size the program asked for                                           HEAP
    ...            the stack, below it a gap that is never mapped, at its top the arguments          ZERO, DATA
    0x0040_0000    the application's image                                                 SHARED, DATA, ZERO
"""

from dataclasses import dataclass, field, replace
from enum import IntEnum, IntFlag
from typing import Any, Final

from construct import Array, Bytes, Const, Int64ul, Padded, Struct

from exokernel.abi.direct import direct
from exokernel.abi.flags import ANY
from exokernel.abi.layout import PAGE_SIZE, SECTORS_PER_PAGE
from exokernel.abi.pages import offset_of

VERSION: Final = 1
MAGIC: Final = b"EXOSTART"
REGIONS: Final = 40
NAMES_SIZE: Final = 1024


@direct
class RegionKind(IntEnum):
    """Where the pages of a region come from, and whose they are."""

    SHARED = 0
    """Text and constants of an image: frames of the loader, bound by the capability in SHARED_SLOT; not pageable."""
    PRIVATE = 1
    """The library's own data: frames of this environment, not pageable."""
    DATA = 2
    """The program's pages that begin with contents, which lie in their places in the swap extent."""
    ZERO = 3
    """The program's pages that begin as zeros."""
    HEAP = 4
    """As ZERO, but handed out by `os_region` from the lowest address on; untouched pages beyond are not the
    program's."""
    FILE = 5
    """A file of the program, read-only, from `sector` on, or if that is ANY from the file server, which knows it by
    `name`; not the program's before `os_map_file` has been asked for it."""
    FILES = 6
    """Address space for files from the file server: each one that is mapped takes as many pages away from its beginning
    and makes them a region of kind FILE."""

    @property
    def pageable(self) -> bool:
        return self >= RegionKind.DATA

    @property
    def swappable(self) -> bool:
        """Whether its pages have places in the swap extent."""
        return self in (RegionKind.DATA, RegionKind.ZERO, RegionKind.HEAP)


@direct
class StartFlag(IntFlag):
    """What the one who started the program asks of its library OS."""

    REGISTER_BACKING = 1
    """Name a backing sector for every page brought in, so that pages taken by force are saved."""


NO_FLAGS: Final = StartFlag(0)

HIDDEN: Final = 1 << 38
"""A resident page that the program may not even read is mapped, read-only, so many bytes above its place: no page table
can withhold reading from what is mapped."""

SHARED_SLOT: Final = 1
"""The place on the key ring of the capability by which shared frames and files may be used; a child is given it too."""

_NUMBER: Final = Int64ul

RegionRow: Final = Struct(
    "va" / _NUMBER,
    "pages" / _NUMBER,
    "kind" / _NUMBER,
    "rights" / _NUMBER,
    "first_page" / _NUMBER,
    "sector" / _NUMBER,
    "size" / _NUMBER,
    "name" / _NUMBER,
)

StartPage: Final = Padded(
    PAGE_SIZE,
    Struct(
        "magic" / Const(MAGIC),
        "version" / _NUMBER,
        "entry" / _NUMBER,
        "stack_top" / _NUMBER,
        "arguments" / _NUMBER,
        "frames" / _NUMBER,
        "seed" / _NUMBER,
        "flags" / _NUMBER,
        "pages" / _NUMBER,
        "swap_sector" / _NUMBER,
        "swap_pages" / _NUMBER,
        "file_server" / _NUMBER,
        "library_stack" / _NUMBER,
        "library_stack_size" / _NUMBER,
        "window" / _NUMBER,
        "memory" / _NUMBER,
        "memory_pages" / _NUMBER,
        "region_count" / _NUMBER,
        "regions" / Array(REGIONS, RegionRow),
        "names" / Bytes(NAMES_SIZE),
    ),
)


@dataclass(frozen=True)
class Region:
    """A run of pages of one origin.  `va` is in bytes; `rights` are Rights; `first_page` is the index of its first
    page, ANY if it is not pageable; `sector`, `size` (bytes) and `name` are those of a FILE."""

    va: int
    pages: int
    kind: RegionKind
    rights: int
    first_page: int = ANY
    sector: int = ANY
    size: int = 0
    name: str = ""

    @property
    def end(self) -> int:
        """The first address behind it."""
        return self.va + self.pages * PAGE_SIZE


@dataclass(frozen=True)
class StartBlock:
    """The start block.  Addresses and sizes are in bytes.

    `entry` is where the application begins, with `stack_top` in rsp (a multiple of 16, as at the entry of a Linux
    process) and in rdi `arguments`, the address of a `struct os_arguments`.  `frames` bounds the resident pages of the
    program; 0 leaves it to what the kernel gives.  `pages` counts the pageable pages and `swap_pages` those with a
    place in the swap extent, which begins at `swap_sector`.  `file_server` is the number of the environment that serves
    files, 0 if there is none.  The rest is for native libraries: the stack on which
    up-calls are delivered, a page of address space to look at frames through, and address space for what the library
    allocates for itself.
    """

    entry: int
    stack_top: int
    arguments: int
    regions: tuple[Region, ...]
    frames: int = 0
    seed: int = 0
    flags: StartFlag = NO_FLAGS
    pages: int = 0
    swap_sector: int = ANY
    swap_pages: int = 0
    file_server: int = 0
    library_stack: int = 0
    library_stack_size: int = 0
    window: int = 0
    memory: int = 0
    memory_pages: int = 0
    argument_values: tuple[str, ...] = field(default=())

    def region_at(self, va: int) -> Region | None:
        """The region in which an address lies."""
        return next((region for region in self.regions if region.va <= va < region.end), None)

    def region_of(self, page: int) -> Region:
        """The region of a pageable page, by index.  Raises KeyError for an index that is nobody's."""
        for region in self.regions:
            if region.kind.pageable and region.first_page <= page < region.first_page + region.pages:
                return region
        raise KeyError(page)

    def slot_of(self, page: int) -> int:
        """The first of the eight sectors that are a page's place in the swap extent."""
        return self.swap_sector + page * SECTORS_PER_PAGE

    def at_swap(self, sector: int) -> "StartBlock":
        """The same with the swap extent at `sector`."""
        return replace(self, swap_sector=sector)

    def packed(self) -> bytes:
        """The page a native library finds.  Raises ValueError if there are too many regions or names."""
        if len(self.regions) > REGIONS:
            raise ValueError(f"The program has {len(self.regions)} regions; the start block has room for {REGIONS}.")
        names, rows = bytearray(b"\0"), []
        for region in self.regions:
            row = {
                "va": region.va,
                "pages": region.pages,
                "kind": region.kind,
                "rights": region.rights,
                "first_page": region.first_page,
                "sector": region.sector,
                "size": region.size,
                "name": 0,
            }
            if region.name:
                row["name"] = len(names)
                names += region.name.encode() + b"\0"
            rows.append(row)
        if len(names) > NAMES_SIZE:
            raise ValueError(f"The names of the program's files take {len(names)} bytes; the start block has {NAMES_SIZE}.")
        rows += [dict.fromkeys((part.name for part in RegionRow.subcons), 0)] * (REGIONS - len(rows))
        page: bytes = StartPage.build(
            {
                "magic": MAGIC,
                "version": VERSION,
                "entry": self.entry,
                "stack_top": self.stack_top,
                "arguments": self.arguments,
                "frames": self.frames,
                "seed": self.seed,
                "flags": self.flags,
                "pages": self.pages,
                "swap_sector": self.swap_sector,
                "swap_pages": self.swap_pages,
                "file_server": self.file_server,
                "library_stack": self.library_stack,
                "library_stack_size": self.library_stack_size,
                "window": self.window,
                "memory": self.memory,
                "memory_pages": self.memory_pages,
                "region_count": len(self.regions),
                "regions": rows,
                "names": bytes(names).ljust(NAMES_SIZE, b"\0"),
            }
        )
        return page


def _member(part: Any) -> str:
    count = getattr(part.subcon, "count", None)
    if part.name == "magic":
        return f"char magic[{len(MAGIC)}];"
    if part.name == "names":
        return f"char names[{NAMES_SIZE}];"
    if part.name == "regions":
        return f"struct start_region regions[{count}];"
    return f"uint64_t {part.name};"


def c_header() -> str:
    """The text of `startup.h`, for library OSes in C."""
    lines = [
        f"/* The start block, version {VERSION}; generated from libos/startup.py, where its meaning is told. */",
        "#ifndef STARTUP_H",
        "#define STARTUP_H",
        "",
        f"#define START_VERSION {VERSION}",
        f"#define START_REGIONS {REGIONS}",
        f"#define START_SHARED_SLOT {SHARED_SLOT}",
        f"#define START_HIDDEN {HIDDEN:#x}ull",
    ]
    lines += [f"#define START_{flag.name} {flag.value}" for flag in StartFlag]
    lines += [f"#define REGION_{kind.name} {kind.value}" for kind in RegionKind]
    for name in ("entry", "stack_top", "arguments"):
        lines.append(f"#define START_{name.upper()} {offset_of(StartPage, name):#x}")
    lines += ["", "#ifndef __ASSEMBLER__", "#include <stdint.h>", ""]
    for name, structure in (("start_region", RegionRow), ("start_block", StartPage.subcon)):
        lines += [f"struct {name} {{", *(f"    {_member(part)}" for part in structure.subcons), "};", ""]
    lines.append(f'_Static_assert(sizeof(struct start_block) <= {PAGE_SIZE}, "the start block is one page");')
    return "\n".join([*lines, "#endif", "#endif", ""])
