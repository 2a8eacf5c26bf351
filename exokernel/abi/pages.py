"""The exposed pages: what the kernel shows to everybody, declared once as construct structures.

All words are little-endian.  The machine page, the disk queue, the environment table and the frame table are the same
frames in every environment, mapped read-only.  The own page belongs to one environment and is writable by it: the kernel
reads only `critical` and `active` of its contexts and believes nothing else it finds there.
"""

from typing import Any, Final

from construct import Array, Const, Int32ul, Int64ul, Padded, Struct

from exokernel.abi.errors import Error
from exokernel.abi.flags import Event, Taken
from exokernel.abi.layout import MAXIMUM_CONTEXTS, PAGE_SIZE

VERSION: Final = 1
TAKEN_RECORDS: Final = 96
DISK_QUEUE_ENTRIES: Final = 128
EVENT_COUNTERS: Final = 8
MAGIC: Final = b"EXOKERNL"

MachinePage: Final = Padded(
    PAGE_SIZE,
    Struct(
        "magic" / Const(MAGIC),
        "version" / Int64ul,
        "clock" / Int64ul,
        "frames" / Int64ul,
        "free_frames" / Int64ul,
        "sectors" / Int64ul,
        "environments" / Int64ul,
        "disk_requests" / Int64ul,
        "cpus" / Int64ul,
        "quantum" / Int64ul,
    ),
)
"""`clock` is the virtual time in cycles when the environment was last given the CPU; sizes are in frames and sectors;
`quantum` is the length of a slice in cycles."""

TakenRecord: Final = Struct("frame" / Int64ul, "va" / Int64ul, "sector" / Int64ul, "state" / Int64ul)
"""One page taken by force: the frame, where it was mapped (bytes), its backing sector or ANY, and a `Taken`."""

OwnContext: Final = Struct("critical" / Int64ul, "active" / Int64ul, "cpu_wanted" / Int64ul)
"""What a context and the kernel share.  `critical`: while it is not zero the kernel sends the context no request, and the
library looks at `frames_wanted` and `cpu_wanted` itself when it leaves.  `active`: one bit for each up-call whose handler
has not ended.  `cpu_wanted`: 0, or the cycle by which the context should have yielded."""

OwnPage: Final = Padded(
    PAGE_SIZE,
    Struct(
        "contexts" / Array(MAXIMUM_CONTEXTS, OwnContext),
        "frames_wanted" / Int64ul,
        "wanted_frame" / Int64ul,
        "environment" / Int64ul,
        "held" / Int64ul,
        "table_frames" / Int64ul,
        "quota" / Int64ul,
        "evictions" / Int64ul,
        "swap_in" / Int64ul,
        "swap_out" / Int64ul,
        "reserved" / Int64ul,
        "taken_total" / Int64ul,
        "events" / Array(EVENT_COUNTERS, Int64ul),
        "taken" / Array(TAKEN_RECORDS, TakenRecord),
    ),
)
"""`contexts`: by a context's number.  `evictions`, `swap_in`, `swap_out`: counted by the library, for reports.
`taken_total`: records ever written; record n is at index n modulo TAKEN_RECORDS."""

PredicateTerm: Final = Struct("tag" / Int64ul, "va" / Int64ul, "compare" / Int64ul, "value" / Int64ul)
"""One term of a predicate: the aligned word at `va` (bytes) compared (`Compare`) with `value`.  Neighbouring terms of one
tag are a product: all of them must hold.  The predicate is the sum: one product is enough, and its tag is the answer."""

SliceOwner: Final = Int32ul
"""One entry of the slice table, at (processor * SLICES + position): the owner's number, 0 for a free slice, whose time
the global policy gives away."""

EnvironmentRow: Final = Struct(
    "number" / Int32ul,
    "state" / Int32ul,
    "parent" / Int32ul,
    "held" / Int32ul,
    "table_frames" / Int32ul,
    "quota" / Int32ul,
    "cycles" / Int64ul,
)

DiskQueueRow: Final = Struct(
    "environment" / Int32ul,
    "request" / Int32ul,
    "sector" / Int64ul,
    "count" / Int32ul,
    "write" / Int32ul,
    "frame" / Int64ul,
)
"""One disk request under way, in a row of its own from when it was made until it ends; the rows are in no order, and one
whose request (and environment) is 0 is empty.  `frame` is ANY for a flush.  When all rows are taken a further request has
none; the machine page's `disk_requests` counts it all the same."""

FRAME_HOLDER_MASK: Final = 0xFFFF_FFFF
"""In a word of the frame table: the first holder's number, 0 for a free frame, all ones for the machine's own."""
FRAME_HOLDERS_SHIFT: Final = 32
"""Above it, 8 bits: how many environments hold the frame (255 for that many or more)."""
FRAME_TABLE_FLAG: Final = 1 << 40
FRAME_RESERVED_FLAG: Final = 1 << 41
FRAME_IO_FLAG: Final = 1 << 42
FRAME_LOST_FLAG: Final = 1 << 43
"""The frame has left its holders and waits for disk I/O to end before it is free."""
MACHINE_FRAME: Final = FRAME_HOLDER_MASK


def offset_of(structure: Any, field: str) -> int:
    """Offset in bytes of `field` in a construct structure of fixed-size fields; raises KeyError for an unknown one."""
    body = structure.subcon if isinstance(structure, Padded(0, Struct()).__class__) else structure
    offset = 0
    for part in body.subcons:
        if part.name == field:
            return offset
        offset += part.sizeof()
    raise KeyError(field)


__all__ = [
    "DISK_QUEUE_ENTRIES",
    "EVENT_COUNTERS",
    "MAGIC",
    "TAKEN_RECORDS",
    "VERSION",
    "DiskQueueRow",
    "EnvironmentRow",
    "Error",
    "Event",
    "MachinePage",
    "OwnContext",
    "OwnPage",
    "PredicateTerm",
    "SliceOwner",
    "Taken",
    "TakenRecord",
    "offset_of",
]
