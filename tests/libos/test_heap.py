"""The heap of the native library OS, on the host: any sequence of allocations, checked from outside."""

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.libos.host import NATIVE, fresh

sizes = st.one_of(st.integers(0, 300), st.integers(0, 70_000), st.sampled_from([4096 - 8, 4096, 65536 - 8, 65536]))
calls = st.lists(st.one_of(sizes.map(lambda size: ("alloc", size)), st.integers(0, 999).map(lambda i: ("free", i))))


class Heap:
    """A heap over an area of four mebibytes."""

    def __init__(self, gap: int = 0) -> None:
        self._library = fresh(NATIVE / "heap.c", "host_area.c")
        for name in ("os_alloc", "area_used"):
            getattr(self._library, name).restype = ctypes.c_size_t
        self._library.os_alloc.argtypes = [ctypes.c_size_t]
        self._library.os_free.argtypes = self._library.try_to_free.argtypes = [ctypes.c_size_t]
        ctypes.c_size_t.in_dll(self._library, "gap").value = gap

    def alloc(self, size: int) -> int:
        return int(self._library.os_alloc(size))

    def free(self, block: int) -> None:
        self._library.os_free(block)

    def used(self) -> int:
        return int(self._library.area_used())

    def ends_with(self, block: int) -> int:
        return int(self._library.try_to_free(block))


@given(calls=calls, gap=st.sampled_from([0, 4096]))
def test_blocks_never_overlap_and_keep_what_is_written(calls: list[tuple[str, int]], gap: int) -> None:
    heap, blocks = Heap(gap), list[tuple[int, int, int]]()

    def check(block: tuple[int, int, int]) -> None:
        address, size, mark = block
        assert ctypes.string_at(address, size) == bytes([mark]) * size

    for number, (call, value) in enumerate(calls):
        if call == "free":
            if blocks:
                block = blocks.pop(value % len(blocks))
                check(block)
                heap.free(block[0])
            continue
        address = heap.alloc(value)
        if not address:
            continue
        assert address % 16 == 0
        assert all(address + value <= other or other + size <= address for other, size, _ in blocks)
        ctypes.memset(address, number & 255, value)
        blocks.append((address, value, number & 255))
    for block in blocks:
        check(block)


@given(sizes=st.lists(sizes, min_size=1, max_size=40), seed=st.randoms(use_true_random=False))
def test_freed_neighbours_become_one_block(sizes: list[int], seed: object) -> None:
    heap = Heap()
    blocks = [block for size in sizes if (block := heap.alloc(size))]
    used = heap.used()
    seed.shuffle(blocks)  # type: ignore[attr-defined]
    for block in blocks:
        heap.free(block)
    if used:
        assert heap.alloc(used - 32), "everything that was freed fits one block again"
        assert heap.used() == used


def test_a_request_beyond_the_address_space_gives_a_null_pointer() -> None:
    heap = Heap()
    for size in (1 << 23, 1 << 40, 1 << 62, (1 << 64) - 1, (1 << 64) - 16):
        assert heap.alloc(size) == 0
    assert heap.alloc(100)


@pytest.mark.parametrize("offset", [0, 8, 16])
def test_what_is_no_block_is_not_freed(offset: int) -> None:
    heap = Heap()
    block = heap.alloc(100)
    if offset == 0:
        heap.free(block)
    assert heap.ends_with(block + offset) == 134


def test_a_null_pointer_may_be_freed() -> None:
    Heap().free(0)
