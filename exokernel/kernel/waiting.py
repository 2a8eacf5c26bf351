"""Waiting and waking: who is runnable, what a blocked context waits for, and the events that end a wait."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from exokernel.abi.errors import Error
from exokernel.abi.flags import Event, ResumeReason
from exokernel.abi.upcalls import Upcall
from exokernel.kernel import predicates
from exokernel.kernel.core import Core
from exokernel.kernel.environment import Context, ContextState, Environment, State, Wait
from exokernel.kernel.refusal import Refusal
from exokernel.machine.context import Register
from exokernel.machine.costs import FULL_STATE_WORDS, PREDICATE_TERM, SAVE_REGISTER

RAX = int(Register.RAX)
FULL_STATE = 2 * FULL_STATE_WORDS * SAVE_REGISTER
"""Saving everything, and loading it again."""
STALE_EVENTS = 1_024
END_OF_TIME = 1 << 62
"""A later deadline never comes.  The clock jumps no further, and no sum of charges leads from here beyond 64 bits."""


@dataclass(frozen=True)
class WaitOver:
    """Timed event: a context's wait may have reached its deadline."""

    environment: int
    context: int
    wait: Wait


class Waiting(Core, ABC):
    """Blocks contexts and ends their waits."""

    _sweep_at = 1_024
    """So many events in the clock are looked through for those that are over."""
    _looks_around: bool
    """Whether it matters to whoever runs that somebody has become runnable."""

    def consider(self, environment: Environment, urgent: bool = False) -> None:
        """Tell the CPU policy whether an environment could use a processor now; one that waits for a predicate might."""
        number, ready = environment.number, environment.ready
        if ready and ready[-1].processor is None:
            self.cpu_policy.runnable(number, urgent, self.clock.now)
            if self._looks_around:
                self.became_runnable(number)
        elif environment.state is not State.ALIVE:
            self.cpu_policy.not_runnable(number)
        elif environment.free_context() is not None or self.upcalls.deliverable(environment) is not None:
            self.cpu_policy.runnable(number, urgent, self.clock.now)
            if self._looks_around:
                self.became_runnable(number)
        elif environment.watching:
            self.cpu_policy.runnable(number, False, self.clock.now)
        else:
            self.cpu_policy.not_runnable(number)

    @abstractmethod
    def became_runnable(self, environment: int) -> None:
        """Whoever runs may have to make room, or a free processor be given work."""

    def wait(self, environment: Environment, context: Context, wait: Wait) -> None:
        """Block a context.  Its registers are saved, and that is charged, if the library does not handle `resume_cpu`."""
        if context.machine is not None and not environment.handles(Upcall.RESUME_CPU) and wait.event is not Event.REPLY:
            self.charge(environment, FULL_STATE)
        self.stop_for(environment, context, wait)
        self.consider(environment)

    def stop_for(self, environment: Environment, context: Context, wait: Wait) -> None:
        """Block a context, and tell nobody."""
        context.wait = wait
        if wait.predicate is not None:
            environment.watching += wait.predicate.terms
        environment.stop(context, ContextState.BLOCKED)
        if wait.deadline < END_OF_TIME:
            self.clock.at(wait.deadline, WaitOver(environment.number, context.number, wait))
            if len(self.clock) > self._sweep_at:
                self.forget_what_is_over()
                self._sweep_at = 2 * len(self.clock) + STALE_EVENTS

    def end_wait(self, environment: Environment, context: Context) -> None:
        """A context's wait is over without an answer; it is ready."""
        if context.wait is not None and context.wait.predicate is not None:
            environment.watching -= context.wait.predicate.terms
        context.wait = None
        context.seen = max(context.seen, self.clock.now)
        environment.make_ready_later(context)
        self.consider(environment)

    def answer_wait(self, environment: Environment, context: Context, value: int) -> None:
        """A context's wait is over; it goes on with this answer, or is told by `resume_cpu`."""
        called = context.wait is not None and context.wait.event is Event.REPLY
        self.end_wait(environment, context)
        if context.machine is None:
            context.answer = Error.of(-value) if value < 0 else value
        elif called or not self.upcalls.resume_cpu(environment, context, ResumeReason.EVENT, value):
            context.machine.words[RAX] = value & 0xFFFF_FFFF_FFFF_FFFF

    def count_event(self, environment: Environment, event: Event, value: int, status: int) -> None:
        """Something an environment may wait for has happened: count it, end waits for it, or tell by up-call."""
        if environment.state is not State.ALIVE:
            return
        environment.events[event] += 1
        self.exposed.event(environment, event)
        waiting = [
            context
            for context in environment.contexts.values()
            if context.wait is not None
            and context.wait.event is event
            and (event not in (Event.DISK, Event.EXIT) or context.wait.value == value)
        ]
        for context in waiting:
            answer = status if event in (Event.DISK, Event.EXIT) else environment.events[event]
            if event is Event.DISK:
                environment.outstanding.pop(value, None)
            self.answer_wait(environment, context, answer)
        if not waiting and event is not Event.CHILD:
            self.upcalls.request(environment, Upcall.EVENT, (event, value, status))

    def look_at_predicates(self, environment: Environment, payer: Environment) -> None:
        """End the waits for a predicate that holds, or that has lost a page."""
        self.charge(payer, environment.watching * PREDICATE_TERM)
        for context in list(environment.contexts.values()):
            if context.wait is not None and context.wait.predicate is not None:
                try:
                    tag = predicates.evaluate(self.spaces, environment, context.wait.predicate)
                except Refusal as refusal:
                    self.answer_wait(environment, context, -int(refusal.error))
                else:
                    if tag is not None:
                        self.answer_wait(environment, context, tag)

    def describe_waits(self, environment: Environment) -> Iterator[str]:
        """Who waits for what, a sentence for each context."""
        for context in environment.contexts.values():
            wait = context.wait
            who = f"context {context.number} waits for"
            if wait is None:
                if context.state is not ContextState.READY:
                    yield f"context {context.number} is {context.state.value}"
            elif wait.predicate is not None:
                yield f"{who} a predicate over its memory ({wait.predicate.describe()})"
            elif wait.event is Event.REPLY:
                yield f"{who} a reply from environment {wait.value}"
            elif wait.event is Event.EXIT:
                yield f"{who} the end of environment {wait.value}"
            elif wait.event is Event.WOKEN:
                yield f"{who} somebody to wake it"
            elif wait.event is Event.DISK:
                yield f"{who} disk request {wait.value}"
            else:
                yield f"{who} {wait.event.name.lower()}"

    def forget_what_is_over(self) -> None:
        """Take the deadlines of waits and requests that have ended out of the clock."""
        self.clock.keep(self._is_on)

    def _is_on(self, event: Any) -> bool:
        """Whether a timed event still means something."""
        if not isinstance(event, WaitOver):
            return self.revocation.is_on(event)
        environment = self.environments.get(event.environment)
        context = environment.contexts.get(event.context) if environment is not None else None
        return context is not None and context.wait is event.wait

    def wait_over(self, event: WaitOver) -> None:
        """A deadline has come; if that very wait is still on, it ends."""
        environment = self.environments.get(event.environment)
        context = environment.contexts.get(event.context) if environment is not None else None
        if environment is not None and context is not None and context.wait is event.wait:
            late = 0 if event.wait.event is Event.TIME else -int(Error.TIMED_OUT)
            self.answer_wait(environment, context, late)
