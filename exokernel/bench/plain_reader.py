"""A reader of ext3 in plain Python, which figures of the file system stand beside: no kernel, no cache, no protection."""

import os
from pathlib import Path
from typing import Final

from libos.filesystems.ext3.layout import DIRECT_BLOCKS
from libos.filesystems.ext3.records import GROUP_DESCRIPTOR

BLOCK: Final = 4096


class PlainReader:
    """Finds and reads the blocks of a file of an image, with a block size of 4 KiB, by `pread` alone."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDWR)
        superblock = os.pread(self.file, 1024, 1024)
        self._per_group = int.from_bytes(superblock[40:44], "little")
        self._inode_size = int.from_bytes(superblock[88:90], "little")
        groups = -(-int.from_bytes(superblock[0:4], "little") // self._per_group)
        descriptors = os.pread(self.file, groups * GROUP_DESCRIPTOR.size, BLOCK)
        self._tables = [
            int.from_bytes(descriptors[at + 8 : at + 12], "little")
            for at in range(0, len(descriptors), GROUP_DESCRIPTOR.size)
        ]

    def blocks(self, inode: int) -> list[int]:
        """The blocks of a file without holes, up to the doubly indirect ones."""
        group, index = divmod(inode - 1, self._per_group)
        raw = os.pread(self.file, 128, self._tables[group] * BLOCK + index * self._inode_size)
        count = -(-int.from_bytes(raw[4:8], "little") // BLOCK)
        pointers = memoryview(raw[40:100]).cast("I").tolist()
        found = pointers[:DIRECT_BLOCKS]
        found += self._numbers(pointers[12]) if count > len(found) else []
        for block in self._numbers(pointers[13]) if count > len(found) else []:
            found += self._numbers(block) if block and count > len(found) else []
        return found[:count]

    def _numbers(self, block: int) -> list[int]:
        return memoryview(os.pread(self.file, BLOCK, block * BLOCK)).cast("I").tolist()

    def close(self) -> None:
        """Close the image."""
        os.close(self.file)
