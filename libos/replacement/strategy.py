"""What a page replacement strategy is, whoever drives it.

A strategy decides which resident page leaves; it moves nothing itself. Two kinds of driver use the same objects:

- a live pager, which sees page faults and the hardware's accessed and dirty bits, and nothing between them;
- `libos.replay`, which walks a reference string without a machine.

The rules between driver and strategy:

1. `admit(page)` after the page became resident, `forget(page)` after it ceased to be, for whatever reason and in any
   order. Between the two it is resident, and `victim` may name it.
2. `victim` names a resident page and removes nothing. If the driver evicts it, `forget` of that page follows. If the
   driver does not, it may ask again.
3. `forget` of the page that `victim` named last is an eviction; of any other page it is a loss (discarded by the
   program or taken by the kernel), and strategies that keep a history of evicted pages keep none of a lost one.
4. The number of resident pages is what `admit` and `forget` make it. `frames` only scales the queues of those
   strategies that have several; a driver whose allowance changed for good may assign to it at any time.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Protocol, Self


class NothingResident(LookupError):
    """A victim was asked of a strategy that knows no resident page."""

    def __init__(self, strategy: str) -> None:
        super().__init__(f"The strategy '{strategy}' was asked for a victim while no page is resident; admit one.")


class Bits(Protocol):
    """What the hardware recorded of the resident pages, as the driver saw it just now.

    A driver may answer from a copy of the page tables made before the call: what a strategy clears need not show in
    `accessed` until the call has ended, and no strategy looks at it twice.
    """

    @property
    def now(self) -> int:
        """Virtual time of the environment in cycles; in a replay, the index of the current reference."""

    def accessed(self, page: int) -> bool:
        """True if the page was read or written since its accessed bit was last cleared."""

    def dirty(self, page: int) -> bool:
        """True if evicting the page now would cost a write. It stays true while a scheduled write is under way."""

    def clear_accessed(self, page: int) -> None:
        """Clear the page's accessed bit. The driver may collect these and perform them together after the call."""

    def schedule_write(self, page: int) -> None:
        """Suggest that the page be cleaned in the background while it stays resident.

        A driver may ignore it, and must ignore it for a page whose write is under way: strategies repeat themselves.
        """


class Strategy(ABC):
    """Which resident page leaves.

    `frames` is the number of page frames the driver expects to have, at least 1; `seed` settles every random choice.
    """

    name: ClassVar[str] = "unnamed"
    summary: ClassVar[str] = ""
    needs_every_reference: ClassVar[bool] = False
    sample_every: int | None = None
    """Cycles between two calls of `sample`; in a replay, references. None: never."""

    def __init__(self, frames: int, seed: int = 0) -> None:
        if frames < 1:
            raise ValueError(f"A strategy needs at least 1 frame, not {frames}.")
        self.frames = frames
        self.seed = seed

    @classmethod
    def for_trace(cls, pages: Sequence[int], frames: int, seed: int = 0) -> Self:
        """A strategy fit to be replayed over `pages`, with times in references instead of cycles."""
        return cls(frames, seed)

    @abstractmethod
    def admit(self, page: int) -> None:
        """The page, until now not resident, became resident."""

    @abstractmethod
    def forget(self, page: int) -> None:
        """The page is no longer resident. Raises KeyError if it was not."""

    @abstractmethod
    def victim(self, bits: Bits) -> int:
        """A resident page to evict. Raises NothingResident if there is none."""

    def sample(self, bits: Bits) -> None:  # noqa: B027 - most strategies rightly do nothing here
        """A timer tick, every `sample_every`: look at the accessed bits of all resident pages."""


class ReferenceStrategy(Strategy):
    """A strategy that must see every reference, which no hardware reports: for replays only.

    For a reference that hits the driver calls `referenced`. For one that misses it calls `missed`, then, if memory is
    full, `victim` and `forget`, then `admit`.
    """

    needs_every_reference: ClassVar[bool] = True

    @abstractmethod
    def referenced(self, page: int) -> None:
        """The resident page was referenced."""

    def missed(self, page: int) -> None:
        """The page is about to be admitted and the victim, if one is needed, not yet chosen.

        Strategies that remember evicted pages learn from it. A driver that leaves it out gets the same from `admit`,
        only too late to influence the choice of this victim.
        """
