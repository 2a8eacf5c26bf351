"""The journal: changes of metadata happen all or not at all, whenever the power goes.

The changes of many operations are one transaction, which is committed when somebody wants it durable or when it is large
enough (group commit).  The format and the idea are those of Tweedie, Journaling the Linux ext2fs Filesystem (1998), that is
of Linux' fs/jbd.  Modes: in `ordered` mode a file's contents are on the medium before the transaction that refers to them;
in `writeback` mode they may come later, unless somebody wants them durable; in `journal` mode they go through the log too.

Why a crash at any moment, with any part of what was not flushed missing, leads back to a committed state:

 1. A metadata block that the running transaction has changed is held in the cache: it cannot reach its place before its
    transaction is durable.
 2. A commit writes the ordered contents, the revoke blocks, descriptors and copies, and in an empty log the superblock
    that says where it begins, in any order; then it flushes; then it writes the commit block, forced.  So where there is
    a commit block, all that it vouches for is on the medium.  Without it recovery ends before this transaction, whatever
    part of it is there: what lay there earlier has smaller numbers, or was not committed either.
 3. From then on the cache may write the blocks in place, in any order, at any time: the log can do it again.
 4. A checkpoint first commits, so that no block is held; writes all blocks in place; flushes; and only then writes,
    forced, the superblock that says that the log is empty.  Only then is the log overwritten.
 5. A freed block of which the log has copies is revoked in the transaction that frees it, so that recovery does not write
    an old copy over what the block becomes later; and it becomes something only when that transaction is durable.  If it is
    freed and changed again within one transaction, the revocation is taken back, since the newer copy is what counts.
    What the cache has of a freed block is dropped.  If the freeing transaction is not committed, the log's copy is
    what counts, and it is there: the log is not emptied without a commit.

The caller sees to it that between the beginning and the end of an operation there is no other, and no commit.
"""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from enum import Enum
from types import TracebackType
from typing import Final

from exokernel.abi.direct import direct
from exokernel.abi.flags import Transfer
from libos.filesystems.ext3.log import MAGIC_BYTES, SEQUENCES, Log, Tag
from libos.filesystems.ext3.recovery import recover, write_superblock
from libos.filesystems.interface import CorruptFileSystem, Errno, FileSystemError
from libos.storage.cache import BlockCache
from libos.storage.volume import VolumeError

_WINDOW: Final = 12
"""The most requests that one commit has under way beside the cache's own."""
_SMALLEST: Final = 16
"""Blocks of a log below which nothing useful can be done."""


@direct
class Mode(Enum):
    """What is done about the contents of files."""

    ORDERED = "ordered"
    WRITEBACK = "writeback"
    JOURNAL = "journal"


class Journal:
    """The journal of a mounted file system, whose log is empty or has been recovered: see `open`."""

    def __init__(self, cache: BlockCache, log: Log, mode: Mode = Mode.ORDERED) -> None:
        if log.size < _SMALLEST:
            raise CorruptFileSystem(f"The journal has {log.size} blocks for its log, fewer than {_SMALLEST}.")
        self.mode = mode
        self.before_commit: list[Callable[[], Awaitable[None]]] = []
        """Run at the start of a commit; what they change belongs to the transaction."""
        self.transaction = 1
        """The number of the running transaction."""
        self.committed = 0
        """The number of the last transaction that is durable."""
        self.stored = 0
        """The number of the last one that is durable with all contents of files written up to its end."""
        self.limit = max(_SMALLEST // 4, min(log.size // 4, cache.capacity // 2))
        """The most metadata blocks that operations may announce for one transaction."""
        self._cache = cache
        self._log = log
        self._most = self.limit + self.limit // 2
        """The most blocks of the log that one transaction may take: what hooks add to it too."""
        self._sequence = log.sequence
        self._head = log.first
        self._free = log.size
        self._blocks: dict[int, None] = {}
        """Metadata blocks of the running transaction, all held."""
        self._revoked: dict[int, None] = {}
        self._freed: set[int] = set()
        self._contents: dict[int, None] = {}
        """Blocks of files' contents written since the last commit."""
        self._logged: set[int] = set()
        """Blocks of which the log has copies."""
        self._abandoned = ""

    @classmethod
    async def open(
        cls, cache: BlockCache, places: Sequence[int], blocks: int, mode: Mode | str = Mode.ORDERED
    ) -> "Journal":
        """The journal whose block numbers are `places`, in a file system of `blocks` blocks, recovered if need be.  Raises
        CorruptFileSystem for one that makes no sense or that this library does not know."""
        await recover(cache, places, blocks)
        return cls(cache, await Log.load(cache, places), Mode(mode))

    # Changes, within an operation.

    @asynccontextmanager
    async def operation(self, credits: int) -> AsyncIterator[None]:
        """Room in one transaction for changes of up to `credits` metadata blocks.  If there is too little, the running
        transaction is committed first.  Raises FileSystemError (EROFS) after a disk error or a transaction too large has
        put an end to the journal."""
        self._check()
        if self._size(len(self._blocks) + credits) > self.limit:
            await self.commit_for_room()
        if self._free < self._most:
            await self._empty()
        yield

    def room(self) -> int:
        """How many more metadata blocks the running transaction can take; a large operation is divided accordingly."""
        return max(0, self.limit - self._size(len(self._blocks)))

    async def update(self, block: int, data: bytes, offset: int = 0) -> None:
        """Change part of a metadata block: `data`, `offset` bytes from its start."""
        if block not in self._blocks:
            self._join(block)
        await self._cache.write(block, data, offset)

    async def fresh(self, block: int, data: bytes = b"") -> None:
        """A metadata block has been allocated; it begins with `data`, the rest is zeros."""
        if block not in self._blocks:
            self._join(block)
        await self._cache.write(block, data, fresh=True)

    async def forget(self, block: int) -> None:
        """A metadata block has been freed."""
        self.forget_data(block)

    async def data(self, block: int, data: bytes, offset: int = 0, *, fresh: bool = False) -> None:
        """Store contents of a file.  `fresh`: the block has been allocated, what is not stored becomes zeros."""
        if self.mode is Mode.JOURNAL:
            if block not in self._blocks:
                self._join(block)
        else:
            self._contents[block] = None
        await self._cache.write(block, data, offset, fresh=fresh)

    def forget_data(self, block: int) -> None:
        """A block of a file's contents has been freed."""
        self._freed.add(block)
        self._blocks.pop(block, None)
        self._contents.pop(block, None)
        self._cache.discard(block)
        if block in self._logged:
            self._revoked[block] = None
            self._bound()

    def may_reuse(self, block: int) -> bool:
        """Whether a free block may be allocated: not while the transaction that freed it is not durable."""
        return block not in self._freed

    def _join(self, block: int) -> None:
        """A block becomes one of the running transaction's."""
        self._check()
        self._revoked.pop(block, None)
        self._blocks[block] = None
        self._cache.hold(block)
        self._bound()

    def _bound(self) -> None:
        """Give the journal up if the transaction has become larger than the log takes."""
        if self._size(len(self._blocks)) > self._most:
            self._abandoned = f"a transaction would take more than the {self._most} blocks of the log that it may"
            self._check()

    def _check(self) -> None:
        if self._abandoned:
            raise FileSystemError(Errno.EROFS, f"The journal has been given up, because {self._abandoned}")

    def _size(self, blocks: int) -> int:
        """How much of the log a transaction of so many blocks and the revocations there are takes."""
        log = self._log
        descriptors = -(-blocks // log.tags_in_a_descriptor)
        return blocks + descriptors + -(-len(self._revoked) // log.revokes_in_a_block) + 1

    # Between operations.

    async def commit(self) -> None:
        """Make everything so far durable, contents of files too."""
        await self._commit(contents=True)

    async def sync_contents(self) -> None:
        """Make the contents of files durable that were written so far, and no metadata unless they go through the log."""
        if self.mode is Mode.JOURNAL:
            await self.commit()
            return
        self._check()
        await self._cache.write_back(self._contents)
        await self._cache.flush()
        self._contents.clear()

    async def commit_for_room(self) -> None:
        """Commit because the transaction is large; in writeback mode contents may stay behind."""
        await self._commit(contents=self.mode is not Mode.WRITEBACK)

    async def checkpoint(self) -> None:
        """Commit, write everything to its place and empty the log."""
        await self.commit()
        await self._finish(None)

    async def _commit(self, contents: bool) -> None:
        self._check()
        for hook in self.before_commit:
            await hook()
        if not (self._blocks or self._revoked or self._freed or (contents and self._contents)):
            if not self._contents:
                self.stored = self.committed
            return
        try:
            if contents:
                await self._cache.write_back(self._contents)
                self._contents.clear()
            if self._blocks or self._revoked:
                await self._write_log()
            else:
                await self._cache.flush()
        except BaseException as error:
            self._abandoned = f"a commit has failed: {error}"
            raise
        for block in self._blocks:
            self._cache.let_go(block)
        self._logged.update(self._blocks)
        self._blocks.clear()
        self._revoked.clear()
        self._freed.clear()
        self.committed = self.transaction
        if not self._contents:
            self.stored = self.committed
        self.transaction += 1

    async def _empty(self) -> None:
        """The log is nearly full: commit what is running, bring what the log has to its place, and begin anew."""
        await self.commit_for_room()
        await self._finish(self._logged)

    async def _finish(self, blocks: set[int] | None) -> None:
        """Write these blocks, or all, in place; then the log is empty."""
        try:
            await self._cache.write_back(blocks)
            if self._log.start or blocks is None:
                await self._cache.flush()
            if self._log.start:
                await write_superblock(self._cache, self._log, 0, self._sequence)
        except BaseException as error:
            self._abandoned = f"a checkpoint has failed: {error}"
            raise
        self._logged.clear()
        self._free = self._log.size

    # The log.

    async def _write_log(self) -> None:
        """Write the running transaction into the log; it is durable when this ends."""
        log, cache, sequence = self._log, self._cache, self._sequence
        size = self._size(len(self._blocks))
        assert size <= self._free, "there is room for every transaction that may begin"
        async with _Writer(cache) as writer:
            position = await self._write_revocations(writer, self._head)
            position = await self._write_copies(writer, position)
            if not log.start:
                await writer.put(log.places[0], log.superblock(self._head, sequence))
        await cache.flush()
        async with _Writer(cache) as writer:
            await writer.put(log.places[position], log.commit(sequence), flags=Transfer.FORCED)
        self._head = log.after(position)
        self._free -= size
        self._sequence = (sequence + 1) % SEQUENCES

    async def _write_revocations(self, writer: "_Writer", position: int) -> int:
        """Write the revoke blocks from a position of the log on; gives the position behind them."""
        log, revoked = self._log, sorted(self._revoked)
        for start in range(0, len(revoked), log.revokes_in_a_block):
            part = revoked[start : start + log.revokes_in_a_block]
            await writer.put(log.places[position], log.revoke(self._sequence, part))
            position = log.after(position)
        return position

    async def _write_copies(self, writer: "_Writer", position: int) -> int:
        """Write the descriptor blocks and the copies from a position of the log on; gives the position behind them."""
        log, cache, blocks = self._log, self._cache, list(self._blocks)
        for start in range(0, len(blocks), log.tags_in_a_descriptor):
            descriptor, position = position, log.after(position)
            tags = []
            for block in blocks[start : start + log.tags_in_a_descriptor]:
                escaped = await cache.read(block, 0, len(MAGIC_BYTES)) == MAGIC_BYTES
                if escaped:
                    contents = await cache.read(block)
                    await writer.put(log.places[position], contents[len(MAGIC_BYTES) :], len(MAGIC_BYTES))
                else:
                    await writer.copy(block, log.places[position])
                tags.append(Tag(block, escaped))
                position = log.after(position)
            await writer.put(log.places[descriptor], log.descriptor(self._sequence, tags))
        return position


class _Writer:
    """Writes blocks of the log, several requests at a time; all have ended when the `async with` has."""

    def __init__(self, cache: BlockCache) -> None:
        self._cache = cache
        self._window = max(1, min(_WINDOW, cache.capacity // 8))
        self._under_way: deque[tuple[int, int]] = deque()

    async def __aenter__(self) -> "_Writer":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failed: VolumeError | None = None
        while self._under_way:
            try:
                await self._wait()
            except VolumeError as one:
                failed = failed or one
        if failed is not None and error is None:
            raise failed

    async def put(self, place: int, contents: bytes, offset: int = 0, flags: int = 0) -> None:
        """Begin to write `contents`, `offset` bytes from the block's start and otherwise zeros."""
        self._cache.hold(place)
        await self._cache.write(place, contents, offset, fresh=True)
        await self.copy(place, place, flags)

    async def copy(self, block: int, place: int, flags: int = 0) -> None:
        """Begin to write what the cache has of `block` to another place."""
        while len(self._under_way) >= self._window:
            await self._wait()
        self._under_way.append((place, await self._cache.copy_out(block, place, flags)))

    async def _wait(self) -> None:
        place, request = self._under_way.popleft()
        try:
            await self._cache.volume.wait(request)
        finally:
            self._cache.discard(place)
