"""The convoy demonstration: the lock excludes, who is asked leaves nobody waiting, and the numbers stay."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exokernel.cli import app
from exokernel.demos import convoy
from exokernel.demos.convoy import Cell, Outcome, Pair, Sweep
from exokernel.scenario import ProgramSpec, Scenario, ScenarioError

SWEEP = Sweep((2, 5), (1, 2), (200, 2_000), (5_000,), outside=3_000, sections=100)
CELLS = [*convoy.cells(SWEEP), *convoy.cells_without_contention(SWEEP)]


@cache
def measured(cell: Cell, forces: bool) -> Outcome:
    return convoy.outcome(cell, SWEEP, forces)


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_no_increment_is_lost_and_nobody_who_is_asked_overruns(cell: Cell) -> None:
    asks, forces = measured(cell, False), measured(cell, True)
    assert asks.exact
    assert forces.exact
    assert asks.sections == forces.sections == SWEEP.sections // cell.threads * cell.threads
    assert asks.overruns == forces.overruns == 0


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.cpus == 1 and not cell.private], ids=str)
def test_on_one_processor_nobody_who_is_asked_leaves_others_waiting(cell: Cell) -> None:
    asks, forces = measured(cell, False), measured(cell, True)
    assert (asks.waits, asks.spun, asks.longest) == (0, 0, 0)
    assert asks.offered > 0
    assert forces.longest > cell.quantum
    assert forces.spun > cell.quantum
    assert asks.throughput > forces.throughput


@pytest.mark.parametrize("section", SWEEP.section)
def test_with_more_threads_than_processors_asking_spares_most_of_the_waiting(section: int) -> None:
    cell = Cell(5, 2, section, 5_000)
    asks, forces = measured(cell, False), measured(cell, True)
    assert 2 * asks.spun < forces.spun
    assert asks.throughput > forces.throughput


@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.private], ids=str)
def test_without_contention_nobody_waits_and_asking_costs_a_few_percent(cell: Cell) -> None:
    asks, forces = measured(cell, False), measured(cell, True)
    assert asks.spun == forces.spun == 0
    assert 1 < asks.used / forces.used < 1.06


def test_the_same_seed_gives_the_same_numbers_and_another_others() -> None:
    cell = Cell(5, 2, 2_000, 5_000)
    again, other = (convoy.pair(cell, replace(SWEEP, seed=seed)) for seed in (SWEEP.seed, SWEEP.seed + 1))
    assert again == Pair(cell, measured(cell, False), measured(cell, True))
    assert other.asks.cycles != again.asks.cycles


def test_a_thread_that_holds_on_for_longer_than_the_deadline_overruns() -> None:
    cell = Cell(2, 1, 4_000, 5_000)
    scene = convoy.scenario(cell, replace(SWEEP, sections=40), forces=False)
    (program,) = replace(scene, settings={"cpu_release_deadline": 300}).run().programs
    assert program.overruns > 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--thread 4", "convoy: the options are --plain, --private, --threads, --rounds, --section, --outside and --seed, "
         "not --thread."),
        ("--threads", "convoy: there is no value after --threads."),
        ("--threads 25", "convoy: what follows an option is a number from 1 to 24, not 25."),
    ],
)  # fmt: skip
def test_the_program_says_what_was_wrong(words: str, sentence: str) -> None:
    (program,) = Scenario((ProgramSpec("convoy", arguments=tuple(words.split())),)).run().programs
    assert (program.output.decode(), program.exit_status) == (sentence + "\n", 2)


def an_outcome(cycles: int, **fields: int) -> Outcome:
    names = ("spun", "longest", "waits", "asked", "offered", "switches", "overruns")
    numbers = dict.fromkeys(names, 0) | {"used": 1_000 * cycles} | fields
    return Outcome(exact=True, sections=100, cycles=cycles, **numbers)


def test_the_sentences_follow_from_the_numbers_even_when_they_speak_against_us() -> None:
    crowded, roomy, alone = Cell(4, 2, 200, 5_000), Cell(2, 2, 200, 5_000), Cell(4, 2, 200, 5_000, private=True)
    pairs = [Pair(crowded, an_outcome(100), an_outcome(250)), Pair(roomy, an_outcome(100), an_outcome(100))]
    good = " ".join(convoy.conclusion(pairs, [Pair(alone, an_outcome(105), an_outcome(100))]))
    assert "in 1 of 1 cases, fewer in 0" in good
    assert "2.50 times as many" in good
    assert "as many (within 2%) in 1." in good
    assert "costs 5.0% to 5.0% more" in good
    assert "Against us" not in good
    inexact = replace(an_outcome(100), exact=False)
    bad = " ".join(convoy.conclusion([Pair(crowded, an_outcome(200, overruns=3), inexact)], []))
    assert "in 0 of 1 cases, fewer in 1" in bad
    assert "most harm" in bad
    assert "0.50 times as many" in bad
    assert "3 requests for a processor were not met" in bad
    assert "increments were lost" in bad


@pytest.mark.parametrize(
    "wrong",
    [
        {"threads": (25,)},
        {"threads": (0,)},
        {"section": (-1,)},
        {"quantum": (0,)},
        {"sections": 1},
        {"cpus": (17,)},
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(wrong: dict[str, tuple[int, ...]]) -> None:
    sweep = replace(SWEEP, **wrong)
    with pytest.raises(ScenarioError):
        sweep.check()


def test_the_command_prints_tables_and_draws_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convoy, "outcome", cache(convoy.outcome))
    picture = tmp_path / "picture.png"
    words = ["demo", "convoy", "--threads", "3", "--cpus", "1,2", "--section", "2000", "--quantum", "5000"]
    words += ["--sections", "60", "--picture", str(picture)]
    shown = CliRunner().invoke(app, words, catch_exceptions=False)
    assert shown.exit_code == 0
    assert "One lock for all." in shown.stdout
    assert "A lock for each thread." in shown.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    data = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert [cell["cpus"] for cell in data["shared"]] == [1, 2]
    assert all(cell[way]["exact"] for cell in data["shared"] + data["private"] for way in ("asks", "forces"))
    assert data["shared"][0]["asks"]["spun"] == 0 < data["shared"][0]["forces"]["spun"]


def test_a_list_of_numbers_is_one() -> None:
    refused = CliRunner().invoke(app, ["demo", "convoy", "--threads", "2;4"])
    assert refused.exit_code == 2
    assert "--threads is one whole number or several with commas between" in refused.stderr
