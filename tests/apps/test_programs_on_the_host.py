"""The C programs, run on the host, print what Python computes, and say what was wrong with their arguments."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exokernel.build import applications

from .host import run_on_the_host
from .oracles import MEASURING, PROGRAMS, expected_output

RUNS = (
    "hello",
    "hello one two",
    "matmul 1",
    "matmul 33 7",
    "matmul 64 --order ikj",
    "matmul 65 3 --order tiled",
    "matmul --order ijk 40 2",
    "quicksort 0",
    "quicksort 1",
    "quicksort 2",
    "quicksort 17",
    "quicksort 1000 9",
    "quicksort 30000 18446744073709551615",
    "pquicksort 0",
    "pquicksort 1 1 7",
    "pquicksort 20000 5 6",
    "pmatmul 1",
    "pmatmul 33 7 1",
    "pmatmul 40 2 9",
    "hashjoin 1 1",
    "hashjoin 1000 5000",
    "hashjoin 3000 20000 12",
    "hashjoin 7 3 0",
    "pagewalk --pattern sequential --pages 5 --steps 2000",
    "pagewalk --pattern loop --pages 33 --steps 1000 --write 100 --seed 5",
    "pagewalk --pattern zipf --pages 100 --steps 5000 --write 50",
    "pagewalk --pattern zipf --pages 1 --steps 10",
    "pagewalk --pattern random --pages 64 --steps 3000 --write 0",
    "pagewalk --pattern phased --pages 64 --steps 3000 --seed 0",
    "pagewalk --pattern phased --pages 1 --steps 1",
    "forkdemo",
    "forkdemo 1 0",
    "forkdemo 5 6 42",
    "prodcons",
    "prodcons 0",
    "prodcons 70 5",
    "forktree",
    "forktree 0",
    "forktree 1 9 3",
    "forktree 4 2 2 7",
    "forktree 2 5 5 18446744073709551615",
    "appelli --counts",
    "appelli 100 30 7 --counts",
    "appelli --no-access 150 250 18446744073709551615 --counts",
)

WRONG = {
    "wordfreq": "wordfreq: give one argument, the name of a file.",
    "wordfreq a b": "wordfreq: give one argument, the name of a file.",
    "wordfreq /nowhere/at/all": "wordfreq: the program was given no file named /nowhere/at/all.",
    "matmul": "matmul: give the size of the matrices, for example 64.",
    "matmul x": "matmul: the size is a number from 1 to 32768, not x.",
    "matmul 0": "matmul: the size is a number from 1 to 32768, not 0.",
    "matmul 4 1 9": "matmul: after size and seed there is no place for 9.",
    "matmul 4 --order kji": "matmul: the order is ijk, ikj or tiled, not kji.",
    "matmul 4 --order": "matmul: the order is ijk, ikj or tiled, not nothing.",
    "matmul 4 18446744073709551616":
        "matmul: the seed is a number from 0 to 18446744073709551615, not 18446744073709551616.",
    "quicksort": "quicksort: give the count of numbers to sort and, if you like, a seed.",
    "quicksort -5": "quicksort: the count is a number from 0 to 2305843009213693951, not -5.",
    "pquicksort": "pquicksort: give the count of numbers to sort and, if you like, a seed, threads and processors.",
    "pquicksort 5 1 33": "pquicksort: the threads are a number from 1 to 32, not 33.",
    "pmatmul": "pmatmul: give the size of the matrices and, if you like, a seed, threads and processors.",
    "pmatmul 4 1 2 0": "pmatmul: the processors are a number from 1 to 16, not 0.",
    "hashjoin 5": "hashjoin: give the sizes of the two relations in tuples and, if you like, a seed.",
    "hashjoin 5 1e3": "hashjoin: the second size is a number from 1 to 1099511627776, not 1e3.",
    "pagewalk": "pagewalk: --pattern is sequential, loop, zipf, random or phased, not nothing.",
    "pagewalk --pattern lru": "pagewalk: --pattern is sequential, loop, zipf, random or phased, not lru.",
    "pagewalk --pattern loop --pages": "pagewalk: there is no value after --pages.",
    "pagewalk --pattern loop --pages 5": "pagewalk: say how many with --pages and --steps.",
    "pagewalk --write 101": "pagewalk: --write is a number from 0 to 100, not 101.",
    "pagewalk --page 5": "pagewalk: the options are --pattern, --pages, --steps, --write and --seed, not --page.",
    "forkdemo none": "forkdemo: the first argument, pages, is a number from 1 to 16777216, not none.",
    "forkdemo 1 2 3 4": "forkdemo: after pages, children and seed there is no place for 4.",
    "prodcons 1e3": "prodcons: the first argument, kilobytes, is a number from 0 to 1048576, not 1e3.",
    "prodcons 1 2 3": "prodcons: after kilobytes and seed there is no place for 3.",
    "roundtrips 0": "roundtrips: the first argument, rounds, is a number from 1 to 16777216, not 0.",
    "roundtrips 1 2 3": "roundtrips: after rounds and seed there is no place for 3.",
    "forktree 1 0": "forktree: the second argument, the fan-out, is a number from 1 to 64, not 0.",
    "forktree 1 2 3 4 5": "forktree: after depth, fan-out, pages and seed there is no place for 5.",
    "copytree": "copytree: give two arguments, a directory and the place of its copy.",
    "appelli 99": "appelli: pages is a number from 100 to 1048576, not 99.",
    "appelli 100 1 1 1": "appelli: after pages, rounds and seed there is no place for 1.",
    "appelli --none": "appelli: pages is a number from 100 to 1048576, not --none.",
}  # fmt: skip


def test_every_program_has_an_oracle_and_a_sentence_for_the_list() -> None:
    programs = applications()
    assert programs.keys() == PROGRAMS.keys() | MEASURING
    assert all(program.summary.endswith(".") and len(program.summary) < 120 for program in programs.values())


@pytest.mark.parametrize("line", RUNS)
def test_a_program_prints_what_python_computes(line: str) -> None:
    result = run_on_the_host(line.split())
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == expected_output(line.split())


@pytest.mark.parametrize("line", WRONG)
def test_wrong_arguments_get_one_sentence_and_status_2(line: str) -> None:
    result = run_on_the_host(line.split())
    assert (result.stdout.decode(), result.returncode) == (WRONG[line] + "\n", 2)


@pytest.mark.parametrize("line", ["quicksort 2305843009213693951", "pagewalk --pattern loop --steps 1 --pages 4294967296"])
def test_a_program_that_gets_no_memory_says_so_with_status_1(line: str) -> None:
    limited = ["sh", "-c", 'ulimit -v 4000000 && exec "$@"', "sh"]
    result = run_on_the_host(line.split(), under=limited)
    assert b"there is no room for this many" in result.stdout
    assert result.returncode == 1


def frequencies(path: Path, data: bytes) -> subprocess.CompletedProcess[bytes]:
    path.write_bytes(data)
    result = run_on_the_host(["wordfreq", path])
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == expected_output(["wordfreq", str(path)])
    return result


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("words") / "file"


@settings(max_examples=100, deadline=None)
@given(data=st.binary() | st.text("aAbBzZ@[`{ \n\0éa").map(str.encode))
def test_the_words_of_any_bytes_are_counted(file: Path, data: bytes) -> None:
    frequencies(file, data)


@settings(max_examples=30, deadline=None)
@given(words=st.lists(st.integers(0, 60).map(lambda n: chr(97 + n % 26) * (n // 26 + 1)), max_size=400))
def test_ties_are_broken_by_the_alphabet_and_twenty_are_shown(file: Path, words: list[str]) -> None:
    result = frequencies(file, " ".join(words).encode())
    assert result.stdout.count(b"\n") == min(20, len(set(words)))


def test_an_empty_file_has_no_words(file: Path) -> None:
    assert frequencies(file, b"").stdout == b""


@pytest.mark.parametrize("size", [4095, 4096, 4097, 8192])
def test_a_word_may_end_with_the_last_byte_of_a_page(file: Path, size: int) -> None:
    assert frequencies(file, b"x" * size).stdout == b"1 " + b"x" * size + b"\n"


@pytest.mark.parametrize("length", [255, 256, 257, 1_000_000])
def test_a_word_may_be_of_any_length(file: Path, length: int) -> None:
    long = b"Long" * (length // 4) + b"x" * (length % 4)
    result = frequencies(file, b" ".join([long, long + b"y", long.upper(), b"short"]))
    assert result.stdout.startswith(b"2 long")


def test_there_may_be_more_different_words_than_the_first_table_holds(file: Path) -> None:
    names = [f"{n:b}".replace("0", "o").replace("1", "i") for n in range(50_000)]
    frequencies(file, "\n".join(names + names[777:790]).encode())


def test_a_sum_over_a_read_page_depends_on_what_was_written_before() -> None:
    line = "pagewalk --pattern loop --pages 2 --steps 4000 --write"
    unwritten, written = (expected_output([*line.split(), percent]) for percent in ("0", "1"))
    assert unwritten.split(b"checksum")[1] != written.split(b"checksum")[1]
