"""The file of `--record-references`: the page changes of one program, as `exo replay` reads them.

Only pages that a pager brings in and moves out are written down: those of the program below `PROGRAM_END`, without its
text and constants, which are lent to it for as long as it runs.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from exokernel.abi.layout import PAGE_SHIFT
from exokernel.machine.cpu import FastCpu
from exokernel.observe.output import Output
from libos.image import Image
from libos.plan import APPLICATION_BASE
from libos.replay import HEADER

PROGRAM_END = 0x1_0000_0000
"""Libraries lie from here on."""


def lent_pages(image: Image) -> frozenset[int]:
    """The numbers of the pages of an application that its library OS does not page."""
    base = APPLICATION_BASE if image.movable else 0
    runs = ((base + one.first_page, base + one.end_page) for one in image.segments if not one.writable)
    return frozenset(page for begin, end in runs for page in range(begin >> PAGE_SHIFT, end >> PAGE_SHIFT))


class ReferenceFile:
    """Writes one file.  `lent` are the pages to leave out.  Raises OutputError from every method."""

    def __init__(self, path: Path, images: Mapping[str, str], lent: Iterable[int]) -> None:
        self._file = Output(path)
        self._lent = frozenset(lent)
        self._last = -1
        self._file.write(f"{HEADER}\n")
        for name, digest in sorted(images.items()):
            self._file.write(f"# image {name} {digest}\n")

    def add(self, cpu: FastCpu) -> None:
        """Write what the CPU has recorded since the last time: each word is a page number with the bit for writing."""
        lines, last, lent = [], self._last, self._lent
        for word in memoryview(cpu.drain_references()).cast("Q"):
            if word >> 1 not in lent and word != last and word | 1 != last:
                lines.append(f"{word >> 1:x} {'w' if word & 1 else 'r'}\n")
                last = word
        self._last = last
        self._file.write("".join(lines))

    def close(self) -> None:
        """End the file."""
        self._file.close()
