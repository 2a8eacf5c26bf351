"""A disk that knows nothing but which request it serves: it drives a disk policy, and oracles say what one should do.

An oracle is a plain function over the list of all requests that wait: slow, and written down from the definition.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from exokernel.policy.disk import DiskChoice, DiskPolicy, DiskRequest

CYCLES_EACH = 1_000


@dataclass
class DiskSimulation:
    """Serves one request at a time, each in the same time; the head then stands behind it.

    `asked(now, done)` gives the requests made at that time as (environment, sector, sectors, write).
    """

    policy: DiskPolicy
    now: int = 0
    head: int = 0
    made: dict[int, DiskRequest] = field(default_factory=dict)
    served: list[DiskRequest] = field(default_factory=list)
    choices: list[DiskChoice] = field(default_factory=list)
    waiting: dict[int, DiskRequest] = field(default_factory=dict)
    at: dict[int, int] = field(default_factory=dict)
    """By request: the cycle in which it was chosen."""

    def ask(self, environment: int, sector: int, sectors: int = 8, write: bool = False) -> DiskRequest:
        request = DiskRequest(len(self.made) + 1, environment, sector, sectors, write, self.now)
        self.made[request.number] = self.waiting[request.number] = request
        self.policy.add(request)
        return request

    def serve(self) -> DiskRequest | None:
        """Let the policy choose, and be done with what it chose."""
        choice = self.policy.next(self.head, self.now)
        assert (choice is None) == (not self.waiting), "a request waits and nobody is served, or the other way round"
        if choice is None:
            return None
        request = self.waiting.pop(choice.request)
        self.at[request.number] = self.now
        self.served.append(request)
        self.choices.append(choice)
        self.head = request.sector + request.sectors
        self.now += CYCLES_EACH
        return request

    def drain(self) -> list[DiskRequest]:
        """Serve until nothing waits."""
        while self.serve() is not None:
            pass
        return self.served


def nearest(waiting: Iterable[DiskRequest], head: int) -> DiskRequest:
    """SSTF: the least distance, of two the older."""
    return min(waiting, key=lambda one: (abs(one.sector - head), one.number))


class Sweeps:
    """SCAN, LOOK and the circular ones as lists: where the sweep is, and which way it goes."""

    def __init__(self, circular: bool) -> None:
        self.circular = circular
        self.up = True
        self.at = -1
        """The position last served in this sweep."""

    def choose(self, waiting: Iterable[DiskRequest]) -> tuple[DiskRequest, int]:
        """The next, and how often the sweep turned before it."""
        turns = 0
        waiting = list(waiting)
        while True:
            ahead = [one for one in waiting if (one.sector > self.at if self.up else one.sector < self.at)]
            if ahead:
                place = min(one.sector for one in ahead) if self.up else max(one.sector for one in ahead)
                self.at = place
                return min((one for one in ahead if one.sector == place), key=lambda one: one.number), turns
            turns += 1
            if not self.circular:
                self.up = not self.up
            self.at = -1 if self.up else 1 << 62


Asked = Callable[[DiskSimulation], None]
