"""Counts switches from outside: how often a processor went from one flow of control to another."""

from collections import Counter
from collections.abc import Callable, Iterable

from exokernel.kernel.kernel import Kernel
from exokernel.kernel.processor import Processor
from exokernel.policy.scheduling import SliceEnd
from exokernel.results import Results
from exokernel.scenario import Scenario
from exokernel.session import Session

Flow = tuple[int, int]
"""An environment and a context of it."""
NONE = -1
"""In place of a context that has ended or waits when its slice is over."""


class Switches:
    """Puts itself in the place of the kernel's `end_slice` and remembers who had each processor last."""

    def __init__(self, kernel: Kernel) -> None:
        self._end_slice: Callable[[Processor, SliceEnd], None] = kernel.end_slice
        self._last: dict[int, Flow] = {}
        self._away: Counter[int] = Counter()
        kernel.end_slice = self._count  # type: ignore[method-assign]

    def _count(self, processor: Processor, how: SliceEnd) -> None:
        environment = processor.environment
        if environment is not None:
            running = (one.number for one in environment.ready if one.processor is processor)
            flow = environment.number, next(running, NONE)
            last = self._last.get(processor.number, flow)
            if flow != last:
                self._away[last[0]] += 1
            self._last[processor.number] = flow
        self._end_slice(processor, how)

    def away_from(self, environments: Iterable[int]) -> int:
        """How often a processor went from one of these environments to another, or to another context of the same."""
        return sum(self._away[environment] for environment in environments)


def run_counting(scenario: Scenario, programs: int) -> tuple[Results, int]:
    """Run a scenario; gives its results and the switches away from the first so many programs.  Raises as `Scenario.run`
    does."""
    with Session(scenario) as session:
        switches = Switches(session.kernel)
        results = session.run()
    return results, switches.away_from(program.environment for program in results.programs[:programs])
