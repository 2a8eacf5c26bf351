"""Thread scheduling: which of a program's threads runs next.

Each scheduler is a small object that knows no machine (`libos.scheduling.strategy` says what it owes its driver).
`SCHEDULERS` lists them by name; to add one, write the class and add it to the list here.
"""

from collections.abc import Mapping
from types import MappingProxyType

from libos.scheduling.fair_share import FairShare, Lottery
from libos.scheduling.feedback import Feedback
from libos.scheduling.priority import Priority
from libos.scheduling.round_robin import RoundRobin
from libos.scheduling.strategy import ThreadStrategy, TurnEnd

SCHEDULERS: Mapping[str, type[ThreadStrategy]] = MappingProxyType(
    {scheduler.name: scheduler for scheduler in (RoundRobin, Priority, FairShare, Lottery, Feedback)}
)
"""Every scheduler by the name users call it; the first is the default."""

__all__ = [
    "SCHEDULERS",
    "FairShare",
    "Feedback",
    "Lottery",
    "Priority",
    "RoundRobin",
    "ThreadStrategy",
    "TurnEnd",
]
