"""The registers demonstration: who saves what it uses computes what it computes alone, and what a switch costs is known."""

import json
from dataclasses import replace
from functools import cache

import pytest
from typer.testing import CliRunner

from exokernel.cli import app
from exokernel.demos import registers
from exokernel.demos.registers import WAYS, Measured
from exokernel.kernel.waiting import FULL_STATE
from exokernel.machine.costs import ADDRESS_SPACE_SWITCH, FAULT_CROSSING, KERNEL_CROSSING, UPCALL_WORD
from exokernel.scenario import ProgramSpec, Scenario

FRAME = 6 * UPCALL_WORD
OWN = {"3": 13, "16": 36, "vector": 70}
"""Instructions of a pair of up-calls in apps/registers.c."""


def short(place: int) -> registers.Way:
    return replace(WAYS[place], turns=WAYS[place].turns // 2)


@pytest.mark.parametrize("place", range(3))
def test_a_switch_costs_what_its_parts_cost(place: int) -> None:
    way = short(place)
    measured = registers.measure(way, 1, 3_000)
    assert measured.same
    assert measured.overruns == 0
    expected = FAULT_CROSSING + FRAME + KERNEL_CROSSING + ADDRESS_SPACE_SWITCH + OWN[way.save]
    assert measured.per_switch == pytest.approx(expected, abs=3)


@pytest.mark.parametrize("place", range(4, 6))
def test_who_has_no_handler_and_who_is_forced_pay_for_everything(place: int) -> None:
    measured = registers.measure(short(place), 1, 3_000)
    assert measured.same
    assert measured.per_switch == pytest.approx(FAULT_CROSSING + FULL_STATE + ADDRESS_SPACE_SWITCH, abs=3)
    assert measured.instructions == 0


def test_who_looks_itself_needs_no_up_call() -> None:
    measured = registers.measure(short(3), 1, 3_000)
    assert measured.same
    assert measured.overruns == 0
    assert measured.per_switch == pytest.approx(FAULT_CROSSING + KERNEL_CROSSING + ADDRESS_SPACE_SWITCH + 12, abs=3)


@cache
def checksum(work: str, save: str, quantum: int, beside: bool) -> bytes:
    programs = [ProgramSpec("registers", arguments=(work, save, "3000", "9"), heap=1 << 20)]
    programs += [ProgramSpec("spin", arguments=("0", "2000000"), heap=1 << 20)] if beside else []
    return Scenario(tuple(programs), quantum=quantum, disk_size=registers.DISK).run().programs[0].output


@pytest.mark.parametrize("work", ["3", "16", "vector"])
@pytest.mark.parametrize("save", ["3", "16", "vector", "kernel"])
def test_the_result_is_right_if_and_only_if_what_is_used_is_saved(work: str, save: str) -> None:
    right = checksum(work, "kernel", registers.NO_END, beside=False)
    saves = ["3", "16", "vector", "kernel"]
    assert (checksum(work, save, 3_000, beside=True) == right) == (saves.index(save) >= saves.index(work))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("3", "registers: give what is used and what is saved and, if you like, a number of turns and a seed."),
        ("4 3", "registers: what is used is 3, 16 or vector, not 4."),
        ("3 4", "registers: what is saved is 3, 16, vector, polling or kernel, not 4."),
        ("16 polling", "registers: only work in 3 registers does its own polling, not 16."),
        ("3 3 0", f"registers: the third argument, turns, is a number from 1 to {1 << 40}, not 0."),
    ],
)
def test_the_program_says_what_was_wrong(words: str, sentence: str) -> None:
    (program,) = Scenario((ProgramSpec("registers", arguments=tuple(words.split())),)).run().programs
    assert (program.output.decode(), program.exit_status) == (sentence + "\n", 2)


def test_the_sentences_follow_from_the_numbers_even_when_they_speak_against_us() -> None:
    def one(title: str, cost: float, overruns: int = 0, same: bool = True) -> Measured:
        return Measured(title, 10, 1000, cost, 0, 0, overruns, same)

    good = " ".join(registers.conclusion([one("three", 10), one("forced", 50)]))
    assert "10.0 cycles with three registers and 50.0" in good
    assert "does not pay" not in good
    assert "Against us" not in good
    bad = " ".join(registers.conclusion([one("three", 60, overruns=2), one("forced", 50, same=False)]))
    assert "does not pay" in bad
    assert "50.0 is the least (forced)" in bad
    assert "three: 2 overruns" in bad
    assert "forced: a checksum differs" in bad


def test_the_command_prints_a_row_for_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registers, "WAYS", (short(0), short(5)))
    monkeypatch.setattr(registers, "measure", cache(registers.measure))
    words = ["demo", "registers", "--quantum", "3000"]
    shown = CliRunner().invoke(app, words, catch_exceptions=False)
    assert shown.exit_code == 0
    assert all(way.title in shown.stdout for way in registers.WAYS)
    data = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert [way["same"] for way in data["ways"]] == [True, True]
