"""Coroutines over a disk, boot after boot: what they give and raise, and what a power cut between two boots leaves."""

import os
import signal

import pytest

from exokernel.abi.flags import Event
from exokernel.filesystem_session import DiskSession, EnvironmentEnded, Interrupted, PowerCut
from exokernel.machine.disk import Disk
from exokernel.machine.models import DRIVES
from libos.storage.volume import Volume, VolumeError

PAGE = 0x1000_0000
SEEDS = range(24)


@pytest.fixture
def session() -> DiskSession:
    return DiskSession(Disk(64))


async def page(volume: Volume, contents: bytes = b"") -> int:
    """A frame with these contents, mapped at PAGE."""
    frame = await volume.exo.alloc_page()
    await volume.exo.create_mapping(PAGE, frame, 3)
    await volume.exo.write(PAGE, contents)
    return frame


def test_a_run_gives_what_its_coroutine_gives(session: DiskSession) -> None:
    async def main(volume: Volume) -> tuple[int, int]:
        return volume.start, volume.sectors

    assert session.run(main) == (0, 64)
    assert session.cycles > 0


def test_a_run_over_an_extent_can_use_that_and_no_more(session: DiskSession) -> None:
    async def main(volume: Volume) -> None:
        frame = await page(volume, b"here")
        await volume.wait(await volume.begin_write(0, 1, frame))
        with pytest.raises(VolumeError):
            await Volume(volume.exo, 0, 64).begin_write(16, 1, frame)

    session.run(main, extent=(8, 8))
    assert session.disk.read(8, 1).startswith(b"here")


def test_what_a_coroutine_raises_is_raised(session: DiskSession) -> None:
    async def main(volume: Volume) -> None:
        raise LookupError("this very one")

    with pytest.raises(LookupError, match="this very one"):
        session.run(main)


def test_an_environment_that_the_kernel_ends_is_an_error_with_its_reason(session: DiskSession) -> None:
    async def main(volume: Volume) -> None:
        await volume.exo.read(0x5000, 1)

    with pytest.raises(EnvironmentEnded, match="touched a page that is not mapped"):
        session.run(main)


def test_the_next_boot_has_the_disk_and_nothing_else(session: DiskSession) -> None:
    async def write(volume: Volume) -> None:
        await volume.wait(await volume.begin_write(3, 1, await page(volume, b"kept")))

    async def read(volume: Volume) -> tuple[bytes, bytes, int]:
        began = await volume.exo.time()
        frame = await page(volume)
        before = await volume.exo.read(PAGE, 4)
        await volume.wait(await volume.begin_read(3, 1, frame))
        return before, await volume.exo.read(PAGE, 4), began

    session.run(write)
    before, after, began = session.run(read)
    assert (before, after) == (bytes(4), b"kept")
    assert began < 10_000


@pytest.mark.parametrize("model", DRIVES)
def test_a_power_cut_loses_what_was_volatile_and_nothing_that_was_flushed(model: str) -> None:
    async def main(volume: Volume) -> None:
        frame = await page(volume, b"old")
        await volume.wait(await volume.begin_write(0, 1, frame))
        await volume.flush()
        await volume.exo.write(PAGE, b"new")
        await volume.wait(await volume.begin_write(0, 1, frame))
        ended.append(True)
        await volume.exo.block(Event.TIME, 0, 1 << 60)

    found = set()
    for seed in SEEDS:
        ended: list[bool] = []
        with DiskSession(Disk(64, drive=DRIVES[model])) as session:
            cycle = 3_000_000
            while not ended:
                cycle *= 2
                with pytest.raises(PowerCut) as cut:
                    session.run(main, power_cut=cycle, seed=seed)
            assert cut.value.cycle >= cycle
            found.add(session.disk.read(0, 1)[:3])
    if model == "ssd":
        assert found == {b"old", b"new"}
    assert found <= {b"old", b"new"}


@pytest.mark.parametrize("model", DRIVES)
def test_every_boot_begins_with_a_drive_at_rest(model: str) -> None:
    async def main(volume: Volume) -> None:
        frame = await page(volume, b"contents")
        for sector in (0, 40, 8):
            await volume.wait(await volume.begin_write(sector, 8, frame))
        await volume.flush()

    with DiskSession(Disk(64, drive=DRIVES[model])) as session:
        times = set()
        for _ in range(3):
            session.run(main)
            times.add(session.cycles)
    assert len(times) == 1


def test_a_machine_that_is_switched_off_in_good_order_loses_nothing() -> None:
    async def write(volume: Volume) -> None:
        await volume.wait(await volume.begin_write(0, 1, await page(volume, b"kept")))

    async def wait(volume: Volume) -> None:
        await volume.exo.block(Event.TIME, 0, 1 << 60)

    for seed in SEEDS:
        with DiskSession(Disk(64)) as session:
            session.run(write)
            with pytest.raises(PowerCut):
                session.run(wait, power_cut=1_000, seed=seed)
            assert session.disk.read(0, 1).startswith(b"kept")


def test_the_first_interrupt_is_told_by_check_and_the_second_is_raised() -> None:
    async def main(volume: Volume) -> str:
        session.check()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Interrupted):
            session.check()
        os.kill(os.getpid(), signal.SIGINT)
        return "not reached"

    before = signal.getsignal(signal.SIGINT)
    session = DiskSession(Disk(64), stop_at_interrupt=True)
    with pytest.raises(KeyboardInterrupt):
        session.run(main)
    assert signal.getsignal(signal.SIGINT) is before
