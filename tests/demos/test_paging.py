"""The paging demonstration says what its numbers say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from exokernel.cli import app
from exokernel.demos import paging
from exokernel.results import ProgramResult, Results
from exokernel.scenario import Scenario


def a_result(faults: int, cycles: int) -> Results:
    program = ProgramResult("one", 1, "", 0, 0, 0, 0, faults, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    return Results("", cycles, 0, "", "", 1, 0, (program,))


def test_the_text_depends_on_the_seed_alone_and_its_words_are_zipfian() -> None:
    assert paging.text(3) == paging.text(3) != paging.text(4)
    words = paging.text(3).split()
    counts = sorted((words.count(word) for word in set(words[:300])), reverse=True)
    assert counts[0] > 10 * counts[len(counts) // 2]


def test_the_sentence_follows_from_the_numbers_even_when_they_speak_against_us() -> None:
    good = paging.conclusion([a_result(100, 5), a_result(300, 6), a_result(50, 1), a_result(400, 9)])
    assert "3.0 times fewer" in good
    assert "8.0 times fewer" in good
    assert "Against us" not in good
    assert paging.WAYS[2].title in good
    bad = paging.conclusion([a_result(600, 5), a_result(300, 6), a_result(800, 7), a_result(400, 1)])
    assert "2.0 times more" in bad
    assert "Against us" in bad
    assert paging.WAYS[3].title in bad


def test_the_demonstration_prints_a_table_and_draws_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = paging.scenario

    def smaller(way: paging.Way, seed: int, file: Path) -> Scenario:
        scene = real(way, seed, file)
        loop = scene.programs[2]
        words = tuple("3000" if word == "60000" else word for word in loop.arguments)
        return replace(scene, programs=(*scene.programs[:2], replace(loop, arguments=words)))

    monkeypatch.setattr(paging, "scenario", smaller)
    picture = tmp_path / "picture.png"
    shown = CliRunner().invoke(app, ["demo", "paging", "--seed", "5", "--picture", str(picture)], catch_exceptions=False)
    assert shown.exit_code == 0
    for way in paging.WAYS:
        assert shown.stdout.count(way.title) >= len(paging.NAMES)
    assert picture.read_bytes().startswith(b"\x89PNG")
    data = CliRunner().invoke(app, ["demo", "paging", "--seed", "5", "--picture", str(picture), "--json"])
    ways = json.loads(data.stdout)["ways"]
    assert set(ways) == {way.title for way in paging.WAYS}
    assert all(one["exit_status"] == 0 for way in ways.values() for one in way["programs"])
