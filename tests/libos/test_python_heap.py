"""The heap of a Python library OS: blocks are aligned, apart from one another, and memory comes back."""

from hypothesis import given
from hypothesis import strategies as st

from libos.heap import ALIGNMENT, Heap

SIZES = st.integers(0, 200_000)


class Ground:
    """Where the heap grows: up to a bound, with a hole after each piece or not."""

    def __init__(self, bound: int, hole: int = 0) -> None:
        self.next, self.bound, self.hole, self.given = 0x50_0000, 0x50_0000 + bound, hole, 0

    def __call__(self, size: int) -> int | None:
        if self.next + size > self.bound:
            return None
        begin, self.next = self.next, self.next + size + self.hole
        self.given += size
        return begin


@given(st.lists(st.tuples(st.booleans(), SIZES, st.integers(0, 1000)), max_size=60), st.sampled_from([0, 4096]))
def test_blocks_never_overlap_and_lie_within_what_was_given(steps: list[tuple[bool, int, int]], hole: int) -> None:
    ground = Ground(4 << 20, hole)
    heap = Heap(ground)
    live: dict[int, int] = {}
    for allocating, size, choice in steps:
        if allocating:
            address = heap.allocate(size)
            if address is not None:
                assert address % ALIGNMENT == 0
                assert all(address >= at + used or at >= address + max(size, 1) for at, used in live.items())
                assert 0x50_0000 <= address <= ground.next - size
                live[address] = max(size, 1)
        elif live:
            address = sorted(live)[choice % len(live)]
            assert heap.free(address)
            del live[address]
            assert not heap.free(address)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=40), st.randoms())
def test_when_everything_is_free_again_it_is_one_piece(sizes: list[int], chance: object) -> None:
    ground = Ground(1 << 20)
    heap = Heap(ground)
    blocks = [heap.allocate(size) for size in sizes]
    chance.shuffle(blocks)  # type: ignore[attr-defined]
    assert all(heap.free(block) for block in blocks if block is not None)
    given_before = ground.given
    assert heap.allocate(given_before) is not None
    assert ground.given == given_before


def test_a_child_has_the_same_blocks_and_then_its_own() -> None:
    parent = Heap(Ground(1 << 20))
    block = parent.allocate(100)
    assert block is not None
    child = parent.copy(Ground(0))
    assert child.free(block)
    assert parent.free(block)
    assert parent.allocate(100) == child.allocate(100) == block


def test_memory_that_is_not_there_is_none() -> None:
    heap = Heap(Ground(5000))
    assert heap.allocate(6000) is None
    assert heap.allocate(4000) is not None
    assert heap.allocate(4000) is None
