"""Physical memory: one anonymous mapping that every CPU and the kernel share.

Rules:
 * Physical addresses run from 0 to `size`; a frame is `PAGE_SIZE` bytes, and frame `n` begins at address `n << 12`.
 * `words` is the memory as 64-bit words, indexed by physical address >> 3: the form page tables are walked in.
 * A CPU keeps translations of the code it has seen. `executed[frame]` becomes nonzero when a CPU executes from a frame
   and stays so until somebody writes 0 there. Whoever changes such a frame from the host first writes, then calls
   `flush_code` on every CPU, and only then may reset the byte.
 * After `close` no CPU over this memory may run.
"""

import ctypes
import mmap

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
LARGEST = 1 << 32

_ZEROS = bytes(PAGE_SIZE)


class PhysicalMemory:
    """`size` bytes of zeroed memory, at host address `address`, as bytes in `view` and as 64-bit words in `words`."""

    def __init__(self, size: int) -> None:
        """Raises ValueError unless `size` is a positive multiple of a page and at most 4 GiB (page tables of the
        emulated processor lie below that), OSError if the host has not so much."""
        if size <= 0 or size % PAGE_SIZE or size > LARGEST:
            raise ValueError(f"physical memory is a multiple of {PAGE_SIZE} bytes up to 4 GiB, not {size} bytes")
        self.size = size
        self.frames = size >> PAGE_SHIFT
        self.executed = bytearray(self.frames)
        self._mapping = mmap.mmap(-1, size)
        self.view = memoryview(self._mapping)
        self.words = self.view.cast("Q")
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._mapping))

    def zero(self, frame: int) -> None:
        """Fill frame number `frame` with zeros."""
        start = frame << PAGE_SHIFT
        self.view[start : start + PAGE_SIZE] = _ZEROS

    def close(self) -> None:
        """Give the memory back to the host; may be called again. Raises BufferError while a part of it is in use."""
        self.words.release()
        self.view.release()
        self._mapping.close()
