"""Global memory policies: when no frame is free, who is asked for how many.

A policy is asked `choose(view, requester, count)` and answers with a list of `Ask`.  An empty list, or one that names
the requester, leaves the requester to help itself.  In *seize* mode (`seize = True`) the kernel does not ask but calls
`pick` and takes those very frames, as a monolithic kernel does; that is the baseline applications are compared with.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from exokernel.policy.views import Ask, EnvironmentView, MemoryView


class MemoryPolicy(ABC):
    """A global memory policy.  `batch`: frames asked for at once, so that not every allocation asks again."""

    name: ClassVar[str]
    summary: ClassVar[str]
    seize: bool = False
    scans_accessed_bits: ClassVar[bool] = False
    """The kernel keeps frame ages up to date only for a policy that looks at them."""

    def __init__(self, batch: int = 8) -> None:
        self.batch = batch

    @abstractmethod
    def choose(self, view: MemoryView, requester: int, count: int) -> list[Ask]:
        """Whom to ask for at least `count` frames on behalf of `requester`; never more than is releasable."""

    def pick(self, view: MemoryView, requester: int, count: int) -> list[int]:
        """In seize mode: the frames to take.  By default the oldest ones of those whom `choose` names."""
        frames = sorted(view.frames(), key=lambda frame: (-frame.age, frame.number))
        taken: list[int] = []
        for ask in self.choose(view, requester, count):
            mine = [frame.number for frame in frames if ask.environment in frame.holders and frame.number not in taken]
            taken += mine[: ask.count]
        return taken


class LargestHolder(MemoryPolicy):
    """Asks whoever holds most."""

    name = "largest"
    summary = "asks the environment that holds the most frames"

    def choose(self, view: MemoryView, requester: int, count: int) -> list[Ask]:
        candidates = [e for e in view.environments() if e.releasable > 0]
        if not candidates:
            return []
        victim = max(candidates, key=lambda e: (e.held, -e.number))
        return [Ask(victim.number, min(max(count, self.batch), victim.releasable))]


class Proportional(MemoryPolicy):
    """Asks everybody, in proportion to what each could release, rounding by largest remainder."""

    name = "proportional"
    summary = "asks every environment in proportion to what it holds"

    def choose(self, view: MemoryView, requester: int, count: int) -> list[Ask]:
        candidates = [e for e in view.environments() if e.releasable > 0]
        held = sum(e.held for e in candidates)
        if not held:
            return []
        wanted = min(max(count, self.batch), sum(e.releasable for e in candidates))
        share = {e.number: min(wanted * e.held // held, e.releasable) for e in candidates}
        rest = wanted - sum(share.values())
        for environment in sorted(candidates, key=lambda e: (-(wanted * e.held % held), e.number)):
            extra = min(rest, environment.releasable - share[environment.number], 1)
            share[environment.number] += extra
            rest -= extra
        for environment in candidates:
            extra = min(rest, environment.releasable - share[environment.number])
            share[environment.number] += extra
            rest -= extra
        return [Ask(number, frames) for number, frames in share.items() if frames]


class Guaranteed(MemoryPolicy):
    """Guaranteed plus optimistic frames, as in Nemesis (Hand, Self-Paging in the Nemesis Operating System, OSDI 1999):
    nobody is asked for frames within its guarantee; whoever is furthest above its own gives first."""

    name = "guaranteed"
    summary = "guaranteed shares are untouchable; asks whoever is furthest above its own"

    def choose(self, view: MemoryView, requester: int, count: int) -> list[Ask]:
        def above(environment: EnvironmentView) -> int:
            return environment.held - environment.guarantee

        candidates = [e for e in view.environments() if e.releasable > 0 and above(e) > 0]
        if not candidates:
            return []
        victim = max(candidates, key=lambda e: (above(e), -e.number))
        return [Ask(victim.number, min(max(count, self.batch), victim.releasable, above(victim)))]


class Oldest(MemoryPolicy):
    """Asks the holders of the frames used longest ago, judged by accessed bits that the kernel samples: an approximation
    of global least-recently-used.  A frame's holder is asked for as many frames as it has among the oldest."""

    name = "oldest"
    summary = "asks the holders of the frames used longest ago (approximate global LRU)"
    scans_accessed_bits = True

    def choose(self, view: MemoryView, requester: int, count: int) -> list[Ask]:
        wanted = max(count, self.batch)
        oldest = sorted(view.frames(), key=lambda frame: (-frame.age, frame.number))[:wanted]
        share: dict[int, int] = {}
        for frame in oldest:
            share[frame.holders[0]] = share.get(frame.holders[0], 0) + 1
        return [Ask(number, frames) for number, frames in share.items()]

    def pick(self, view: MemoryView, requester: int, count: int) -> list[int]:
        frames = sorted(view.frames(), key=lambda frame: (-frame.age, frame.number))
        return [frame.number for frame in frames[: max(count, self.batch)]]


class SeizeLargest(LargestHolder):
    """The largest holder loses its oldest frames without being asked."""

    name = "seize-largest"
    summary = "takes the oldest frames of the largest holder without asking"
    seize = True
    scans_accessed_bits = True


class SeizeOldest(Oldest):
    """The frames used longest ago are taken without asking: what a monolithic kernel with global LRU does."""

    name = "seize-oldest"
    summary = "takes the frames used longest ago without asking (a monolithic kernel)"
    seize = True


MEMORY_POLICIES: dict[str, type[MemoryPolicy]] = {
    policy.name: policy for policy in (LargestHolder, Proportional, Guaranteed, Oldest, SeizeLargest, SeizeOldest)
}
