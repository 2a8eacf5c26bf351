"""What the rest of ext3 asks of a journal, and metadata that is kept decoded in memory between changes.

The rules:

 1. Metadata is changed inside `async with journal.operation(credits)`, which is opened once for each operation of the file
    system, or not at all.
 2. What an operation may run short of, blocks and inodes, it makes sure of before it opens.
 3. Bitmaps, group descriptors, inodes and indirect blocks are kept decoded.  The first change of one in a transaction
    hands its block to the journal, so that the journal always knows which blocks a transaction has; further changes only
    leave a note, and the bytes follow before the commit.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Transactions(Protocol):
    """The journal, or what stands in for one in a file system that has none."""

    before_commit: list[Callable[[], Awaitable[None]]]
    """Run at the start of a commit; what they change belongs to the transaction."""

    @property
    def limit(self) -> int:
        """The most metadata blocks that one operation may change."""

    @property
    def transaction(self) -> int:
        """The number of the running transaction."""

    @property
    def committed(self) -> int:
        """The number of the last transaction that is durable."""

    @property
    def stored(self) -> int:
        """The number of the last transaction that is durable with all contents of files written up to its end."""

    def operation(self, credits: int) -> AbstractAsyncContextManager[None]:
        """Room in one transaction for changes of up to `credits` metadata blocks."""

    async def update(self, block: int, data: bytes, offset: int = 0) -> None:
        """Change part of a metadata block."""

    async def fresh(self, block: int, data: bytes = b"") -> None:
        """A metadata block has been allocated; it begins with `data`, the rest is zeros."""

    async def forget(self, block: int) -> None:
        """A metadata block has been freed."""

    async def data(self, block: int, data: bytes, offset: int = 0, *, fresh: bool = False) -> None:
        """Store contents of a file."""

    def forget_data(self, block: int) -> None:
        """A block of a file's contents has been freed."""

    def may_reuse(self, block: int) -> bool:
        """Whether a free block may be allocated: not while the transaction that freed it is not durable."""

    async def commit(self) -> None:
        """Make everything so far durable."""

    async def checkpoint(self) -> None:
        """Commit, write everything to its place and empty the log."""


class Deferred:
    """Changes of decoded metadata whose bytes are stored before the commit."""

    def __init__(self, journal: Transactions) -> None:
        self._journal = journal
        self._claimed: set[int] = set()
        self._waiting: dict[tuple[int, int], Callable[[], bytes]] = {}
        journal.before_commit.append(self._store)

    async def changed(self, block: int, offset: int, encode: Callable[[], bytes]) -> None:
        """What `encode` gives, `offset` bytes from the start of a metadata block, has changed."""
        if block in self._claimed:
            self._waiting[block, offset] = encode
        else:
            self._claimed.add(block)
            await self._journal.update(block, encode(), offset)

    def begun(self, block: int) -> None:
        """A whole block has just been handed to the journal by somebody else, as new."""
        self._claimed.add(block)

    def gone(self, block: int) -> None:
        """A block is no metadata any more: forget what waits for it."""
        if block in self._claimed:
            self._claimed.discard(block)
            self._waiting.pop((block, 0), None)

    async def _store(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for (block, offset), encode in waiting.items():
            await self._journal.update(block, encode(), offset)
        self._claimed.clear()
