"""Models of drives: their figures are those of their sources, and time passes as a disk's does."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exokernel.machine.drives import Drive, Ideal, Settled, SolidState, SolidStateFigures
from exokernel.machine.models import DRIVES
from exokernel.machine.rotating import Rotating, RotatingFigures
from tests.machine_kit import examples

SECTORS = 2 << 20
MILLISECOND = 1_000_000
TURN = RotatingFigures().rotation


class Bench:
    """One drive and the clock."""

    def __init__(self, drive: Drive) -> None:
        self.drive = drive
        self.now = 0

    def move(self, write: bool, sector: int, count: int = 8, forced: bool = False, through: Sequence[int] = ()) -> int:
        cycles = self.drive.transfer(self.now, write, sector, count, forced, through)
        self.now += cycles
        return cycles

    def flush(self) -> int:
        cycles = self.drive.flush(self.now)
        self.now += cycles
        return cycles


def mean(bench: Bench, sectors: Sequence[int], write: bool = False, forced: bool = False) -> float:
    """Milliseconds a request takes on average."""
    return sum(bench.move(write, sector, forced=forced) for sector in sectors) / len(sectors) / MILLISECOND


def scattered(count: int, seed: int = 1) -> list[int]:
    chance = random.Random(seed)
    return [8 * chance.randrange(SECTORS // 8) for _ in range(count)]


requests = st.lists(
    st.tuples(st.sampled_from(["read", "write", "forced", "flush", "wait"]), st.integers(0, 4000), st.integers(1, 8)),
    max_size=60,
)


@pytest.mark.parametrize("name", DRIVES)
@given(requests)
@examples(60)
def test_the_same_requests_take_the_same_time_and_time_never_runs_back(
    name: str, steps: list[tuple[str, int, int]]
) -> None:
    def play() -> list[int]:
        bench, ends = Bench(DRIVES[name](4008)), []
        for what, sector, count in steps:
            if what == "wait":
                bench.now += sector * 10_000
            else:
                cycles = bench.flush() if what == "flush" else bench.move(what != "read", sector, count, what == "forced")
                assert cycles >= 1
            ends.append(bench.now)
        return ends

    assert play() == play()


@pytest.mark.parametrize("name", DRIVES)
@given(requests)
@examples(60)
def test_what_a_drive_says_it_has_settled_was_written_before_and_not_twice(
    name: str, steps: list[tuple[str, int, int]]
) -> None:
    """Each sector settles at most once for each write of it, none after its flush, and never in the past."""
    bench = Bench(DRIVES[name](4008))
    written: dict[int, int] = {}
    for what, sector, count in steps:
        if what == "flush":
            bench.flush()
            bench.drive.settled.clear()
            written.clear()
            continue
        if what == "wait":
            bench.drive.idle_until(bench.now + sector * 10_000)
            bench.now += sector * 10_000
        else:
            bench.move(what != "read", sector, count, what == "forced")
        cycles = [one.cycle for one in bench.drive.settled]
        assert cycles == sorted(cycles)
        if what == "write":
            for one in range(sector, sector + count):
                written[one] = written.get(one, 0) + 1
        while bench.drive.settled:
            settled = bench.drive.settled.pop(0)
            for one in range(settled.sector, settled.sector + settled.count):
                assert written.get(one, 0) > 0
                written[one] -= 1


def test_the_ideal_disk_takes_one_cycle_and_keeps_everything() -> None:
    bench = Bench(Ideal(SECTORS))
    assert {bench.move(write, sector) for write in (False, True) for sector in scattered(20)} == {1}
    assert bench.flush() == 1
    assert not Ideal.volatile


def test_a_solid_state_disk_takes_a_latency_and_its_bandwidth_wherever_the_sectors_are() -> None:
    bench = Bench(SolidState(SECTORS))
    for sector in scattered(20):
        assert bench.move(False, sector) == 58_000
        assert bench.move(True, sector, 1) == 51_000
    assert bench.move(True, 0, forced=True) == 258_000
    assert bench.flush() == 500_000


def test_a_full_write_cache_of_a_solid_state_disk_lets_the_oldest_go() -> None:
    bench = Bench(SolidState(SECTORS, SolidStateFigures(cache=24)))
    for index in range(5):
        bench.move(True, 100 * index)
    assert [(one.sector, one.count) for one in bench.drive.settled] == [(0, 8), (100, 8)]
    bench.flush()
    bench.drive.settled.clear()
    for index in range(3):
        bench.move(True, 100 * index)
    assert bench.drive.settled == []


def test_the_seek_curve_is_that_of_ruemmler_and_wilkes() -> None:
    """3.24 + 0.400 sqrt(d) ms up to 383 cylinders, 8.00 + 0.008 d beyond."""
    drive = Rotating(SECTORS)
    assert drive.seek(0) == 0
    assert drive.seek(1) == 3_640_000
    assert drive.seek(100) == 7_240_000
    assert drive.seek(383) == pytest.approx(3.24e6 + 0.4e6 * 383**0.5, abs=1)
    assert drive.seek(384) == 8_000_000 + 8_000 * 384
    assert drive.seek(1961) == 23_688_000
    assert all(drive.seek(far) < drive.seek(far + 1) for far in range(1961))


def test_a_disk_in_use_is_no_larger_than_its_cylinders() -> None:
    drive = Rotating(SECTORS)
    assert drive.cylinder(SECTORS - 1) < RotatingFigures().cylinders
    assert drive.cylinder(0) == 0


def test_a_read_out_of_order_waits_half_a_turn_on_average_and_in_order_hardly() -> None:
    there = mean(Bench(Rotating(SECTORS)), scattered(400))
    near = mean(Bench(Rotating(SECTORS)), [8 * index for index in range(400)])
    within = [8 * (37 * index % 9) for index in range(400)]
    bench = Bench(Rotating(SECTORS))
    assert 18 < there < 28, "overhead 2.2, a seek of about 12, half a turn of 15 and the transfer"
    assert near < 3, "the track buffer has it when it is asked for"
    for sector in within:
        bench.now += 997_001
        bench.drive.idle_until(bench.now)
        assert bench.move(False, sector) < TURN + 5 * MILLISECOND, "no seek within a track"


def test_reading_in_order_is_as_fast_as_the_platter_if_requests_are_large_enough_and_no_faster() -> None:
    figures = RotatingFigures(overhead=0, bus_sector=0)
    bench = Bench(Rotating(SECTORS, figures))
    for index in range(1000):
        bench.move(False, 8 * index)
    per_track = figures.sectors_per_track
    platter = 8000 / per_track * TURN * (per_track + figures.track_skew) / per_track
    assert platter * 0.99 < bench.now < platter * 1.02 + 2 * TURN


def test_a_pause_does_not_lose_the_turn_while_the_buffer_is_read_ahead() -> None:
    bench = Bench(Rotating(SECTORS))
    bench.move(False, 1000)
    bench.now += 40 * MILLISECOND
    assert bench.move(False, 1008) == 2_200_000 + 8 * 51_200
    assert bench.move(False, 1016) == 2_200_000 + 8 * 51_200
    assert bench.move(False, 500_000) > 5 * MILLISECOND


def test_what_has_been_written_over_is_not_read_from_the_buffer() -> None:
    bench = Bench(Rotating(SECTORS))
    bench.move(False, 1000)
    bench.now += 40 * MILLISECOND
    bench.move(True, 1008, forced=True)
    assert bench.move(False, 1016) > 2_200_000 + 8 * 51_200


def test_a_write_ends_in_the_cache_and_a_forced_one_on_the_platter() -> None:
    bench = Bench(Rotating(SECTORS))
    cached = [bench.move(True, sector) for sector in scattered(20)]
    assert set(cached) == {2_200_000 + 8 * 51_200}
    bench.flush()
    assert mean(bench, scattered(100, 2), write=True, forced=True) > 15


def test_a_forced_write_leaves_nothing_of_its_sectors_in_the_cache() -> None:
    bench = Bench(Rotating(SECTORS))
    bench.move(True, 500_000)
    bench.move(True, 500_000, forced=True)
    assert bench.flush() == 2_200_000


def test_another_head_is_not_ready_at_once() -> None:
    """Sector 72 lies on the next track where the head has come to behind sector 7, which is too soon: another turn."""
    bench = Bench(Rotating(SECTORS, RotatingFigures(overhead=0, bus_sector=0)))
    bench.move(True, 0, forced=True)
    assert TURN * 1.09 < bench.move(True, 72, forced=True) < TURN * 1.13
    bench.move(True, 0, forced=True)
    assert bench.move(True, 8, forced=True) < TURN * 0.12, "on the same track it goes on"


def test_what_is_in_the_cache_is_read_without_the_arm() -> None:
    bench = Bench(Rotating(SECTORS))
    bench.move(True, 700_000)
    bench.move(True, 5_000)
    assert bench.move(False, 5_000) == 2_200_000 + 8 * 51_200


def test_a_full_cache_makes_a_write_wait_for_the_arm() -> None:
    bench = Bench(Rotating(SECTORS, RotatingFigures(cache=64)))
    waits = [bench.move(True, sector) for sector in scattered(40)]
    assert max(waits[:8]) < 3 * MILLISECOND
    assert max(waits[16:]) > 5 * MILLISECOND


def test_the_cache_empties_itself_upwards_when_nothing_else_is_to_do() -> None:
    drive = Rotating(SECTORS)
    bench = Bench(drive)
    for sector in (900_000, 100_000, 500_000, 100_008):
        bench.move(True, sector)
    drive.settled.clear()
    drive.idle_until(bench.now + 200 * MILLISECOND)
    rest = [(one.sector, one.count) for one in drive.settled]
    assert sorted(rest) == [(100_000, 16), (500_000, 8)]
    assert rest == sorted(rest)
    assert drive.flush(bench.now + 200 * MILLISECOND) == 2_200_000, "nothing is left"


def test_a_flush_writes_everything_in_elevator_order() -> None:
    sectors = sorted(scattered(30))
    shuffled = list(sectors)
    random.Random(3).shuffle(shuffled)
    bench = Bench(Rotating(SECTORS))
    for sector in shuffled:
        bench.move(True, sector)
    bench.drive.settled.clear()
    cycles = bench.flush()
    order = [one.sector for one in bench.drive.settled]
    turned = [index for index in range(1, len(order)) if order[index] < order[index - 1]]
    assert len(turned) <= 1
    one_by_one = mean(Bench(Rotating(SECTORS)), shuffled, write=True, forced=True) * MILLISECOND
    assert cycles < 0.75 * one_by_one * len(order)
    assert bench.flush() == 2_200_000


def test_a_write_anew_is_not_settled_by_the_old_one_under_way() -> None:
    """The arm is on its way with the first version when the second comes: the medium will have the first, not the
    second."""
    drive = Rotating(SECTORS)
    bench = Bench(drive)
    bench.move(True, 900_000)
    bench.now += MILLISECOND
    bench.move(True, 900_000)
    assert not any(one.sector == 900_000 and one.cycle > bench.now for one in drive.settled)
    bench.flush()
    assert drive.settled[-1] == Settled(bench.now, 900_000, 8)


def test_the_way_over_the_edge_takes_its_time() -> None:
    near, far = Bench(Rotating(SECTORS)), Bench(Rotating(SECTORS))
    near.move(False, 8_000)
    far.move(False, 8_000)
    assert far.move(False, 4_000, through=(SECTORS - 1,)) > near.move(False, 4_000) + 30 * MILLISECOND
