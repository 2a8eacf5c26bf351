"""Wakeup predicates: what a context waits for, as a sum of products over words of its own memory.

Each term is a word, a comparison and a value.  When the predicate is made its words must be readable by the environment,
and where each lies is remembered; a term whose page is no longer there, or is another frame, has been lost, and ends the
wait.  So evaluating one reads nothing that the environment could not read itself.

Source: Kaashoek et al., Application performance and flexibility on exokernel systems, SOSP 1997, section 3.2.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from exokernel.abi.errors import Error
from exokernel.abi.flags import Compare
from exokernel.abi.layout import PAGE_SHIFT, PAGE_SIZE, PREDICATE_TERMS
from exokernel.abi.pages import PredicateTerm
from exokernel.kernel.refusal import AccessFault, Refusal
from exokernel.kernel.spaces import AddressSpaces

if TYPE_CHECKING:
    from exokernel.kernel.environment import Environment

COMPARISONS: Final[dict[int, Callable[[int, int], bool]]] = {
    Compare.EQUAL: operator.eq,
    Compare.NOT_EQUAL: operator.ne,
    Compare.LESS: operator.lt,
    Compare.LESS_OR_EQUAL: operator.le,
    Compare.GREATER: operator.gt,
    Compare.GREATER_OR_EQUAL: operator.ge,
}
TERM_WORDS: Final = PredicateTerm.sizeof() >> 3


@dataclass(frozen=True, slots=True)
class Term:
    """The word at `va` (bytes), which was in `frame` when the predicate was made, compared with `value`."""

    va: int
    frame: int
    compare: Callable[[int, int], bool]
    value: int


@dataclass(frozen=True, slots=True)
class Predicate:
    """Products, each with its tag; `terms` is how many terms they have together."""

    products: tuple[tuple[int, tuple[Term, ...]], ...]
    terms: int

    def describe(self) -> str:
        """In words, for whoever wants to know what is waited for."""
        sums = []
        for tag, terms in self.products:
            parts = [f"[{term.va:#x}] {term.compare.__name__} {term.value:#x}" for term in terms]
            sums.append(f"{tag}: {' and '.join(parts)}")
        return " or ".join(sums)


def make(spaces: AddressSpaces, environment: Environment, at: int, count: int) -> Predicate:
    """The predicate in the array of `count` terms at address `at`.  Raises Refusal (TOO_MANY, BAD_ARGUMENT, NOT_MAPPED),
    and AccessFault if the array itself cannot be read."""
    if environment.watching + count > PREDICATE_TERMS:
        raise Refusal(Error.TOO_MANY)
    words = memoryview(spaces.read(environment, at, count * PredicateTerm.sizeof())).cast("Q")
    products: list[tuple[int, list[Term]]] = []
    for index in range(0, len(words), TERM_WORDS):
        tag, va, compare, value = words[index : index + TERM_WORDS]
        if compare not in COMPARISONS or va % 8 or tag >> 32:
            raise Refusal(Error.BAD_ARGUMENT)
        try:
            frame = spaces.address(environment, va, False) >> PAGE_SHIFT
        except AccessFault:
            raise Refusal(Error.NOT_MAPPED) from None
        if not products or products[-1][0] != tag:
            products.append((tag, []))
        products[-1][1].append(Term(va, frame, COMPARISONS[compare], value))
    return Predicate(tuple((tag, tuple(terms)) for tag, terms in products), count)


def evaluate(spaces: AddressSpaces, environment: Environment, predicate: Predicate) -> int | None:
    """The tag of the first product that holds, None if none does.  Raises Refusal (NOT_MAPPED) if a page has been lost."""
    words, found = spaces.memory.words, None
    for tag, terms in predicate.products:
        holds = True
        for term in terms:
            if spaces.frame_at(environment, term.va) != term.frame:
                raise Refusal(Error.NOT_MAPPED)
            word = words[(term.frame << PAGE_SHIFT | term.va & PAGE_SIZE - 1) >> 3]
            holds = holds and term.compare(word, term.value)
        if holds and found is None:
            found = tag
    return found
