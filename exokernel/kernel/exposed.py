"""The exposed pages: the kernel keeps them true as it goes; it never reads a decision out of the shared ones.

Offsets are taken from the construct declarations in `exokernel.abi.pages`, so the two cannot differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from exokernel.abi import pages
from exokernel.abi.flags import ANY
from exokernel.abi.layout import MAXIMUM_ENVIRONMENTS, PAGE_SHIFT, PAGE_SIZE, SLICES
from exokernel.machine.memory import PhysicalMemory

if TYPE_CHECKING:
    from exokernel.kernel.environment import Environment
    from exokernel.kernel.frames import Frame
    from exokernel.kernel.requests import Request


def _word(structure: Any, field: str) -> int:
    return pages.offset_of(structure, field) >> 3


CLOCK = _word(pages.MachinePage, "clock")
FREE_FRAMES = _word(pages.MachinePage, "free_frames")
ENVIRONMENTS = _word(pages.MachinePage, "environments")
DISK_REQUESTS = _word(pages.MachinePage, "disk_requests")
CRITICAL = _word(pages.OwnPage, "contexts") + _word(pages.OwnContext, "critical")
"""This and the next two of context 0; those of context n lie n times CONTEXT_WORDS further."""
ACTIVE = _word(pages.OwnPage, "contexts") + _word(pages.OwnContext, "active")
CPU_WANTED = _word(pages.OwnPage, "contexts") + _word(pages.OwnContext, "cpu_wanted")
CONTEXT_WORDS: int = pages.OwnContext.sizeof() >> 3
FRAMES_WANTED = _word(pages.OwnPage, "frames_wanted")
WANTED_FRAME = _word(pages.OwnPage, "wanted_frame")
NUMBER = _word(pages.OwnPage, "environment")
HELD = _word(pages.OwnPage, "held")
TABLE_FRAMES = _word(pages.OwnPage, "table_frames")
QUOTA = _word(pages.OwnPage, "quota")
EVICTIONS = _word(pages.OwnPage, "evictions")
SWAP_IN = _word(pages.OwnPage, "swap_in")
SWAP_OUT = _word(pages.OwnPage, "swap_out")
RESERVED = _word(pages.OwnPage, "reserved")
TAKEN_TOTAL = _word(pages.OwnPage, "taken_total")
EVENTS = _word(pages.OwnPage, "events")
TAKEN = _word(pages.OwnPage, "taken")
TAKEN_WORDS: int = pages.TakenRecord.sizeof() >> 3
ROW: int = pages.EnvironmentRow.sizeof()
CYCLES = 3
"""The word of a row in which a slice's end writes the cycles used."""
ONE_HOLDER = 1 << pages.FRAME_HOLDERS_SHIFT
QUEUE_ROW_WORDS: int = pages.DiskQueueRow.sizeof() >> 3
ENVIRONMENT_PAGES = MAXIMUM_ENVIRONMENTS * ROW // PAGE_SIZE


class ExposedPages:
    """Writes the exposed pages.  `first` is the first of `frames_needed` consecutive machine frames given to them: the
    machine page, the disk queue, the slice table, the environment table, the frame table."""

    def __init__(self, memory: PhysicalMemory, first: int) -> None:
        self._words = memory.words
        self.machine_frame = first
        self.queue_frame = first + 1
        self.slice_frame = first + 2
        self.environment_frames = range(first + 3, first + 3 + ENVIRONMENT_PAGES)
        table = first + 3 + ENVIRONMENT_PAGES
        self.frame_table_frames = range(table, table + self.frame_table_pages(memory.frames))
        self.machine = first << PAGE_SHIFT >> 3
        queue = self.queue_frame << PAGE_SHIFT >> 3
        self._free_rows = [queue + row * QUEUE_ROW_WORDS for row in reversed(range(pages.DISK_QUEUE_ENTRIES))]
        """Of the disk queue, as indices of the memory's words."""
        self._environments = self.environment_frames.start << PAGE_SHIFT >> 3
        self._frames = table << PAGE_SHIFT >> 3
        self._free = 0
        self._living = 0

    @staticmethod
    def frame_table_pages(frames: int) -> int:
        """Pages that the frame table takes for so many frames."""
        return -(-frames * 8 // PAGE_SIZE)

    @classmethod
    def frames_needed(cls, frames: int) -> int:
        """Machine frames for all the pages together."""
        return 3 + ENVIRONMENT_PAGES + cls.frame_table_pages(frames)

    def switch_on(self, frames: int, first_free: int, sectors: int, cpus: int, quantum: int) -> None:
        """Fill in what never changes, and mark the machine's frames."""
        header = pages.MachinePage.build(
            {
                "magic": pages.MAGIC,
                "version": pages.VERSION,
                "clock": 0,
                "frames": frames,
                "free_frames": frames - first_free,
                "sectors": sectors,
                "environments": 0,
                "disk_requests": 0,
                "cpus": cpus,
                "quantum": quantum,
            }
        )
        for index in range(len(header) // 8):
            self._words[self.machine + index] = int.from_bytes(header[8 * index : 8 * index + 8], "little")
        self._free = frames - first_free
        for number in range(first_free):
            self._words[self._frames + number] = pages.MACHINE_FRAME

    @property
    def clock_word(self) -> int:
        """Where the virtual time is kept, as an index of the memory's words; the loop writes it itself."""
        return self.machine + CLOCK

    def frame(self, frame: Frame) -> None:
        """A frame in use has changed hands or flags."""
        word = self._frames + frame.number
        if self._words[word] == 0:
            self._free -= 1
            self._words[self.machine + FREE_FRAMES] = self._free
        holders, value = frame.holders, 0
        if holders:
            value = holders[0].number | min(len(holders), 255) << pages.FRAME_HOLDERS_SHIFT
        if frame.table:
            value |= pages.FRAME_TABLE_FLAG
        elif frame.lost:
            value |= pages.FRAME_LOST_FLAG
        if frame.io:
            value |= pages.FRAME_IO_FLAG
        if frame.reserved:
            value |= pages.FRAME_RESERVED_FLAG
        self._words[word] = value

    def frame_io(self, frame: Frame) -> None:
        """The disk has begun or ended to use a frame."""
        word = self._frames + frame.number
        value = self._words[word] & ~pages.FRAME_IO_FLAG
        self._words[word] = value | pages.FRAME_IO_FLAG if frame.io else value

    def given(self, environment: Environment, number: int) -> None:
        """A free frame is an environment's now, and nobody else's."""
        words = self._words
        words[self._frames + number] = environment.number | ONE_HOLDER
        self._free -= 1
        words[self.machine + FREE_FRAMES] = self._free
        held = len(environment.held)
        words[(environment.own >> 3) + HELD] = held
        row = environment.row
        words[row + 1] = environment.parent | held << 32

    def free(self, number: int) -> None:
        """A frame has become free."""
        self._words[self._frames + number] = 0
        self._free += 1
        self._words[self.machine + FREE_FRAMES] = self._free

    def charged(self, environment: Environment) -> None:
        """An environment holds more or less than before."""
        own, words = environment.own >> 3, self._words
        held, tables = len(environment.held), len(environment.tables)
        words[own + HELD] = held
        words[own + TABLE_FRAMES] = tables
        words[own + RESERVED] = len(environment.reserved)
        row = environment.row
        words[row + 1] = environment.parent | held << 32
        words[row + 2] = tables | environment.quota << 32

    def environment(self, environment: Environment) -> None:
        """An environment has begun, ended, or has another quota."""
        own, words = environment.own >> 3, self._words
        words[own + NUMBER] = environment.number
        words[own + QUOTA] = environment.quota
        row = environment.row = self._environments + ((environment.number & (MAXIMUM_ENVIRONMENTS - 1)) * ROW >> 3)
        words[row] = environment.number | environment.state << 32
        words[row + CYCLES] = environment.accounts.cycles
        self.charged(environment)

    def new_context(self, environment: Environment, number: int) -> None:
        """A context begins: nothing of one that had its number before is left in the own page."""
        at = (environment.own >> 3) + CRITICAL + CONTEXT_WORDS * number
        for index in range(CONTEXT_WORDS):
            self._words[at + index] = 0

    def slice(self, processor: int, position: int, owner: int) -> None:
        """A slice has another owner, 0 for none."""
        index = processor * SLICES + position
        word, shift = (self.slice_frame << PAGE_SHIFT >> 3) + index // 2, 32 * (index % 2)
        self._words[word] = self._words[word] & ~(0xFFFF_FFFF << shift) | owner << shift

    def living(self, count: int) -> None:
        """How many environments there are."""
        self._words[self.machine + ENVIRONMENTS] = count

    def disk_request(self, request: Request) -> None:
        """A disk request has been made: it has a row of its own until it ends, unless all are taken."""
        words = self._words
        words[self.machine + DISK_REQUESTS] += 1
        if self._free_rows:
            at = request.row = self._free_rows.pop()
            words[at] = request.environment.number | (request.number & 0xFFFF_FFFF) << 32
            words[at + 1] = request.sector
            words[at + 2] = request.count | request.write << 32
            words[at + 3] = request.frame.number if request.frame is not None else ANY

    def disk_request_ended(self, request: Request) -> None:
        """A disk request has ended; its row is free."""
        self._words[self.machine + DISK_REQUESTS] -= 1
        if request.row is not None:
            self._words[request.row] = 0
            self._free_rows.append(request.row)

    def own_word(self, environment: Environment, index: int) -> int:
        """A word of an environment's own page: `index` is one of the constants of this module."""
        word: int = self._words[(environment.own >> 3) + index]
        return word

    def set_own_word(self, environment: Environment, index: int, value: int) -> None:
        """Store a word in an environment's own page."""
        self._words[(environment.own >> 3) + index] = value

    def event(self, environment: Environment, event: int) -> None:
        """An event has been counted."""
        self._words[(environment.own >> 3) + EVENTS + event] = environment.events[event]

    def library_counts(self, environment: Environment) -> None:
        """Copy what the library counted in its own page into the accounts; nothing is decided by it."""
        accounts = environment.accounts
        accounts.evictions = self.own_word(environment, EVICTIONS)
        accounts.swap_in = self.own_word(environment, SWAP_IN)
        accounts.swap_out = self.own_word(environment, SWAP_OUT)

    def taken(self, environment: Environment, frame: int, va: int, sector: int, state: int) -> None:
        """Append a record of a page taken by force."""
        at = (environment.own >> 3) + TAKEN + environment.taken_total % pages.TAKEN_RECORDS * TAKEN_WORDS
        for offset, value in enumerate((frame, va, sector, state)):
            self._words[at + offset] = value
        environment.taken_total += 1
        self.set_own_word(environment, TAKEN_TOTAL, environment.taken_total)
