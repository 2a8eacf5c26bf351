"""LIRS: pages ranked by the distance between their last two references."""

from collections import OrderedDict
from typing import ClassVar

from libos.replacement.strategy import Bits, NothingResident, ReferenceStrategy


class Lirs(ReferenceStrategy):
    """Keeps the pages with low inter-reference recency, and lets the others pass through a small queue.

    A stack orders pages by their last reference; its bottom is always a LIR page (one to be kept). The rest are HIR
    pages: the resident ones wait in a queue for eviction, the evicted ones stay in the stack as long as they lie above
    its bottom. A HIR page referenced while in the stack was used again sooner than the LIR page at the bottom, and
    takes its place. Source: S. Jiang and X. Zhang, LIRS: An Efficient Low Inter-reference Recency Set Replacement
    Policy to Improve Buffer Cache Performance, SIGMETRICS 2002.

    `hir_ratio` is the part of the frames set aside for HIR pages, rounded down, at least one frame. `stack_limit`, in
    multiples of the frames, bounds the stack: beyond it the page evicted longest ago is dropped from it. None, the
    default, leaves it unbounded as the algorithm's description does.
    """

    name: ClassVar[str] = "lirs"
    summary: ClassVar[str] = "keeps the pages whose last two uses lie close together"

    def __init__(self, frames: int, seed: int = 0, hir_ratio: float = 0.01, stack_limit: float | None = None) -> None:
        super().__init__(frames, seed)
        self.hir_ratio = hir_ratio
        self.stack_limit = stack_limit
        self._stack: OrderedDict[int, None] = OrderedDict()
        self._queue: OrderedDict[int, None] = OrderedDict()
        self._lir: set[int] = set()
        # The evicted pages that are in the stack, in order of eviction.
        self._evicted: OrderedDict[int, None] = OrderedDict()
        self._chosen: int | None = None

    def _lir_limit(self) -> int:
        return max(1, self.frames - max(1, int(self.frames * self.hir_ratio)))

    def _put_on_top(self, page: int) -> None:
        self._stack[page] = None
        self._stack.move_to_end(page)

    def _prune(self) -> None:
        """Make the bottom of the stack a LIR page again."""
        while self._stack:
            bottom = next(iter(self._stack))
            if bottom in self._lir:
                return
            del self._stack[bottom]
            self._evicted.pop(bottom, None)

    def _become_lir(self, page: int) -> None:
        self._put_on_top(page)
        self._lir.add(page)
        self._prune()
        while len(self._lir) > self._lir_limit():
            bottom = next(iter(self._stack))
            self._lir.remove(bottom)
            self._queue[bottom] = None
            self._prune()

    def _bound_stack(self) -> None:
        if self.stack_limit is not None:
            while self._evicted and len(self._stack) > self.stack_limit * self.frames:
                page, _ = self._evicted.popitem(last=False)
                del self._stack[page]

    def admit(self, page: int) -> None:
        if page in self._evicted or len(self._lir) < self._lir_limit():
            self._evicted.pop(page, None)
            self._become_lir(page)
        else:
            self._put_on_top(page)
            self._queue[page] = None
        self._bound_stack()

    def referenced(self, page: int) -> None:
        if page in self._lir:
            self._put_on_top(page)
            self._prune()
        elif page in self._stack or len(self._lir) < self._lir_limit():
            del self._queue[page]
            self._become_lir(page)
        else:
            self._put_on_top(page)
            self._queue.move_to_end(page)
        self._bound_stack()

    def forget(self, page: int) -> None:
        if page in self._lir:
            self._lir.remove(page)
            del self._stack[page]
            self._prune()
        else:
            del self._queue[page]
            if page in self._stack:
                if page == self._chosen:
                    self._evicted[page] = None
                else:
                    del self._stack[page]
        self._chosen = None

    def victim(self, bits: Bits) -> int:
        if not self._queue and not self._stack:
            raise NothingResident(self.name)
        # With no HIR page resident (pages were lost, or there is one frame) the LIR page at the bottom has to go.
        self._chosen = next(iter(self._queue or self._stack))
        return self._chosen
