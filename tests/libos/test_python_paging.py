"""Demand paging by a Python library OS, on the real kernel: what comes in, what leaves, and what is written."""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from exokernel.abi.layout import PAGE_SHIFT, PAGE_SIZE
from exokernel.kernel.environment import Environment, State
from exokernel.kernel.frames import Frame, FrameTable
from exokernel.machine.cpu import FastCpu
from libos.base import LibraryOS
from libos.names import parts
from libos.replacement import Ageing, Bits, Clock, Fifo, Mru, RandomChoice, SecondChance, Strategy, WSClock
from libos.replay import ReplayResult, Trace, replay
from libos.startup import RegionKind
from tests.apps.oracles import expected_output
from tests.libos import machines
from tests.libos.machines import Ended, Machine
from tests.libos.pythonic import c_program, over_python

WALK = ("--pattern", "zipf", "--pages", "60", "--steps", "3000")


class FixedMru(Mru):
    """MRU without ticks: by admission alone."""

    def __init__(self, frames: int, seed: int = 0) -> None:
        super().__init__(frames, seed, sample_every=1 << 60)


@pytest.mark.parametrize("library", parts())
def test_a_program_with_fewer_frames_than_pages_computes_the_same_under_every_strategy(library: str) -> None:
    (ended,) = Machine().run([over_python("pagewalk", *WALK, library=library, frames=24, seed=3)])
    assert ended.output.encode() == expected_output(["pagewalk", *WALK])
    assert ended.evictions > 100


def recorded(monkeypatch: pytest.MonkeyPatch, strategy: type[Strategy], frames: int) -> tuple[Ended, ReplayResult]:
    """Run a walk with a strategy, and replay the references that the CPU recorded of the very same run."""
    monkeypatch.setattr(machines, "FastCpu", partial(FastCpu, record=(PAGE_SIZE, 1 << 32)))
    machine = Machine()
    program = over_python("pagewalk", *WALK, library=partial(LibraryOS, strategy=strategy), frames=frames, seed=7)
    (ended,) = machine.run([program])
    library = program.python_library
    assert isinstance(library, LibraryOS)
    pages, writes = [], bytearray()
    for word in memoryview(machine.kernel.cpus[0].drain_references()).cast("Q"):
        region = library.start.region_at(word >> 1 << PAGE_SHIFT)
        if region is not None and region.kind.pageable:
            pages.append(word >> 1)
            writes.append(word & 1)
    return ended, replay(Trace(pages, bytes(writes)), strategy(frames, 7), frames)


@pytest.mark.parametrize("strategy", [Fifo, RandomChoice, FixedMru, Clock, SecondChance])
@pytest.mark.parametrize("frames", [16, 40])
def test_faults_and_writes_are_those_of_a_replay_of_the_same_references(
    monkeypatch: pytest.MonkeyPatch, strategy: type[Strategy], frames: int
) -> None:
    ended, result = recorded(monkeypatch, strategy, frames)
    assert result.evictions > 100
    assert (ended.accounts.faults, ended.evictions) == (result.misses, result.evictions)
    assert ended.swap_out == result.dirty_evictions


def run_c(
    directory: Path, body: str, frames: int = 0, library: str | Callable[..., LibraryOS] = "fifo"
) -> tuple[Ended, LibraryOS]:
    program = over_python(c_program(directory, body), library=library, frames=frames)
    (ended,) = Machine().run([program])
    assert isinstance(program.python_library, LibraryOS)
    return ended, program.python_library


def test_what_was_only_read_is_not_written(tmp_path: Path) -> None:
    ended, _ = run_c(
        tmp_path,
        """
        volatile char *memory = os_region(64 * PAGE_SIZE);
        for (int round = 0; round < 3; round++)
            for (int i = 0; i < 64; i++)
                if (memory[i * PAGE_SIZE]) return 1;
        return 0;
        """,
        frames=16,
    )
    assert ended.status == 0
    assert ended.evictions > 150
    # The page of the stack is written, and nothing else; it leaves as often as it comes.
    assert ended.swap_out < 20


def test_what_was_written_once_is_written_out_once(tmp_path: Path) -> None:
    ended, _ = run_c(
        tmp_path,
        """
        volatile char *memory = os_region(64 * PAGE_SIZE);
        for (int i = 0; i < 64; i++) memory[i * PAGE_SIZE] = (char)i;
        for (int round = 0; round < 5; round++)
            for (int i = 0; i < 64; i++)
                if (memory[i * PAGE_SIZE] != (char)i) return 1;
        return 0;
        """,
        frames=16,
    )
    assert ended.status == 0
    assert ended.evictions > 300
    assert 64 - 16 <= ended.swap_out < 64 + 40


def test_a_discarded_page_is_not_written_and_reads_as_zeros(tmp_path: Path) -> None:
    ended, _ = run_c(
        tmp_path,
        """
        volatile char *memory = os_region(64 * PAGE_SIZE);
        for (int i = 0; i < 64; i++) {
            memory[i * PAGE_SIZE] = 1;
            if (os_advise((void *)(memory + i * PAGE_SIZE), PAGE_SIZE, OS_DISCARD)) return 1;
        }
        for (int i = 0; i < 64; i++)
            if (memory[i * PAGE_SIZE]) return 2;
        return 0;
        """,
        frames=16,
    )
    assert ended.status == 0
    assert ended.swap_out <= 8


def test_a_page_in_swap_that_is_discarded_reads_as_zeros(tmp_path: Path) -> None:
    ended, _ = run_c(
        tmp_path,
        """
        volatile char *memory = os_region(64 * PAGE_SIZE);
        for (int i = 0; i < 64; i++) memory[i * PAGE_SIZE] = 1;
        if (memory[7 * PAGE_SIZE] != 1) return 4;
        if (os_advise((void *)memory, 8 * PAGE_SIZE, OS_DISCARD)) return 1;
        for (int i = 0; i < 64; i++)
            if (memory[i * PAGE_SIZE] != (i >= 8)) return 2;
        return os_advise((void *)(memory + 63 * PAGE_SIZE), 5 * PAGE_SIZE, OS_DISCARD) == -1 ? 0 : 3;
        """,
        frames=16,
    )
    assert ended.status == 0


def test_a_recomputable_page_is_never_written_and_needed_ones_are(tmp_path: Path) -> None:
    body = """
        volatile char *memory = os_region(64 * PAGE_SIZE);
        os_advise((void *)memory, 64 * PAGE_SIZE, %s);
        int kept = 0;
        for (int i = 0; i < 64; i++) memory[i * PAGE_SIZE] = 1;
        for (int i = 0; i < 64; i++) kept += memory[i * PAGE_SIZE];
        return kept;
        """
    recomputable, _ = run_c(tmp_path, body % "OS_RECOMPUTABLE", frames=16)
    needed, _ = run_c(tmp_path, body % "OS_NEEDED", frames=16)
    assert needed.status == 64
    assert needed.swap_out > 48
    assert recomputable.status < 64
    assert recomputable.swap_out < 16


def test_a_page_of_a_file_is_read_again_and_never_written(tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    file.write_bytes(b"".join(bytes([page]) * PAGE_SIZE for page in range(40)) + b"end")
    source = c_program(
        tmp_path,
        """
        size_t size;
        const unsigned char *file = os_map_file(argv[1], &size);
        if (!file || os_map_file("another", &size)) return 1;
        for (int round = 0; round < 3; round++)
            for (int i = 0; i < 40; i++)
                if (file[i * PAGE_SIZE] != i || file[(i + 1) * PAGE_SIZE - 1] != i) return 2;
        return size == 40 * PAGE_SIZE + 3 && !memcmp(file + 40 * PAGE_SIZE, "end", 4) ? 0 : 3;
        """,
    )
    (ended,) = Machine().run([over_python(source, "numbers", frames=16, library="fifo", files=(file,))])
    assert ended.status == 0
    assert ended.evictions > 100
    assert ended.swap_out < 30


def test_a_file_cannot_be_written_nor_touched_before_it_was_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    file.write_bytes(bytes(3 * PAGE_SIZE))
    writer = c_program(tmp_path, "*(volatile char *)os_map_file(argv[1], 0) = 1; return 0;", "writer")
    (ended,) = Machine().run([over_python(writer, "numbers", files=(file,))])
    assert ended.status == 139
    assert "(write)" in ended.output
    # Files lie behind the heap and a page that is never mapped.
    body = "return *(volatile char *)((char *)os_region(16 * PAGE_SIZE) + 17 * PAGE_SIZE);"
    (ended,) = Machine().run([over_python(c_program(tmp_path, body, "guesser"), files=(file,), heap_pages=16)])
    assert ended.status == 139
    assert "(read)" in ended.output


def test_words_of_a_file_are_counted_with_few_frames(tmp_path: Path) -> None:
    text = tmp_path / "words.txt"
    text.write_text(" ".join(f"word{chr(97 + i % 26)}{chr(97 + i % 7)}" for i in range(20_000)))
    (ended,) = Machine().run([over_python("wordfreq", "words.txt", frames=12, files=(text,))])
    assert ended.output.encode() == expected_output(["wordfreq", str(text)])


def test_a_strategy_gets_its_ticks_and_sees_what_was_used_since_the_last(tmp_path: Path) -> None:
    times: list[int] = []
    used: list[set[int]] = []

    class Ticking(Ageing):
        def __init__(self, frames: int, seed: int = 0) -> None:
            super().__init__(frames, seed, sample_every=300_000)

        def sample(self, bits: Bits) -> None:
            times.append(bits.now)
            used.append({page for page in self._register if bits.accessed(page)})
            super().sample(bits)
            assert not any(bits.accessed(page) for page in self._register)

    body = """
        volatile char *busy = os_region(4 * PAGE_SIZE), *once = os_region(64 * PAGE_SIZE);
        for (int i = 0; i < 64; i++) {
            once[i * PAGE_SIZE] = 1;
            for (int k = 0; k < 4000; k++) busy[k % 4 * PAGE_SIZE]++;
        }
        return 0;
        """
    ended, library = run_c(tmp_path, body, frames=32, library=partial(LibraryOS, strategy=Ticking))
    assert ended.status == 0
    regions = library.start.regions
    heap = next(region.va for region in regions if region.kind is RegionKind.HEAP) >> PAGE_SHIFT
    assert len(times) > 5
    assert min(later - earlier for earlier, later in pairwise(times)) >= 300_000
    assert all(set(range(heap, heap + 4)) <= pages for pages in used[1:])
    assert max(len(pages) for pages in used[2:]) < 14


class Eager(WSClock):
    """Finds every page too old at once, so it wants all it meets cleaned."""

    def __init__(self, frames: int, seed: int = 0) -> None:
        super().__init__(frames, seed, window=2000)


EAGER = partial(LibraryOS, strategy=Eager)


def test_a_page_that_was_cleaned_while_it_stayed_is_not_written_again_when_it_leaves(tmp_path: Path) -> None:
    cleaned: list[int] = []

    class Noting(LibraryOS):
        def __init__(self, frames: int = 0, seed: int = 0) -> None:
            super().__init__(frames, seed, Eager)

        async def event(self, context: int, event: int, value: int, status: int) -> None:
            cleaned.append(value)
            await super().event(context, event, value, status)

    body = """
        volatile char *memory = os_region(64 * PAGE_SIZE);
        for (int i = 0; i < 64; i++) memory[i * PAGE_SIZE] = (char)i;
        for (int round = 0; round < 6; round++)
            for (int i = 0; i < 64; i++)
                if (memory[i * PAGE_SIZE] != (char)i) return 1;
        return 0;
        """
    ended, library = run_c(tmp_path, body, frames=24, library=Noting)
    assert ended.status == 0
    assert len(cleaned) > 20
    assert ended.swap_out < 64 + 24
    assert not library.paging.books.cleaning


def test_what_is_written_while_a_page_is_being_cleaned_is_not_lost() -> None:
    walk = (*WALK, "--write", "100")
    (ended,) = Machine().run([over_python("pagewalk", *walk, library=EAGER, frames=24)])
    assert ended.output.encode() == expected_output(["pagewalk", *walk])


def test_no_frame_is_given_back_while_the_disk_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    in_use: list[int] = []
    let_go = FrameTable.let_go

    def noting(self: FrameTable, environment: Environment, frame: Frame) -> bool:
        if environment.state is State.ALIVE:
            in_use.append(frame.io)
        return let_go(self, environment, frame)

    monkeypatch.setattr(FrameTable, "let_go", noting)
    Machine().run([over_python("pagewalk", *WALK, "--write", "100", library=EAGER, frames=24)])
    assert len(in_use) > 500
    assert not any(in_use)


def test_a_strategy_that_names_a_page_that_is_not_resident_ends_the_program_with_a_sentence() -> None:
    class Wrong(Fifo):
        name = "wrong"

        def victim(self, bits: Bits) -> int:
            return 12345

    (ended,) = Machine().run([over_python("pagewalk", *WALK, library=partial(LibraryOS, strategy=Wrong), frames=16)])
    assert ended.status == 134
    assert "The strategy 'wrong' named as its victim page 12345, which is not resident." in ended.output


def test_a_quota_too_small_for_the_program_ends_it_with_a_sentence() -> None:
    (ended,) = Machine().run([over_python("pagewalk", *WALK, quota=10)])
    assert ended.status == 134
    assert "quota" in ended.output


def test_within_its_quota_a_program_without_a_bound_makes_room_for_itself() -> None:
    (ended,) = Machine().run([over_python("pagewalk", *WALK, quota=40)])
    assert ended.output.encode() == expected_output(["pagewalk", *WALK])
    assert ended.evictions > 100
    assert ended.accounts.held_peak <= 40


def test_the_counts_in_the_own_page_are_what_the_disk_has_seen() -> None:
    (ended,) = Machine().run([over_python("pagewalk", *WALK, library="fifo", frames=24)])
    assert ended.accounts.sectors_read == 8 * ended.swap_in
    assert ended.accounts.sectors_written == 8 * ended.swap_out
