"""Recovery: after a crash, what the journal promised is carried out.

Three passes, as in Tweedie, Journaling the Linux ext2fs Filesystem (1998).  Scan: from the start of the log on, find the
transactions that have a commit block; the log ends at the first block that is not the next one of the journal, and a
transaction without a commit block never happened.  Revoke: collect the blocks of which no earlier copy may be replayed.
Replay: write the copies in place, the later over the earlier.  Then, when all of that is on the medium, the log is marked
empty.  A crash in the middle does no harm: the log is as it was, and it is all done again.

Nothing in the log is believed: everything is checked in the scan, before the first block is written.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from exokernel.abi.flags import Transfer
from libos.filesystems.ext3.layout import JournalBlock
from libos.filesystems.ext3.log import MAGIC_BYTES, SEQUENCES, Log, is_later
from libos.filesystems.interface import CorruptFileSystem
from libos.storage.cache import BlockCache

_AHEAD = 16


@dataclass(frozen=True)
class Recovered:
    """What recovery has done: how many transactions it found committed, how many blocks it wrote in place and how many
    copies it left alone because they were revoked."""

    transactions: int = 0
    replayed: int = 0
    revoked: int = 0


@dataclass(frozen=True)
class _Copy:
    """A copy in the log, at `position`, of a block of the file system."""

    block: int
    position: int
    escaped: bool
    sequence: int


@dataclass
class _Found:
    """What the scan has found in committed transactions."""

    copies: list[_Copy] = field(default_factory=list)
    revoked: list[tuple[int, int]] = field(default_factory=list)
    """Block and sequence number."""
    transactions: int = 0


async def recover(cache: BlockCache, places: Sequence[int], blocks: int) -> Recovered:
    """Bring a file system of `blocks` blocks up to its last committed transaction; `places` are the journal's block
    numbers.  Everything is on the medium when this ends.  Raises CorruptFileSystem for a journal that makes no sense; then
    nothing has been written."""
    log = await Log.load(cache, places)
    if not log.start:
        return Recovered()
    found = await _scan(cache, log, blocks)
    revoked = _last_revocations(found)
    replayed = await _replay(cache, log, found, revoked)
    await cache.write_back()
    await cache.flush()
    # One number is left out: what is in the log of a transaction that was never committed stays meaningless.
    await write_superblock(cache, log, 0, (log.sequence + found.transactions + 1) % SEQUENCES)
    for place in log.places:
        cache.discard(place)
    return Recovered(found.transactions, replayed, len(found.copies) - replayed)


async def write_superblock(cache: BlockCache, log: Log, start: int, sequence: int) -> None:
    """Write the journal's superblock; it is on the medium when this ends."""
    place = log.places[0]
    await cache.write(place, log.superblock(start, sequence))
    cache.hold(place)
    await cache.volume.wait(await cache.copy_out(place, place, Transfer.FORCED))
    cache.discard(place)


async def _scan(cache: BlockCache, log: Log, blocks: int) -> _Found:
    """Find the committed transactions."""
    found, open_one = _Found(), _Found()
    own = frozenset(log.places)
    sequence, position, seen = log.sequence, log.start, 0
    while True:
        await cache.prefetch(log.places[log.after(position, ahead)] for ahead in range(min(_AHEAD, log.size)))
        block = await cache.read(log.places[position])
        header = log.header(block)
        if header is None or header[1] != sequence:
            return found
        taken = 1
        if header[0] == JournalBlock.DESCRIPTOR:
            for tag in log.tags(block):
                at = log.after(position, taken)
                open_one.copies.append(_Copy(tag.block, at, tag.escaped, sequence))
                taken += 1
        elif header[0] == JournalBlock.REVOKE:
            open_one.revoked += [(number, sequence) for number in log.revoked(block)]
        elif header[0] == JournalBlock.COMMIT:
            _check(open_one, own, blocks)
            found.copies += open_one.copies
            found.revoked += open_one.revoked
            found.transactions += 1
            open_one = _Found()
            sequence = (sequence + 1) % SEQUENCES
        else:
            return found
        position = log.after(position, taken)
        seen += taken
        if seen > log.size:
            raise CorruptFileSystem(f"The journal's log goes round in a circle in transaction {sequence}.")


def _check(transaction: _Found, own: frozenset[int], blocks: int) -> None:
    for copy in transaction.copies:
        if not 0 <= copy.block < blocks:
            raise CorruptFileSystem(
                f"Transaction {copy.sequence} in the journal changes block {copy.block}, outside the file system."
            )
        if copy.block in own:
            raise CorruptFileSystem(
                f"Transaction {copy.sequence} in the journal changes block {copy.block}, which is the journal's own."
            )


def _last_revocations(found: _Found) -> dict[int, int]:
    """By block the last transaction that revoked it."""
    revoked: dict[int, int] = {}
    for block, sequence in found.revoked:
        if block not in revoked or is_later(sequence, revoked[block]):
            revoked[block] = sequence
    return revoked


async def _replay(cache: BlockCache, log: Log, found: _Found, revoked: dict[int, int]) -> int:
    """Write in place what has not been revoked; gives how many copies that were."""
    copies = [copy for copy in found.copies if copy.block not in revoked or is_later(copy.sequence, revoked[copy.block])]
    for index, copy in enumerate(copies):
        if not index % _AHEAD:
            await cache.prefetch(log.places[later.position] for later in copies[index : index + _AHEAD])
        contents = await cache.read(log.places[copy.position])
        if copy.escaped:
            contents = MAGIC_BYTES + contents[len(MAGIC_BYTES) :]
        await cache.write(copy.block, contents, fresh=True)
    return len(copies)
