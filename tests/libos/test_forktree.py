"""A tree of forks: what comes up from it is what the closed form says, however little memory there is."""

from collections.abc import Callable
from typing import Any

import pytest

from exokernel.policy.memory import LargestHolder, MemoryPolicy, Oldest, Proportional, SeizeOldest
from libos.plan import Program
from tests.apps.oracles import expected_output
from tests.libos.machines import Ended, Machine, native
from tests.libos.pythonic import over_python

both = pytest.mark.parametrize("make", [native, over_python], ids=["native", "python"])
Make = Callable[..., Program]
NO_ROOM = "forktree: there is no room for so many environments; take a smaller tree, or more memory and disk.\n"


def grow(make: Make, machine: Machine, *arguments: object, **options: Any) -> Ended:
    """Run a tree, which must have the right result, or none and say so."""
    (ended,) = machine.run([make("forktree", *arguments, heap_pages=128, stack_pages=16, **options)])
    return ended


def expected(*arguments: object) -> str:
    return expected_output(["forktree", *map(str, arguments)]).decode()


@both
@pytest.mark.parametrize("arguments", [(0,), (1, 12), (2, 3), (4, 2), (6, 1)], ids=str)
def test_the_result_is_that_of_the_closed_form(make: Make, arguments: tuple[int, ...]) -> None:
    machine = Machine(frames=4096)
    ended = grow(make, machine, *arguments)
    assert (ended.status, ended.output) == (0, expected(*arguments))
    depth, fanout = (*arguments, 2)[:2]
    assert len(machine.children) == sum(fanout**level for level in range(1, depth + 1))
    assert not machine.deaths


@pytest.mark.parametrize(
    ("make", "policy"),
    [
        (native, LargestHolder),
        (native, Oldest),
        (native, Proportional),
        (over_python, LargestHolder),
        (over_python, Oldest),
    ],
)
def test_nodes_that_are_asked_for_frames_give_and_lose_nothing(make: Make, policy: type[MemoryPolicy]) -> None:
    arguments = (2, 2, 40, 3)
    machine = Machine(frames=300 if make is native else 200, policy=policy())
    ended = grow(make, machine, *arguments)
    assert (ended.status, ended.output) == (0, expected(*arguments))
    everybody = [machine.kernel.ended[number].accounts for number in machine.children] + [ended.accounts]
    assert sum(accounts.evictions for accounts in everybody) > 20
    assert sum(accounts.taken for accounts in everybody) == 0


@both
def test_nodes_within_a_bound_of_their_own_give_the_same(make: Make) -> None:
    ended = grow(make, Machine(), 2, 2, 30, 4, frames=12)
    assert (ended.status, ended.output) == (0, expected(2, 2, 30, 4))
    assert ended.evictions > 20


@both
def test_nodes_whose_pages_are_seized_get_them_back(make: Make) -> None:
    machine = Machine(frames=300 if make is native else 200, policy=SeizeOldest())
    ended = grow(make, machine, 2, 2, 40, 5, register_backing=True)
    assert (ended.status, ended.output) == (0, expected(2, 2, 40, 5))
    everybody = [machine.kernel.ended[number].accounts for number in machine.children] + [ended.accounts]
    assert sum(accounts.taken for accounts in everybody) > 20


@both
def test_a_node_copies_the_pages_it_writes_and_no_others(make: Make) -> None:
    """With 40 pages to write a leaf faults 40 times more often than with none, and so does one with 80 for 80."""
    faults = []
    for pages in (1, 41, 81):
        machine = Machine(frames=4096)
        grow(make, machine, 1, 2, pages)
        faults.append([machine.kernel.ended[number].accounts.faults for number in sorted(machine.children)])
    assert [b - a for a, b in zip(faults[0], faults[1], strict=True)] == [40, 40]
    assert [b - a for a, b in zip(faults[1], faults[2], strict=True)] == [40, 40]


@pytest.mark.parametrize(("make", "frames"), [(native, 251), (over_python, 180)])
def test_a_tree_too_large_for_the_memory_is_told_so_and_every_node_ends(make: Make, frames: int) -> None:
    machine = Machine(frames=frames)
    ended = grow(make, machine, 3, 3)
    assert (ended.status, ended.output) == (1, NO_ROOM)
    assert "".join(machine.children.values()) == ""


@both
def test_a_tree_too_large_for_the_disk_is_told_so(make: Make) -> None:
    ended = grow(make, Machine(frames=4096, sectors=8 * 200), 1, 12)
    assert (ended.status, ended.output) == (1, NO_ROOM)
