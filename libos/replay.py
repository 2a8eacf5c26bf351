"""Replays a trace of page references with a replacement strategy, without a machine.

A trace is a text file. Its first line is `# exo references 1`, further lines that begin with `#` are comments, and
every other line is a page change: the page number in hexadecimal and `r` or `w`. A file without that first line may
hold plain page numbers, one a line, decimal or with `0x` hexadecimal; all are reads.

    # exo references 1
    # image 5e88…
    1a3 w
    1a4 r
"""

import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from libos.replacement import ReferenceStrategy, Strategy, strategy_named

HEADER = "# exo references 1"

_CHUNK = 1 << 20
_MANY_GOOD_LINES = re.compile(rb"(?:[0-9a-fA-F]{1,16} [rw]\n)*+")
_GOOD_LINE = re.compile(rb"([0-9a-fA-F]{1,16})\s+([rw])")
_PLAIN_LINE = re.compile(rb"0[xX]([0-9a-fA-F]{1,16})|([0-9]{1,19})")
_READ, _WRITE = ord("r"), ord("w")


class TraceError(ValueError):
    """A trace that cannot be used: one sentence that says where, what is wrong, and what to do."""


@dataclass(frozen=True)
class Trace:
    """Page references in order; `writes` has a 1 for each that writes and a 0 for each that reads."""

    pages: Sequence[int]
    writes: bytes
    comments: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.pages)


@dataclass(frozen=True)
class ReplayResult:
    """What a replay counted, each figure a number of events.

    A miss is cold if its page was never referenced before; no strategy avoids those. An eviction is dirty if the page
    would have had to be written first. `cleaned` counts writes a strategy asked for ahead of eviction.
    """

    policy: str
    frames: int
    references: int
    misses: int
    cold: int
    evictions: int
    dirty_evictions: int
    cleaned: int

    @property
    def hits(self) -> int:
        """References that found their page resident."""
        return self.references - self.misses

    @property
    def miss_ratio(self) -> float:
        """Misses for each reference."""
        return self.misses / self.references if self.references else 0.0


def read_trace(path: str | Path) -> Trace:
    """The trace in the file `path`.

    Raises TraceError if the file cannot be read, is not a trace, or holds no reference.
    """
    try:
        return _read(Path(path))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror}); give the name of a trace file.") from error


def _read(path: Path) -> Trace:
    pages, modes = array("Q"), bytearray()
    comments: list[str] = []
    with path.open("rb") as file:
        first = file.readline().strip()
        if first == HEADER.encode():
            number = 2
        elif first.startswith(b"# exo references"):
            raise TraceError(
                f"{path}, line 1: '{_shown(first)}' is a trace format this version does not know; "
                f"record the trace again, or make the line '{HEADER}'."
            )
        else:
            file.seek(0)
            number = 1
        with_header = number == 2
        while chunk := file.read(_CHUNK) + file.readline():
            if with_header and _MANY_GOOD_LINES.fullmatch(chunk):
                words = chunk.split()
                pages.extend([int(word, 16) for word in words[::2]])
                modes += b"".join(words[1::2])
            else:
                for offset, line in enumerate(chunk.split(b"\n")):
                    line = line.strip()
                    if line.startswith(b"#"):
                        comments.append(_shown(line[1:].strip()))
                    elif line:
                        page, mode = _parse(line, with_header, path, number + offset)
                        pages.append(page)
                        modes.append(mode)
            number += chunk.count(b"\n")
    if not pages:
        raise TraceError(f"{path}: holds no references; record a trace, or write one page number a line.")
    return Trace(pages, bytes(modes.translate(_WRITES)), tuple(comments))


_WRITES = bytes(1 if mode == _WRITE else 0 for mode in range(256))


def _parse(line: bytes, with_header: bool, path: Path, number: int) -> tuple[int, int]:
    if with_header:
        if good := _GOOD_LINE.fullmatch(line):
            return int(good[1], 16), good[2][0]
        raise TraceError(
            f"{path}, line {number}: '{_shown(line)}' is not a reference; "
            "write a hexadecimal page number without 0x and r or w, such as '1a3 w'."
        )
    if plain := _PLAIN_LINE.fullmatch(line):
        return int(plain[1], 16) if plain[1] else int(plain[2]), _READ
    advice = "write one page number a line, decimal or with 0x hexadecimal"
    if _GOOD_LINE.fullmatch(line):
        advice = f"make '{HEADER}' the first line of the file"
    raise TraceError(f"{path}, line {number}: '{_shown(line)}' is not a page number; {advice}.")


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "backslashreplace")
    return text if len(text) <= 200 else text[:200] + "…"


class _RecordedBits:
    """The accessed and dirty bits the references so far would have left in a page table."""

    def __init__(self) -> None:
        self.now = 0
        self.accessed_pages: set[int] = set()
        self.dirty_pages: set[int] = set()
        self.being_written: set[int] = set()

    def accessed(self, page: int) -> bool:
        return page in self.accessed_pages

    def dirty(self, page: int) -> bool:
        return page in self.dirty_pages

    def clear_accessed(self, page: int) -> None:
        self.accessed_pages.discard(page)

    def schedule_write(self, page: int) -> None:
        self.being_written.add(page)

    def forget(self, page: int) -> None:
        self.accessed_pages.discard(page)
        self.dirty_pages.discard(page)
        self.being_written.discard(page)

    def end_writes(self) -> int:
        """Let the scheduled writes end, and give their number."""
        ended = len(self.being_written)
        self.dirty_pages -= self.being_written
        self.being_written.clear()
        return ended


class _Replay:
    """One replay under way: what is resident, and what was counted so far."""

    def __init__(self, strategy: Strategy, frames: int) -> None:
        self.strategy = strategy
        self.frames = frames
        self.bits = _RecordedBits()
        self.resident: set[int] = set()
        self.seen: set[int] = set()
        self.misses = 0
        self.evictions = 0
        self.dirty_evictions = 0
        self.cleaned = 0

    def make_room(self, index: int) -> None:
        """Evict until there is room for one page."""
        while len(self.resident) >= self.frames:
            self.bits.now = index
            page = self.strategy.victim(self.bits)
            # KeyError here means that the strategy named a page that is not resident.
            self.resident.remove(page)
            self.evictions += 1
            self.dirty_evictions += self.bits.dirty(page)
            self.bits.forget(page)
            self.strategy.forget(page)
            self.cleaned += self.bits.end_writes()

    def admit(self, page: int) -> None:
        self.misses += 1
        self.seen.add(page)
        self.resident.add(page)
        self.strategy.admit(page)

    def by_faults(self, references: Iterator[tuple[int, int]], accessed_on_admission: bool) -> None:
        """Let the strategy see what a live pager sees."""
        strategy, bits, resident = self.strategy, self.bits, self.resident
        accessed, dirty = bits.accessed_pages, bits.dirty_pages
        interval = strategy.sample_every
        next_sample = interval
        for index, (page, write) in enumerate(references):
            if index == next_sample and interval is not None:
                bits.now = index
                strategy.sample(bits)
                self.cleaned += bits.end_writes()
                next_sample = index + interval
            if page in resident:
                accessed.add(page)
            else:
                self.make_room(index)
                self.admit(page)
                if accessed_on_admission:
                    accessed.add(page)
            if write:
                dirty.add(page)

    def by_references(self, strategy: ReferenceStrategy, references: Iterator[tuple[int, int]]) -> None:
        """Let the strategy see every reference."""
        dirty, resident = self.bits.dirty_pages, self.resident
        for index, (page, write) in enumerate(references):
            if page in resident:
                strategy.referenced(page)
            else:
                strategy.missed(page)
                self.make_room(index)
                self.admit(page)
            if write:
                dirty.add(page)


def replay(
    trace: Trace | Sequence[int], strategy: Strategy, frames: int, *, accessed_on_admission: bool = True
) -> ReplayResult:
    """Replay `trace` in `frames` page frames with a fresh `strategy`; a bare sequence of pages is all reads.

    A strategy that works from faults sees accessed and dirty bits such as hardware would leave, and a tick after every
    `sample_every` references; writes it schedules end at once after the call. `accessed_on_admission` False leaves the
    accessed bit of a page clear until the reference after the one that missed, as simulators commonly have it; on
    hardware the access that faulted is repeated and sets it. Raises ValueError for fewer than 1 frame.
    """
    if frames < 1:
        raise ValueError(f"A replay needs at least 1 frame, not {frames}; choose a larger number of frames.")
    if not isinstance(trace, Trace):
        trace = Trace(trace, bytes(len(trace)))
    run = _Replay(strategy, frames)
    references = iter(zip(trace.pages, trace.writes, strict=True))
    if isinstance(strategy, ReferenceStrategy):
        run.by_references(strategy, references)
    else:
        run.by_faults(references, accessed_on_admission)
    return ReplayResult(
        policy=strategy.name,
        frames=frames,
        references=len(trace),
        misses=run.misses,
        cold=len(run.seen),
        evictions=run.evictions,
        dirty_evictions=run.dirty_evictions,
        cleaned=run.cleaned,
    )


def replay_named(trace: Trace | Sequence[int], name: str, frames: int, seed: int = 0) -> ReplayResult:
    """Replay `trace` with the strategy called `name`, its times in references (see `Strategy.for_trace`).

    Raises UnknownName if there is none, ValueError for fewer than 1 frame.
    """
    pages = trace.pages if isinstance(trace, Trace) else trace
    return replay(trace, strategy_named(name).for_trace(pages, frames, seed), frames)
