"""Mounting and unmounting: the order in which the parts of a file system can be trusted."""

from exokernel.abi.layout import CYCLES_PER_SECOND
from libos.filesystems.ext3.allocation import Allocation, load
from libos.filesystems.ext3.blockmap import BlockMaps
from libos.filesystems.ext3.geometry import Geometry, decode
from libos.filesystems.ext3.inodes import Inodes
from libos.filesystems.ext3.journal import Journal
from libos.filesystems.ext3.layout import ROOT_INODE, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, State
from libos.filesystems.ext3.mounted import Mounted
from libos.filesystems.ext3.nojournal import NoJournal
from libos.filesystems.ext3.orphans import Orphans
from libos.filesystems.ext3.superblock import LiveSuperblock
from libos.filesystems.ext3.transactions import Deferred, Transactions
from libos.filesystems.ext3.xattrs import Attributes
from libos.filesystems.interface import CorruptFileSystem, FileSystemError
from libos.storage.cache import BlockCache
from libos.storage.volume import Volume, VolumeError


async def mount(volume: Volume, *, base: int, capacity: int, mode: str, read_only: bool, epoch: int) -> Mounted:
    """The parts of a mounted file system.  First the superblock; from it the block size, so that there is a cache; the
    journal, found without its own help and recovered; then everything again, as it is after the recovery."""
    geometry = decode(await _superblock(volume, base), volume.size)
    cache = BlockCache(volume, geometry.block_size, base, capacity)
    try:
        return await _assemble(cache, geometry, mode, read_only, epoch)
    except Exception:
        await cache.close()
        raise


async def _superblock(volume: Volume, base: int) -> bytes:
    if volume.size < SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE:
        raise CorruptFileSystem(f"The volume has {volume.size} bytes, too few for a file system.")
    cache = BlockCache(volume, SUPERBLOCK_SIZE, base, 1)
    try:
        raw = await cache.read(SUPERBLOCK_OFFSET // SUPERBLOCK_SIZE)
    except Exception:
        await cache.close()
        raise
    await cache.close()
    return raw


async def _assemble(cache: BlockCache, geometry: Geometry, mode: str, read_only: bool, epoch: int) -> Mounted:
    raw = await cache.read(geometry.superblock_block, geometry.superblock_offset, SUPERBLOCK_SIZE)
    journal: Transactions = NoJournal(cache)
    places: list[int] = []
    if geometry.has_journal and (geometry.needs_recovery or not (read_only or geometry.unknown_read_only)):
        places = await journal_places(await _parts(cache, geometry, raw, journal, epoch))
        journal = await Journal.open(cache, places, geometry.blocks, mode)
        raw = await cache.read(geometry.superblock_block, geometry.superblock_offset, SUPERBLOCK_SIZE)
        geometry = decode(raw, cache.volume.size)
        if read_only or geometry.unknown_read_only:
            mounted = await _parts(cache, geometry, raw, journal, epoch)
            mounted.superblock.end(await mounted.time(), True)
            await mounted.superblock.write(cache)
    mounted = await _parts(cache, geometry, raw, journal, epoch)
    mounted.allocation.journal = _runs(places)
    mounted.read_only = read_only or bool(geometry.unknown_read_only)
    if not mounted.read_only:
        mounted.superblock.record(mounted.allocation.free_blocks, mounted.allocation.free_inodes)
        mounted.superblock.begin(await mounted.time(), geometry.has_journal)
        await mounted.superblock.write(cache)
        await mounted.orphans.load()
        await mounted.orphans.process()
    root = await mounted.inodes.get(ROOT_INODE)
    if not root.is_directory:
        raise CorruptFileSystem("The root of the file system is not a directory.")
    return mounted


async def _parts(cache: BlockCache, geometry: Geometry, raw: bytes, journal: Transactions, epoch: int) -> Mounted:
    exo = cache.volume.exo

    journal.before_commit.clear()
    deferred = Deferred(journal)
    superblock = LiveSuperblock(raw, geometry, deferred)
    begun = epoch or superblock.get("wtime")

    async def time() -> int:
        return begun + await exo.time() // CYCLES_PER_SECOND

    allocation: Allocation = await load(cache, geometry, journal, deferred)

    async def count() -> None:
        await superblock.record_changes(allocation.free_blocks, allocation.free_inodes)

    journal.before_commit.insert(0, count)
    inodes = Inodes(cache, geometry, journal, deferred, allocation, time)
    maps = BlockMaps(cache, geometry, journal, deferred, allocation)
    attributes = Attributes(cache, geometry, journal, allocation)
    orphans = Orphans(geometry, journal, superblock, allocation, inodes, maps, attributes)
    return Mounted(cache, geometry, journal, allocation, inodes, maps, orphans, attributes, superblock, time)


async def journal_places(mounted: Mounted) -> list[int]:
    """The block numbers of the journal, in order.  Raises CorruptFileSystem if its inode makes no sense."""
    geometry = mounted.geometry
    inode = await mounted.inodes.load(geometry.journal_inode)
    if not inode.is_regular or not inode.links or inode.size > geometry.blocks * geometry.block_size:
        raise CorruptFileSystem(f"Inode {inode.number} should be the journal, and cannot be.")
    places: list[int] = []
    for run in await mounted.maps.runs(inode, 0, inode.size // geometry.block_size):
        if mounted.allocation.is_metadata(run.block, run.count):
            raise CorruptFileSystem("The journal has a hole, or blocks that it cannot have.")
        places.extend(range(run.block, run.block + run.count))
    return places


def _runs(blocks: list[int]) -> list[tuple[int, int]]:
    """Block numbers as pairs of a first one and how many follow one another."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        if runs and block == sum(runs[-1]):
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((block, 1))
    return runs


async def unmount(mounted: Mounted) -> None:
    """All is on the medium and marked so; then the frames are given back.  A file system that was given up is marked as one
    to be checked instead; the journal goes on from there when it is mounted again."""
    try:
        if not mounted.read_only:
            await _finish(mounted)
    except (VolumeError, FileSystemError):
        mounted.give_up()
        raise
    finally:
        try:
            await mounted.cache.close()
        finally:
            if mounted.given_up:
                await _mark_errors(mounted)


async def _finish(mounted: Mounted) -> None:
    superblock, allocation = mounted.superblock, mounted.allocation
    await mounted.orphans.process()
    await mounted.journal.checkpoint()
    superblock.record(allocation.free_blocks, allocation.free_inodes)
    superblock.end(await mounted.time(), mounted.geometry.has_journal)
    await superblock.write(mounted.cache)


async def _mark_errors(mounted: Mounted) -> None:
    """Say in the superblock on the disk that something is wrong, whatever else is there."""
    cache = BlockCache(mounted.cache.volume, mounted.geometry.block_size, mounted.cache.base, 1)
    block, offset = mounted.geometry.superblock_block, mounted.geometry.superblock_offset
    try:
        raw = await cache.read(block, offset, SUPERBLOCK_SIZE)
        superblock = LiveSuperblock(raw, mounted.geometry, Deferred(NoJournal(cache)))
        superblock.set("state", superblock.get("state") | State.ERRORS)
        await superblock.write(cache)
    finally:
        await cache.close()
