"""The shares demonstration: tickets are worth what they should be, on one processor and on two."""

import json
from functools import cache, partial

import pytest
from typer.testing import CliRunner

from exokernel.cli import app
from exokernel.demos import shares
from exokernel.demos.shares import Share, Shares
from exokernel.scenario import ProgramSpec, Scenario

measured = cache(partial(shares.measure, seed=1))


@pytest.mark.parametrize("cpus", [1, 2])
@pytest.mark.parametrize("policy", shares.POLICIES)
def test_each_gets_its_share_within_the_bound(policy: str, cpus: int) -> None:
    result = measured(policy, cpus)
    assert result.within, result.shares
    assert sum(share.got for share in result.shares) == pytest.approx(1)


@pytest.mark.parametrize("cpus", [1, 2])
def test_stride_gives_three_to_two_to_one_within_a_quantum(cpus: int) -> None:
    shares_of_all = measured("stride", cpus).shares
    assert [share.wanted for share in shares_of_all] == pytest.approx([1 / 2, 1 / 3, 1 / 6])
    assert max(abs(share.off) for share in shares_of_all) < 1


@pytest.mark.parametrize("cpus", [1, 2])
def test_round_robin_knows_no_tickets(cpus: int) -> None:
    for share in measured("round-robin", cpus).shares:
        assert share.got == pytest.approx(1 / 3, abs=0.005)


def test_a_lottery_depends_on_its_seed() -> None:
    assert measured("lottery", 1) != shares.measure("lottery", 1, 2)
    assert measured("lottery", 1) == shares.measure("lottery", 1, 1)


@pytest.mark.parametrize(
    ("cpus", "tickets", "parts"),
    [
        (1, (3, 2, 1), (1 / 2, 1 / 3, 1 / 6)),
        (2, (3, 2, 1), (1 / 2, 1 / 3, 1 / 6)),
        (2, (8, 1, 1), (1 / 2, 1 / 4, 1 / 4)),
        (3, (8, 1, 1), (1 / 3, 1 / 3, 1 / 3)),
        (4, (90, 8, 1, 1, 1), (1 / 4, 1 / 4, 1 / 6, 1 / 6, 1 / 6)),
    ],
)
def test_nobody_is_to_get_more_than_a_processor(cpus: int, tickets: tuple[int, ...], parts: tuple[float, ...]) -> None:
    assert shares.wanted_shares("stride", cpus, tickets) == pytest.approx(parts)
    assert shares.wanted_shares("round-robin", cpus, tickets) == pytest.approx([1 / len(tickets)] * len(tickets))


def test_what_a_lottery_on_two_processors_gives_is_computed() -> None:
    assert shares.expected_shares("lottery", 2, (1, 1, 1)) == pytest.approx([1 / 3] * 3)
    big, small, other = shares.expected_shares("lottery", 2, (8, 1, 1))
    assert small == pytest.approx(other)
    assert big < 1 / 2
    assert shares.expected_shares("stride", 2, (3, 2, 1)) == shares.wanted_shares("stride", 2, (3, 2, 1))


def test_the_sentence_follows_from_the_numbers_even_when_they_speak_against_us() -> None:
    good = Shares("stride", 1, (Share(1, 1, 1, 1, 0.5, 2),))
    bad = Shares("stride", 2, (Share(1, 1, 1, 1, -2.5, 2),))
    first, second = shares.conclusion([good, bad])
    assert first == "stride on 1 processor: at most 0.5 quanta from what was to be expected, within the bound of 2.0."
    assert second == "Against us: stride on 2 processors is 2.5 quanta from what was to be expected; the bound is 2.0."


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("1", "spin: give two moments in cycles, the beginning and the end of counting."),
        ("9 8", f"spin: the second moment is a number from 9 to {1 << 60}, not 8."),
    ],
)
def test_the_program_says_what_was_wrong(words: str, sentence: str) -> None:
    (program,) = Scenario((ProgramSpec("spin", arguments=tuple(words.split())),)).run().programs
    assert (program.output.decode(), program.exit_status) == (sentence + "\n", 2)


def test_the_command_prints_what_was_wanted_and_got(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "measure", cache(shares.measure))
    shown = CliRunner().invoke(app, ["demo", "shares", "--cpus", "1"], catch_exceptions=False)
    assert shown.exit_code == 0
    assert all(policy in shown.stdout for policy in shares.POLICIES)
    assert "Against us" not in shown.stdout
    data = json.loads(CliRunner().invoke(app, ["demo", "shares", "--cpus", "2", "--json"]).stdout)
    assert [run["policy"] for run in data["runs"]] == list(shares.POLICIES)
    assert all(run["within"] for run in data["runs"])
