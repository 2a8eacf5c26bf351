"""Replays a trace and notes what came and went."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from libos.replacement import Bits, Strategy
from libos.replay import ReplayResult, Trace, replay


@dataclass
class History:
    """Pages in the order in which they were admitted and in which they were evicted."""

    admitted: list[int] = field(default_factory=list)
    evicted: list[int] = field(default_factory=list)


def recorded(
    trace: Trace | Sequence[int], strategy: Strategy, frames: int, *, accessed_on_admission: bool = True
) -> tuple[History, ReplayResult]:
    """The history and the result of a replay."""
    history = History()
    admit, victim = strategy.admit, strategy.victim

    def admit_and_note(page: int) -> None:
        history.admitted.append(page)
        admit(page)

    def note_victim(bits: Bits) -> int:
        history.evicted.append(victim(bits))
        return history.evicted[-1]

    strategy.admit, strategy.victim = admit_and_note, note_victim  # type: ignore[method-assign]
    return history, replay(trace, strategy, frames, accessed_on_admission=accessed_on_admission)
