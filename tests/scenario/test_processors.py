"""What a scenario says of the processors: how many, whose turn it is, who is promised what; wrong input gets a sentence."""

from pathlib import Path

import pytest

from exokernel.names import UnknownName
from exokernel.policy.processor import CPU_POLICIES
from exokernel.scenario import ProgramSpec, Scenario, ScenarioError, parse_program, read_scenario
from libos.image import LoadError

BEGIN, END = 6_000_000, 16_000_000


def turns(policy: str, *programs: ProgramSpec, **how: int) -> list[int]:
    specs = tuple(ProgramSpec("spin", "native+clock", (str(BEGIN), str(END)), name=p.name, tickets=p.tickets,
                              reserve=p.reserve) for p in programs)  # fmt: skip
    results = Scenario(specs, cpu_policy=policy, quantum=20_000, **how).run()
    assert results.exit_status == 0
    return [int(program.output.split()[1]) for program in results.programs]


def test_a_promise_of_processor_time_is_kept_beside_a_crowd() -> None:
    promised = ProgramSpec("spin", reserve=(60_000, 100_000), name="promised")
    counts = turns("deadline", promised, *[ProgramSpec("spin", name=f"other {i}") for i in range(5)])
    assert 0.64 < counts[0] / sum(counts) < 0.69, "three fifths, and a sixth of the rest"
    assert max(counts[1:]) < 1.1 * min(counts[1:])


def test_without_the_promise_it_is_one_of_six() -> None:
    counts = turns("round-robin", *[ProgramSpec("spin", name=f"one {i}") for i in range(6)])
    assert max(counts) < 1.05 * min(counts)


@pytest.mark.parametrize("policy", ["round-robin", "stride", "forced-lottery"])
def test_a_policy_that_makes_no_promises_says_so(policy: str) -> None:
    with pytest.raises(LoadError, match=rf"cannot be promised .* by the CPU policy {policy}; .* --cpu-policy deadline"):
        Scenario((ProgramSpec("hello", reserve=(10, 100)),), cpu_policy=policy).run()


def test_more_than_there_is_cannot_be_promised() -> None:
    programs = (ProgramSpec("hello", reserve=(60, 100), name="a"), ProgramSpec("hello", reserve=(60, 100), name="b"))
    with pytest.raises(LoadError, match="b cannot be promised"):
        Scenario(programs, cpu_policy="deadline").run()
    assert Scenario(programs, cpu_policy="deadline", cpus=2).run().exit_status == 0


@pytest.mark.parametrize("policy", CPU_POLICIES)
@pytest.mark.parametrize("cpus", [1, 3])
def test_programs_come_to_the_same_under_every_policy(policy: str, cpus: int) -> None:
    programs = (
        ProgramSpec("quicksort", "native+fifo", ("1500", "4"), 16),
        ProgramSpec("quicksort", "python+clock", ("1500", "4"), 16),
        ProgramSpec("pquicksort", "native+clock", ("1500", "4", "3", "2")),
    )
    results = Scenario(programs, cpu_policy=policy, cpus=cpus, quantum=9_000).run()
    assert len({program.output for program in results.programs}) == 1
    assert results.exit_status == 0
    assert (results.cpu_policy, results.cpus) == (policy, cpus)


WRONG = {
    "cpus = 0": "A machine with 0 processors cannot be had; it has 1 to 16.",
    "cpus = 17": "A machine with 17 processors cannot be had",
    "cpus = 'two'": "cpus is a whole number, not 'two'",
    "cpu-policy = 'strid'": "There is no CPU policy called strid; did you mean stride?",
    "settings = {cpus = 2}": "There is no setting of the kernel called cpus",
    "settings = {window = 0}": "The setting window is more than 0, not 0.",
    "[[env]]\napp = 'hello'\ntickets = 0": "hello was given 0 tickets; they are 1 to 10,000.",
    "[[env]]\napp = 'hello'\nreserve = '20'": "reserve is cycles in a period, such as \"20000/100000\", not '20'",
    "[[env]]\napp = 'hello'\nreserve = '20/10'": "hello cannot be promised 20 cycles in every 10",
    "[[env]]\napp = 'hello'\nslices = -1": "a negative number of slices or environments",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_makes_no_sense_is_answered_with_a_sentence(text: str, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text(text if "[[env]]" in text else text + "\n[[env]]\napp = 'hello'\n")
    with pytest.raises((ScenarioError, UnknownName)) as error:
        read_scenario(file).check()
    assert WRONG[text] in str(error.value)


def test_a_command_line_and_a_file_say_the_same() -> None:
    program = parse_program("hello --tickets 5 --reserve 10/100 --slices 2 --environments 3")
    assert (program.tickets, program.reserve, program.slices, program.environments) == (5, (10, 100), 2, 3)
