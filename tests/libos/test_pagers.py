"""The pagers in C choose as the strategies in Python do, victim by victim."""

import ctypes
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libos.replacement.ageing import Mru
from libos.replacement.clock import Clock
from libos.replacement.fifo import Fifo
from libos.replacement.strategy import Strategy
from tests.libos.host import NATIVE, fresh

PAGES = 24
STRATEGIES: dict[str, type[Strategy]] = {"fifo": Fifo, "clock": Clock, "mru": Mru}
PAGERS = [*STRATEGIES, "random"]

steps = st.lists(
    st.one_of(
        st.tuples(st.just("touch"), st.integers(0, PAGES - 1)),
        st.tuples(st.just("forget"), st.integers(0, PAGES - 1)),
        st.tuples(st.just("ask"), st.just(0)),
    ),
    max_size=300,
)


@dataclass
class Bits:
    """The accessed bits the strategy in Python sees; cleared when the call has ended."""

    bits: set[int] = field(default_factory=set)
    cleared: set[int] = field(default_factory=set)
    now: int = 0

    def accessed(self, page: int) -> bool:
        return page in self.bits

    def dirty(self, page: int) -> bool:
        return False

    def clear_accessed(self, page: int) -> None:
        self.cleared.add(page)

    def schedule_write(self, page: int) -> None:
        raise AssertionError("nobody asked for it")


class Pager:
    """A pager in C with the bits it sees."""

    def __init__(self, name: str, frames: int, seed: int = 0) -> None:
        self._library = fresh(NATIVE / f"pager_{name}.c", "host_part.c")
        self.accessed = (ctypes.c_uint8 * 4096).in_dll(self._library, "accessed")
        self._library.pager_start(PAGES, frames, ctypes.c_uint64(seed))

    def admit(self, page: int) -> None:
        self._library.pager_admit(page)

    def forget(self, page: int) -> None:
        self._library.pager_forget(page)

    def victim(self) -> int:
        return int(self._library.ask_for_victim())


@pytest.mark.parametrize("name", STRATEGIES)
@given(steps=steps, frames=st.integers(1, 14))
def test_a_pager_in_c_names_the_victims_of_its_strategy_in_python(
    name: str, steps: list[tuple[str, int]], frames: int
) -> None:
    strategy, pager, bits = STRATEGIES[name](frames), Pager(name, frames), Bits()
    resident: list[int] = []

    def victim() -> int:
        chosen = strategy.victim(bits)
        bits.bits -= bits.cleared
        bits.cleared.clear()
        assert pager.victim() == chosen
        assert {page for page in range(PAGES) if pager.accessed[page]} == bits.bits
        return chosen

    def leave(page: int) -> None:
        strategy.forget(page)
        pager.forget(page)
        resident.remove(page)
        bits.bits.discard(page)
        pager.accessed[page] = 0

    for step, page in steps:
        if step == "touch":
            if page not in resident:
                if len(resident) == frames:
                    leave(victim())
                strategy.admit(page)
                pager.admit(page)
                resident.append(page)
            bits.bits.add(page)
            pager.accessed[page] = 1
        elif step == "forget" and page in resident:
            leave(page)
        elif step == "ask" and resident:
            victim()


@pytest.mark.parametrize("name", PAGERS)
@given(steps=steps, frames=st.integers(1, 14), seed=st.integers(0, (1 << 64) - 1))
def test_every_pager_names_a_resident_page_whatever_is_forgotten_when(
    name: str, steps: list[tuple[str, int]], frames: int, seed: int
) -> None:
    pager, resident = Pager(name, frames, seed), set[int]()
    for step, page in steps:
        if step == "touch" and page not in resident:
            if len(resident) == frames:
                victim = pager.victim()
                assert victim in resident
                pager.forget(victim)
                resident.remove(victim)
            pager.admit(page)
            resident.add(page)
        elif step == "forget" and page in resident:
            pager.forget(page)
            resident.remove(page)
        elif step == "ask" and resident:
            assert pager.victim() in resident
        pager.accessed[page] = step == "touch"


def test_the_seed_settles_every_choice_of_the_random_pager() -> None:
    def victims(seed: int) -> list[int]:
        pager = Pager("random", 8, seed)
        for page in range(8):
            pager.admit(page)
        return [pager.victim() for _ in range(200)]

    assert victims(1) == victims(1) != victims(2)
    assert set(victims(3)) == set(range(8))
