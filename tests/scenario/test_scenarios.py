"""A scenario is the same as a command line, as a TOML file and as a Python object."""

import json
from pathlib import Path

import pytest

from exokernel.scenario import ProgramSpec, Scenario, ScenarioError, parse_program, read_scenario
from exokernel.session import Session
from libos.image import LoadError
from tests.cli.commands import exo

WALK = ("--pattern", "zipf", "--pages", "30", "--steps", "400")
TOML = f"""
memory = "2M"
disk-size = "128M"
global-policy = "proportional"
seed = 9

[[env]]
app = "pagewalk"
libos = "random"
frames = 11
arguments = {json.dumps(WALK)}

[[env]]
app = "hello"
libos = "python+fifo"
quota = 100
guarantee = 20
heap = "1M"
name = "greeter"
arguments = ["to", "you"]
"""
OBJECT = Scenario(
    (
        ProgramSpec("pagewalk", "random", WALK, 11),
        ProgramSpec("hello", "python+fifo", ("to", "you"), quota=100, guarantee=20, heap=1 << 20, name="greeter"),
    ),
    memory=2 << 20,
    disk_size=128 << 20,
    global_policy="proportional",
    seed=9,
)
WORDS = (
    "--memory", "2M", "--disk-size", "128M", "--global-policy", "proportional", "--seed", "9", "--env",
    "hello --libos python+fifo --quota 100 --guarantee=20 --heap 1M --name greeter -- to you",
    "pagewalk", "--libos", "random", "--frames", "11", "--", *WALK,
)  # fmt: skip


def test_a_file_a_command_line_and_an_object_are_the_same_run(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(TOML)
    assert read_scenario(tmp_path / "run.toml") == OBJECT
    results = OBJECT.run().as_json()
    assert json.loads(exo("run", "--json", "--scenario", tmp_path / "run.toml").out) == results
    assert json.loads(exo("run", "--json", *WORDS).out) == results


def test_options_beside_a_scenario_file_come_first(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(TOML)
    results = json.loads(exo("run", "--json", "--scenario", tmp_path / "run.toml", "--seed", "2", "--memory", "1M").out)
    assert (results["seed"], results["memory_frames"], results["global_policy"]) == (2, 256, "proportional")


def test_a_file_says_everything_an_object_says(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(
        "quantum = 5000\ndepth = 2\nsample-held = 7\nstop-on = 'death'\ndisk = 'd'\ntrace = 't'\nrecord-references = 'r'\n"
        "settings = {release_deadline = 10, watchdog_seconds = 0.5}\n[[env]]\napp = 'hello'\n"
    )
    assert read_scenario(tmp_path / "run.toml") == Scenario(
        (ProgramSpec("hello"),), quantum=5000, depth=2, sample_held=7, stop_on="death", disk=Path("d"), trace=Path("t"),
        record_references=Path("r"), settings={"release_deadline": 10, "watchdog_seconds": 0.5},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("memory = ", "run.toml is not TOML: Invalid value"),
        ("memroy = '2M'", "There is no setting called memroy; did you mean memory?"),
        ("memory = '2X'", "memory is a size such as \"64M\", not '2X'."),
        ("memory = 2.5", 'memory is a size such as "64M", not 2.5.'),
        ("memory = true", 'memory is a size such as "64M", not True.'),
        ("memory = 1000", "A memory of 1000 bytes makes no sense here"),
        ("global-policy = 3", "global-policy is a text in quotes, not 3."),
        ("global-policy = 'oldst'", "did you mean oldest?"),
        ("seed = '3x'", "seed is a whole number, not '3x'."),
        ("seed = true", "seed is a whole number, not True."),
        ("quantum = -1", "A quantum and the time between samples are cycles, and not negative."),
        ("depth = -1", "The depth is how many programs run at the same time, and not negative; 0 is all of them."),
        ("trace = 1", "trace is a text in quotes, not 1."),
        ("settings = 3", "settings is a table of numbers, not 3."),
        ("settings = {quantum = 'a'}", "settings is a table of numbers, not {'quantum': 'a'}."),
        ("settings = {quantun = 1}", "There is no setting of the kernel called quantun; did you mean quantum?"),
        ("settings = {quantum = 0}", "The setting quantum is more than 0, not 0."),
        ("programs = []", "There is no setting called programs; "),
        ("env = 3", "write each program as a table [[env]]."),
        ("", "No program was named; name one"),
        ("[[env]]\nlibos = 'clock'", 'run.toml, [[env]] 1: no program is named; write app = "hello" or another.'),
        ("[[env]]\napp = 3", "run.toml, [[env]] 1: app is a text in quotes, not 3."),
        ("[[env]]\napp = 'hello'\narguments = 'file'", "arguments is a list of texts in quotes, not 'file'."),
        ("[[env]]\napp = 'hello'\narguments = [1]", "arguments is a list of texts in quotes, not [1]."),
        ("[[env]]\napp = 'hello'\narguments = [\"\\u0000\"]", "names and arguments are text in UTF-8."),
        ("[[env]]\napp = 'hello'\nframes = 8.5", "frames is a whole number, not 8.5."),
        ("[[env]]\napp = 'hello'\n[[env]]\napp = 'hello'\nlibso = 'x'", "[[env]] 2: There is no setting called libso; did"),
    ],
)
def test_a_scenario_file_with_something_wrong_in_it_is_answered_with_a_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    hello = "" if "env" in text or not text else "\n[[env]]\napp = 'hello'\n"
    (tmp_path / "run.toml").write_text(text + hello)
    assert sentence in exo("run", "--scenario", tmp_path / "run.toml").sentences


def test_an_object_that_makes_no_sense_raises_before_anything_runs() -> None:
    for programs, sentence in (
        ((), "No program was named"),
        ((ProgramSpec("hello", frames=3),), "one instruction may need 8 pages"),
        ((ProgramSpec("hello", heap=-1),), "negative"),
    ):
        with pytest.raises(ScenarioError, match=sentence):
            Scenario(programs).run()


def test_a_program_beside_another_is_written_as_at_the_command_line() -> None:
    assert parse_program("hello") == ProgramSpec("hello")
    assert parse_program("hello --libos=clock --frames 9 -- -- --libos 'a b'") == ProgramSpec(
        "hello", "clock", ("--", "--libos", "a b"), 9
    )


def test_a_quota_bounds_what_an_environment_holds() -> None:
    program = ProgramSpec("pagewalk", "native+clock", WALK, quota=45)
    (result,) = Scenario((program,)).run().programs
    assert result.exit_status == 0
    assert result.frames_held <= 45


@pytest.mark.parametrize(("heap", "pages"), [(1, 1), (4096, 1), (4097, 2), (1 << 20, 256)])
def test_a_heap_is_the_pages_a_program_can_ask_for(tmp_path: Path, heap: int, pages: int) -> None:
    (tmp_path / "mine.py").write_text(
        '"""Asks for pages until there are none."""\n\n\nasync def main(exo, arguments):\n    count = 0\n'
        "    while await exo.os_region(4096):\n        count += 1\n"
        "    await exo.console_write(str(count).encode())\n"
    )
    program = ProgramSpec(str(tmp_path / "mine.py"), "python+fifo", heap=heap)
    assert Scenario((program,)).run().programs[0].output == str(pages).encode()


def test_the_console_hears_what_programs_and_their_children_say_under_their_title() -> None:
    heard: dict[str, bytes] = {}

    def console(name: str, text: bytes) -> None:
        heard[name] = heard.get(name, b"") + text

    scenario = Scenario((ProgramSpec("forkdemo", arguments=("2", "1"), name="family"), ProgramSpec("hello")))
    with Session(scenario, console) as session:
        session.run()
    assert set(heard) == {"family", "hello"}
    assert heard["family"].count(b"inherited") == 2


def test_a_disk_image_is_a_disk_as_one_in_memory_is(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(64 << 20))
    program = ProgramSpec("pagewalk", "native+fifo", ("--pattern", "loop", "--pages", "40", "--steps", "200"), 8)
    on_file = Scenario((program,), disk=tmp_path / "disk").run()
    in_memory = Scenario((program,), disk_size=64 << 20).run()
    assert on_file == in_memory
    assert on_file.programs[0].swap_out


@pytest.mark.parametrize(("depth", "memory"), [(1, 1 << 20), (2, 1 << 20), (3, 16 << 20), (9, 16 << 20)])
def test_programs_run_so_many_at_a_time_in_their_order(depth: int, memory: int) -> None:
    libraries = ("native+clock", "python+fifo", "native+mru", "native+fifo", "python+clock", "native+clock")
    steps = (40_000, 20_000, 30_000, 20_000, 40_000, 30_000)
    programs = tuple(
        ProgramSpec("pagewalk", libos, ("--pattern", "random", "--pages", "30", "--steps", str(count)), name=str(place))
        for place, (libos, count) in enumerate(zip(libraries, steps, strict=True))
    )
    programs = (*programs[:3], ProgramSpec("sieve", "python+fifo", ("100000",)), *programs[3:])
    results = Scenario(programs, memory=memory, depth=depth).run()
    assert [one.name for one in results.programs] == [one.title for one in programs]
    assert all(one.exit_status == 0 and one.output for one in results.programs)
    began = [one.began_at for one in results.programs]
    assert began == sorted(began)
    at_a_time = [sum(one.began_at <= moment < one.finished_at for one in results.programs) for moment in began]
    assert max(at_a_time) == min(depth, len(programs))


def test_a_program_that_cannot_be_loaded_in_its_turn_is_told() -> None:
    programs = (ProgramSpec("hello"), ProgramSpec("hello", quota=3, name="second"))
    with pytest.raises(LoadError, match="second could not be started"):
        Scenario(programs, depth=1).run()
