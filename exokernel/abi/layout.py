"""The address map: where everything lies, in every environment.

    0xFFFF_8000_0000_0000  supervisor page: descriptor table and the way into ring 3      not readable by anybody
    ------------------------------------------------------------------------------------- end of the user half
    0x0000_7F80_0000_0000  PAGE_TABLES: the environment's own page tables, as one array   read-only
    0x0000_7F00_0020_0000  FRAME_TABLE: one word a frame                                  read-only, the same for all
    0x0000_7F00_0001_0000  ENVIRONMENT_TABLE                                              read-only, the same for all
    0x0000_7F00_0000_3000  SLICE_TABLE: who owns which slice of which processor           read-only, the same for all
    0x0000_7F00_0000_2000  DISK_QUEUE                                                     read-only, the same for all
    0x0000_7F00_0000_1000  OWN_PAGE: shared between this environment and the kernel       read-write
    0x0000_7F00_0000_0000  EXPOSED: the machine page (clock, sizes, free frames)          read-only, the same for all
    ------------------------------------------------------------------------------------- USER_END
    0x0000_0001_0000_0000  library images, library data, up-call stack                    by convention of libos/native
    0x0000_0000_0040_0000  the application: image, stack, heap, files                     by convention of libos/native
    0x0000_0000_0000_1000  USER_BEGIN
    0x0000_0000_0000_0000  page 0: never mappable, so a null pointer always faults

Below USER_END an environment maps what it likes; the last two lines are habits of our libraries, not rules of the kernel.
The page-table window is the classic self-map: the entry of page `va` is the 64-bit word at `PAGE_TABLES + (va >> 9)`,
rounded down to a multiple of 8.
"""

from typing import Final

PAGE_SIZE: Final = 4096
PAGE_SHIFT: Final = 12
SECTOR_SIZE: Final = 512
SECTORS_PER_PAGE: Final = PAGE_SIZE // SECTOR_SIZE
CYCLES_PER_SECOND: Final = 1_000_000_000
"""A round figure: one cycle is one nanosecond."""

USER_BEGIN: Final = 0x1000
USER_END: Final = 0x7F00_0000_0000

EXPOSED: Final = 0x7F00_0000_0000
OWN_PAGE: Final = EXPOSED + 0x1000
DISK_QUEUE: Final = EXPOSED + 0x2000
SLICE_TABLE: Final = EXPOSED + 0x3000
ENVIRONMENT_TABLE: Final = EXPOSED + 0x1_0000
FRAME_TABLE: Final = EXPOSED + 0x20_0000

PAGE_TABLES: Final = 0x7F80_0000_0000
SELF_MAP_SLOT: Final = PAGE_TABLES >> 39
EXPOSED_SLOT: Final = EXPOSED >> 39
SUPERVISOR: Final = 0xFFFF_8000_0000_0000

MAXIMUM_ENVIRONMENTS: Final = 4096
MAXIMUM_CONTEXTS: Final = 32
MAXIMUM_CPUS: Final = 16
SLICES: Final = 64
"""Positions in each processor's vector of slices."""
PREDICATE_TERMS: Final = 64
"""Terms in all the predicates that an environment's contexts wait for, together."""
MAXIMUM_MEMORY: Final = 2 << 30
MINIMUM_MEMORY: Final = 1 << 20
RED_ZONE: Final = 128

DOWNCALL_BASE: Final = 0x4558_0000
LIBRARY_CALL_BASE: Final = 0x4C49_0000


def page_table_entry(va: int) -> int:
    """Address of the page-table entry of `va` (bytes) in the read-only window; 8 bytes are there to read.

    Reading it faults if no page table covers `va`: then nothing near `va` is mapped.
    """
    return PAGE_TABLES + ((va & 0x0000_FFFF_FFFF_F000) >> 9)
