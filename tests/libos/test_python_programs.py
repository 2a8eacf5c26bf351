"""Programs in Python over a Python library OS: the same interface and the same paging as for machine code."""

from collections.abc import Sequence
from math import isqrt
from pathlib import Path

import pytest

from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import SELF, Event
from exokernel.abi.layout import PAGE_SIZE, page_table_entry
from exokernel.build import guests
from libos.advice import Advice
from libos.base import LibraryOS
from libos.image import LoadError
from libos.python_programs import LinkedExo, program_from_file
from libos.replacement import Fifo
from tests.libos.pythonic import run_python


def primes(below: int) -> list[int]:
    return [n for n in range(2, below) if all(n % d for d in range(2, isqrt(n) + 1))]


@pytest.mark.parametrize("frames", [0, 3, 8])
def test_sieve_finds_the_primes_in_any_number_of_frames(frames: int) -> None:
    program = program_from_file(guests.APPLICATIONS / "sieve.py")
    ended, _ = run_python(program.main, "40000", frames=frames, library=LibraryOS(frames, strategy=Fifo))
    expected = primes(40000)
    assert ended.output == f"{len(expected)} primes below 40000, the last is {expected[-1]}\n"
    assert bool(ended.evictions) == bool(frames)
    assert ended.accounts.faults >= 10


@pytest.mark.parametrize("name", ["sieve", "pingpong"])
def test_a_wrong_argument_is_a_sentence_and_status_2(name: str) -> None:
    program = program_from_file(guests.APPLICATIONS / f"{name}.py")
    ended, kernel = run_python(program.main, "many")
    assert ended.status == 2
    assert ended.output.startswith(f"{name}: ")
    assert ended.output.endswith(".\n")
    assert not kernel.deaths
    assert program.summary.endswith("].")


def test_pingpong_plays_its_rounds() -> None:
    ended, kernel = run_python(program_from_file(guests.APPLICATIONS / "pingpong.py").main, "50")
    assert ended.status == 0
    assert ended.output.startswith("50 rounds, ")
    assert not kernel.deaths


def test_memory_of_a_python_program_is_paged_and_advised_like_any(tmp_path: Path) -> None:
    async def main(exo: LinkedExo, arguments: Sequence[str]) -> int:
        begin = await exo.os_region(40 * PAGE_SIZE)
        for page in range(40):
            await exo.write(begin + page * PAGE_SIZE, bytes([page + 1]) * PAGE_SIZE)
        assert await exo.os_advise(begin, 10 * PAGE_SIZE, Advice.DISCARD) == 0
        for page in range(40):
            expected = bytes([page + 1 if page >= 10 else 0]) * PAGE_SIZE
            assert await exo.read(begin + page * PAGE_SIZE, PAGE_SIZE) == expected
        block = await exo.os_alloc(100)
        await exo.write(block, b"heap")
        await exo.os_free(block)
        assert await exo.os_map_file("none") is None
        return 5

    ended, _ = run_python(main, frames=12)
    assert ended.status == 5
    assert ended.evictions > 40


def test_a_python_program_that_touches_what_is_not_its_own_ends_with_a_sentence() -> None:
    async def main(exo: LinkedExo, arguments: Sequence[str]) -> None:
        await exo.write(0x1234_5000, b"!")

    ended, kernel = run_python(main)
    assert (ended.status, ended.output) == (139, "segmentation fault at 0x12345000 (write)\n")
    assert not kernel.deaths


def test_a_load_where_nothing_is_mapped_can_be_refused_instead_of_faulting() -> None:
    async def main(exo: LinkedExo, arguments: Sequence[str]) -> None:
        assert await exo.read_if_mapped(0x1234_5000, 8) is None
        assert not await exo.write_if_mapped(0x1234_5000, b"!")
        assert await exo.read_if_mapped(page_table_entry(0x1234_5000), 8) is None
        begin = await exo.os_region(PAGE_SIZE)
        await exo.write(begin, b"!")
        assert await exo.read_if_mapped(begin, 1) == b"!"
        assert await exo.write_if_mapped(begin, b"?")
        assert await exo.read(begin, 1) == b"?"

    ended, _ = run_python(main)
    assert (ended.status, ended.accounts.faults) == (0, 1)


def test_a_python_program_cannot_fork() -> None:
    async def main(exo: LinkedExo, arguments: Sequence[str]) -> None:
        assert not hasattr(exo, "os_fork")
        with pytest.raises(Refused) as caught:
            await exo.get_registers(0)
        assert caught.value.error is Error.NO_SUCH_CONTEXT

    ended, _ = run_python(main)
    assert ended.status == 0


def test_a_file_without_a_main_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text("def main(exo, arguments):\n    pass\n")
    with pytest.raises(LoadError, match="has no 'async def main"):
        program_from_file(path)


def test_only_one_at_a_time_is_inside_the_section() -> None:
    log: list[str] = []

    async def be_inside(library: LibraryOS) -> None:
        await library.paging.section.enter()
        log.append("in")
        await library.exo.block(Event.TIME, 0, await library.exo.time() + 10_000)
        log.append("out")
        await library.paging.section.leave()

    class Busy(LibraryOS):
        async def event(self, context: int, event: int, value: int, status: int) -> None:
            if event == Event.WOKEN and len(log) < 6:
                await be_inside(self)

    library = Busy()

    async def main(exo: LinkedExo, arguments: Sequence[str]) -> None:
        for _ in range(3):
            await exo.wake(SELF)
            await be_inside(library)

    ended, kernel = run_python(main, library=library)
    assert ended.status == 0
    assert not kernel.deaths
    assert len(log) > 8
    assert log == ["in", "out"] * (len(log) // 2)
