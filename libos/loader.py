"""The loader: library code in the first environment that makes environments and brings programs into them.

It does nothing that another environment could not do: images are read from sectors it may read, frames are allocated
and mapped by down-calls, a child's memory is filled through a window in the loader's own address space, which its
control of the child allows.

Text and constants are frames of the loader, one copy however many programs use them.  A program may map them by a
capability that the loader forges for the purpose, gives to every program it starts (SHARED_SLOT), and writes into the
access list of each such frame and of each file; a program gives it on to the children it forks.  A library lies at the
same addresses in every program, in the order in which libraries were first loaded, so its text never differs.

Data of an application is not brought in at all: the loader writes it, relocated, to its places in the program's swap
extent, and the program's library OS brings in what is touched.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import ANY, FOREVER, SELF, Event, Rights, Sharing, Subject
from exokernel.abi.layout import OWN_PAGE, PAGE_SIZE, SECTOR_SIZE, SECTORS_PER_PAGE
from exokernel.abi.pages import OwnPage, offset_of
from libos.image import Image, LoadError, parse
from libos.interface import SONAME
from libos.plan import (
    IMAGES,
    LIBRARY_BASE,
    NATIVE_ENTRY,
    START_BLOCK,
    Attachment,
    Linked,
    Pages,
    Plan,
    Program,
    PythonLibrary,
    link,
    plan,
    swap_sectors,
)
from libos.startup import SHARED_SLOT, RegionKind, StartBlock

WINDOWS: Final = 0x1000_0000
WINDOW_PAGES: Final = 8
_COMPONENT: Final = 1
_FIRST_TABLES: Final = 5
"""Frames that the kernel takes at once for a new environment."""
_READ_WRITE: Final = int(Rights.READ | Rights.WRITE)
_EVERYTHING: Final = int(Rights.READ | Rights.WRITE | Rights.CONTROL)
_SHARED_RIGHTS: Final = int(Rights.READ | Rights.EXECUTE)
_FRAMES_COUNTER: Final = OWN_PAGE + offset_of(OwnPage, "events") + 8 * Event.FRAMES


class Loader:
    """Loads programs; keeps the frames of shared text for as long as its environment lives."""

    def __init__(self, exo: Exo) -> None:
        self._exo = exo
        self._images: dict[tuple[int, int], Image] = {}
        self._bases: dict[str, int] = {}
        self._next_base = IMAGES
        self._shared: dict[tuple[str, int], int] = {}
        self._frames: list[int] = []
        self._forged = False
        self._opened: set[int] = set()
        self._waiting: dict[int, tuple[int, int, int]] = {}
        """Where each program that is loaded and not started begins: rip, rsp, argument."""

    async def load(self, program: Program) -> int:
        """Make an environment, bring the program into it and start it; gives its number.

        Raises LoadError for what is wrong with the images, and if memory or swap space does not suffice.
        """
        environment = await self.bring_in(program)
        await self.start(environment)
        return environment

    async def start(self, environment: int) -> None:
        """Start a program that has been brought in."""
        await self._exo.start(environment, *self._waiting.pop(environment))

    async def bring_in(self, program: Program) -> int:
        """As `load`, but the program waits for `start`, so that several can begin together."""
        await self._prepare()
        application, libraries = await self._closure(program)
        linked = link(application, libraries, self._base)
        planned = plan(program, linked)
        entry = linked.address_of(NATIVE_ENTRY)
        if program.python_library is None and entry is None:
            given = program.libraries[SONAME].name if SONAME in program.libraries else "what was given"
            raise LoadError(f"{given} is no native library OS: it does not define {NATIVE_ENTRY}; name one that does.")
        environment = 0
        try:
            environment = await self.make_environment(ANY if program.quota is None else program.quota)
            await self._bring_in(environment, program, linked, planned, entry or 0)
        except Refused as refused:
            if environment:
                with suppress(Refused):
                    await self._exo.destroy(environment)
            raise LoadError(f"{program.name} could not be started: {refused}.") from refused
        return environment

    # Images.

    async def _closure(self, program: Program) -> tuple[Image, list[Image]]:
        """The program's image and its libraries: those it needs, those they need, then the parts named beside them."""
        application = await self._image(program.image)
        libraries: dict[str, Image] = {}
        waiting = [(application.name, soname) for soname in application.needed]
        waiting += [("", soname) for soname in program.libraries]
        while waiting:
            user, soname = waiting.pop(0)
            if soname in libraries:
                continue
            if soname not in program.libraries:
                raise LoadError(f"{user} needs the library {soname}, which was not given; name a library OS that has it.")
            image = libraries[soname] = await self._image(program.libraries[soname])
            if image.soname != soname:
                raise LoadError(
                    f"{image.name} calls itself {image.soname or 'nothing'} and not {soname}; link it with "
                    f"-soname {soname}."
                )
            waiting += [(image.name, needed) for needed in image.needed]
        if not application.entry:
            raise LoadError(f"{application.name} has no entry; link it with one.")
        return application, list(libraries.values())

    async def _image(self, attachment: Attachment) -> Image:
        key = attachment.sector, attachment.size
        if key not in self._images:
            self._images[key] = parse(attachment.name, await self.read(attachment.sector, attachment.size))
        return self._images[key]

    def _base(self, library: Image) -> int:
        if library.digest not in self._bases:
            self._bases[library.digest] = self._next_base
            self._next_base += library.end + PAGE_SIZE
        return self._bases[library.digest]

    # Frames and sectors.

    async def _prepare(self) -> None:
        """Forge the capability and map the windows, once."""
        if self._forged:
            return
        await self._exo.forge_capability(0, _COMPONENT, _SHARED_RIGHTS, SHARED_SLOT)
        while len(self._frames) < WINDOW_PAGES:
            frame = await self._frame_for(SELF)
            await self._map(WINDOWS + len(self._frames) * PAGE_SIZE, frame, _READ_WRITE, SELF)
            self._frames.append(frame)
        self._forged = True

    async def _wait_for_frames(self, refused: Refused, seen: int) -> None:
        if refused.error is not Error.NO_FRAME:
            raise refused
        await self._exo.block(Event.FRAMES, seen, FOREVER)

    async def _frames_seen(self) -> int:
        return int.from_bytes(await self._exo.read(_FRAMES_COUNTER, 8), "little")

    async def _frame_for(self, environment: int) -> int:
        """A frame that `environment` holds; waits until there is one."""
        while True:
            seen = await self._frames_seen()
            try:
                return await self._exo.alloc_page(ANY, environment)
            except Refused as refused:
                await self._wait_for_frames(refused, seen)

    async def _reserved_frame_for(self, environment: int) -> int:
        """The same, but one that is never taken by force."""
        while True:
            frame = await self._frame_for(environment)
            try:
                await self._exo.reserve_page(frame, 1, environment)
                return frame
            except Refused as refused:
                if refused.error not in (Error.DENIED, Error.NO_SUCH_FRAME):
                    raise

    async def _map(self, va: int, frame: int, rights: int, environment: int) -> None:
        while True:
            seen = await self._frames_seen()
            try:
                await self._exo.create_mapping(va, frame, rights, environment)
                return
            except Refused as refused:
                await self._wait_for_frames(refused, seen)

    async def make_environment(self, quota: int = ANY) -> int:
        """A new environment.  Its first page tables must be free at once, so for want of them they are collected one by
        one, which makes the kernel ask for them, and let go.  Raises Refused for any other reason."""
        while True:
            try:
                return await self._exo.create_environment(quota)
            except Refused as refused:
                if refused.error is not Error.NO_FRAME:
                    raise
            frames = [await self._frame_for(SELF) for _ in range(_FIRST_TABLES)]
            for frame in frames:
                await self._exo.dealloc_page(frame)

    async def read(self, sector: int, size: int) -> bytes:
        """The first `size` bytes from `sector` on, by way of the windows."""
        await self._prepare()
        parts = []
        for begin in range(0, size, WINDOW_PAGES * PAGE_SIZE):
            pages = range(begin, min(size, begin + WINDOW_PAGES * PAGE_SIZE), PAGE_SIZE)
            requests = []
            for frame, page in zip(self._frames, pages, strict=False):
                sectors = min(SECTORS_PER_PAGE, -(-(size - page) // SECTOR_SIZE))
                requests.append(await self._exo.read_sectors(sector + page // SECTOR_SIZE, sectors, frame))
            for request in requests:
                await self._exo.block(Event.DISK, request, FOREVER)
            parts.append(await self._exo.read(WINDOWS, len(pages) * PAGE_SIZE))
        return b"".join(parts)[:size]

    async def _write(self, pages: Sequence[tuple[int, bytes]]) -> None:
        """Write pages, given with the sectors where they belong."""
        for begin in range(0, len(pages), WINDOW_PAGES):
            requests = []
            for index, (sector, contents) in enumerate(pages[begin : begin + WINDOW_PAGES]):
                await self._exo.write(WINDOWS + index * PAGE_SIZE, contents)
                requests.append(await self._exo.write_sectors(sector, SECTORS_PER_PAGE, self._frames[index]))
            for request in requests:
                await self._exo.block(Event.DISK, request, FOREVER)

    async def _shared_frame(self, digest: str, offset: int, contents: bytes) -> int:
        """The one frame of a page of an image that all programs share, filled when first needed."""
        key = digest, offset
        if key not in self._shared:
            frame = await self._frame_for(SELF)
            await self._fill(frame, contents)
            await self._exo.set_access(Subject.FRAME, frame, 0, SHARED_SLOT, _SHARED_RIGHTS)
            self._shared[key] = frame
        return self._shared[key]

    async def _fill(self, frame: int, contents: bytes) -> None:
        window = WINDOWS + WINDOW_PAGES * PAGE_SIZE
        await self._map(window, frame, _READ_WRITE, SELF)
        await self._exo.write(window, contents)
        await self._exo.remove_mapping(window)

    # Environments.

    async def _bring_in(self, environment: int, program: Program, linked: Linked, planned: Plan, entry: int) -> None:
        start = planned.start
        await self._exo.give_capability(environment, SHARED_SLOT, _SHARED_RIGHTS, SHARED_SLOT)
        for file in program.files:
            if file.size and file.sector not in self._opened:
                await self._exo.set_access(Subject.EXTENT, file.sector, 0, SHARED_SLOT, int(Rights.READ))
                self._opened.add(file.sector)
        for placed in linked.images:
            for region in start.regions:
                if region.kind is RegionKind.SHARED and placed.base <= region.va < placed.end:
                    for va in range(region.va, region.end, PAGE_SIZE):
                        contents = bytes(planned.shared.get(va, bytes(PAGE_SIZE)))
                        frame = await self._shared_frame(placed.image.digest, va - placed.base, contents)
                        await self._map(va, frame, region.rights, environment)
        start = await self._swap(environment, start, planned.swapped)
        if program.python_library is None:
            planned.private[START_BLOCK] = bytearray(self._packed(start))
            for va in _private_pages(start):
                await self._give_private(environment, va, bytes(planned.private.get(va, b"")))
            self._waiting[environment] = entry, start.library_stack + start.library_stack_size, START_BLOCK
        else:
            await self._begin_python(environment, program.python_library, start)

    async def _begin_python(self, environment: int, library: PythonLibrary, start: StartBlock) -> None:
        library.attach(start)
        await self._exo.set_library(environment, library)
        self._waiting[environment] = start.entry, start.stack_top, start.arguments

    async def _give_private(self, environment: int, va: int, contents: bytes) -> None:
        frame = await self._reserved_frame_for(environment)
        if contents:
            await self._fill(frame, contents)
        await self._map(va, frame, _READ_WRITE, environment)

    def _packed(self, start: StartBlock) -> bytes:
        try:
            return start.packed()
        except ValueError as error:
            raise LoadError(f"{error} Give the program fewer files.") from None

    async def _swap(self, environment: int, start: StartBlock, contents: Pages) -> StartBlock:
        """Make the program's swap extent and write to it what its pages begin with; gives the start block that says
        where."""
        count = swap_sectors(start)
        try:
            sector = await self._exo.alloc_sectors(count)
        except Refused as refused:
            if refused.error is not Error.NO_SECTORS:
                raise
            await self._exo.destroy(environment)
            raise LoadError(
                f"The disk has no {count} free sectors in a row for swapping {start.argument_values[0]}; give the "
                "machine a larger disk, or the program a smaller heap."
            ) from None
        try:
            start = start.at_swap(sector)
            await self._write([(start.slot_of(page), data) for page, data in _swapped_pages(start, contents)])
            await self._exo.share_sectors(sector, environment, Sharing.HOLD, _EVERYTHING)
        finally:
            await self._exo.free_sectors(sector)
        return start


def _swapped_pages(start: StartBlock, contents: Pages) -> Iterator[tuple[int, bytes]]:
    for region in start.regions:
        if region.kind is RegionKind.DATA:
            for index in range(region.pages):
                yield region.first_page + index, bytes(contents.get(region.va + index * PAGE_SIZE, bytes(PAGE_SIZE)))


def _private_pages(start: StartBlock) -> Iterator[int]:
    for region in start.regions:
        if region.kind is RegionKind.PRIVATE:
            assert region.va >= LIBRARY_BASE
            yield from range(region.va, region.end, PAGE_SIZE)
