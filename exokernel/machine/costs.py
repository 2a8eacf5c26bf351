"""What things cost beyond instructions, in cycles of a 1 GHz processor: one table, each figure with its source.

One guest instruction is one cycle.  A real processor does better on some code and worse on other; what matters here is
the proportion between computing, crossing into the kernel and waiting for the disk.  Change a figure and every
experiment follows.
"""

from typing import Final

KERNEL_CROSSING: Final = 150
"""`syscall` and the way back: Soares and Stumm, FlexSC, OSDI 2010, section 2.1, measured about 150 on Nehalem."""

FAULT_CROSSING: Final = 300
"""An exception instead of `syscall`: it saves a frame in memory and is not specially fast.  Twice the crossing: our
choice."""

UPCALL_WORD: Final = 1
"""Storing one word of an up-call frame: one store a cycle."""

SAVE_REGISTER: Final = 1
"""Saving or loading one word of processor state: one memory access a cycle."""

GENERAL_REGISTERS: Final = 20
"""Sixteen registers, rip, the flags and two segment bases."""

FULL_STATE_WORDS: Final = GENERAL_REGISTERS + 64
"""General registers and the 512-byte FXSAVE area, in words: what the kernel saves for those who do not handle
`resume_cpu`."""

TABLE_LEVEL: Final = 4
"""One level of a page-table walk in software, hitting the first-level cache: 4 cycles (Intel's optimisation manual)."""

TLB_FLUSH: Final = 100
"""Writing CR3, without the misses that follow: order of magnitude of published measurements; our choice."""

TLB_SHOOTDOWN: Final = 1_000
"""Interrupting the other processors and waiting until the last of them has flushed: order of magnitude of Villavieja et
al., DiDi, PACT 2011, section 2; our choice."""

TLB_SHOOTDOWN_EACH: Final = 100
"""For each of them: the interrupts go out one after the other; our choice."""

ZERO_FRAME: Final = 128
"""4096 bytes at 32 bytes a cycle, the rate of `rep stosb` with fast strings (Intel's optimisation manual)."""

ADDRESS_SPACE_SWITCH: Final = TLB_FLUSH + 2 * SAVE_REGISTER
"""Loading another CR3 and the kernel's own pointers."""

PREDICATE_TERM: Final = 4
"""Evaluating one term of a wakeup predicate: a load that hits the first-level cache.  Xok compiled predicates to a few
instructions each (Kaashoek et al., SOSP 1997, section 3.2)."""

COROUTINE_RESUMPTION: Final = 200
"""Charged for each resumption of Python code, which executes no guest instructions: about what a small C handler takes.
Cycles of native and of Python code are not comparable; a coroutine declares real work with `charge`."""

DISK_LATENCY: Final = 50_000
"""Until a solid-state disk's first sector moves: 50 microseconds, the order of magnitude of a flash page's read."""

DISK_SECTOR: Final = 1_000
"""One sector of 512 bytes: one microsecond, which is 512 MB/s."""

DISK_PROGRAM: Final = 200_000
"""What a forced write takes more: programming a flash page, 200 microseconds for single-level cells (Grupp et al.,
Characterizing Flash Memory, MICRO 2009)."""

DISK_FLUSH: Final = 500_000
"""Emptying a solid-state disk's write cache: half a millisecond, between the 0.15 ms of a drive with a capacitor and the
few milliseconds of one without (Won et al., Barrier-Enabled IO Stack for Flash Storage, FAST 2018); our choice."""
