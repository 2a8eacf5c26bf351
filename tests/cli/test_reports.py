"""What the commands print: for people in lines that fit, for machines as JSON."""

import json
import tomllib
from pathlib import Path

import pytest

from exokernel.abi.downcalls import TABLE
from exokernel.abi.upcalls import UPCALLS
from exokernel.policy.memory import MEMORY_POLICIES
from libos.replacement import STRATEGIES
from tests.cli.commands import ROOT, exo, exo_process

RUN_KEYS = {
    "outcome", "cycles", "seed", "global_policy", "cpu_policy", "cpus", "memory_frames", "images", "programs",
    "held_over_time",
}  # fmt: skip
PROGRAM_KEYS = {
    "name", "environment", "library", "exit_status", "instructions", "cycles", "finished_at", "faults", "evictions",
    "swap_in", "swap_out", "taken", "downcalls", "upcalls", "sectors_read", "sectors_written", "frames_held", "overruns",
    "output", "death", "began_at",
}  # fmt: skip
REPLAY_KEYS = {
    "policy", "frames", "references", "misses", "cold", "evictions", "dirty_evictions", "cleaned",
}  # fmt: skip


COMMANDS = {
    "": ["run", "list", "build", "downcalls", "replay", "bench", "demo", "fs", "disk"],
    "demo": ["paging", "convoy", "registers", "shares", "mix", "database"],
    "fs": ["mkfs", "info", "ls", "cat", "put", "get", "mkdir", "rm", "mv", "ln", "stat", "tree"],
    "disk": ["new", "info"],
}


@pytest.mark.parametrize("group", COMMANDS)
def test_help_has_an_untruncated_line_for_every_command(group: str) -> None:
    ended = exo_process(*group.split(), "--help", COLUMNS="80")
    assert ended.status == 0
    lines = ended.out.split("Commands:\n")[1].splitlines()
    names = [line.split()[0] for line in lines]
    assert names == COMMANDS[group]
    for line in lines:
        assert len(line) <= 80
        assert line.endswith(".")
        assert not line.endswith("...")


@pytest.mark.parametrize(
    "command", ["run", "list", "build", "downcalls", "replay", "bench", "demo paging", "demo convoy", "demo mix"]
)
def test_every_command_explains_its_options(command: str) -> None:
    ended = exo(*command.split(), "--help")
    assert ended.status == 0
    assert "--help" in ended.out


def test_help_does_not_wait_for_the_machine_or_the_pictures() -> None:
    script = (
        "import atexit, sys\n"
        "heavy = ('unicorn', 'matplotlib', 'capstone', 'elftools', 'construct')\n"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules], file=sys.stderr))"
    )
    assert exo_process("--help", python=script).err == "[]\n"


def test_list_has_a_line_for_every_program_library_os_and_policy() -> None:
    lines = {line.split()[0]: line.split(maxsplit=1)[1:] for line in exo("list").out.splitlines() if line.strip()}
    programs = {path.stem for path in (ROOT / "apps").iterdir() if path.suffix in (".c", ".py")} - {"__init__"}
    pagers = {f"native+{path.stem.removeprefix('pager_')}" for path in (ROOT / "libos/native").glob("pager_*.c")}
    live = {f"python+{name}" for name, one in STRATEGIES.items() if not one.needs_every_reference}
    for name in programs | pagers | live | set(MEMORY_POLICIES) | set(STRATEGIES):
        assert lines.get(name), name


def test_list_as_json_has_the_same() -> None:
    groups = json.loads(exo("list", "--json").out)
    assert set(groups) == {
        "programs", "library OSes", "thread schedulers of library OSes in Python", "global memory policies",
        "global CPU policies", "replacement policies for `exo replay`",
        "disk models",
        "file systems",
        "global disk policies",
    }  # fmt: skip
    text = exo("list").out
    for names in groups.values():
        for name, summary in names.items():
            assert summary
            assert name in text
            assert summary in text


def test_a_run_as_json_has_its_documented_keys_and_nothing_beside_it() -> None:
    ended = exo("run", "hello", "--json")
    results = json.loads(ended.out)
    assert set(results) == RUN_KEYS
    (program,) = results["programs"]
    assert set(program) == PROGRAM_KEYS
    assert program["output"] == "Hello from ring 3.\n"
    assert ended.err == ""


def test_a_run_that_is_stopped_is_json_all_the_same() -> None:
    ended = exo("run", "hello", "--json", "--stop-on", "upcall")
    assert json.loads(ended.out)["outcome"] == "stopped"
    assert "the kernel is about to make the up-call" in ended.err


def test_frames_held_over_time_are_in_the_json_when_they_were_asked_for(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text("sample-held = 100000\n[[env]]\napp = 'hello'\n")
    results = json.loads(exo("run", "--scenario", tmp_path / "run.toml", "--json").out)
    (samples,) = results["held_over_time"].values()
    assert [cycle for cycle, _ in samples] == sorted(cycle for cycle, _ in samples)
    assert max(held for _, held in samples) > 10


def test_downcalls_are_listed_as_a_table_as_json_as_markdown_and_as_a_header() -> None:
    data = json.loads(exo("downcalls", "--json").out)
    assert {row["name"] for row in data["downcalls"]} == {row.name for row in TABLE.values()}
    for option in ([], ["--markdown"], ["--header"]):
        text = exo("downcalls", *option).out
        for row in TABLE.values():
            assert row.name in text or (option == ["--header"] and row.python_only), row.name
        assert all(row.name.lower() in text.lower() for row in UPCALLS)


def test_a_replay_shows_every_policy_and_as_json_every_count(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text("1\n2\n3\n1\n2\n3\n")
    assert all(name in exo("replay", tmp_path / "trace", "--frames", "2").out for name in STRATEGIES)
    results = json.loads(exo("replay", tmp_path / "trace", "--frames", "2", "--json").out)
    assert set(results) == set(STRATEGIES)
    assert all(set(result) == REPLAY_KEYS for result in results.values())
    assert (results["fifo"]["misses"], results["belady"]["misses"]) == (6, 4)
    only = json.loads(exo("replay", tmp_path / "trace", "--policy", "lru", "--policy", "mru", "--json").out)
    assert set(only) == {"lru", "mru"}


def test_build_names_the_image(tmp_path: Path) -> None:
    (tmp_path / "mine.c").write_text("int main(void) { return 7; }\n")
    image = Path(exo("build", tmp_path / "mine.c").out.strip())
    assert image.read_bytes().startswith(b"\x7fELF")
    assert exo("run", image).status == 7


@pytest.mark.parametrize("words", [["list"], ["downcalls"], ["run", "hello"], ["run", "sieve", "--", "1000"]])
def test_piped_output_has_neither_escape_codes_nor_a_progress_line(words: list[str]) -> None:
    ended = exo_process(*words, TERM="xterm-256color")
    assert ended.status == 0
    assert "\x1b" not in ended.out
    assert ended.err == ""


def test_the_output_of_one_program_is_as_it_is_and_that_of_several_has_their_names() -> None:
    assert exo("run", "hello", "--", "b").out.startswith("Hello from ring 3.\nb\n\nprogram ")
    text = exo("run", "hello", "--env", "forkdemo -- 2 1").out
    assert "hello: Hello from ring 3.\n" in text
    assert "forkdemo: parent: inherited" in text
    assert "forkdemo: child 1: inherited" in text


def test_an_empty_argument_is_an_argument() -> None:
    assert exo("run", "hello", "--", "", "b").out.startswith("Hello from ring 3.\n\nb\n")


def test_a_run_ends_with_a_table_of_all_that_was_asked() -> None:
    heading = next(line for line in exo("run", "hello").out.splitlines() if line.startswith("program"))
    for word in (
        "instructions", "cycles", "faults", "evictions", "swap in", "swap out", "down-calls", "up-calls", "frames held",
    ):  # fmt: skip
        assert word in heading


def test_python_and_machine_code_are_not_to_be_compared_by_cycles() -> None:
    note = "do not compare its cycles with machine code's"
    assert note in exo("run", "hello", "--libos", "python+fifo").out
    assert note not in exo("run", "hello").out


def test_the_entry_point_is_the_command_exo() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["scripts"]["exo"] == "exokernel.cli:main"
