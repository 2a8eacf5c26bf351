"""A Python library OS under a kernel that wants frames back: what it gives, and what becomes of what is taken."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from exokernel.abi.downcalls import TABLE
from exokernel.abi.flags import PageBits
from exokernel.abi.layout import PAGE_SHIFT
from exokernel.kernel import dispatch
from exokernel.kernel.environment import Context, Environment
from exokernel.kernel.kernel import Kernel, Settings
from exokernel.policy.memory import LargestHolder, Proportional, SeizeLargest, SeizeOldest
from exokernel.policy.views import Ask, MemoryView
from libos.base import LibraryOS
from libos.names import parts
from libos.page_tables import frame_in, read_entry
from libos.plan import Program
from libos.replacement import Bits, Fifo, WSClock
from libos.section import Section
from libos.startup import RegionKind
from libos.taken import TakenRecords
from tests.apps.oracles import expected_output
from tests.libos.machines import Machine, native
from tests.libos.pythonic import c_program, over_python

WALK = ("--pattern", "random", "--pages", "90", "--steps", "1500")
FILL_AND_CHECK = """
    volatile uint64_t *memory = os_region(100 * PAGE_SIZE);
    for (int i = 0; i < 100; i++) memory[i * WORDS_PER_PAGE] = 1000 + i;
    for (int round = 0; round < 4; round++) {
        uint64_t until = os_time() + 2000000;
        while (os_time() < until) SPEND;
        for (int i = 0; i < 100; i++)
            if (memory[i * WORDS_PER_PAGE] != (uint64_t)(1000 + i)) return 1;
    }
    return 0;
"""


class Stubborn(LibraryOS):
    """Gives nothing back when it is asked."""

    async def please_release_page(self, context: int, count: int, frame: int, deadline: int) -> None:
        """No."""


class Elder(LargestHolder):
    """Asks the environment that is older than the requester, however little it holds."""

    def choose(self, view: MemoryView, requester: int, count: int) -> list[Ask]:
        elders = [e for e in view.environments() if e.releasable > 0 and e.number < requester]
        return [Ask(elders[0].number, min(max(count, self.batch), elders[0].releasable))] if elders else []


class Checking(Stubborn):
    """Compares its books with the page tables after it was told of pages that were taken."""

    def __init__(self, frames: int = 0, seed: int = 0) -> None:
        super().__init__(frames, seed)
        self.strangers: list[int] = []

    async def pages_taken(self, context: int, count: int) -> None:
        await super().pages_taken(context, count)
        if not self.paging.section.occupied:
            resident = self.paging.books.resident
            real = [page.frame == frame_in(await read_entry(self.exo, number)) for number, page in resident.items()]
            self.strangers.append(real.count(False))


class Deaf(Stubborn):
    """Does not even listen when it is told what was taken."""

    async def pages_taken(self, context: int, count: int) -> None:
        """What?"""


def hungry(pages: int = 250) -> Program:
    """A neighbour that wants most of the machine."""
    return native("pagewalk", "--pattern", "random", "--pages", pages, "--steps", 3000)


@pytest.mark.parametrize("library", parts())
def test_programs_that_compete_for_frames_compute_what_they_compute_alone(library: str) -> None:
    machine = Machine(frames=220)
    ended = machine.run([over_python("pagewalk", *WALK, library=library, seed=n) for n in range(3)])
    assert [one.output.encode() for one in ended] == [expected_output(["pagewalk", *WALK])] * 3
    assert not any(one.accounts.taken for one in ended)
    assert sum(one.evictions for one in ended) > 50


def test_requests_that_come_while_a_page_fault_waits_for_the_disk_are_honoured() -> None:
    busy: list[bool] = []

    class Watched(LibraryOS):
        async def please_release_page(self, context: int, count: int, frame: int, deadline: int) -> None:
            busy.append(self.paging.section.occupied)
            await super().please_release_page(context, count, frame, deadline)

    machine = Machine(frames=256, policy=Proportional())
    ended = machine.run([over_python("pagewalk", *WALK, library=Watched) for _ in range(3)])
    assert [one.output.encode() for one in ended] == [expected_output(["pagewalk", *WALK])] * 3
    assert set(busy) == {True, False}
    assert not any(one.accounts.taken for one in ended)


def test_the_frames_given_back_are_those_the_strategy_names(tmp_path: Path) -> None:
    named: list[int] = []
    left: list[int] = []

    class Noting(Fifo):
        def victim(self, bits: Bits) -> int:
            named.append(max(self._queue))
            return named[-1]

        def forget(self, page: int) -> None:
            left.append(page)
            super().forget(page)

    machine = Machine(frames=300, policy=Elder())
    source = c_program(tmp_path, FILL_AND_CHECK)
    ended, _ = machine.run([over_python(source, library=partial(LibraryOS, strategy=Noting)), hungry()])
    assert ended.status == 0
    assert ended.accounts.taken == 0
    assert len(left) > 50
    assert left == named


@pytest.mark.parametrize("policy", [SeizeLargest, SeizeOldest])
def test_pages_that_are_seized_come_back_with_their_contents_if_backing_was_named(
    tmp_path: Path, policy: type[SeizeLargest | SeizeOldest]
) -> None:
    machine = Machine(frames=300, policy=policy())
    source = c_program(tmp_path, FILL_AND_CHECK)
    neighbours = [over_python("pagewalk", *WALK, register_backing=True) for _ in range(2)]
    ended, neighbour, _ = machine.run([over_python(source, register_backing=True), *neighbours])
    assert (ended.status, ended.output) == (0, "")
    assert neighbour.output.encode() == expected_output(["pagewalk", *WALK])
    assert ended.accounts.taken + neighbour.accounts.taken > 20


def test_a_page_that_is_seized_without_backing_is_reported_lost_when_it_is_touched(tmp_path: Path) -> None:
    machine = Machine(frames=300, policy=SeizeLargest())
    source = c_program(tmp_path, FILL_AND_CHECK)
    ended, *_ = machine.run([over_python(source), over_python("pagewalk", *WALK), over_python("pagewalk", *WALK)])
    assert ended.status == 135
    assert "was taken by force and its contents are lost." in ended.output


@pytest.mark.parametrize("library", [Stubborn, Deaf])
def test_a_library_that_ignores_requests_lives_and_loses_nothing_that_has_backing(
    tmp_path: Path, library: type[LibraryOS]
) -> None:
    machine = Machine(frames=300, policy=Elder())
    source = c_program(tmp_path, FILL_AND_CHECK)
    ended, *_ = machine.run([over_python(source, library=library, register_backing=True), hungry()])
    assert (ended.status, ended.output) == (0, "")
    assert ended.accounts.taken > 20


class KeepsItsStack(Stubborn):
    """Stubborn, and reserves every frame but those of the heap."""

    async def page_fault(self, context: int, va: int, access: int) -> None:
        await super().page_fault(context, va, access)
        number = va >> PAGE_SHIFT
        frame = self.paging.books.page(number).frame
        if frame is not None and self.paging.regions.of(number).kind is not RegionKind.HEAP:
            await self.exo.reserve_page(frame)


def test_pages_that_were_never_written_are_not_lost_when_they_are_taken(tmp_path: Path) -> None:
    machine = Machine(frames=300, policy=Elder())
    body = FILL_AND_CHECK.replace("memory[i * WORDS_PER_PAGE] = 1000 + i", "if (memory[i * WORDS_PER_PAGE]) return 2")
    source = c_program(tmp_path, body.replace("(uint64_t)(1000 + i)", "0"))
    ended, *_ = machine.run([over_python(source, library=KeepsItsStack), hungry()])
    assert (ended.status, ended.output) == (0, "")
    assert ended.accounts.taken > 20
    assert ended.swap_out < 8


def test_pages_that_came_from_swap_and_were_only_read_are_not_lost_when_they_are_taken(tmp_path: Path) -> None:
    reader = c_program(
        tmp_path,
        """
        volatile uint64_t *memory = os_region(100 * PAGE_SIZE);
        for (int i = 0; i < 100; i++) memory[i * WORDS_PER_PAGE] = 1000 + i;
        for (int round = 0; round < 3; round++) {
            for (int i = 0; i < 100; i++)
                if (memory[i * WORDS_PER_PAGE] != (uint64_t)(1000 + i)) return 1;
            while (os_time() < 50000000u + 5000000u * round) SPEND;
        }
        return 0;
        """,
        "reader",
    )
    late = c_program(
        tmp_path,
        """
        while (os_time() < 40000000) SPEND;
        volatile char *memory = os_region(220 * PAGE_SIZE);
        for (int i = 0; i < 220; i++) memory[i * PAGE_SIZE] = 1;
        return 0;
        """,
        "late",
    )
    machine = Machine(frames=300, policy=Elder())
    ended, _ = machine.run([over_python(reader, library=KeepsItsStack, frames=80), native(late)])
    assert (ended.status, ended.output) == (0, "")
    assert ended.accounts.taken > 20


def test_more_pages_taken_at_once_than_there_are_records_come_back_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beyond: list[int] = []
    settle = TakenRecords._settle_without_record

    async def noting(self: TakenRecords, number: int) -> None:
        beyond.append(number)
        await settle(self, number)

    monkeypatch.setattr(TakenRecords, "_settle_without_record", noting)
    machine = Machine(frames=420, policy=Elder(batch=200), settings=Settings(release_deadline=1000))
    source = c_program(tmp_path, FILL_AND_CHECK.replace("100", "180").replace("1800", "1000"))
    library = Checking()
    ended, *_ = machine.run([over_python(source, library=lambda **_: library, register_backing=True), hungry(300)])
    assert 0 in library.strangers
    assert not any(library.strangers)
    assert (ended.status, ended.output) == (0, "")
    assert ended.accounts.taken > 150
    assert beyond


def test_discarded_pages_stay_zeros_when_their_successors_are_seized(tmp_path: Path) -> None:
    body = """
    volatile uint64_t *memory = os_region(100 * PAGE_SIZE);
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < 100; i++) memory[i * WORDS_PER_PAGE] = 77;
        os_advise((void *)memory, 100 * PAGE_SIZE, OS_DISCARD);
        for (int i = 0; i < 100; i++) if (memory[i * WORDS_PER_PAGE]) return 1;
        uint64_t until = os_time() + 1000000;
        while (os_time() < until) SPEND;
        for (int i = 0; i < 100; i++) if (memory[i * WORDS_PER_PAGE]) return 2;
    }
    return 0;
    """
    machine = Machine(frames=300, policy=SeizeOldest())
    ended, *_ = machine.run(
        [over_python(c_program(tmp_path, body), register_backing=True)]
        + [over_python("pagewalk", *WALK, register_backing=True) for _ in range(2)]
    )
    assert (ended.status, ended.output) == (0, "")
    assert ended.accounts.taken > 20


def test_a_page_fault_while_frames_are_given_back_waits_for_its_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[bool] = []
    enter = Section.enter

    async def noting(self: Section) -> None:
        waited.append(self.occupied)
        await enter(self)

    monkeypatch.setattr(Section, "enter", noting)
    machine = Machine(frames=256, policy=Elder())
    ended = machine.run([over_python("pagewalk", *WALK, "--write", 100) for _ in range(3)])
    assert [one.output.encode() for one in ended] == [expected_output(["pagewalk", *WALK, "--write", "100"])] * 3
    assert True in waited
    assert not any(one.accounts.taken for one in ended)


def test_after_it_was_told_of_pages_taken_the_books_say_what_the_page_tables_say(tmp_path: Path) -> None:
    library = Checking()
    source = c_program(tmp_path, FILL_AND_CHECK)
    program = over_python(source, library=lambda **_: library, register_backing=True)
    Machine(frames=300, policy=Elder()).run([program, hungry()])
    assert 0 in library.strangers
    assert not any(library.strangers)


class Thief:
    """Takes frames by force before down-calls of Python libraries: `choose` is given the call and says which."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, choose: Callable[[Environment, str, tuple[Any, ...]], int | None]
    ) -> None:
        self.stolen = 0
        python = dispatch.python

        def stealing(
            kernel: Kernel, environment: Environment, context: Context, number: int, arguments: tuple[Any, ...]
        ) -> None:
            name = TABLE[number].name
            wanted = choose(environment, name, arguments) if environment.library is not None else None
            frame = kernel.frames.used.get(wanted) if wanted is not None else None
            if frame is not None and kernel.revocation._may_be_taken(frame) and environment in frame.holders:
                kernel.revocation._take(environment, frame)
                kernel.revocation._announce_taken()
                self.stolen += 1
            python(kernel, environment, context, number, arguments)

        monkeypatch.setattr(dispatch, "python", stealing)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_taken_at_whatever_moment_comes_back_if_backing_was_named(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    dice = Random(seed)

    def any_frame(environment: Environment, call: str, arguments: tuple[Any, ...]) -> int | None:
        held = list(environment.held)
        return dice.choice(held) if held and dice.random() < 0.1 else None

    thief = Thief(monkeypatch, any_frame)
    walk = ("--pattern", "zipf", "--pages", "60", "--steps", "2000")
    family = ("forkdemo", "12", "2", "4")
    for library in ("clock", "wsclock"):
        machine = Machine()
        programs = [over_python("pagewalk", *walk, library=library, frames=20, register_backing=True)]
        programs += [over_python(*family, library=library, frames=20, register_backing=True)]
        ended, parent = machine.run(programs)
        assert ended.output.encode() == expected_output(["pagewalk", *walk])
        everybody = parent.output + "".join(machine.children.values())
        assert sorted(everybody.splitlines()) == sorted(expected_output(family).decode().splitlines())
    assert thief.stolen > 200


def test_a_page_that_is_taken_before_the_program_has_touched_it_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    library = LibraryOS(30, 0, Fifo)
    arrivals = 0

    def every_third_arrival(environment: Environment, call: str, arguments: tuple[Any, ...]) -> int | None:
        nonlocal arrivals
        if call != "clear_page_bits" or arguments[2] != PageBits.DIRTY:
            return None
        arrivals += 1
        return library.paging.books.page(arguments[0] >> PAGE_SHIFT).frame if arrivals % 3 == 0 else None

    thief = Thief(monkeypatch, every_third_arrival)
    (ended,) = Machine().run([over_python("pagewalk", *WALK, library=lambda **_: library, frames=30)])
    assert ended.output.encode() == expected_output(["pagewalk", *WALK])
    assert thief.stolen > 20


def test_requests_and_page_faults_that_meet_over_pages_being_cleaned_get_along() -> None:
    class Eager(WSClock):
        """Finds every page too old at once, so it wants all it meets cleaned."""

        def __init__(self, frames: int, seed: int = 0) -> None:
            super().__init__(frames, seed, window=1000)

    walk = (*WALK, "--write", "100")
    for policy in (Elder(), Proportional()):
        machine = Machine(frames=220, policy=policy)
        library = partial(LibraryOS, strategy=Eager)
        ended = machine.run([over_python("pagewalk", *walk, library=library) for _ in range(3)])
        assert [one.output.encode() for one in ended] == [expected_output(["pagewalk", *walk])] * 3
