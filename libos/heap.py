"""The heap of a program over a Python library OS: which addresses are free, with nothing of it in the program's memory.

A native heap keeps headers between the blocks, which a program that writes beyond a block destroys and which are paged
with it.  Here they are Python's.  Free runs are kept in the order of their addresses, joined with their neighbours, and
the first that is long enough is cut (first fit: Knuth, The Art of Computer Programming 1, section 2.5).
"""

from bisect import bisect_left
from collections.abc import Callable
from typing import Final, Self

ALIGNMENT: Final = 16
AREA: Final = 64 << 10
"""The heap grows by at least so many bytes."""


class Heap:
    """`grow` gives the address of so many new bytes, or None if there are no more."""

    def __init__(self, grow: Callable[[int], int | None]) -> None:
        self._grow = grow
        self._begins: list[int] = []
        self._sizes: list[int] = []
        self._used: dict[int, int] = {}

    def copy(self, grow: Callable[[int], int | None]) -> Self:
        """The same blocks at the same addresses, for a child."""
        child = type(self)(grow)
        child._begins, child._sizes, child._used = self._begins.copy(), self._sizes.copy(), self._used.copy()
        return child

    def allocate(self, size: int) -> int | None:
        """The address of `size` bytes, a multiple of 16; None if there is no memory for them."""
        size = max(ALIGNMENT, (size + ALIGNMENT - 1) & -ALIGNMENT)
        place = next((i for i, free in enumerate(self._sizes) if free >= size), None)
        if place is None:
            if not self._extend(size):
                return None
            place = next(i for i, free in enumerate(self._sizes) if free >= size)
        address = self._begins[place]
        if self._sizes[place] == size:
            del self._begins[place], self._sizes[place]
        else:
            self._begins[place] += size
            self._sizes[place] -= size
        self._used[address] = size
        return address

    def free(self, address: int) -> bool:
        """Take a block back; False if there is no block at this address."""
        size = self._used.pop(address, None)
        if size is None:
            return False
        self._insert(address, size)
        return True

    def _extend(self, size: int) -> bool:
        for wanted in dict.fromkeys((max(size, AREA), size)):
            address = self._grow(wanted)
            if address is not None:
                self._insert(address, wanted)
                return True
        return False

    def _insert(self, address: int, size: int) -> None:
        place = bisect_left(self._begins, address)
        if place < len(self._begins) and address + size == self._begins[place]:
            size += self._sizes[place]
            del self._begins[place], self._sizes[place]
        if place > 0 and self._begins[place - 1] + self._sizes[place - 1] == address:
            self._sizes[place - 1] += size
        else:
            self._begins.insert(place, address)
            self._sizes.insert(place, size)
