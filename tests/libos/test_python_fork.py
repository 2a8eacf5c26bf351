"""Copy-on-write fork of native programs over a Python library OS."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from exokernel.abi.layout import OWN_PAGE
from exokernel.abi.pages import OwnPage, offset_of
from exokernel.kernel.death import Cause
from exokernel.kernel.environment import Environment
from exokernel.kernel.frames import Frame, FrameTable
from exokernel.policy.memory import LargestHolder, SeizeOldest
from exokernel.policy.views import Ask, MemoryView
from libos.base import LibraryOS
from libos.books import Page
from libos.replacement import Clock
from libos.startup import StartBlock
from tests.apps.oracles import expected_output
from tests.libos.machines import Machine, native
from tests.libos.pythonic import c_program, over_python

FAMILY = ("12", "3", "9")


def lines(text: bytes | str) -> list[str]:
    return sorted((text.decode() if isinstance(text, bytes) else text).splitlines())


@pytest.mark.parametrize("frames", [0, 10, 24])
@pytest.mark.parametrize("library", ["fifo", "clock", "random"])
def test_copies_are_private_and_inherit_what_was_written_before(library: str, frames: int) -> None:
    machine = Machine()
    (ended,) = machine.run([over_python("forkdemo", *FAMILY, library=library, frames=frames)])
    assert ended.status == 0
    assert len(machine.children) == 3
    assert lines(ended.output + "".join(machine.children.values())) == lines(expected_output(["forkdemo", *FAMILY]))


def test_copies_are_private_when_memory_is_short() -> None:
    machine = Machine(frames=200)
    ended = machine.run([over_python("forkdemo", "24", "2", str(seed)) for seed in (1, 2)])
    everything = "".join(one.output for one in ended) + "".join(machine.children.values())
    assert lines(everything) == lines(b"".join(expected_output(["forkdemo", "24", "2", seed]) for seed in ("1", "2")))


def test_copies_survive_seizing_where_backing_is_named() -> None:
    machine = Machine(frames=260, policy=SeizeOldest())
    family = over_python("forkdemo", "24", "2", "4", register_backing=True)
    walk = over_python("pagewalk", "--pattern", "random", "--pages", 100, "--steps", 1500, register_backing=True)
    ended, _ = machine.run([family, walk])
    everything = ended.output + "".join(machine.children.values())
    assert lines(everything) == lines(expected_output(["forkdemo", "24", "2", "4"]))


def test_copies_and_pages_still_shared_come_back_when_they_are_seized(tmp_path: Path) -> None:
    source = c_program(
        tmp_path,
        """
        volatile uint64_t *memory = os_region(60 * PAGE_SIZE);
        for (int i = 0; i < 60; i++) memory[i * WORDS_PER_PAGE] = 500 + i;
        long child = os_fork();
        uint64_t mine = child ? 1000 : 2000;
        for (int i = 0; i < 30; i++) memory[i * WORDS_PER_PAGE] += mine;
        for (int round = 0; round < 3; round++) {
            uint64_t until = os_time() + 4000000;
            while (os_time() < until) SPEND;
            for (int i = 0; i < 60; i++)
                if (memory[i * WORDS_PER_PAGE] != 500 + (uint64_t)i + (i < 30 ? mine : 0)) return 1;
        }
        return child ? (int)os_wait(child) : 0;
        """,
    )
    walk = ("pagewalk", "--pattern", "random", "--pages", 100, "--steps", 3000)
    machine = Machine(frames=240, policy=SeizeOldest())
    programs = [over_python(source, register_backing=True), over_python(*walk, register_backing=True)]
    ended, _ = machine.run(programs)
    (child,) = machine.children
    assert (ended.status, ended.output, machine.children[child]) == (0, "", "")
    assert ended.accounts.taken > 20
    assert machine.kernel.ended[child].accounts.taken > 20


def test_a_page_that_nobody_writes_is_not_copied(tmp_path: Path) -> None:
    source = c_program(
        tmp_path,
        """
        volatile char *memory = os_region(64 * PAGE_SIZE);
        for (int i = 0; i < 64; i++) memory[i * PAGE_SIZE] = (char)i;
        long child = os_fork();
        for (int i = 0; i < 64; i++) if (memory[i * PAGE_SIZE] != (char)i) return 1;
        if (child == 0) os_exit(7);
        return child > 0 && os_wait(child) == 7 && os_wait(child + 1) == -1 ? 0 : 2;
        """,
    )
    machine = Machine()
    (ended,) = machine.run([over_python(source)])
    assert ended.status == 0
    (child,) = machine.children
    # The stack and what the program keeps of its own, and not the 64.
    assert machine.kernel.ended[child].accounts.faults < 8
    assert ended.accounts.faults < 64 + 16


def test_a_writer_who_is_alone_by_then_keeps_the_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[bool] = []
    take_free = FrameTable.take_free

    def noting(self: FrameTable, environment: Environment, number: int | None = None, table: bool = False) -> Frame | None:
        given.append(table)
        return take_free(self, environment, number, table)

    monkeypatch.setattr(FrameTable, "take_free", noting)
    source = c_program(
        tmp_path,
        """
        volatile char *memory = os_region(40 * PAGE_SIZE);
        for (int i = 0; i < 40; i++) memory[i * PAGE_SIZE] = 1;
        long child = os_fork();
        if (child == 0) os_exit(0);
        os_wait(child);
        for (int i = 0; i < 40; i++) memory[i * PAGE_SIZE]++;
        for (int i = 0; i < 40; i++) if (memory[i * PAGE_SIZE] != 2) return 1;
        return 0;
        """,
    )
    machine = Machine()
    (ended,) = machine.run([over_python(source)])
    assert ended.status == 0
    # Enough for the 40 pages, the rest of the program and the loader, and too little for 40 copies.
    assert given.count(False) < 40 + 30


def test_the_heap_goes_on_in_both_where_it_was(tmp_path: Path) -> None:
    source = c_program(
        tmp_path,
        """
        char *before = os_alloc(100);
        before[0] = 5;
        long child = os_fork();
        char *after = os_alloc(100);
        if (after == before) return 1;
        after[0] = child ? 6 : 7;
        os_free(before);
        os_free(after);
        return child ? (int)os_wait(child) : 0;
        """,
    )
    (ended,) = Machine().run([over_python(source)])
    assert (ended.status, ended.output) == (0, "")


def test_a_subclass_says_what_of_its_own_fields_the_child_gets() -> None:
    class Counting(LibraryOS):
        """Counts the calls of its own program."""

        def __init__(self, frames: int = 0, seed: int = 0) -> None:
            super().__init__(frames, seed, Clock)
            self.writes: list[int] = []

        def fork(self, child: LibraryOS, start: StartBlock, pages: Mapping[int, Page]) -> None:
            super().fork(child, start, pages)
            assert isinstance(child, Counting)
            child.writes = []

        async def os_write(self, context: int, text: int, size: int) -> int:
            self.writes.append(size)
            return await super().os_write(context, text, size)

    machine = Machine()
    program = over_python("forkdemo", *FAMILY, library=Counting)
    machine.run([program])
    libraries = [machine.kernel.ended[number].library for number in machine.children]
    assert [len(library.writes) for library in (program.python_library, *libraries)] == [1, 1, 1, 1]


def test_a_fork_for_which_there_is_no_room_gives_minus_one_and_undoes_everything(tmp_path: Path) -> None:
    source = c_program(
        tmp_path,
        """
        volatile char *memory = os_region(64 * PAGE_SIZE);
        for (int i = 0; i < 64; i++) memory[i * PAGE_SIZE] = (char)i;
        if (os_fork() != -1) return 1;
        for (int i = 0; i < 64; i++) if (memory[i * PAGE_SIZE] != (char)i) return 2;
        for (int i = 0; i < 64; i++) memory[i * PAGE_SIZE]++;
        for (int i = 0; i < 64; i++) if (memory[i * PAGE_SIZE] != (char)(i + 1)) return 3;
        return 0;
        """,
    )
    # The disk has room for one swap extent, not for a second.
    machine = Machine(sectors=8 * 1500)
    (ended,) = machine.run([over_python(source, frames=20)])
    assert (ended.status, ended.output) == (0, "")
    assert [death.cause for death in machine.deaths] == [Cause.DESTROYED]


class Audited(LibraryOS):
    """Counts, when its program ends, the frames it holds beyond the resident pages."""

    extra: ClassVar[list[int]] = []

    async def os_exit(self, context: int, status: int) -> None:
        held = int.from_bytes(await self.exo.read(OWN_PAGE + offset_of(OwnPage, "held"), 8), "little")
        self.extra.append(held - len(self.paging.books.resident))
        await super().os_exit(context, status)


def test_many_forks_one_after_another_leave_nothing_behind(tmp_path: Path) -> None:
    source = c_program(
        tmp_path,
        """
        volatile char *memory = os_region(40 * PAGE_SIZE);
        for (int i = 0; i < 40; i++) memory[i * PAGE_SIZE] = (char)i;
        for (int round = 0; round < 6; round++) {
            long child = os_fork();
            if (child == 0) memory[round * PAGE_SIZE] = 100;
            if (child == 0) os_exit(memory[9 * PAGE_SIZE]);
            if (os_wait(child) != 9) return 1;
        }
        for (int i = 0; i < 40; i++) if (memory[i * PAGE_SIZE] != (char)i) return 2;
        return 0;
        """,
    )
    Audited.extra.clear()
    # Swap extents of 64 + 256 pages and a few more: there is room for three.
    machine = Machine(sectors=8 * 1100)
    (ended,) = machine.run([over_python(source, library=Audited, frames=20, heap_pages=64)])
    assert (ended.status, ended.output) == (0, "")
    assert Audited.extra == [0] * 7


def test_both_kinds_of_library_print_the_same(tmp_path: Path) -> None:
    machine = Machine()
    outputs = []
    for program in (over_python("forkdemo", *FAMILY), native("forkdemo", *FAMILY)):
        (ended,) = machine.run([program])
        outputs.append(lines(ended.output + "".join(machine.children.values())))
    assert outputs[0] == outputs[1]


class ElderOnce(LargestHolder):
    """Asks the eldest environment for a few frames, whoever else holds more."""

    def choose(self, view: MemoryView, requester: int, count: int) -> list[Ask]:
        elders = [e for e in view.environments() if e.releasable > 8 and e.number < requester]
        return [Ask(elders[0].number, 4)] if elders else []


def test_pages_whose_frames_others_hold_too_do_not_all_leave_because_a_few_frames_are_wanted(tmp_path: Path) -> None:
    source = c_program(
        tmp_path,
        """
        volatile char *memory = os_region(80 * PAGE_SIZE);
        for (int i = 0; i < 80; i++) memory[i * PAGE_SIZE] = (char)i;
        long child = os_fork();
        if (child) return (int)os_wait(child);
        volatile char *more = os_region(150 * PAGE_SIZE);
        for (int i = 0; i < 150; i++) more[i * PAGE_SIZE] = 1;
        for (int i = 0; i < 80; i++) if (memory[i * PAGE_SIZE] != (char)i) return 1;
        return 0;
        """,
    )
    machine = Machine(frames=250, policy=ElderOnce())
    (ended,) = machine.run([over_python(source, library="random")])
    (child,) = machine.children
    assert (ended.status, machine.children[child]) == (0, "")
    assert 0 < ended.evictions < 40
