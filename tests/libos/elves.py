"""Small ELF images made to measure, for tests that break them."""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

LOAD, DYNAMIC, INTERP, TLS = 1, 2, 3, 7
READ, WRITE, EXECUTE = 4, 2, 1
BASE = 0x40_0000


@dataclass
class Segment:
    """A program header with its bytes; `offset` and sizes follow from them unless they are given."""

    va: int
    contents: bytes = b""
    flags: int = READ
    kind: int = LOAD
    size: int | None = None
    offset: int | None = None
    stored: int | None = None


@dataclass
class Elf:
    """An executable; every field of the header can be something else than it should be."""

    segments: Sequence[Segment] = field(default_factory=lambda: [Segment(BASE + 0x1000, b"\xc3", READ | EXECUTE)])
    entry: int = BASE + 0x1000
    type: int = 2
    machine: int = 62
    kind: bytes = b"\x02\x01\x01"
    header_size: int = 56
    count: int | None = None

    def build(self) -> bytes:
        headers, body = b"", b""
        start = 0x1000
        for segment in self.segments:
            offset = start + len(body) + (segment.va - start - len(body)) % 0x1000
            if segment.contents:
                body = body.ljust(offset - start, b"\0") + segment.contents
            stored = len(segment.contents) if segment.stored is None else segment.stored
            size = max(len(segment.contents), 1) if segment.size is None else segment.size
            headers += struct.pack(
                "<IIQQQQQQ",
                segment.kind,
                segment.flags,
                offset if segment.offset is None else segment.offset,
                segment.va & (1 << 64) - 1,
                0,
                stored,
                size,
                0x1000,
            )
        count = len(self.segments) if self.count is None else self.count
        header = (
            b"\x7fELF"
            + self.kind.ljust(12, b"\0")
            + struct.pack(
                "<HHIQQQIHHHHHH", self.type, self.machine, 1, self.entry, 64, 0, 0, 64, self.header_size, count, 0, 0, 0
            )
        )
        return (header + headers).ljust(start, b"\0") + body


def dynamic(*rows: tuple[int, int]) -> bytes:
    """A dynamic section of (tag, value) rows."""
    return b"".join(struct.pack("<QQ", tag, value) for tag, value in [*rows, (0, 0)])


def relocation(offset: int, kind: int, symbol: int = 0, addend: int = 0) -> bytes:
    return struct.pack("<QIIq", offset, kind, symbol, addend)
