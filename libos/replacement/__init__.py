"""Page replacement: which resident page leaves when a frame is needed.

Each strategy is a small object that knows no machine (`libos.replacement.strategy` says what it owes its driver).
`STRATEGIES` lists them by name; to add one, write the class and add it to the list here.
"""

from collections.abc import Mapping
from difflib import get_close_matches
from types import MappingProxyType

from libos.replacement.ageing import Ageing, Mru, Nfu
from libos.replacement.arc import Arc
from libos.replacement.chance import RandomChoice
from libos.replacement.clock import Clock, WSClock
from libos.replacement.counting import Lfu, Lru
from libos.replacement.fifo import Fifo, SecondChance
from libos.replacement.lirs import Lirs
from libos.replacement.optimum import Belady
from libos.replacement.s3_fifo import S3Fifo
from libos.replacement.sieve import Sieve
from libos.replacement.strategy import Bits, NothingResident, ReferenceStrategy, Strategy
from libos.replacement.two_queue import TwoQueue

STRATEGIES: Mapping[str, type[Strategy]] = MappingProxyType(
    {
        strategy.name: strategy
        for strategy in (
            Fifo,
            SecondChance,
            Clock,
            WSClock,
            Ageing,
            Nfu,
            Mru,
            RandomChoice,
            Lru,
            Lfu,
            TwoQueue,
            Arc,
            Lirs,
            S3Fifo,
            Sieve,
            Belady,
        )
    }
)
"""Every strategy by the name users call it: first those a live pager can use, then those that need every reference."""


class UnknownName(LookupError):
    """No strategy has this name."""

    def __init__(self, name: str) -> None:
        near = get_close_matches(name.lower(), STRATEGIES, n=1)
        advice = f"did you mean '{near[0]}'?" if near else f"choose one of {', '.join(STRATEGIES)}."
        super().__init__(f"There is no replacement policy called '{name}'; {advice}")
        self.name = name
        self.suggestion = near[0] if near else None


def strategy_named(name: str) -> type[Strategy]:
    """The strategy class of that name. Raises UnknownName, which suggests the nearest name."""
    try:
        return STRATEGIES[name]
    except KeyError:
        raise UnknownName(name) from None


__all__ = [
    "STRATEGIES",
    "Ageing",
    "Arc",
    "Belady",
    "Bits",
    "Clock",
    "Fifo",
    "Lfu",
    "Lirs",
    "Lru",
    "Mru",
    "Nfu",
    "NothingResident",
    "RandomChoice",
    "ReferenceStrategy",
    "S3Fifo",
    "SecondChance",
    "Sieve",
    "Strategy",
    "TwoQueue",
    "UnknownName",
    "WSClock",
    "strategy_named",
]
