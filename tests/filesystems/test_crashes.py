"""Power cuts at every write: whatever the disk may have kept, recovery leads to a file system that e2fsck has nothing to
say about, that has everything that was made durable, and that is as it was at one moment since then.

`make test` judges a sample that is bounded by count; `make test-long` goes on (EXO_CRASH_STATES: how many distinct states
for each mode).  The numbers of states generated, distinct and judged are printed.
"""

import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache

import pytest

from exokernel.abi.layout import SECTOR_SIZE
from exokernel.machine.disk import Flushed, Written
from libos.filesystems.ext3.filesystem import Ext3
from libos.filesystems.interface import FileSystem, FileSystemError, Kind
from libos.filesystems.memory import MemoryFileSystem
from libos.filesystems.paths import Tree
from libos.storage.volume import Volume
from tests.filesystems import judges
from tests.filesystems.ace import Operation, Persist, Workload, at_once, populate, workloads
from tests.filesystems.crashes import Bounds, Facts, Medium, Promise, Snapshot, State, after, explain, states
from tests.filesystems.long import LONG, only_long
from tests.filesystems.random_workloads import random_workload
from tests.filesystems.stages import BASE, EPOCH, OnDisk, Session
from tests.storage.kit import DiskMachine

pytestmark = pytest.mark.timeout(7200)  # bounded by count; on a busy machine it takes its time
CAPACITY = 256


@cache
def start_image(block_size: int = 1024) -> bytes:
    """A file system of 4 MiB with the tree of the workloads, cleanly unmounted."""

    async def main(session: Session) -> None:
        await populate(Tree(session.files))

    return OnDisk(block_size).run_and_keep(main)[1]


async def snapshot(files: FileSystem) -> Snapshot:
    """Everything that is there, by path."""
    tree = Tree(files)
    seen = {}
    async for path, it in tree.walk(b"/"):
        contents = b""
        if it.kind is Kind.FILE:
            contents = await files.read(it.inode, 0, it.size)
        elif it.kind is Kind.SYMLINK:
            contents = await files.read_link(it.inode)
        seen[path] = Facts(it.kind, it.mode, it.uid, it.gid, it.links, it.inode, contents)
    return seen


def expected(chosen: Iterable[Operation]) -> list[Snapshot]:
    """What is there before the first of some operations, and after each."""

    async def main() -> list[Snapshot]:
        files = MemoryFileSystem(block_size=1024)
        tree = Tree(files)
        await populate(tree)
        kept = [await snapshot(files)]
        for operation in chosen:
            await operation.perform(tree)
            kept.append(await snapshot(files))
        return kept

    return at_once(main())


@dataclass
class Run:
    """A workload that ran to its end: what the disk recorded, how much of it when each operation began, and what was
    promised when."""

    workload: Workload
    record: list[Written | Flushed]
    began: list[int]
    promises: list[Promise]
    snapshots: list[Snapshot]

    def judge(self, state: State, seen: Snapshot, exact: bool) -> str | None:
        """Why this cannot be left over, or None."""
        latest = sum(1 for position in self.began if position <= state.position)
        kept = [promise for promise in self.promises if promise.position <= state.position]
        return explain(seen, self.snapshots, kept, latest, exact)


def run(machine: DiskMachine, workload: Workload, mode: str, capacity: int = CAPACITY) -> Run:
    """Run a workload over the image at first, from mounting to unmounting."""
    machine.load(start_image())
    record: list[Written | Flushed] = []
    machine.disk.record = record
    snapshots = expected(operation for operation, _ in workload.steps)
    done = Run(workload, record, [], [], snapshots)

    async def main(volume: Volume) -> None:
        files = await Ext3.mount(volume, base=BASE, epoch=EPOCH, capacity=capacity, mode=mode)
        tree = Tree(files)
        tree.umask = 0o022
        for number, (operation, persist) in enumerate(workload.steps, 1):
            done.began.append(len(record))
            await operation.perform(tree)
            inode = (await tree.lstat(operation.target)).inode
            match persist:
                case Persist.SYNC:
                    await files.sync()
                case Persist.FSYNC:
                    await files.fsync(inode)
                case Persist.FDATASYNC:
                    await files.fdatasync(inode)
            if persist in (Persist.SYNC, Persist.FSYNC):
                done.promises.append(Promise(number, len(record)))
            elif persist is Persist.FDATASYNC:
                facts = snapshots[number][operation.target]
                if facts.kind == Kind.FILE:
                    done.promises.append(Promise(number, len(record), facts.identity))
        await files.unmount()

    try:
        machine.run(main)
    finally:
        machine.disk.record = None
    return done


@dataclass
class Judge:
    """Recovers states by mounting them on the real kernel and remembers what came of each distinct one."""

    machine: DiskMachine
    mode: str
    generated: int = 0
    judged: int = 0
    recovered: dict[int, Snapshot] = field(default_factory=dict)

    def recover(self, medium: Medium) -> Snapshot:
        """What is there after recovery by us; e2fsck must have nothing to say about it."""
        self.generated += 1
        if medium.key not in self.recovered:
            seen, image = self.mount(bytes(medium.bytes()))
            judges.assert_silent(image)
            self.recovered[medium.key] = seen
        return self.recovered[medium.key]

    def mount(self, image: bytes) -> tuple[Snapshot, bytes]:
        """What is there, and the image after unmounting."""
        self.machine.load(image)

        async def main(volume: Volume) -> Snapshot:
            files = await Ext3.mount(volume, base=BASE, epoch=EPOCH, capacity=CAPACITY, mode=self.mode)
            seen = await snapshot(files)
            await files.unmount()
            return seen

        seen = self.machine.run(main)
        return seen, self.machine.image()

    def check(self, done: Run, state: State) -> None:
        """Fail unless a state is recovered to what may be left of a run."""
        about = f"{self.mode}: {done.workload}; cut after {state.position} requests, {state.how}"
        try:
            seen = self.recover(state.medium)
        except Exception as error:
            raise AssertionError(f"{about}: {error}") from error
        self.judged += 1
        reason = done.judge(state, seen, exact=self.mode == "journal")
        assert reason is None, f"{about}: {reason}"


def _report(judge: Judge, capsys: pytest.CaptureFixture[str], workloads_run: int, what: str) -> None:
    with capsys.disabled():
        print(
            f"\n{what}, {judge.mode}: {workloads_run} workloads, {judge.generated} states generated, "
            f"{len(judge.recovered)} distinct, {judge.judged} judged",
            end="",
        )


def explore(
    judge: Judge, chosen: Iterable[Workload], bounds: Bounds, sample: random.Random | None, share: float, most: int
) -> int:
    """Judge the states of workloads, each with a likelihood of `share`, until so many distinct ones have been recovered;
    gives how many workloads it took."""
    count = 0
    for workload in chosen:
        done = run(judge.machine, workload, judge.mode)
        count += 1
        for state in states(start_image(), done.record, bounds, lambda: sample is None or sample.random() < share):
            judge.check(done, state)
            if len(judge.recovered) >= most:
                return count
    return count


@pytest.fixture
def machine() -> Iterator[DiskMachine]:
    with DiskMachine(len(start_image()) // SECTOR_SIZE, memory=4 << 20) as made:
        yield made


@pytest.mark.parametrize(("mode", "share", "most"), [("ordered", 0.1, 1000), ("journal", 0.05, 400)])
def test_single_operations_survive_power_cuts(
    machine: DiskMachine, mode: str, share: float, most: int, capsys: pytest.CaptureFixture[str]
) -> None:
    judge, rng = Judge(machine, mode), random.Random(1)
    chosen = list(workloads(1))
    rng.shuffle(chosen)
    count = explore(judge, chosen, Bounds(pairs=40), rng, share, most)
    _report(judge, capsys, count, "one operation")
    assert judge.judged >= len(judge.recovered) >= most // 2


def test_pairs_of_operations_survive_power_cuts(machine: DiskMachine, capsys: pytest.CaptureFixture[str]) -> None:
    judge, rng = Judge(machine, "ordered"), random.Random(2)
    chosen = list(workloads(2))
    rng.shuffle(chosen)
    count = explore(judge, chosen, Bounds(pairs=20), rng, 0.1, 1000)
    _report(judge, capsys, count, "two operations")
    assert len(judge.recovered) >= 1000


def test_what_e2fsck_recovers_is_what_we_recover(machine: DiskMachine, capsys: pytest.CaptureFixture[str]) -> None:
    """e2fsck replays the journal instead of us, and must find nothing else to do; then we read the result."""
    judge, rng = Judge(machine, "ordered"), random.Random(3)
    chosen = list(workloads(2))
    rng.shuffle(chosen)
    compared = 0
    for workload in chosen[:40]:
        done = run(machine, workload, judge.mode)
        for state in states(start_image(), done.record, Bounds(pairs=0, subsets=5), lambda: rng.random() < 0.02):
            image = bytes(state.medium.bytes())
            ours, _ = judge.mount(image)
            repaired, verdict = judges.repair(image)
            assert not _complaints(verdict.complaints), f"{workload}: {state.how}: {verdict}"
            assert judge.mount(repaired)[0] == ours, f"{workload}: {state.how}"
            compared += 1
    with capsys.disabled():
        print(f"\n{compared} states recovered by e2fsck and by us", end="")
    assert compared > 50


def _complaints(lines: tuple[str, ...]) -> list[str]:
    """What e2fsck said beside replaying the journal, clearing orphans and adding up the superblock's free counts, which
    are not part of any transaction."""
    usual = ("recovering journal", "Clearing orphaned inode", "FILE SYSTEM WAS MODIFIED", "Truncating orphaned inode",
             "Free blocks count wrong (", "Free inodes count wrong (", "Setting free", "Fix? yes")  # fmt: skip
    return [line for line in lines if not any(words in line for words in usual)]


def test_a_power_cut_during_recovery_is_recovered_from(machine: DiskMachine, capsys: pytest.CaptureFixture[str]) -> None:
    judge, rng = Judge(machine, "ordered"), random.Random(4)
    chosen = list(workloads(2))
    rng.shuffle(chosen)
    for workload in chosen[:25]:
        done = run(machine, workload, judge.mode)
        first = rng.choice(list(states(start_image(), done.record, Bounds(pairs=5, subsets=5))))
        record: list[Written | Flushed] = []
        machine.disk.record = record
        image = bytes(first.medium.bytes())
        judge.mount(image)
        machine.disk.record = None
        seconds = list(states(image, record, Bounds(pairs=10, subsets=10)))
        for second in rng.sample(seconds, min(12, len(seconds))):
            medium = first.medium.copy()
            for sector, content in second.medium.sectors.items():
                medium.put(sector, content)
            how = f"{first.how}, and during recovery: {second.how}"
            judge.check(done, State(first.position, how, medium))
    _report(judge, capsys, 25, "cut again during recovery")
    assert judge.judged > 100


@pytest.mark.parametrize(("mode", "capacity"), [("ordered", 40), ("journal", CAPACITY)])
def test_long_random_workloads_survive_power_cuts(
    machine: DiskMachine, mode: str, capacity: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a small cache blocks reach their places at any time."""
    judge, count = Judge(machine, mode), 200 if LONG else 3
    for seed in range(count):
        done = run(machine, random_workload(seed, 40), mode, capacity)
        judges.assert_silent(machine.image())
        rng = random.Random(seed)
        for state in states(start_image(), done.record, Bounds(pairs=10, subsets=30), lambda rng=rng: rng.random() < 0.015):
            judge.check(done, state)
    _report(judge, capsys, count, "forty operations")
    assert judge.judged > 20 * count


@pytest.mark.parametrize("mode", ["ordered", "journal"])
def test_an_old_copy_in_the_log_does_not_overwrite_what_a_block_has_become(machine: DiskMachine, mode: str) -> None:
    """Directories are made durable and removed, so that the log has copies of their blocks; a file takes all that is free,
    and so those blocks too.  Recovery must revoke the copies."""
    machine.load(start_image())
    record: list[Written | Flushed] = []
    machine.disk.record = record
    stored: list[bytes] = []
    kept: list[int] = []

    async def main(volume: Volume) -> None:
        files = await Ext3.mount(volume, base=BASE, epoch=EPOCH, capacity=CAPACITY, mode=mode)
        tree = Tree(files)
        await tree.write_file(b"/most", bytes(100))
        most = (await tree.stat(b"/most")).inode
        await files.set_size(most, (await files.usage()).free_blocks * 1024)
        for at in range(0, (await files.usage()).free_blocks - 100):
            await files.write(most, at * 1024, b"m" * 1024)
        await files.sync()
        for number in range(20):
            await tree.mkdir(b"/directory-%d" % number)
        await files.sync()
        for number in range(20):
            await tree.rmdir(b"/directory-%d" % number)
        await files.sync()
        inode = await files.create(files.root, b"file", 0o644)
        try:
            while True:
                contents = b"%1024d" % len(stored)
                await files.write(inode, len(stored) * 1024, contents)
                stored.append(contents)
        except FileSystemError:
            await files.fsync(inode)
        kept.append(len(record))
        await files.unmount()

    machine.run(main)
    machine.disk.record = None
    seen = Judge(machine, mode).recover(after(start_image(), record[: kept[0]]))
    assert len(stored) > 20
    assert seen[b"/file"].contents == b"".join(stored)


@only_long
@pytest.mark.parametrize("mode", ["ordered", "journal"])
def test_bounded_workloads_survive_power_cuts(machine: DiskMachine, mode: str, capsys: pytest.CaptureFixture[str]) -> None:
    most = int(os.environ.get("EXO_CRASH_STATES", "40000"))
    judge = Judge(machine, mode)
    count = explore(judge, workloads(1), Bounds(), None, 1.0, most)
    chosen = list(workloads(2))
    random.Random(5).shuffle(chosen)
    count += explore(judge, chosen, Bounds(pairs=200), random.Random(6), 0.5, 2 * most)
    _report(judge, capsys, count, "one and two operations")
