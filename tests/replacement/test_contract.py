"""What every strategy owes its driver, whatever the driver does.

Hypothesis plays a driver that references, loses and evicts pages in any order, lets memory shrink and grow, asks for
victims it then does not evict, and ticks. The model knows what is resident; the strategy must agree.
"""

from collections import OrderedDict
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libos.replacement import STRATEGIES, Lirs, NothingResident, ReferenceStrategy, Strategy, strategy_named
from libos.replacement.ring import Ring


@dataclass(frozen=True)
class Reference:
    page: int
    write: bool
    announced: bool


@dataclass(frozen=True)
class Lose:
    which: int


@dataclass(frozen=True)
class Evict:
    really: bool


@dataclass(frozen=True)
class Tick:
    pass


@dataclass(frozen=True)
class Frames:
    number: int


Step = Reference | Lose | Evict | Tick | Frames

references = st.builds(Reference, st.integers(0, 14), st.booleans(), st.booleans())
steps = st.lists(
    st.one_of(
        references,
        references,
        references,
        st.builds(Lose, st.integers(0, 14)),
        st.builds(Evict, st.booleans()),
        st.just(Tick()),
        st.builds(Frames, st.integers(1, 10)),
    ),
    max_size=80,
)


class Hardware:
    """Accessed and dirty bits of resident pages; to ask about another page is an error."""

    def __init__(self, shows_at_once: bool) -> None:
        self.now = 0
        self.bits: dict[int, set[str]] = {}
        self.shows_at_once = shows_at_once
        self.cleared: list[int] = []

    def accessed(self, page: int) -> bool:
        return "accessed" in self.bits[page]

    def dirty(self, page: int) -> bool:
        return "dirty" in self.bits[page]

    def clear_accessed(self, page: int) -> None:
        assert page in self.bits
        if self.shows_at_once:
            self.bits[page].discard("accessed")
        else:
            self.cleared.append(page)

    def schedule_write(self, page: int) -> None:
        assert "dirty" in self.bits[page]

    def perform(self) -> None:
        for page in self.cleared:
            self.bits[page].discard("accessed")
        self.cleared.clear()


class Driver:
    """Does what it is told to a strategy and checks every answer."""

    def __init__(self, strategy: Strategy, shows_at_once: bool = True) -> None:
        self.strategy = strategy
        self.hardware = Hardware(shows_at_once)
        self.frames = strategy.frames
        self.victims: list[int] = []

    def run(self, steps: list[Step]) -> None:
        for step in steps:
            self.hardware.now += 1
            self.do(step)
            self.hardware.perform()

    def do(self, step: Step) -> None:
        resident = self.hardware.bits
        match step:
            case Reference(page, write, announced):
                if page not in resident:
                    self.miss(page, announced)
                elif isinstance(self.strategy, ReferenceStrategy):
                    self.strategy.referenced(page)
                resident[page] |= {"accessed", "dirty"} if write else {"accessed"}
            case Lose(which) if resident:
                self.forget(sorted(resident)[which % len(resident)])
            case Evict(really) if resident:
                page = self.ask()
                if really:
                    self.forget(page)
            case Evict():
                with pytest.raises(NothingResident, match=self.strategy.name):
                    self.strategy.victim(self.hardware)
            case Tick():
                self.strategy.sample(self.hardware)
            case Frames(number):
                self.frames = self.strategy.frames = number

    def miss(self, page: int, announced: bool) -> None:
        if announced and isinstance(self.strategy, ReferenceStrategy):
            self.strategy.missed(page)
        while len(self.hardware.bits) >= self.frames:
            self.forget(self.ask())
            self.hardware.perform()
        self.hardware.bits[page] = set()
        self.strategy.admit(page)

    def ask(self) -> int:
        page = self.strategy.victim(self.hardware)
        assert page in self.hardware.bits
        self.victims.append(page)
        return page

    def forget(self, page: int) -> None:
        del self.hardware.bits[page]
        self.hardware.cleared = [other for other in self.hardware.cleared if other != page]
        self.strategy.forget(page)
        with pytest.raises(KeyError):
            self.strategy.forget(page)


def made_for(name: str, steps: list[Step], frames: int) -> Strategy:
    future = [step.page for step in steps if isinstance(step, Reference)]
    return strategy_named(name).for_trace(future, frames, seed=5)


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=150, deadline=None, database=None)
@given(steps=steps, frames=st.integers(1, 8))
def test_a_victim_is_resident_and_pages_may_leave_in_any_order(name: str, steps: list[Step], frames: int) -> None:
    driver = Driver(made_for(name, steps, frames))
    driver.run(steps)
    # Everything can be evicted, down to the last page.
    while driver.hardware.bits:
        driver.forget(driver.ask())
    driver.do(Evict(True))


@pytest.mark.parametrize("name", STRATEGIES)
@settings(max_examples=60, deadline=None, database=None)
@given(steps=steps, frames=st.integers(1, 8))
def test_it_does_not_matter_when_cleared_bits_show(name: str, steps: list[Step], frames: int) -> None:
    at_once = Driver(made_for(name, steps, frames), shows_at_once=True)
    later = Driver(made_for(name, steps, frames), shows_at_once=False)
    at_once.run(steps)
    later.run(steps)
    assert at_once.victims == later.victims


@settings(max_examples=150, deadline=None, database=None)
@given(steps=steps, frames=st.integers(1, 8))
def test_clock_and_second_chance_are_one_algorithm_even_when_pages_are_lost(steps: list[Step], frames: int) -> None:
    clock = Driver(made_for("clock", steps, frames))
    queue = Driver(made_for("second-chance", steps, frames))
    clock.run(steps)
    queue.run(steps)
    assert clock.victims == queue.victims


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "belady"])
def test_a_lost_page_leaves_no_history(name: str) -> None:
    fresh, used = Driver(strategy_named(name)(6)), Driver(strategy_named(name)(6))
    used.run([Reference(page, False, True) for page in (0, 1, 2, 3, 4, 5, 0, 3, 3, 1)])
    used.run([Tick(), *(Lose(which) for which in (2, 0, 3, 1, 1, 0))])
    assert not used.hardware.bits
    for driver in (fresh, used):
        driver.run([Reference(page, False, True) for page in (0, 1, 2, 3, 4, 5, 0, 6, 7, 1, 8, 2, 6, 9, 0)])
    assert fresh.victims == used.victims


def test_lirs_takes_a_lost_page_for_a_new_one_and_an_evicted_page_for_one_wanted_again() -> None:
    for lost, next_victim in ((True, 5), (False, 0)):
        driver = Driver(Lirs(6))
        driver.run([Reference(page, False, True) for page in range(6)])
        driver.run([Lose(5) if lost else Evict(True), Reference(5, False, True)])
        assert driver.ask() == next_victim


def test_lirs_makes_the_next_page_used_a_lir_page_after_losing_one() -> None:
    driver = Driver(Lirs(3))
    driver.run([Reference(page, False, True) for page in (0, 1, 2, 0, 1)])
    driver.run([Lose(0), Reference(2, False, True), Reference(3, False, True)])
    assert driver.ask() == 3


@pytest.mark.parametrize("name", STRATEGIES)
def test_memory_of_evicted_pages_is_bounded(name: str) -> None:
    frames, pages = 10, 2_000
    trace = [page for page in range(pages) for _ in range(3)]
    strategy = Lirs(frames, stack_limit=2.0) if name == "lirs" else strategy_named(name).for_trace(trace, frames)
    Driver(strategy).run([Reference(page, False, True) for page in trace])
    kept = [value for key, value in vars(strategy).items() if key not in ("_future", "_next_use_after")]
    sizes = [len(value) for value in kept if isinstance(value, dict | list | set | OrderedDict | Ring)]
    assert sizes
    assert sum(sizes) <= 10 * frames + 64


@settings(max_examples=100, deadline=None, database=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_a_ring_is_a_list_that_ends_in_its_beginning(edits: list[tuple[int, int]]) -> None:
    ring, plain = Ring(), list[int]()
    for page, place in edits:
        if page in plain:
            index = plain.index(page)
            assert ring.remove(page) == (plain[(index + 1) % len(plain)] if len(plain) > 1 else None)
            plain.remove(page)
        else:
            before = plain[place % len(plain)] if plain else None
            ring.insert(page, before)
            plain.insert(place % len(plain) if plain else 0, page)
        if plain:
            start = len(plain) // 2
            assert list(ring.once_around(plain[start])) == plain[start:] + plain[:start]
        assert len(ring) == len(plain)
