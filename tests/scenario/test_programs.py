"""Every program on the emulated kernel prints what its oracle says, whichever library OS brings its pages."""

import tracemalloc
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exokernel.results import Results
from exokernel.scenario import ProgramSpec, Scenario
from exokernel.session import Session
from tests.apps.oracles import expected_output

LIBRARIES = [
    "native+fifo", "native+clock", "native+mru", "native+random", "python+fifo", "python+second-chance", "python+clock",
    "python+wsclock", "python+ageing", "python+nfu", "python+mru", "python+random",
]  # fmt: skip
TEXT = ("the quick brown fox jumps over the lazy dog; The DOG sleeps.\n" * 400).encode()


@pytest.fixture(scope="session")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("input") / "text"
    file.write_bytes(TEXT)
    return file


def run(app: str, arguments: Sequence[str], libos: str, frames: int = 0, **how: int) -> Results:
    return Scenario((ProgramSpec(app, libos, tuple(arguments), frames),), **how).run()


@cache
def commands(text: Path) -> list[tuple[str, ...]]:
    return [
        ("hello", "one", "two"),
        ("wordfreq", str(text)),
        ("matmul", "40", "3", "--order", "ikj"),
        ("quicksort", "6000", "7"),
        ("hashjoin", "400", "900", "5"),
        ("pagewalk", "--pattern", "zipf", "--pages", "50", "--steps", "700"),
        ("pagewalk", "--pattern", "phased", "--pages", "60", "--steps", "700", "--write", "60"),
        ("forkdemo", "12", "2"),
    ]


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("libos", LIBRARIES)
def test_a_program_equals_its_oracle_under_every_pager_in_few_frames(libos: str, place: int, text: Path) -> None:
    argv = commands(text)[place]
    frames = 8 + (7 * place + 5 * LIBRARIES.index(libos)) % 25
    results = run(argv[0], argv[1:], libos, frames, seed=place)
    output = b"".join(program.output for program in reversed(results.programs)) if argv[0] == "forkdemo" else None
    assert (output or results.programs[0].output) == expected_output(argv)
    assert all(program.exit_status == 0 for program in results.programs)


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("libos", ["native+clock", "python+clock"])
def test_a_program_equals_its_oracle_without_a_limit(libos: str, place: int, text: Path) -> None:
    argv = commands(text)[place]
    results = run(argv[0], argv[1:], libos)
    assert all(program.evictions == 0 for program in results.programs)
    if argv[0] != "forkdemo":
        assert results.programs[0].output == expected_output(argv)


@pytest.mark.parametrize("policy", ["largest", "proportional", "guaranteed", "oldest", "seize-largest", "seize-oldest"])
def test_programs_in_too_little_memory_equal_their_oracles_under_every_global_policy(policy: str, text: Path) -> None:
    chosen = [commands(text)[place] for place in (1, 3, 5)]
    libraries = ("native+clock", "python+fifo", "native+random")
    programs = tuple(ProgramSpec(argv[0], libos, argv[1:]) for argv, libos in zip(chosen, libraries, strict=True))
    results = Scenario(programs, memory=1 << 20, global_policy=policy).run()
    assert [program.output for program in results.programs] == [expected_output(argv) for argv in chosen]


@pytest.mark.parametrize("libos", ["native+clock", "python+fifo"])
@settings(max_examples=25)
@given(
    data=st.one_of(
        st.binary(max_size=300),
        st.lists(st.sampled_from([b"a", b"B", b"zz", b" ", b"\n", b"\0", b"\xff", b"{", b"@"]), max_size=200).map(b"".join),
    )
)
def test_wordfreq_equals_its_oracle_for_any_bytes(
    libos: str, data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "bytes"
    file.write_bytes(data)
    assert run("wordfreq", [str(file)], libos).programs[0].output == expected_output(("wordfreq", str(file)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"x" * 50_000,
        b"word " * 900 + b"tail",
        (b"w" * 4096) * 3,
        b"a b " * 1024,
        bytes(range(256)) * 99,
    ],
    ids=["empty", "one huge word", "no whole page", "three pages of one letter", "exactly a page", "binary"],
)
@pytest.mark.parametrize("libos", ["native+clock", "native+mru", "python+random"])
def test_wordfreq_equals_its_oracle_for_files_at_the_edges(libos: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    argv = ("wordfreq", str(tmp_path / "file"))
    results = run("wordfreq", argv[1:], libos, 12)
    assert results.programs[0].output == expected_output(argv)
    assert results.programs[0].exit_status == 0


def primes(below: int) -> list[int]:
    return [number for number in range(2, below) if all(number % other for other in range(2, int(number**0.5) + 1))]


@pytest.mark.parametrize("libos", ["python+fifo", "python+clock", "python+mru", "native+clock"])
def test_a_program_in_python_pages_over_any_library_os(libos: str) -> None:
    found = primes(60_000)
    (program,) = run("sieve", ["60000"], libos, 8).programs
    assert program.output == f"{len(found)} primes below 60000, the last is {found[-1]}\n".encode()
    assert program.faults > 15


def test_two_environments_of_a_program_in_python_wake_each_other() -> None:
    parent, child = run("pingpong", ["50"], "python+clock").programs
    assert parent.output.startswith(b"50 rounds, ")
    assert (parent.exit_status, child.exit_status) == (0, 0)


def test_a_program_in_python_runs_from_the_users_own_file(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        '"""Echoes."""\n\n\nasync def main(exo, arguments):\n'
        "    await exo.console_write(' '.join(arguments).encode())\n    return len(arguments)\n"
    )
    (program,) = run(str(tmp_path / "mine.py"), ["a", "b"], "python+fifo").programs
    assert (program.output, program.exit_status) == (b"a b", 2)


# Large and small.


def test_a_gibibyte_is_attached_without_being_read_and_only_what_is_touched_is_loaded(tmp_path: Path) -> None:
    with (tmp_path / "big").open("wb") as file:
        file.truncate(1 << 30)
        file.seek(700 << 20)
        file.write(b"here")
    (tmp_path / "mine.py").write_text(
        '"""Looks into a file."""\n\n\nasync def main(exo, arguments):\n'
        "    va, size = await exo.os_map_file(arguments[0])\n"
        "    text = await exo.read(va + (700 << 20), 4)\n"
        "    await exo.console_write(text + str(size).encode() + await exo.read(va + size - 1, 1))\n"
    )
    tracemalloc.start()
    looks = ProgramSpec(str(tmp_path / "mine.py"), "python+fifo", (str(tmp_path / "big"),), 8, heap=1 << 20)
    (program,) = Scenario((looks,)).run().programs
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert program.output == b"here%d\0" % (1 << 30)
    assert program.sectors_read == 16
    assert peak < 16 << 20


@pytest.mark.parametrize("memory", [1 << 20, 1 << 30])
def test_the_smallest_and_a_large_memory_run_the_same_program(memory: int, text: Path) -> None:
    argv = commands(text)[3]
    assert run(argv[0], argv[1:], "native+clock", memory=memory).programs[0].output == expected_output(argv)


@pytest.mark.parametrize("memory", [1 << 20, 16 << 20])
def test_ten_programs_run_side_by_side(memory: int, text: Path) -> None:
    chosen = [commands(text)[place] for place in (0, 1, 3, 4, 5)] * 2
    libraries = [LIBRARIES[place] for place in (0, 1, 2, 4, 6)] * 2
    programs = tuple(ProgramSpec(argv[0], libos, argv[1:]) for argv, libos in zip(chosen, libraries, strict=True))
    with Session(Scenario(programs, memory=memory)) as session:
        results = session.run()
    assert [program.output for program in results.programs] == [expected_output(argv) for argv in chosen]
