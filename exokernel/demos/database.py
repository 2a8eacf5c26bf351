"""A database that lays out its own sectors, beside the same one over a file of ext3.

One store, one sequence of transfers between accounts, four ways to have it: on sectors of its own; over ext3 with an fsync
or an fdatasync for each commit; and over ext3 with neither, which is the warning.  For each on each model of a disk: what a
commit takes, what goes to the disk, and how many of the transactions that were reported as committed are gone after power
cuts at random moments.
"""

import json
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum

from rich.console import Console
from rich.table import Table

from exokernel.filesystem_session import DiskSession, PowerCut
from exokernel.machine.clock import NEVER
from exokernel.machine.disk import Disk, Flushed, Written
from exokernel.machine.models import DRIVES
from exokernel.scenario import ScenarioError
from libos.database import DatabaseError, Store, Transaction
from libos.database.check import check
from libos.database.file_storage import FileStorage, Sync
from libos.filesystems.ext3 import mkfs
from libos.filesystems.ext3.filesystem import Ext3
from libos.filesystems.interface import FileSystemError
from libos.storage.volume import Volume, VolumeError

DISK_SECTORS = 32 << 11
STORE_SECTORS = 4 << 11
"""What the store is given, on the disk or as a file: 4 MiB."""
LOG_PAGES = 12
"""96 sectors, so that there are checkpoints among what is measured."""
ACCOUNTS = 200
BALANCE = 1_000
NAME = b"accounts"
BASE = 0x10_0000_0000
"""Where ext3's cache is mapped."""


class Way(Enum):
    """How the store is had."""

    SECTORS = "its own sectors"
    FSYNC = "ext3, fsync"
    FDATASYNC = "ext3, fdatasync"
    NOTHING = "ext3, no fsync"

    @property
    def is_safe(self) -> bool:
        """Whether nothing that was committed may be lost."""
        return self is not Way.NOTHING


_SYNC = {Way.FSYNC: Sync.FSYNC, Way.FDATASYNC: Sync.FDATASYNC, Way.NOTHING: Sync.LEFT_OUT}


@dataclass(frozen=True)
class Figures:
    """One way on one model.  `cycles` are those of a commit, on average; `sectors`, `flushes` and `forced` (writes that are
    on the medium when they end) count what reached the disk for all transactions, with what was left to do when the store
    was closed.  After `cuts` power cuts, of `committed` transactions `lost` were gone; `broken` stores could not be opened,
    or had transactions in part or out of order."""

    model: str
    way: str
    transactions: int
    cycles: float
    sectors: int
    flushes: int
    forced: int
    cuts: int
    committed: int
    lost: int
    broken: int


@dataclass
class _Progress:
    """What the transactions' client knows: when it began and when each transaction was reported to it as committed, in
    cycles; and what reached the disk meanwhile."""

    times: list[int] = field(default_factory=list)
    record: list[Written | Flushed] = field(default_factory=list)

    @property
    def committed(self) -> int:
        """How many transactions have been reported."""
        return max(len(self.times) - 1, 0)


async def _transfer(transaction: Transaction, number: int, chance: random.Random) -> None:
    """Move money from one account to another, and write down that it was transaction `number` that did."""
    source, target = (b"account %06d" % account for account in chance.sample(range(ACCOUNTS), 2))
    amount = chance.randrange(1, 20)
    for account, change in ((source, -amount), (target, amount)):
        balance = int(await transaction.get(account) or b"0")
        await transaction.put(account, b"%d" % (balance + change))
    await transaction.put(b"transfer %08d" % number, b"%s to %s: %d" % (source, target, amount))


async def _make(way: Way, volume: Volume) -> None:
    """A store with accounts, closed."""
    storage, files = Volume(volume.exo, volume.start, STORE_SECTORS), None
    if way is not Way.SECTORS:
        await mkfs.make(volume, base=BASE, block_size=4096)
        files = await Ext3.mount(volume, base=BASE)
        storage = await FileStorage.make(volume.exo, files, files.root, NAME, STORE_SECTORS)
    store = await Store.create(storage, log_pages=LOG_PAGES)
    for first in range(0, ACCOUNTS, 50):
        async with store.transaction() as transaction:
            for account in range(first, min(first + 50, ACCOUNTS)):
                await transaction.put(b"account %06d" % account, b"%d" % BALANCE)
    await store.close()
    if files is not None:
        await files.unmount()


async def _open(way: Way, volume: Volume) -> tuple[Store, Ext3 | None]:
    if way is Way.SECTORS:
        return await Store.open(Volume(volume.exo, volume.start, STORE_SECTORS)), None
    files = await Ext3.mount(volume, base=BASE)
    inode = await files.lookup(files.root, NAME)
    return await Store.open(FileStorage(volume.exo, files, inode, STORE_SECTORS, _SYNC[way])), files


async def _work(way: Way, volume: Volume, count: int, seed: int, progress: _Progress, disk: Disk) -> None:
    """Open the store, make the transfers, close it."""
    chance = random.Random(seed)
    store, files = await _open(way, volume)
    disk.record = progress.record
    progress.times.append(await volume.exo.time())
    for number in range(count):
        async with store.transaction() as transaction:
            await _transfer(transaction, number, chance)
        progress.times.append(await volume.exo.time())
    await store.close()
    if files is not None:
        await files.unmount()


async def _look(way: Way, volume: Volume) -> int | None:
    """How many transactions are there after a power cut; None if what is there is not what so many have left behind."""
    try:
        store, _ = await _open(way, volume)
        await check(store)
        async with store.transaction() as transaction:
            numbers = [int(key.split()[1]) async for key, _ in transaction.scan(b"transfer ", b"transfer!")]
            balances = [int(value) async for _, value in transaction.scan(b"account ", b"account!")]
    except (DatabaseError, FileSystemError, VolumeError):
        return None
    right = numbers == list(range(len(numbers))) and (len(balances), sum(balances)) == (ACCOUNTS, ACCOUNTS * BALANCE)
    return len(numbers) if right else None


def _run(model: str, image: bytes, main: Callable[[Volume, Disk], Awaitable[object]], cut: int, seed: int) -> bytes:
    """Boot over a disk with this image; gives the one that is left."""
    with DiskSession(Disk(DISK_SECTORS, drive=DRIVES[model])) as session:
        disk = session.disk
        disk.write(0, image)

        async def boot(volume: Volume) -> None:
            await main(volume, disk)

        try:
            session.run(boot, power_cut=cut, seed=seed)
        except PowerCut:
            disk.record = None
        return disk.read(0, DISK_SECTORS)


def measure(model: str, way: Way, transactions: int, cuts: int, seed: int) -> Figures:
    """Make the transfers once to the end, then again and again with a power cut, each at a random moment of a random
    transaction.  Raises ScenarioError for an unknown model."""
    if model not in DRIVES:
        raise ScenarioError(f"There is no disk model {model!r}; there are {', '.join(DRIVES)}.")
    prepared = _run(model, bytes(DISK_SECTORS * 512), lambda volume, disk: _make(way, volume), NEVER, seed)
    whole = _Progress()
    _run(model, prepared, lambda volume, disk: _work(way, volume, transactions, seed, whole, disk), NEVER, seed)
    written = [one for one in whole.record if isinstance(one, Written)]
    chance = random.Random(f"{seed} {model} {way.name}")
    committed = lost = broken = 0
    for _ in range(cuts):
        number = chance.randrange(1, transactions)
        moment = chance.randrange(whole.times[number] + 1, whole.times[number + 1] + 1)
        progress = _Progress()
        found: list[int | None] = []

        async def work(volume: Volume, disk: Disk, progress: _Progress = progress) -> None:
            await _work(way, volume, transactions, seed, progress, disk)

        async def look(volume: Volume, disk: Disk, found: list[int | None] = found) -> None:
            found.append(await _look(way, volume))

        left = _run(model, prepared, work, moment, chance.randrange(1 << 30))
        _run(model, left, look, NEVER, seed)
        there = found[0]
        committed += progress.committed
        lost += progress.committed if there is None else max(progress.committed - there, 0)
        broken += there is None
    return Figures(
        model, way.value, transactions, (whole.times[-1] - whole.times[0]) / transactions,
        sum(len(one.data) // 512 for one in written), len(whole.record) - len(written), sum(one.forced for one in written),
        cuts, committed, lost, broken,
    )  # fmt: skip


def conclusion(results: Sequence[Figures]) -> list[str]:
    """What the numbers say."""
    sentences = []
    for model in dict.fromkeys(one.model for one in results):
        by_way = {one.way: one for one in results if one.model == model}
        own, over, data, nothing = (by_way[way.value].cycles for way in Way)
        times = (
            f"{own / 1000:,.1f} µs on its own sectors, over ext3 {over / 1000:,.1f} µs with fsync ({over / own:.1f} times "
            f"as long) and {data / 1000:,.1f} µs with fdatasync ({data / own:.1f} times)"
        )
        neither = f"with neither it takes {nothing / 1000:,.1f} µs and means nothing."
        against = "" if own < min(over, data) else "Against us: "
        sentences.append(f"{against}{model}: a commit takes {times}; {neither}")
    for way in Way:
        of_way = [one for one in results if one.way == way.value]
        committed, lost = sum(one.committed for one in of_way), sum(one.lost for one in of_way)
        broken, cuts = sum(one.broken for one in of_way), sum(one.cuts for one in of_way)
        what = f"{way.value}: after {cuts} power cuts, of {committed:,} committed transactions {lost:,} were lost"
        if broken:
            what += f", and {broken} times the store could not be opened or was not whole"
        if way.is_safe and (lost or broken):
            what = f"Against us: {what}"
        elif not way.is_safe and cuts and not lost:
            what += ", which is luck"
        sentences.append(f"{what}.")
    return sentences


def show(transactions: int, cuts: int, models: Sequence[str], seed: int, as_json: bool) -> int:
    """Run and print; gives the exit status, 1 if something was lost that must not be."""
    results = [measure(model, way, transactions, cuts, seed) for model in models for way in Way]
    safe = {way.value for way in Way if way.is_safe}
    status = int(any(one.lost or one.broken for one in results if one.way in safe))
    if as_json:
        rows = [asdict(one) for one in results]
        print(json.dumps({"runs": rows, "conclusion": conclusion(results), "seed": seed}, indent=2, sort_keys=True))
        return status
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("disk", "store on", "µs/commit", "sectors", "flushes", "forced", "cuts", "committed", "lost", "broken"):
        table.add_column(heading, justify="left" if heading in ("disk", "store on") else "right")
    for one in results:
        counts = (one.sectors, one.flushes, one.forced, one.cuts, one.committed, one.lost, one.broken)
        table.add_row(one.model, one.way, f"{one.cycles / 1000:,.1f}", *(f"{count:,}" for count in counts))
    console = Console(highlight=False)
    console.width = max(console.width, 120)
    console.print(
        f"{transactions} transfers between {ACCOUNTS} accounts, one after the other, seed {seed}.  Sectors, flushes and "
        "forced writes are those of all of them and of closing the store; each power cut comes at a random moment of a "
        "random transfer.\n"
    )
    console.print(table)
    console.print("\n" + "\n".join(conclusion(results)), soft_wrap=True)
    return status
