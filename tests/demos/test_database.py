"""The database demonstration: nothing committed is lost except without fsync, and the sentences follow the numbers."""

import json
from dataclasses import replace
from functools import cache, partial

import pytest
from typer.testing import CliRunner

from exokernel.cli import app
from exokernel.demos import database
from exokernel.demos.database import Figures, Way
from exokernel.scenario import ScenarioError

measured = cache(partial(database.measure, transactions=25, cuts=3, seed=1))
MODELS = ("ssd", "rotating", "ideal")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("way", [way for way in Way if way.is_safe])
def test_nothing_that_was_committed_is_lost(model: str, way: Way) -> None:
    figures = measured(model, way)
    assert figures.committed > 10
    assert (figures.lost, figures.broken) == (0, 0)


@pytest.mark.parametrize("model", MODELS)
def test_without_fsync_committed_transactions_are_lost(model: str) -> None:
    assert measured(model, Way.NOTHING).lost > 0


def test_a_commit_on_own_sectors_is_one_forced_write_and_over_ext3_more() -> None:
    own, over = measured("ssd", Way.SECTORS), measured("ssd", Way.FSYNC)
    assert 25 <= own.forced <= 25 + 3
    assert own.flushes <= 2
    assert own.sectors < 100
    assert over.flushes + over.forced >= 25
    assert over.sectors > 25 * 8


def test_the_same_seed_gives_the_same_figures() -> None:
    assert database.measure("ssd", Way.FSYNC, 25, 3, 1) == measured("ssd", Way.FSYNC)
    assert database.measure("ssd", Way.FSYNC, 25, 3, 2) != measured("ssd", Way.FSYNC)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(ScenarioError, match="no disk model 'tape'; there are"):
        database.measure("tape", Way.SECTORS, 25, 3, 1)


def _figures(way: Way, cycles: float, lost: int, broken: int = 0) -> Figures:
    return Figures("ssd", way.value, 10, cycles, 1, 2, 3, 4, 50, lost, broken)


def test_the_sentences_follow_from_the_numbers_even_when_they_speak_against_us() -> None:
    safe = [_figures(Way.SECTORS, 2000, 0), _figures(Way.FSYNC, 5000, 0), _figures(Way.FDATASYNC, 3000, 0)]
    good = [*safe, _figures(Way.NOTHING, 1000, 7, 1)]
    assert database.conclusion(good) == [
        "ssd: a commit takes 2.0 µs on its own sectors, over ext3 5.0 µs with fsync (2.5 times as long) and 3.0 µs with "
        "fdatasync (1.5 times); with neither it takes 1.0 µs and means nothing.",
        "its own sectors: after 4 power cuts, of 50 committed transactions 0 were lost.",
        "ext3, fsync: after 4 power cuts, of 50 committed transactions 0 were lost.",
        "ext3, fdatasync: after 4 power cuts, of 50 committed transactions 0 were lost.",
        "ext3, no fsync: after 4 power cuts, of 50 committed transactions 7 were lost, "
        "and 1 times the store could not be opened or was not whole.",
    ]
    nothing_lost = replace(good[3], lost=0, broken=0)
    bad = [replace(good[0], cycles=4000, lost=1), replace(good[1], broken=2), good[2], nothing_lost]
    first, own, over, _, nothing = database.conclusion(bad)
    assert first.startswith("Against us: ssd: a commit takes 4.0 µs on its own sectors, over ext3 5.0 µs")
    assert own == "Against us: its own sectors: after 4 power cuts, of 50 committed transactions 1 were lost."
    assert over.startswith("Against us: ext3, fsync")
    assert nothing.endswith("0 were lost, which is luck.")


def test_the_command_prints_a_table_and_json_and_says_by_its_status_if_something_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def figures(model: str, way: Way, transactions: int, cuts: int, seed: int) -> Figures:
        return measured(model, way)

    monkeypatch.setattr(database, "measure", figures)
    shown = CliRunner().invoke(app, ["demo", "database"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert all(way.value in shown.stdout for way in Way)
    assert all(model in shown.stdout for model in MODELS)
    command = ["demo", "database", "--disk-model", "ssd", "--json"]
    data = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).stdout)
    assert [run["way"] for run in data["runs"]] == [way.value for way in Way]
    assert len(data["conclusion"]) == 5
    monkeypatch.setattr(database, "measure", lambda *given: replace(figures(*given), lost=1))
    assert CliRunner().invoke(app, command).exit_code == 1


def test_an_unknown_model_ends_the_command_with_a_sentence() -> None:
    shown = CliRunner().invoke(app, ["demo", "database", "--disk-model", "tape"])
    assert shown.exit_code == 2
    assert "no disk model 'tape'" in shown.output
