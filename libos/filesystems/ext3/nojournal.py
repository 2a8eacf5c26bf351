"""What stands in for the journal in a file system that has none, as ext2: changes go to the cache and from there to the
disk in no particular order, so a crash may leave anything behind."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from libos.storage.cache import BlockCache


class NoJournal:
    """The methods of `Journal`, without its promises."""

    def __init__(self, cache: BlockCache) -> None:
        self.before_commit: list[Callable[[], Awaitable[None]]] = []
        """Run at the start of a commit."""
        self.transaction = 1
        """One more than how often everything has been written."""
        self.committed = 0
        self.limit = cache.capacity
        """The most metadata blocks of one operation."""
        self._cache = cache

    @asynccontextmanager
    async def operation(self, credits: int) -> AsyncIterator[None]:
        """Nothing has to be made room for."""
        yield

    @property
    def stored(self) -> int:
        """Contents are written whenever metadata is."""
        return self.committed

    def room(self) -> int:
        """As many metadata blocks as the cache has; a large operation is divided so that others have a turn."""
        return self._cache.capacity

    async def update(self, block: int, data: bytes, offset: int = 0) -> None:
        """Change part of a metadata block."""
        await self._cache.write(block, data, offset)

    async def fresh(self, block: int, data: bytes = b"") -> None:
        """A metadata block has been allocated; it begins with `data`, the rest is zeros."""
        await self._cache.write(block, data, fresh=True)

    async def forget(self, block: int) -> None:
        """A metadata block has been freed."""
        self._cache.discard(block)

    async def data(self, block: int, data: bytes, offset: int = 0, *, fresh: bool = False) -> None:
        """Store contents of a file."""
        await self._cache.write(block, data, offset, fresh=fresh)

    def forget_data(self, block: int) -> None:
        """A block of a file's contents has been freed."""
        self._cache.discard(block)

    def may_reuse(self, block: int) -> bool:
        """Any free block may be allocated."""
        return True

    async def commit(self) -> None:
        """Write everything, and wait until it is on the medium."""
        for hook in self.before_commit:
            await hook()
        await self._cache.write_back()
        await self._cache.flush()
        self.committed = self.transaction
        self.transaction += 1

    async def sync_contents(self) -> None:
        """The same: there is no telling contents from metadata."""
        await self.commit()

    async def checkpoint(self) -> None:
        """The same."""
        await self.commit()
