"""A processor: one engine with a clock of its own, and what it is doing.

The kernel works for one processor at a time, the one whose clock is behind all others; meanwhile the machine's clock shows
that one's time.  A slice belongs to an environment, its owner, which the time is charged to; who runs in it is the owner,
or whoever the owner has called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from exokernel.abi.layout import SLICES
from exokernel.kernel.environment import Context, Environment
from exokernel.machine.clock import NEVER
from exokernel.machine.cpu import Cpu


@dataclass(slots=True, eq=False)
class Processor:
    """One processor; times in cycles."""

    number: int
    cpu: Cpu
    run: Callable[..., Any] = field(init=False)
    now: int = 0
    """Its clock, while it is not the one the kernel works for."""
    environment: Environment | None = None
    """Who runs; None on a free processor."""
    owner: Environment | None = None
    began: int = 0
    """When the owner was last charged."""
    end: int = 0
    """Of the slice, or of the respite that the owner has been given after it."""
    due: int = NEVER
    """When the slice ended, once the owner has been asked to release the processor; until then NEVER."""
    asked: Context | None = None
    """The context that has been asked."""
    root: int = 0
    """The page tables it has loaded."""
    slices: list[Environment | None] = field(default_factory=lambda: [None] * SLICES)
    """The vector of slices: the owner of each position; time nobody owns is the global policy's to give."""
    position: int = 0
    """The next position to come."""

    def __post_init__(self) -> None:
        self.run = self.cpu.run
