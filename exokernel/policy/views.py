"""What a global policy is shown: read-only facts about environments and frames, nothing it could change."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EnvironmentView:
    """One environment: sizes in frames.  `releasable` frames it holds that are neither reserved nor page tables nor
    already asked for."""

    number: int
    held: int
    releasable: int
    guarantee: int
    quota: int
    """The most it may hold."""


@dataclass(frozen=True, slots=True)
class FrameView:
    """One frame that could be taken.  `age` is larger the longer ago any mapping of it was used."""

    number: int
    holders: tuple[int, ...]
    age: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask this environment for so many frames."""

    environment: int
    count: int


class MemoryView(Protocol):
    """The machine's memory as a global memory policy sees it."""

    @property
    def total(self) -> int:
        """Frames the machine has."""
        ...

    @property
    def free(self) -> int:
        """Frames nobody holds."""
        ...

    def environments(self) -> Sequence[EnvironmentView]:
        """Every living environment."""
        ...

    def frames(self) -> Iterable[FrameView]:
        """Every frame that may be taken, by number."""
        ...
