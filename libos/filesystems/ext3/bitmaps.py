"""A bitmap of blocks or inodes as one number, on which finding a run of clear bits takes a few operations."""

from typing import Final

_WHOLE_BYTE: Final = 8
"""A new place is preferably one with this many clear bits in a row."""


class Bitmap:
    """`length` bits that can be given away; bit 0 is the lowest bit of the first byte.  What lies behind them in the block
    stays as it is.  `pending` bits are clear but must not be given away yet."""

    __slots__ = ("_behind", "_bytes", "length", "mask", "pending", "value")

    def __init__(self, block: bytes, length: int) -> None:
        whole = int.from_bytes(block, "little")
        self.length = length
        self.mask = (1 << length) - 1
        self.value = whole & self.mask
        self.pending = 0
        self._behind = whole & ~self.mask
        self._bytes = len(block)

    @property
    def clear_bits(self) -> int:
        """How many bits are clear, pending ones too."""
        return self.length - self.value.bit_count()

    def encode(self) -> bytes:
        """The block."""
        return (self.value | self._behind).to_bytes(self._bytes, "little")

    def test(self, bit: int) -> bool:
        """Whether a bit is set."""
        return bool(self.value >> bit & 1)

    def any_clear(self, bit: int, count: int) -> bool:
        """Whether one of `count` bits is clear."""
        field = (1 << count) - 1
        return self.value >> bit & field != field

    def set(self, bit: int, count: int = 1) -> None:
        """Give bits away."""
        self.value |= ((1 << count) - 1) << bit

    def clear(self, bit: int, count: int = 1, pending: bool = False) -> None:
        """Take bits back, which were set."""
        field = ((1 << count) - 1) << bit
        self.value ^= field
        if pending:
            self.pending |= field

    def find(self, start: int) -> int:
        """The first bit from `start` on that can be given away, or -1."""
        free = (~(self.value | self.pending) & self.mask) >> start
        return start + (free & -free).bit_length() - 1 if free else -1

    def find_room(self, start: int) -> int:
        """Where to begin something new, near `start`: at a run of 8 clear bits behind it, else at one before it, else at
        any clear bit; -1 if there is none."""
        free = ~(self.value | self.pending) & self.mask
        runs = free
        for step in (1, 2, 4):
            runs &= runs >> step
        for candidates in (runs, free):
            behind = candidates >> start
            if behind:
                return start + (behind & -behind).bit_length() - 1
            if candidates:
                return (candidates & -candidates).bit_length() - 1
        return -1

    def run(self, bit: int, most: int) -> int:
        """How many bits from `bit` on can be given away, up to `most`."""
        field = (1 << most) - 1
        used = (self.value | self.pending | ~self.mask) >> bit & field
        return (used & -used).bit_length() - 1 if used else most
