"""The mix of jobs: run to the end at every depth, checked job by job, and judged by what the numbers say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exokernel.cli import app
from exokernel.demos import mix
from exokernel.results import ProgramResult
from exokernel.scenario import ProgramSpec, Scenario
from tests.cli.commands import exo

ROW = mix.Row("ours", 3, 100, 10, 20, 50, 7, 5, 4, 2)


def test_the_jobs_depend_on_the_seed_alone_and_are_of_every_kind() -> None:
    file = Path("text")
    assert mix.jobs(35, 3, file) == mix.jobs(35, 3, file) != mix.jobs(35, 4, file)
    assert {job.app for job in mix.jobs(60, 3, file)} == set(mix.PROGRAMS)


def test_every_job_is_checked_and_both_contestants_run_the_same_list() -> None:
    shown = CliRunner().invoke(
        app, ["demo", "mix", "--jobs", "5", "--depth", "1,3", "--seed", "2", "--json"], catch_exceptions=False
    )
    assert shown.exit_code == 0
    data = json.loads(shown.stdout)
    rows = {(row["way"], row["depth"]): row for row in data["rows"]}
    assert set(rows) == {(way.title, depth) for way in mix.WAYS for depth in (1, 3)}
    assert len({tuple(one["output"] for one in row["programs"]) for row in rows.values()}) == 1
    for (_, depth), row in rows.items():
        programs = row["programs"]
        times = [one["finished_at"] - one["began_at"] for one in programs]
        assert len(programs) == row["jobs"] == 5
        assert (row["fastest"], row["slowest"]) == (min(times), max(times))
        assert max(one["finished_at"] for one in programs) <= row["total"]
        assert most_at_a_time([(one["began_at"], one["finished_at"]) for one in programs]) == depth
        assert row["throughput"] == pytest.approx(5e9 / row["total"])
    assert data["conclusion"][-1] == "Every job printed what it prints alone."


def most_at_a_time(spans: list[tuple[int, int]]) -> int:
    return max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)


def test_a_job_that_prints_something_else_is_told_and_is_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    job = mix.Job("hello", ("you",), "native+clock")
    monkeypatch.setattr(mix, "jobs", lambda count, seed, file: [job] * count)
    monkeypatch.setattr(mix, "outputs", lambda jobs, seed: [b"Hello from ring 3.\nyou\n", b"something else\n"])
    shown = CliRunner().invoke(app, ["demo", "mix", "--jobs", "2", "--depth", "2"], catch_exceptions=False)
    assert shown.exit_code == 1
    assert "did not print what they print alone" in shown.stdout
    assert "own pagers, kernel asks at depth 2: 2 hello" in shown.stdout
    assert "1 hello" not in shown.stdout


def test_a_job_that_does_not_end_well_is_wrong_whatever_it_printed() -> None:
    program = ProgramResult("1 x", 1, "", 3, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, output=b"text")
    results = replace(Scenario((ProgramSpec("hello"),)).run(), programs=(program,))
    assert mix.row(mix.WAYS[0], 1, results, [b"text"]).wrong == ("1 x",)
    good = replace(results, programs=(replace(program, exit_status=0),))
    assert mix.row(mix.WAYS[0], 1, good, [b"text"]).wrong == ()


def test_the_sentences_follow_from_the_numbers_even_when_they_speak_against_us() -> None:
    good, last = mix.conclusion([ROW, replace(ROW, way="theirs", total=200, slowest=51)])
    assert good == "Depth 3: with ours, all jobs took 50% of the time, and the slowest as long."
    assert last == "Every job printed what it prints alone."
    bad, last = mix.conclusion([replace(ROW, pages_in=9, wrong=("1 x",)), replace(ROW, way="theirs", total=80)])
    assert bad.startswith("Depth 3: with ours, all jobs took 125% of the time")
    assert bad.endswith("Against us: time for all, pages read.")
    assert last == "These jobs did not print what they print alone: ours at depth 3: 1 x."


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--jobs", "0"), "A mix of 0 jobs is none; ask for 1 or more with --jobs."),
        (("--depth", "0"), "A depth is how many jobs run at a time; give one or more, each at least 1"),
        (("--depth", "1,x"), "--depth is one whole number or several with commas between, such as 2,4,8, not '1,x'."),
        (("--depth", ""), "--depth is one whole number or several with commas between, such as 2,4,8, not ''."),
    ],
)
def test_a_mix_that_makes_no_sense_is_answered_with_a_sentence(words: tuple[str, ...], sentence: str) -> None:
    assert sentence in exo("demo", "mix", *words).sentences
