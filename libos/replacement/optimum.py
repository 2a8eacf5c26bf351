"""Belady's optimum: no strategy, knowing the future or not, misses less often."""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import ClassVar, Self

from libos.replacement.strategy import Bits, NothingResident, ReferenceStrategy


class Belady(ReferenceStrategy):
    """Evicts the page that is not needed for longest.

    `future` is the whole reference string; the calls of `admit` and `referenced` must follow it one by one, or
    ValueError is raised. All choices together take time n log n. Sources: L. A. Belady, A Study of Replacement
    Algorithms for a Virtual-Storage Computer, IBM Systems Journal 5(2), 1966; that it is optimal: R. L. Mattson, J.
    Gecsei, D. R. Slutz and I. L. Traiger, Evaluation Techniques for Storage Hierarchies, IBM Systems Journal 9(2),
    1970.
    """

    name: ClassVar[str] = "belady"
    summary: ClassVar[str] = "the optimum: knows the future and evicts the page not needed for longest"

    def __init__(self, frames: int, seed: int = 0, future: Sequence[int] = ()) -> None:
        super().__init__(frames, seed)
        self._future = future
        self._position = 0
        self._next_use_after = next_uses(future)
        self._next_use: dict[int, int] = {}
        # (minus the next use, page), with stale entries: one is valid if `_next_use` agrees.
        self._latest_first: list[tuple[int, int]] = []

    @classmethod
    def for_trace(cls, pages: Sequence[int], frames: int, seed: int = 0) -> Self:
        """With the trace itself for a future."""
        return cls(frames, seed, future=pages)

    def _advance(self, page: int) -> None:
        if self._position >= len(self._future) or self._future[self._position] != page:
            raise ValueError(
                f"Reference {self._position} is to page {page:#x}, which is not what the future given to '{self.name}' "
                "says; give it the trace that is replayed."
            )
        next_use = self._next_use_after[self._position]
        self._position += 1
        self._next_use[page] = next_use
        heappush(self._latest_first, (-next_use, page))
        # A reference that hits leaves a stale entry behind; without this the heap would grow as long as the trace.
        if len(self._latest_first) > 2 * len(self._next_use) + 64:
            self._latest_first = [(-next_use, page) for page, next_use in self._next_use.items()]
            heapify(self._latest_first)

    def admit(self, page: int) -> None:
        self._advance(page)

    def referenced(self, page: int) -> None:
        self._advance(page)

    def forget(self, page: int) -> None:
        del self._next_use[page]

    def victim(self, bits: Bits) -> int:
        while self._latest_first:
            next_use, page = self._latest_first[0]
            if self._next_use.get(page) == -next_use:
                return page
            heappop(self._latest_first)
        raise NothingResident(self.name)


def next_uses(pages: Sequence[int]) -> list[int]:
    """For each position in `pages`, the next position with the same page; the length of `pages` if there is none."""
    result = [len(pages)] * len(pages)
    seen_at: dict[int, int] = {}
    for position in range(len(pages) - 1, -1, -1):
        page = pages[position]
        result[position] = seen_at.get(page, len(pages))
        seen_at[page] = position
    return result
