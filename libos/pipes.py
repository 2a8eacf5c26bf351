"""Pipes: bytes from one environment to another through a ring in a shared page, without a copy in the kernel.

The writer counts the bytes it has put in, the reader those it has taken out; each writes only its own count.  Who must
wait gives the rest of its slice to an environment that has the other end, which is all it takes when two take turns; if
that was no use it waits for a predicate: the other's count has changed, or the other has closed its end or has died,
which the exposed environment table tells.

The environment that made a pipe enters itself and each child it forks as a member, with the ends the child begins with; a
member that closes an end strikes it from its own word.  A member that has died has no end any more, and the maker gives
its place away.  Nothing a member may write into the page makes another one touch more than the ring.

    0    bytes put in, ever                  a page that all members map
    8    bytes taken out, ever
    16   four members: the number of an environment, and from bit 32 on the ends it has open
    64   the ring, 4,032 bytes

(Engler, Kaashoek and O'Toole, SOSP 1995, section 7.1, have such a pipe in their library OS.)
"""

from contextlib import suppress
from enum import IntFlag
from typing import Final, Self

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Refused
from exokernel.abi.flags import Compare
from exokernel.abi.layout import ENVIRONMENT_TABLE, MAXIMUM_ENVIRONMENTS, OWN_PAGE, PAGE_SIZE
from exokernel.abi.pages import EnvironmentRow, OwnPage, PredicateTerm, offset_of
from libos.interface import ENDS
from libos.paging import Paging
from libos.shared import PLACES, SharedPages, resident_page

_NUMBER: Final = OWN_PAGE + offset_of(OwnPage, "environment")
_PUT: Final = 0
_TAKEN: Final = 8
_MEMBERS: Final = 16
_PLACES_FOR_MEMBERS: Final = 4
_BYTES: Final = 64
_CAPACITY: Final = PAGE_SIZE - _BYTES
_ROW: Final[int] = EnvironmentRow.sizeof()
_ALIVE: Final = 2
_ENDS_SHIFT: Final = 32
_TERMS: Final = PAGE_SIZE // (2 * PLACES)
"""Bytes for the predicate of one who waits at one end of one pipe."""


class End(IntFlag):
    """The ends of a pipe, as the program names them."""

    READ = ENDS["OS_READ_END"][0]
    WRITE = ENDS["OS_WRITE_END"][0]


BOTH: Final = int(End.READ | End.WRITE)


class Pipes:
    """The pipes of one environment, each in one of its shared pages, by whose place it is known."""

    def __init__(self, exo: Exo, paging: Paging, shared: SharedPages) -> None:
        self._exo = exo
        self._paging = paging
        self._shared = shared
        self._pipes: set[int] = set()
        self._terms = paging.start.window + PAGE_SIZE
        """Where the predicates are put together, on a page of this environment's own."""
        self._has_terms = False

    def copy(self, paging: Paging, shared: SharedPages) -> Self:
        """The same pipes, of a child with this paging and these shared pages."""
        child = type(self)(self._exo, paging, shared)
        child._pipes = self._pipes.copy()
        return child

    async def make(self) -> int:
        """A pipe with both ends open here; -1 if there is no room."""
        pipe = await self._shared.make()
        if pipe is None:
            return -1
        await self._store(self._member(pipe, 0), await self._load(_NUMBER) | BOTH << _ENDS_SHIFT)
        self._pipes.add(pipe)
        return pipe

    async def give(self, child: int) -> bool:
        """Enter a child as a member of the pipes that were made here; False if one has too many already."""
        own = await self._load(_NUMBER)
        for pipe in self._pipes:
            maker = await self._load(self._member(pipe, 0))
            if maker & 0xFFFF_FFFF != own:
                continue
            for index in range(1, _PLACES_FOR_MEMBERS):
                member = await self._load(self._member(pipe, index))
                if not member or not await self._lives(member & 0xFFFF_FFFF):
                    await self._store(self._member(pipe, index), child | maker >> _ENDS_SHIFT << _ENDS_SHIFT)
                    break
            else:
                return False
        return True

    async def read(self, pipe: int, buffer: int, size: int) -> int:
        """Wait for bytes and store up to `size` of them at `buffer`; how many, 0 at the end, -1 if the end is not open."""
        if not await self._is_open_here(pipe, End.READ):
            return -1
        ring = self._shared.address(pipe)
        taken, yielded = await self._load(ring + _TAKEN), False
        while size and await self._load(ring + _PUT) == taken:
            open_somewhere = await self._wait(pipe, ring + _PUT, taken, End.WRITE, yielded)
            if not open_somewhere and await self._load(ring + _PUT) == taken:
                return 0
            yielded = not yielded
        here = await self._load(ring + _PUT) - taken
        if not 0 <= here <= _CAPACITY:
            return -1
        size = min(size, here)
        done = 0
        while done < size:
            at = (taken + done) % _CAPACITY
            part = min(size - done, _CAPACITY - at)
            await self._exo.write(buffer + done, await self._exo.read(ring + _BYTES + at, part))
            done += part
        await self._exo.charge(size // 8)
        await self._store(ring + _TAKEN, taken + size)
        return size

    async def write(self, pipe: int, contents: int, size: int) -> int:
        """Put in `size` bytes at `contents`, waiting for room; how many, -1 if nobody is to read them."""
        if not await self._is_open_here(pipe, End.WRITE) or not await self._others(pipe, End.READ, True):
            return -1
        ring = self._shared.address(pipe)
        put, done, yielded = await self._load(ring + _PUT), 0, False
        while done < size:
            taken, at = await self._load(ring + _TAKEN), put % _CAPACITY
            if not 0 <= put - taken <= _CAPACITY:
                return -1
            part = min(size - done, _CAPACITY - (put - taken), _CAPACITY - at)
            if part:
                await self._exo.write(ring + _BYTES + at, await self._exo.read(contents + done, part))
                await self._exo.charge(part // 8)
                put, done, yielded = put + part, done + part, False
                await self._store(ring + _PUT, put)
            elif not await self._wait(pipe, ring + _TAKEN, taken, End.READ, yielded):
                return -1
            else:
                yielded = not yielded
        return size

    async def close(self, pipe: int, ends: int) -> int:
        """Close ends; 0, or -1 if the pipe is not open here."""
        member = await self._own_member(pipe)
        if member is None or not ends or ends & ~BOTH:
            return -1
        left = await self._load(member) & ~(ends << _ENDS_SHIFT)
        await self._store(member, left if left >> _ENDS_SHIFT else 0)
        if not left >> _ENDS_SHIFT:
            self._pipes.remove(pipe)
            await self._shared.drop(pipe)
        return 0

    # Members.

    def _member(self, pipe: int, index: int) -> int:
        return self._shared.address(pipe) + _MEMBERS + 8 * index

    async def _own_member(self, pipe: int) -> int | None:
        """Where our own entry in the list of members is."""
        if pipe not in self._pipes:
            return None
        own = await self._load(_NUMBER)
        for index in range(_PLACES_FOR_MEMBERS):
            if await self._load(self._member(pipe, index)) & 0xFFFF_FFFF == own:
                return self._member(pipe, index)
        return None

    async def _is_open_here(self, pipe: int, end: End) -> bool:
        member = await self._own_member(pipe)
        return member is not None and bool(await self._load(member) >> _ENDS_SHIFT & end)

    async def _lives(self, environment: int) -> bool:
        return await self._load(_row(environment)) == _alive(environment)

    async def _others(self, pipe: int, end: End, with_us: bool = False) -> dict[int, int]:
        """The living members that have `end` open, by the addresses of their words."""
        own, found = await self._load(_NUMBER), {}
        for index in range(_PLACES_FOR_MEMBERS):
            at = self._member(pipe, index)
            word = await self._load(at)
            number = word & 0xFFFF_FFFF
            if word >> _ENDS_SHIFT & end and (with_us or number != own) and await self._lives(number):
                found[at] = word
        return found

    # Waiting.

    async def _wait(self, pipe: int, word: int, seen: int, end: End, yielded: bool) -> bool:
        """Let whoever has `end` open do something, by way of a yield or else by waiting until `word` is no longer `seen`
        or something else has changed; False if nobody has it open."""
        if not await self._others(pipe, end, True):
            return False
        others = await self._others(pipe, end)
        if others and not yielded:
            with suppress(Refused):
                await self._exo.yield_(next(iter(others.values())) & 0xFFFF_FFFF)
            return True
        watched = {word: seen} | others
        watched |= {_row(member & 0xFFFF_FFFF): _alive(member & 0xFFFF_FFFF) for member in others.values()}
        terms = b"".join(
            PredicateTerm.build({"tag": tag, "va": va, "compare": Compare.NOT_EQUAL, "value": value})
            for tag, (va, value) in enumerate(watched.items())
        )
        if not self._has_terms:
            self._has_terms = await resident_page(self._exo, self._paging, self._terms) is not None
        if not self._has_terms:
            await self._exo.yield_()
            return True
        at = self._terms + _TERMS * (2 * pipe + (end == End.READ))
        await self._exo.write(at, terms)
        await self._exo.block_until(at, len(watched))
        return True

    # Words.

    async def _load(self, va: int) -> int:
        return int.from_bytes(await self._exo.read(va, 8), "little")

    async def _store(self, va: int, word: int) -> None:
        await self._exo.write(va, (word & (1 << 64) - 1).to_bytes(8, "little"))


def _row(environment: int) -> int:
    """Where the first word of an environment's row is: its number and its state."""
    return ENVIRONMENT_TABLE + environment % MAXIMUM_ENVIRONMENTS * _ROW


def _alive(environment: int) -> int:
    return _ALIVE << 32 | environment
