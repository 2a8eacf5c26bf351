"""The same scenario gives the same results, cycle for cycle, and the same files, byte for byte; looking changes nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from exokernel.scenario import ProgramSpec, Scenario
from exokernel.session import CHUNK, Session
from tests.cli.commands import exo_process

WALK = ("--pattern", "zipf", "--pages", "40", "--steps", "1200")
CROWD = Scenario(
    (
        ProgramSpec("pagewalk", "native+random", WALK, 12),
        ProgramSpec("pagewalk", "python+random", WALK, 12),
        ProgramSpec("quicksort", "native+clock", ("20000",)),
        ProgramSpec("sieve", "python+wsclock", ("30000",)),
        ProgramSpec("forkdemo", "native+fifo", ("6", "2")),
    ),
    memory=1 << 20,
    global_policy="oldest",
    seed=3,
)


def test_the_same_scenario_gives_the_same_results_and_the_same_trace(tmp_path: Path) -> None:
    first = replace(CROWD, trace=tmp_path / "first").run()
    assert first == replace(CROWD, trace=tmp_path / "second").run()
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_another_seed_gives_other_results() -> None:
    assert CROWD.run().programs != replace(CROWD, seed=4).run().programs


@pytest.mark.parametrize("sample_held", [777, 100_000])
def test_neither_a_trace_nor_samples_nor_progress_change_anything(tmp_path: Path, sample_held: int) -> None:
    plain = CROWD.run()
    seen: list[str] = []
    watched = replace(CROWD, trace=tmp_path / "trace", sample_held=sample_held).run(progress=seen.append)
    assert replace(watched, held_over_time={}) == plain
    assert len(seen) >= watched.cycles // CHUNK
    assert watched.held_over_time


def test_recording_references_changes_nothing(tmp_path: Path) -> None:
    for libos in ("native+clock", "python+clock"):
        scenario = Scenario((ProgramSpec("pagewalk", libos, WALK, 10),))
        assert scenario.run() == replace(scenario, record_references=tmp_path / "references").run()


def test_stopping_to_look_does_not_change_what_came_before() -> None:
    stopped = replace(CROWD, stop_on="upcall")
    with Session(stopped) as first, Session(stopped) as second:
        assert first.run() == second.run()
        assert first.explanation == second.explanation


def test_the_order_of_python_sets_has_no_say(tmp_path: Path) -> None:
    words = [f"--env=pagewalk --libos {libos} --frames 9 -- {' '.join(WALK)}" for libos in ("native+mru", "python+ageing")]
    results, traces = [], []
    for seed in ("1", "2"):
        trace = tmp_path / seed
        ended = exo_process("run", *words, "--memory", "1M", "--json", "--trace", trace, PYTHONHASHSEED=seed)
        results.append(json.loads(ended.out))
        traces.append(trace.read_bytes())
    assert results[0] == results[1]
    assert traces[0] == traces[1]
