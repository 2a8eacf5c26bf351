"""The exposed pages: what the kernel shows to everybody, declared once as construct structures.

All words are little-endian.  The machine page, the disk queue, the environment table and the frame table are the same
frames in every environment, mapped read-only.  The own page belongs to one environment and is writable by it: the kernel
reads only `critical` and `active` from it and believes nothing else it finds there.
"""

from typing import Any, Final

from construct import Array, Const, Int32ul, Int64ul, Padded, Struct

from exokernel.abi.errors import Error
from exokernel.abi.flags import Event, Taken
from exokernel.abi.layout import PAGE_SIZE

VERSION: Final = 1
TAKEN_RECORDS: Final = 96
DISK_QUEUE_ENTRIES: Final = 64
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
    ),
)
"""`clock` is the virtual time in cycles when the environment was last given the CPU; sizes are in frames and sectors."""

TakenRecord: Final = Struct("frame" / Int64ul, "va" / Int64ul, "sector" / Int64ul, "state" / Int64ul)
"""One page taken by force: the frame, where it was mapped (bytes), its backing sector or ANY, and a `Taken`."""

OwnPage: Final = Padded(
    PAGE_SIZE,
    Struct(
        "critical" / Int64ul,
        "active" / Int64ul,
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
"""`critical`: while it is not zero the kernel sends no request and the library looks at `frames_wanted` itself when it
leaves.  `active`: one bit for each up-call whose handler has not ended.  `evictions`, `swap_in`, `swap_out`: counted by
the library, for reports.  `taken_total`: records ever written; record n is at index n modulo TAKEN_RECORDS."""

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
    "OwnPage",
    "Taken",
    "TakenRecord",
    "offset_of",
]
