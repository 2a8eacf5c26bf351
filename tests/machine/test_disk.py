"""The contents of a disk: what is read back, what a power cut leaves, and what is in the image file afterwards.

The power cut is judged by a model of its own: for every sector the set of contents it may have.
"""

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exokernel.abi.layout import SECTOR_SIZE
from exokernel.machine import volatile
from exokernel.machine.disk import Disk, DiskError, Flushed, Written
from exokernel.machine.drives import SolidState, SolidStateFigures
from exokernel.machine.models import DRIVES
from exokernel.machine.rotating import Rotating, RotatingFigures
from tests.machine_kit import examples

SECTORS = 40


def contents(stamp: int, count: int) -> bytes:
    """Sectors that differ from all others."""
    return b"".join((stamp << 16 | index).to_bytes(8, "little") * (SECTOR_SIZE // 8) for index in range(count))


class Possible:
    """By sector the contents it may have after a power cut: at first zeros, and what was written since it was last
    durable."""

    def __init__(self, sectors: int) -> None:
        self.may = [{bytes(SECTOR_SIZE)} for _ in range(sectors)]
        self.latest = [bytes(SECTOR_SIZE)] * sectors

    def put(self, sector: int, data: bytes, durable: bool) -> None:
        for index in range(len(data) // SECTOR_SIZE):
            one = data[index * SECTOR_SIZE : (index + 1) * SECTOR_SIZE]
            self.latest[sector + index] = one
            self.may[sector + index] = {one} if durable else self.may[sector + index] | {one}

    def flush(self) -> None:
        self.may = [{one} for one in self.latest]


steps = st.lists(
    st.tuples(
        st.sampled_from(["store", "store", "store", "forced", "flush", "put", "erase", "wait"]),
        st.integers(0, SECTORS - 8),
        st.integers(1, 8),
    ),
    max_size=40,
)


def play(disk: Disk, actions: list[tuple[str, int, int]]) -> Possible:
    """Do these things to a disk and to the model."""
    model, now = Possible(disk.sectors), 0
    for stamp, (what, sector, count) in enumerate(actions, 1):
        data = contents(stamp, count)
        if what in ("store", "forced"):
            now += disk.service_cycles(now, sector, count, True, what == "forced")
            disk.store(sector, data, what == "forced")
            model.put(sector, data, what == "forced" or not disk.drive.volatile)
        elif what == "flush":
            now += disk.service_cycles(now, 0, 0)
            disk.flushed()
            model.flush()
        elif what == "put":
            disk.write(sector, data)
            model.put(sector, data, True)
        elif what == "erase":
            disk.erase(sector, count)
            model.put(sector, bytes(len(data)), True)
        else:
            now += 1_000_000
        for one in range(sector, sector + count):
            assert disk.read(one, 1) == model.latest[one]
    return model


@pytest.mark.parametrize("name", DRIVES)
@pytest.mark.parametrize("fold", [4, volatile.FOLD_AT])
@given(actions=steps, seed=st.integers(0, 1 << 32))
@examples(80)
def test_a_power_cut_leaves_each_sector_with_contents_it_had_since_it_was_durable(
    name: str, fold: int, actions: list[tuple[str, int, int]], seed: int
) -> None:
    usual, volatile.FOLD_AT = volatile.FOLD_AT, fold
    try:
        disk = Disk(SECTORS, drive=DRIVES[name])
        model = play(disk, actions)
        disk.power_cut(random.Random(seed))
        left = [disk.read(sector, 1) for sector in range(SECTORS)]
        assert all(one in model.may[sector] for sector, one in enumerate(left))
        disk.power_cut(random.Random(seed + 1))
        assert [disk.read(sector, 1) for sector in range(SECTORS)] == left, "what is left is durable"
        disk.close()
    finally:
        volatile.FOLD_AT = usual


def cuts(prepare: list[tuple[str, int, int]], drive: type = SolidState, wait: int = 0) -> set[tuple[bytes, ...]]:
    """What power cuts with many seeds leave."""
    found = set()
    for seed in range(400):
        disk = Disk(SECTORS, drive=drive)
        play(disk, prepare)
        disk.power_cut(random.Random(seed), disk._ends + wait)
        found.add(tuple(disk.read(sector, 1) for sector in range(4)))
        disk.close()
    return found


def test_every_subset_of_what_is_in_the_cache_may_survive() -> None:
    zeros, new = bytes(SECTOR_SIZE), [contents(1, 3)[i * SECTOR_SIZE : (i + 1) * SECTOR_SIZE] for i in range(3)]
    wanted = {(a, b, c, zeros) for a in (zeros, new[0]) for b in (zeros, new[1]) for c in (zeros, new[2])}
    assert cuts([("store", 0, 3)]) == wanted


def test_every_version_since_the_sector_was_durable_may_survive() -> None:
    assert {left[0] for left in cuts([("store", 0, 1)] * 3)} == {bytes(SECTOR_SIZE), *(contents(i, 1) for i in (1, 2, 3))}
    assert {left[0] for left in cuts([("store", 0, 1), ("flush", 0, 1), ("store", 0, 1)])} == {
        contents(1, 1),
        contents(3, 1),
    }


def test_a_forced_write_survives_and_takes_nothing_with_it() -> None:
    left = cuts([("store", 0, 1), ("forced", 1, 1), ("store", 0, 1)])
    assert {one[1] for one in left} == {contents(2, 1)}
    assert {one[0] for one in left} == {bytes(SECTOR_SIZE), contents(1, 1), contents(3, 1)}


def test_an_ideal_disk_loses_nothing() -> None:
    assert cuts([("store", 0, 4)], DRIVES["ideal"]) == {tuple(contents(1, 4)[i * 512 : i * 512 + 512] for i in range(4))}


def test_what_the_drive_wrote_out_by_itself_survives() -> None:
    assert len(cuts([("store", 0, 4)], Rotating)) > 1
    assert cuts([("store", 0, 4)], Rotating, 100_000_000) == {
        tuple(contents(1, 4)[i * 512 : i * 512 + 512] for i in range(4))
    }


def test_what_a_full_cache_let_go_survives() -> None:
    for seed in range(50):
        disk = Disk(SECTORS, drive=lambda sectors: SolidState(sectors, SolidStateFigures(cache=8)))
        play(disk, [("store", 0, 8), ("store", 8, 8), ("store", 16, 8)])
        disk.power_cut(random.Random(seed))
        assert disk.read(0, 8) == contents(1, 8)
        disk.close()


def test_a_write_anew_is_not_made_durable_by_what_the_cache_let_go_before() -> None:
    found = set()
    for seed in range(60):
        disk = Disk(SECTORS, drive=lambda sectors: SolidState(sectors, SolidStateFigures(cache=8)))
        play(disk, [("store", 0, 8), ("store", 8, 8), ("store", 0, 8)])
        disk.power_cut(random.Random(seed))
        found.add(disk.read(0, 1))
        disk.close()
    assert found == {contents(1, 1), contents(3, 1)}


@pytest.mark.parametrize("fold", [4, volatile.FOLD_AT])
def test_the_durable_version_may_survive_however_often_a_sector_was_written_since(
    monkeypatch: pytest.MonkeyPatch, fold: int
) -> None:
    monkeypatch.setattr(volatile, "FOLD_AT", fold)
    left = {one[0] for one in cuts([("forced", 0, 1), *[("store", 0, 1)] * 30])}
    assert {contents(1, 1), contents(31, 1)} <= left


def test_the_write_under_way_may_be_torn_between_any_two_sectors() -> None:
    found = set()
    for seed in range(300):
        disk = Disk(SECTORS, drive=DRIVES["ideal"])
        disk.power_cut(random.Random(seed), 0, (0, contents(1, 3)))
        found.add(tuple(disk.read(sector, 1) != bytes(SECTOR_SIZE) for sector in range(3)))
        for sector in range(3):
            assert disk.read(sector, 1) in (bytes(SECTOR_SIZE), contents(1, 3)[sector * 512 : sector * 512 + 512])
        disk.close()
    assert len(found) == 8


def test_the_same_seed_leaves_the_same() -> None:
    actions = [("store", sector % 30, 1 + sector % 5) for sector in range(60)]

    def left(seed: int) -> bytes:
        disk = Disk(SECTORS, drive=lambda sectors: Rotating(sectors, RotatingFigures(cache=16)))
        play(disk, actions)
        disk.power_cut(random.Random(seed))
        return disk.read(0, SECTORS)

    assert left(1) == left(1)
    assert len({left(seed) for seed in range(10)}) > 3


def test_the_record_has_what_reached_the_device_in_order() -> None:
    disk = Disk(SECTORS)
    disk.write(0, bytes(8 * SECTOR_SIZE))
    disk.record = []
    play(disk, [("store", 3, 2), ("flush", 0, 1), ("put", 0, 8), ("erase", 0, 8), ("forced", 5, 1)])
    assert disk.record == [Written(3, contents(1, 2), False), Flushed(), Written(5, contents(5, 1), True)]


@pytest.mark.parametrize("cut", [False, True])
def test_the_image_file_has_what_survived(tmp_path: Path, cut: bool) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(8 * SECTOR_SIZE))
    for seed in range(20):
        disk = Disk(SECTORS, path)
        disk.store(0, contents(seed + 1, 8))
        disk.store(8, contents(7, 8))
        if cut:
            disk.power_cut(random.Random(seed))
        left = disk.read(0, 8)
        disk.close()
        assert path.read_bytes() == left
        assert cut or left == contents(seed + 1, 8)


def test_behind_the_image_lies_memory_that_begins_with_zeros(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(contents(1, 8))
    for _ in range(2):
        disk = Disk(16, path)
        assert (disk.image_sectors, disk.sectors) == (8, 24)
        assert disk.read(0, 8) == contents(1, 8)
        assert disk.read(8, 16) == bytes(16 * SECTOR_SIZE)
        disk.store(8, contents(2, 8))
        disk.close()
    assert path.read_bytes() == contents(1, 8)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 500), st.integers(1, 300)), max_size=20))
@examples(100)
def test_erased_sectors_are_zero_and_no_others(actions: list[tuple[bool, int, int]]) -> None:
    disk, model = Disk(800), bytearray(800 * SECTOR_SIZE)
    for stamp, (erase, sector, count) in enumerate(actions, 1):
        at, data = sector * SECTOR_SIZE, contents(stamp, count)
        if erase:
            disk.erase(sector, count)
            model[at : at + len(data)] = bytes(len(data))
        else:
            disk.write(sector, data)
            model[at : at + len(data)] = data
        assert disk.read(0, 800) == model
    disk.close()


@pytest.mark.parametrize("size", [0, 1, 513])
def test_an_image_that_is_no_whole_number_of_sectors_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "disk").write_bytes(bytes(size))
    with pytest.raises(DiskError, match=r"(is empty|not a whole number of 512-byte sectors), so it is no disk image"):
        Disk(0, tmp_path / "disk")
