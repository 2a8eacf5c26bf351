"""Revocation: ask, wait, take.

When no frame is free the global policy names environments, and each is asked to release so many frames of its own choice.
The request has a deadline in cycles, counted down while the victim runs; it stands still while a write that the victim
issued since is in the disk queue, up to a hard limit in virtual time.  What has not come back by then is taken: the
bindings are broken by force, a dirty frame with a registered backing is written there first, and the record in the victim's
own page says what became of each.  Reserved frames and page tables are never taken.  A victim that has no entry for the
request is not asked.

Under a policy in seize mode nobody is asked: the frames the policy picks are taken at once.

The names are those of Engler, Kaashoek and O'Toole, SOSP 1995, section 3.4 (visible revocation, the abort protocol and the
repossession vector).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exokernel.abi.flags import ANY, Event, Taken
from exokernel.abi.layout import SECTORS_PER_PAGE
from exokernel.abi.upcalls import Upcall
from exokernel.kernel import exposed
from exokernel.kernel.environment import Environment, ReleaseRequest, State
from exokernel.kernel.frames import Frame
from exokernel.machine.costs import SAVE_REGISTER
from exokernel.policy.memory import MemoryPolicy
from exokernel.policy.views import EnvironmentView, FrameView

if TYPE_CHECKING:
    from exokernel.kernel.kernel import Kernel


@dataclass(frozen=True)
class HardLimit:
    """Timed event: a release request has used up its last respite."""

    environment: int
    serial: int


@dataclass(frozen=True)
class SampleTick:
    """Timed event: look at the accessed bits."""


class Revocation:
    """Decides nothing: carries out what the global policy says and holds victims to their deadlines."""

    def __init__(self, kernel: Kernel, policy: MemoryPolicy) -> None:
        self._kernel = kernel
        self.policy = policy
        self._settings = kernel.settings
        self._serial = 0
        self._waiting: dict[int, Environment] = {}
        if policy.scans_accessed_bits:
            kernel.clock.at(self._settings.sample_every, SampleTick())

    # The policy's view.

    @property
    def total(self) -> int:
        return self._kernel.memory.frames

    @property
    def free(self) -> int:
        return len(self._kernel.frames.free)

    def environments(self) -> Sequence[EnvironmentView]:
        views = []
        for environment in self._kernel.environments.values():
            asked = environment.request.count if environment.request is not None else 0
            releasable = max(0, len(environment.held) - len(environment.reserved) - asked)
            if environment.number == self._kernel.first_environment:
                releasable = 0
            views.append(
                EnvironmentView(
                    environment.number, environment.charged, releasable, environment.guarantee, environment.quota
                )
            )
        return views

    def frames(self) -> Iterator[FrameView]:
        for number in sorted(self._kernel.frames.used):
            frame = self._kernel.frames.used[number]
            if self._may_be_taken(frame):
                yield FrameView(number, tuple(holder.number for holder in frame.holders), 255 - frame.recency)

    def _may_be_taken(self, frame: Frame) -> bool:
        first = self._kernel.first_environment
        return not (
            frame.table
            or frame.lost
            or frame.io
            or not frame.holders
            or frame.reserved
            or any(holder.number == first for holder in frame.holders)
        )

    # Asking.

    def short_of_frames(self, requester: Environment) -> bool:
        """No frame is free for `requester`.  Gives True if one has become free at once, so that it may try again."""
        if not requester.wants_frames:
            requester.wants_frames = True
            self._waiting[requester.number] = requester
        if self.policy.seize:
            before = self.free
            for number in self.policy.pick(self, requester.number, 1):
                frame = self._kernel.frames.used.get(number)
                if frame is not None and self._may_be_taken(frame):
                    for holder in list(frame.holders):
                        self._take(holder, frame)
            self._announce_taken()
            return self.free > before
        expected = (
            sum(e.request.count for e in self._kernel.environments.values() if e.request and e.request.frame is None)
            + self._frames_in_io()
        )
        if expected >= len(self._waiting):
            return False
        for ask in self.policy.choose(self, requester.number, len(self._waiting) - expected):
            victim = self._kernel.environments.get(ask.environment)
            if victim is not None and victim is not requester and ask.count > 0:
                self.ask(victim, ask.count, None)
        return self.free > 0

    def _frames_in_io(self) -> int:
        return sum(1 for frame in self._kernel.disk.frames_in_flight() if frame.lost)

    def ask(self, victim: Environment, count: int, frame: int | None, force: bool = True) -> None:
        """Ask `victim` for `count` frames or for this very `frame`; a request under way is only enlarged.  Without `force`
        it may refuse: whom to take from is the global policy's to say, or that of who controls the victim."""
        if victim.number == self._kernel.first_environment or victim.state is not State.ALIVE:
            return
        request = victim.request
        if request is not None and request.frame is None and frame is None:
            request.count += count
            self._tell(victim, request)
            return
        if request is not None and frame is not None and (request.force or not force):
            return
        self._serial += 1
        kernel = self._kernel
        request = victim.request = ReleaseRequest(
            count,
            frame,
            self._settings.release_deadline,
            kernel.clock.now + self._settings.release_hard_limit,
            kernel.clock.now,
            self._serial,
            force,
        )
        if not victim.handles(Upcall.PLEASE_RELEASE_PAGE):
            self._take_what_is_left(victim)
            return
        kernel.clock.at(request.hard_limit, HardLimit(victim.number, self._serial))
        self._tell(victim, request)

    def _tell(self, victim: Environment, request: ReleaseRequest) -> None:
        self._show_request(victim)
        frame = ANY if request.frame is None else request.frame
        self._kernel.upcalls.request(victim, Upcall.PLEASE_RELEASE_PAGE, (request.count, frame, request.remaining))

    def _show_request(self, victim: Environment) -> None:
        request = victim.request
        count = request.count if request is not None else 0
        wanted = ANY if request is None or request.frame is None else request.frame
        self._kernel.exposed.set_own_word(victim, exposed.FRAMES_WANTED, count)
        self._kernel.exposed.set_own_word(victim, exposed.WANTED_FRAME, wanted)

    # Waiting.

    def gave_back(self, environment: Environment, frame: Frame, freed: bool) -> None:
        """An environment has let go of a frame, of its own accord or not."""
        request = environment.request
        if request is None or (request.frame is None and not freed) or request.frame not in (None, frame.number):
            return
        request.count -= 1
        if request.count <= 0:
            self._end(environment)
        else:
            self._show_request(environment)

    def _end(self, environment: Environment) -> None:
        environment.request = None
        self._show_request(environment)
        self._kernel.upcalls.withdraw(environment, Upcall.PLEASE_RELEASE_PAGE)

    def ran(self, environment: Environment, cycles: int) -> None:
        """The victim of a request has had the CPU for `cycles`."""
        request = environment.request
        if request is None or (environment.writes and environment.last_write >= request.issued):
            return
        now = self._kernel.clock.now
        request.remaining -= max(0, min(cycles, now - request.counted))
        request.counted = max(request.counted, now)
        if request.remaining <= 0:
            self._take_what_is_left(environment)

    def is_on(self, event: object) -> bool:
        """Whether a timed event is not the end of a request that is over."""
        if not isinstance(event, HardLimit):
            return True
        victim = self._kernel.environments.get(event.environment)
        return victim is not None and victim.request is not None and victim.request.serial == event.serial

    def hard_limit(self, event: HardLimit) -> None:
        """The last respite of a request is over, whatever the disk does."""
        if self.is_on(event):
            self._take_what_is_left(self._kernel.environments[event.environment])

    # Taking.

    def _take_what_is_left(self, victim: Environment) -> None:
        request = victim.request
        assert request is not None
        frames = self._kernel.frames.used
        if request.frame is not None:
            if request.force and request.frame in victim.held and not frames[request.frame].reserved:
                self._take(victim, frames[request.frame])
        else:
            held = (frames[number] for number in victim.held)
            # A frame with other holders is free only when all of them have lost it, so those come last.
            chosen = sorted(held, key=lambda f: (len(f.holders) > 1, victim not in f.backing, f.recency, f.number))
            for frame in chosen:
                if victim.request is None:
                    break
                if self._may_be_taken(frame):
                    for holder in sorted(frame.holders, key=lambda h: (h is victim, h.number)):
                        self._take(holder, frame)
        if victim.request is not None:
            self._end(victim)
        self._announce_taken()

    def _take(self, victim: Environment, frame: Frame) -> None:
        """Break every binding of `victim` to a frame and write down what became of the contents."""
        kernel = self._kernel
        va = next((va for environment, va in frame.mappings if environment is victim), ANY)
        sector = frame.backing.get(victim, ANY)
        if not kernel.frames.is_dirty(victim, frame):
            state = Taken.CLEAN
        elif sector != ANY and kernel.disk.may_write(victim, sector, SECTORS_PER_PAGE):
            kernel.disk.write_back(victim, frame, sector)
            state = Taken.SAVED
        else:
            state = Taken.LOST
        kernel.exposed.taken(victim, frame.number, va, sector, state)
        victim.accounts.taken += 1
        freed = kernel.frames.let_go(victim, frame)
        self.gave_back(victim, frame, freed)

    def _announce_taken(self) -> None:
        for environment in list(self._kernel.environments.values()):
            untold = environment.taken_total - environment.taken_told
            if untold and environment.state is State.ALIVE:
                environment.taken_told = environment.taken_total
                self._kernel.charge(environment, untold * 4 * SAVE_REGISTER)
                self._kernel.upcalls.request(environment, Upcall.PAGES_TAKEN, (untold,))

    # Giving out.

    def frames_came_free(self) -> None:
        """Tell those who went short; called by the kernel's loop when frames have become free.  Each that is blocked for a
        frame is promised one until the end of its next slice, or the one who was asked could take it back before."""
        for environment in list(self._waiting.values()):
            del self._waiting[environment.number]
            environment.wants_frames = False
            if any(
                context.wait is not None and context.wait.event is Event.FRAMES for context in environment.contexts.values()
            ):
                self._kernel.frames.promise(environment)
            self._kernel.count_event(environment, Event.FRAMES, 0, 0)

    def no_longer_wants(self, environment: Environment) -> None:
        """It has got a frame, or has ended."""
        if environment.wants_frames:
            environment.wants_frames = False
            self._waiting.pop(environment.number, None)

    def wants(self, environment: Environment) -> None:
        """It blocks until frames come free."""
        environment.wants_frames = True
        self._waiting[environment.number] = environment

    def sample(self) -> None:
        """Shift the recency register of every frame and put in whether it was used since the last time."""
        for frame in self._kernel.frames.used.values():
            if not frame.table:
                used = self._kernel.spaces.sample_accessed(frame)
                frame.recency = frame.recency >> 1 | (0x80 if used else 0)
        self._kernel.spaces.flush()
        self._kernel.clock.at(self._kernel.clock.now + self._settings.sample_every, SampleTick())
