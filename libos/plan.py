"""Where a program's memory lies and what it begins with: the loader's work that needs no machine.

`link` gives each image its place and fills in the words that depend on the places of others; `plan` adds arguments,
stack, heap and files, and yields the start block and the contents of every page that has any.  Symbols are looked up
in the application first and then in the libraries in their order, as the System V ABI has it.  The memory itself is
drawn in `libos.startup`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final, Protocol

from exokernel.abi.flags import Rights
from exokernel.abi.layout import PAGE_SIZE, SECTORS_PER_PAGE
from libos.image import Image, LoadError, RelocationType, Segment
from libos.startup import Region, RegionKind, StartBlock, StartFlag

APPLICATION_BASE: Final = 0x40_0000
LIBRARY_BASE: Final = 0x1_0000_0000
START_BLOCK: Final = LIBRARY_BASE
LIBRARY_STACK: Final = LIBRARY_BASE + 0x2000
LIBRARY_STACK_PAGES: Final = 2
WINDOW: Final = LIBRARY_BASE + 0x5000
MEMORY: Final = LIBRARY_BASE + 0x6000
MEMORY_PAGES: Final = 56
IMAGES: Final = LIBRARY_BASE + 0x4_0000
STACK_GAP_PAGES: Final = 16
PAGES_MAXIMUM: Final = 0xFFFF
FRAMES_MINIMUM: Final = 8
"""One x86 instruction may need this many pages at once; with fewer it would fault for ever."""
NATIVE_ENTRY: Final = "libos_start"
DATA_RIGHTS: Final = int(Rights.READ | Rights.WRITE)


class Attachment(Protocol):
    """A host file as sectors that nobody writes: `name`, first `sector`, `size` in bytes."""

    @property
    def name(self) -> str: ...
    @property
    def sector(self) -> int: ...
    @property
    def size(self) -> int: ...


class PythonLibrary(Protocol):
    """A library OS in Python: besides its up-call handlers it takes the start block, before the program starts."""

    def attach(self, start: StartBlock) -> None:
        """Learn what has been loaded."""
        ...


@dataclass(frozen=True)
class Program:
    """What to load.

    `libraries` are shared objects by soname: what the image needs, and the parts of a native base.  `frames` bounds the
    program's resident pages (0: only the kernel does), and `quota` everything its environment may hold, in frames.
    `heap_pages` and `stack_pages` bound what can be asked for, and are what the swap extent is sized by.  `file_server` is
    the number of the environment that serves files, if one does, and then `file_pages` the address space for those mapped.
    With
    `python_library` the program starts at its own entry, and that object handles its up-calls.
    """

    name: str
    image: Attachment
    libraries: Mapping[str, Attachment]
    arguments: tuple[str, ...] = ()
    files: tuple[Attachment, ...] = ()
    frames: int = 0
    quota: int | None = None
    seed: int = 0
    register_backing: bool = False
    heap_pages: int = 1024
    stack_pages: int = 256
    file_server: int = 0
    file_pages: int = 1024
    python_library: PythonLibrary | None = None


@dataclass(frozen=True)
class Placed:
    """An image at its place: addresses in it are `base` more than in the file."""

    image: Image
    base: int
    application: bool

    @property
    def end(self) -> int:
        return self.base + self.image.end

    def page_contents(self, segment: Segment, first: int) -> bytes:
        """What the file has for the page at address `first` of the file, zeros around it."""
        start = first - segment.va
        if start < 0:
            return bytes(-start) + segment.contents[: PAGE_SIZE + start].ljust(PAGE_SIZE + start, b"\0")
        return segment.contents[start : start + PAGE_SIZE].ljust(PAGE_SIZE, b"\0")


Pages = dict[int, bytearray]
"""Contents of pages by address; every page that is not here is zeros."""


@dataclass(frozen=True)
class Linked:
    """The images of one program, the application first, and the contents of all their pages."""

    images: tuple[Placed, ...]
    shared: Pages
    private: Pages

    def address_of(self, name: str) -> int | None:
        """The address of a symbol."""
        for placed in self.images:
            if name in placed.image.exports:
                return placed.base + placed.image.exports[name]
        return None


def link(application: Image, libraries: Sequence[Image], base_of: Callable[[Image], int]) -> Linked:
    """Place the images and apply their relocations; `base_of` gives a library its base.  Raises LoadError for a symbol
    that nobody defines and for images that collide."""
    placed = [Placed(application, APPLICATION_BASE if application.movable else 0, True)]
    for library in libraries:
        if not library.movable:
            raise LoadError(f"{library.name} is a program, not a shared object; link it with -shared.")
        placed.append(Placed(library, base_of(library), False))
    if placed[0].end > LIBRARY_BASE:
        raise LoadError(f"{application.name} reaches beyond {LIBRARY_BASE:#x}, where libraries lie; link it lower.")
    linked = Linked(tuple(placed), {}, {})
    for image in placed:
        for segment in image.image.segments:
            pages = linked.private if segment.writable else linked.shared
            stored = segment.va + len(segment.contents)
            for first in range(segment.first_page, stored, PAGE_SIZE) if segment.contents else ():
                contents = image.page_contents(segment, first)
                known = pages.setdefault(image.base + first, bytearray(PAGE_SIZE))
                for offset in range(max(0, segment.va - first), min(PAGE_SIZE, stored - first)):
                    known[offset] = contents[offset]
        _relocate(image, linked)
    return linked


def _relocate(placed: Placed, linked: Linked) -> None:
    for relocation in placed.image.relocations:
        if relocation.type is RelocationType.RELATIVE:
            value = placed.base + relocation.addend
        else:
            address = linked.address_of(relocation.symbol)
            if address is None and not relocation.weak:
                names = ", ".join(other.image.name for other in linked.images)
                raise LoadError(
                    f"{placed.image.name} needs {relocation.symbol}, which none of {names} defines; name a library OS "
                    "or a part that does."
                )
            value = (address or 0) + (relocation.addend if relocation.type is RelocationType.ABSOLUTE else 0)
        _store(linked.private, placed.base + relocation.offset, (value & (1 << 64) - 1).to_bytes(8, "little"))


def _store(pages: Pages, va: int, data: bytes) -> None:
    for index, byte in enumerate(data):
        page = (va + index) & -PAGE_SIZE
        pages.setdefault(page, bytearray(PAGE_SIZE))[va + index - page] = byte


@dataclass(frozen=True)
class Plan:
    """A program ready to be brought into an environment.  `shared`, `private` and `swapped` are the contents of pages
    by address; a PRIVATE page that is not in `private` is zeros."""

    start: StartBlock
    shared: Pages
    private: Pages
    swapped: Pages


def plan(program: Program, linked: Linked) -> Plan:
    """Lay out the program's memory.  Raises LoadError if it does not fit."""
    native = program.python_library is None
    if program.frames and program.frames < FRAMES_MINIMUM:
        raise LoadError(
            f"{program.name} cannot run in {program.frames} frames: one instruction may need {FRAMES_MINIMUM} pages; "
            "give it more."
        )
    regions: list[Region] = []
    for placed in linked.images:
        resident = native and not placed.application
        for segment in placed.image.segments:
            regions += _segment_regions(placed, segment, resident, linked.private)
    stack = linked.images[0].end + STACK_GAP_PAGES * PAGE_SIZE
    stack_end = stack + program.stack_pages * PAGE_SIZE
    arguments, contents = _arguments((program.name, *program.arguments), stack_end)
    first_argument_page = arguments & -PAGE_SIZE
    if first_argument_page - stack < PAGE_SIZE:
        raise LoadError(f"The arguments of {program.name} take {len(contents)} bytes, more than its stack; shorten them.")
    swapped = {va: page for va, page in linked.private.items() if not native or va < LIBRARY_BASE}
    _store(swapped, arguments, contents)
    heap = stack_end + PAGE_SIZE
    regions += [
        _zeros(stack, first_argument_page, RegionKind.ZERO),
        _zeros(first_argument_page, stack_end, RegionKind.DATA),
        _zeros(heap, heap + program.heap_pages * PAGE_SIZE, RegionKind.HEAP),
    ]
    regions += _file_regions(program, heap + (program.heap_pages + 1) * PAGE_SIZE)
    if native:
        regions.append(Region(START_BLOCK, 1, RegionKind.PRIVATE, DATA_RIGHTS))
        regions.append(Region(LIBRARY_STACK, LIBRARY_STACK_PAGES, RegionKind.PRIVATE, DATA_RIGHTS))
    if max(region.end for region in regions if region.va < LIBRARY_BASE) > LIBRARY_BASE:
        raise LoadError(f"{program.name} with its heap and files reaches beyond {LIBRARY_BASE:#x}; give it a smaller heap.")
    numbered, pages, swap_pages = _number(regions)
    if pages > PAGES_MAXIMUM:
        raise LoadError(
            f"{program.name} has {pages} pages with its heap, stack and files, and at most {PAGES_MAXIMUM} can be kept "
            "track of; give it a smaller heap or fewer files."
        )
    start = StartBlock(
        entry=linked.images[0].base + linked.images[0].image.entry,
        stack_top=arguments,
        arguments=arguments,
        regions=numbered,
        frames=program.frames,
        seed=program.seed,
        flags=StartFlag.REGISTER_BACKING if program.register_backing else StartFlag(0),
        pages=pages,
        swap_pages=swap_pages,
        file_server=program.file_server,
        library_stack=LIBRARY_STACK,
        library_stack_size=LIBRARY_STACK_PAGES * PAGE_SIZE,
        window=WINDOW,
        memory=MEMORY,
        memory_pages=MEMORY_PAGES,
        argument_values=(program.name, *program.arguments),
    )
    private = {va: page for va, page in linked.private.items() if native and va >= LIBRARY_BASE}
    return Plan(start, linked.shared, private, swapped)


def _segment_regions(placed: Placed, segment: Segment, resident: bool, contents: Pages) -> list[Region]:
    va, end = placed.base + segment.first_page, placed.base + segment.end_page
    pages = (end - va) // PAGE_SIZE
    if not segment.writable:
        return [Region(va, pages, RegionKind.SHARED, segment.rights)]
    if resident:
        return [Region(va, pages, RegionKind.PRIVATE, segment.rights)]
    regions = []
    for full, run in groupby(range(va, end, PAGE_SIZE), lambda page: page in contents):
        addresses = list(run)
        kind = RegionKind.DATA if full else RegionKind.ZERO
        regions.append(Region(addresses[0], len(addresses), kind, segment.rights))
    return regions


def _zeros(va: int, end: int, kind: RegionKind) -> Region:
    return Region(va, (end - va) // PAGE_SIZE, kind, DATA_RIGHTS)


def _arguments(values: Sequence[str], end: int) -> tuple[int, bytes]:
    """A `struct os_arguments` with its strings, to lie just below `end`: its address, a multiple of 16, and its
    bytes."""
    strings = [value.encode() + b"\0" for value in values]
    table = 8 * (len(values) + 2)
    va = end - table - sum(map(len, strings)) & -16
    words, place = [len(values)], va + table
    for string in strings:
        words.append(place)
        place += len(string)
    return va, b"".join(word.to_bytes(8, "little") for word in [*words, 0]) + b"".join(strings)


def _file_regions(program: Program, va: int) -> list[Region]:
    regions = []
    for file in program.files:
        pages = -(-file.size // PAGE_SIZE)
        rights = int(Rights.READ)
        regions.append(Region(va, pages, RegionKind.FILE, rights, sector=file.sector, size=file.size, name=file.name))
        va += pages * PAGE_SIZE
    if program.file_server and program.file_pages:
        regions.append(Region(va, program.file_pages, RegionKind.FILES, int(Rights.READ)))
    return regions


def _number(regions: Sequence[Region]) -> tuple[tuple[Region, ...], int, int]:
    """Give pageable regions the indices of their pages; also how many pages there are, and how many are swappable."""
    numbered, page, swappable = [], 0, 0
    for region in sorted(regions, key=lambda region: (region.kind >= RegionKind.FILE, region.va)):
        if region.kind.pageable:
            numbered.append(replace(region, first_page=page))
            page += region.pages
            swappable += region.pages * region.kind.swappable
        else:
            numbered.append(region)
    return tuple(numbered), page, swappable


def swap_sectors(start: StartBlock) -> int:
    """How many sectors the program's swap extent has."""
    return start.swap_pages * SECTORS_PER_PAGE
