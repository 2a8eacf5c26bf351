"""Round robin: everybody in turn."""

from collections import OrderedDict

from exokernel.policy.scheduling import Choice, CpuPolicy


class RoundRobin(CpuPolicy):
    """Everybody in turn, one quantum each.  Who waits, waits for one turn of each of the others at most."""

    name = "round-robin"
    summary = "every runnable environment in turn"

    def __init__(self, quantum: int = 100_000, seed: int = 0, cpus: int = 1) -> None:
        super().__init__(quantum, seed, cpus)
        self._queue: OrderedDict[int, Choice] = OrderedDict()

    def _enter(self, environment: int) -> None:
        # A key that is there keeps its place.
        self._queue[environment] = self._turns.get(environment) or self._turn(environment)

    def _leave(self, environment: int) -> None:
        self._queue.pop(environment, None)

    def _choose(self, now: int) -> Choice | None:
        return self._queue.popitem(last=False)[1] if self._queue else None


class ForcedRoundRobin(RoundRobin):
    """Round robin that takes the processor without asking."""

    name = "forced-round-robin"
    summary = "every runnable environment in turn, stopped by force (a monolithic kernel)"
    forced = True
