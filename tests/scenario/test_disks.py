"""Disks of scenarios: the model, the policy and the power cut, at the command line and in a file, and over image files."""

import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exokernel.cli import app
from exokernel.machine.models import DRIVES
from exokernel.names import UnknownName
from exokernel.partitioning import create_image
from exokernel.policy.disk import DISK_POLICIES
from exokernel.scenario import ProgramSpec, Scenario, ScenarioError, read_scenario

SWAPPING = ProgramSpec("pagewalk", frames=24, arguments=("--pattern", "loop", "--pages", "60", "--steps", "400"))


def test_every_model_and_policy_gives_the_same_answer_in_its_own_time() -> None:
    """What the disk does may change when a program gets its pages, and never what is in them."""
    runs = {name: Scenario((SWAPPING,), disk_model=name).run() for name in DRIVES}
    assert runs["ideal"].cycles < runs["ssd"].cycles < runs["rotating"].cycles
    runs |= {name: Scenario((SWAPPING,), disk_policy=name).run() for name in DISK_POLICIES}
    assert len({run.program("pagewalk").output for run in runs.values()}) == 1
    assert all(run.outcome == "every environment has ended" and not run.exit_status for run in runs.values())


def test_the_default_disk_is_the_solid_state_disk_first_come_first_served() -> None:
    assert Scenario((SWAPPING,)).run() == Scenario((SWAPPING,), disk_model="ssd", disk_policy="fcfs").run()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"disk_model": "rotatin"}, "There is no disk model called rotatin; did you mean rotating?"),
        ({"disk_policy": "c-lok"}, "There is no disk policy called c-lok; did you mean c-look?"),
        ({"power_cut": -1}, "0 is never"),
    ],
)
def test_wrong_settings_are_named_with_the_nearest_right_one(setting: dict[str, object], sentence: str) -> None:
    with pytest.raises((UnknownName, ScenarioError)) as error:
        Scenario((SWAPPING,), **setting).check()  # type: ignore[arg-type]
    assert sentence in str(error.value)


def test_a_scenario_file_and_the_command_line_say_the_same(tmp_path: Path) -> None:
    (tmp_path / "scene.toml").write_text(
        "disk-model = 'rotating'\ndisk-policy = 'scan'\npower-cut = 12345\n[[env]]\napp = 'hello'\n"
    )
    read = read_scenario(tmp_path / "scene.toml")
    assert (read.disk_model, read.disk_policy, read.power_cut) == ("rotating", "scan", 12345)
    options = ["run", "hello", "--disk-model", "ideal", "--disk-policy", "look", "--power-cut", "30000"]
    shown = CliRunner().invoke(app, options)
    assert shown.exit_code == 0
    assert "the power was cut at cycle 30,000" in shown.stdout
    listed = CliRunner().invoke(app, ["list"]).stdout
    assert all(name in listed for name in (*DRIVES, *DISK_POLICIES))


def test_a_power_cut_stops_the_machine_at_its_cycle_and_one_that_comes_too_late_changes_nothing() -> None:
    whole = Scenario((SWAPPING,)).run()
    cut = Scenario((SWAPPING,), power_cut=whole.cycles // 2).run()
    assert cut.outcome.startswith("the power was cut at cycle")
    assert whole.cycles // 2 <= cut.cycles < whole.cycles // 2 + 100_000
    assert Scenario((SWAPPING,), power_cut=2 * whole.cycles).run() == whole


def test_programs_run_over_a_bare_image_and_leave_it_as_it_was(tmp_path: Path) -> None:
    """Their swap lies in the memory behind it."""
    contents = random.Random(1).randbytes(1 << 20)
    (tmp_path / "disk").write_bytes(contents)
    run = Scenario((SWAPPING,), disk=tmp_path / "disk").run()
    assert run.program("pagewalk").swap_out > 0
    assert run.program("pagewalk").output == Scenario((SWAPPING,)).run().program("pagewalk").output
    assert (tmp_path / "disk").read_bytes() == contents


def test_programs_run_over_a_partitioned_image_and_leave_the_partitions_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    table = create_image(path, 8 << 20, [("one", 0)], seed=1)
    one = table.find("one")
    assert one is not None
    with open(path, "r+b") as file:
        file.seek(one.start * 512)
        file.write(random.Random(1).randbytes(one.sectors * 512))
    before = path.read_bytes()
    Scenario((SWAPPING,), disk=path).run()
    after = path.read_bytes()
    kept = [(0, 34), (8 * 2048 - 33, 8 * 2048), *((part.start, part.start + part.sectors) for part in table.partitions)]
    for first, end in kept:
        assert after[first * 512 : end * 512] == before[first * 512 : end * 512]


def test_a_power_cut_leaves_the_same_image_with_the_same_seed(tmp_path: Path) -> None:
    def left(seed: int) -> bytes:
        path = tmp_path / "disk"
        create_image(path, 64 << 20, [("one", 1 << 20)], seed=1)
        Scenario((SWAPPING,), disk=path, power_cut=2_500_000, seed=seed).run()
        return path.read_bytes()

    assert left(3) == left(3)


def test_a_damaged_table_is_a_sentence_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    create_image(path, 8 << 20, [("one", 0)], seed=1)
    data = bytearray(path.read_bytes())
    data[512 + 50] ^= 1
    data[-512 + 50] ^= 1
    path.write_bytes(data)
    shown = CliRunner().invoke(app, ["run", "hello", "--disk", str(path)])
    assert shown.exit_code == 2
    assert "The partition table of" in shown.stderr
    assert "Traceback" not in shown.stderr
