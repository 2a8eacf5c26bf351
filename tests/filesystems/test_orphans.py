"""Inodes without names that are open, and truncations that a power cut interrupts: the list of orphans."""

from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from exokernel.abi.layout import SECTOR_SIZE
from libos.filesystems.ext3 import orphans
from libos.filesystems.ext3.filesystem import Ext3
from libos.filesystems.interface import CorruptFileSystem, Errno, FileSystemError, Usage
from libos.storage.volume import Volume
from tests.filesystems import judges
from tests.filesystems.stages import BASE, EPOCH, OnDisk, Session
from tests.storage.kit import DiskMachine

MIB = 1 << 20
STAGE = OnDisk(size=8 * MIB)


class PowerCut(Exception):
    """Nothing happens any more."""


def cut_off(main: Callable[[Ext3], Coroutine[Any, Any, None]], image: bytes | None = None) -> bytes:
    """The image when the power goes at the end of `main`, or where it raises PowerCut."""
    start = STAGE.image() if image is None else image
    with DiskMachine(len(start) // SECTOR_SIZE) as machine:
        machine.load(start)

        async def body(volume: Volume) -> None:
            await main(await Ext3.mount(volume, base=BASE, epoch=EPOCH, capacity=256))

        with suppress(PowerCut):
            machine.run(body)
        return machine.image()


def mounted_again(image: bytes) -> tuple[Usage, bytes]:
    """How full the file system is once we have mounted and unmounted it; e2fsck has nothing to say then."""

    async def main(session: Session) -> Usage:
        return await session.files.usage()

    return STAGE.run_and_keep(main, image)


def repaired(image: bytes) -> list[str]:
    """What e2fsck has to say while it does with the journal and the orphans what is to be done, and nothing else."""
    after, verdict = judges.repair(image)
    judges.assert_silent(after)
    known = ("recovering journal", "Clearing orphaned inode", "Truncating orphaned inode", "FILE SYSTEM WAS MODIFIED")
    assert all(any(word in line for word in known) for line in verdict.complaints), str(verdict)
    return [line for line in verdict.complaints if "orphaned" in line]


@cache
def empty() -> Usage:
    """How full it is before anything has been done."""
    return mounted_again(STAGE.image())[0]


def test_an_open_file_without_a_name_lives_until_it_is_closed() -> None:
    async def main(session: Session) -> None:
        files = session.files
        number = await files.create(files.root, b"f", 0o600)
        await files.open(number)
        await files.open(number)
        await files.write(number, 0, b"x" * 50_000)
        await files.unlink(files.root, b"f")
        assert (await files.attributes(number)).links == 0
        await files.write(number, 50_000, b"y" * 1000)
        assert await files.read(number, 49_999, 2) == b"xy"
        await files.close(number)
        assert await files.read(number, 49_999, 2) == b"xy"
        await files.close(number)
        with pytest.raises(FileSystemError) as gone:
            await files.read(number, 0, 1)
        assert gone.value.errno is Errno.ENOENT
        with pytest.raises(FileSystemError) as closed:
            await files.close(number)
        assert closed.value.errno is Errno.EBADF
        assert await files.usage() == empty()

    STAGE.run(main)


def test_after_a_power_cut_mounting_frees_open_files_without_names() -> None:
    async def main(files: Ext3) -> None:
        for name in (b"a", b"b", b"c"):
            number = await files.create(files.root, name, 0o600)
            await files.open(number)
            await files.write(number, 0, b"x" * 300_000)
        for name in (b"b", b"a", b"c"):
            await files.unlink(files.root, name)
        await files.sync()

    image = cut_off(main)
    assert len(repaired(image)) == 3
    assert mounted_again(image)[0] == empty()


def test_an_unmounted_file_system_has_no_orphans_even_if_files_were_open() -> None:
    async def main(session: Session) -> None:
        number = await session.files.create(session.files.root, b"f", 0o600)
        await session.files.open(number)
        await session.files.write(number, 0, b"x" * 5000)
        await session.files.unlink(session.files.root, b"f")

    assert mounted_again(STAGE.run_and_keep(main)[1])[0] == empty()


@pytest.mark.parametrize("order", ["abcd", "dcba", "bdac", "cadb"])
def test_orphans_leave_the_list_in_any_order(order: str) -> None:
    async def main(files: Ext3) -> None:
        numbers = {}
        for name in "abcd":
            numbers[name] = await files.create(files.root, name.encode(), 0o600)
            await files.open(numbers[name])
            await files.unlink(files.root, name.encode())
        for name in order[:remaining]:
            await files.close(numbers[name])
        await files.sync()

    for remaining in range(5):
        image = cut_off(main)
        assert len(repaired(image)) == 4 - remaining
        assert mounted_again(image)[0] == empty()


def _operations(files: Ext3, allowed: int) -> None:
    """Cut the power before the operation after so many; what was done before is committed."""
    journal = files._mounted.journal
    begin = journal.operation
    left = allowed

    def operation(credits: int) -> AbstractAsyncContextManager[None]:
        @asynccontextmanager
        async def counted() -> AsyncIterator[None]:
            nonlocal left
            left -= 1
            if left < 0:
                await journal.commit()
                raise PowerCut
            async with begin(credits):
                yield

        return counted()

    journal.operation = operation  # type: ignore[method-assign]


@pytest.mark.parametrize("cut_before", range(1, 7))
@pytest.mark.parametrize("size", [0, 100_001])
def test_a_large_truncation_goes_on_after_a_power_cut(monkeypatch: pytest.MonkeyPatch, cut_before: int, size: int) -> None:
    monkeypatch.setattr(orphans, "_BLOCKS", 64)
    data = bytes(range(256)) * 2000

    async def main(files: Ext3) -> None:
        number = await files.create(files.root, b"f", 0o600)
        await files.write(number, 0, data)
        await files.sync()
        _operations(files, cut_before)
        await files.set_size(number, size)

    image = cut_off(main)
    said = repaired(image)
    assert len(said) == 1
    assert "Truncating" in said[0]

    async def look(session: Session) -> bytes:
        number = await session.files.lookup(session.files.root, b"f")
        await session.files.set_size(number, size + 10)
        return await session.files.read(number, 0, len(data))

    assert STAGE.run(look, image) == data[:size] + bytes(10)


@pytest.mark.parametrize("cut_before", range(1, 8))
def test_freeing_a_large_file_goes_on_after_a_power_cut(monkeypatch: pytest.MonkeyPatch, cut_before: int) -> None:
    monkeypatch.setattr(orphans, "_BLOCKS", 64)

    async def main(files: Ext3) -> None:
        number = await files.create(files.root, b"f", 0o600)
        await files.write(number, 0, b"x" * 600_000)
        await files.sync()
        _operations(files, cut_before)
        await files.unlink(files.root, b"f")

    image = cut_off(main)
    assert len(repaired(image)) == 1
    assert mounted_again(image)[0] == empty()


def test_orphans_that_another_system_left_are_freed(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "gone").write_bytes(b"x" * 70_000)
    (source / "cut").write_bytes(b"y" * 70_000)
    path = tmp_path / "image"
    path.write_bytes(judges.make_ext3(8 * MIB, source=source))
    stats = judges.debugfs(path, ["stat gone", "stat cut"])
    gone, cut = (int(line.split()[1]) for line in stats.splitlines() if line.startswith("Inode:"))
    judges.debugfs(
        path,
        [
            "unlink gone", f"sif <{gone}> links_count 0", f"sif <{gone}> dtime {cut}", f"ssv last_orphan {gone}",
            f"sif <{cut}> size 5000", f"sif <{cut}> dtime 0",
        ],
        write=True,
    )  # fmt: skip

    async def main(session: Session) -> bytes:
        number = await session.files.lookup(session.files.root, b"cut")
        assert (await session.files.attributes(number)).sectors == 10
        return await session.files.read(number, 0, 100_000)

    after = STAGE.run_and_keep(main, path.read_bytes())
    assert after[0] == b"y" * 5000
    assert mounted_again(after[1])[0].free_inodes == empty().free_inodes - 1


@pytest.mark.parametrize(("first", "second"), [(12, 12), (3, 0), (100_000, 0), (200, 0)])
def test_a_list_of_orphans_that_leads_nowhere_is_refused(tmp_path: Path, first: int, second: int) -> None:
    path = tmp_path / "image"
    path.write_bytes(STAGE.image())
    commands = ["write /dev/null f", "sif <12> dtime 12", f"ssv last_orphan {first}"]
    judges.debugfs(path, commands, write=True)
    with pytest.raises(CorruptFileSystem, match="list of orphans"):
        mounted_again(path.read_bytes())
