"""Waiting and waking: who is runnable, what a blocked context waits for, and the events that end a wait."""

from __future__ import annotations

from dataclasses import dataclass

from exokernel.abi.errors import Error
from exokernel.abi.flags import Event, ResumeReason
from exokernel.abi.upcalls import Upcall
from exokernel.kernel.core import Core
from exokernel.kernel.environment import Context, ContextState, Environment, State, Wait
from exokernel.machine.context import Register

RAX = int(Register.RAX)
END_OF_TIME = 1 << 62
"""A later deadline never comes.  The clock jumps no further, and no sum of charges leads from here beyond 64 bits."""


@dataclass(frozen=True)
class WaitOver:
    """Timed event: a context's wait may have reached its deadline."""

    environment: int
    context: int
    wait: Wait


class Waiting(Core):
    """Blocks contexts and ends their waits."""

    def consider(self, environment: Environment, urgent: bool = False) -> None:
        """Tell the CPU policy whether an environment can run."""
        if environment.state is State.ALIVE and (environment.ready or self.upcalls.deliverable(environment)):
            self._policy.runnable(environment.number, urgent)
        else:
            self._policy.not_runnable(environment.number)

    def wait(self, environment: Environment, context: Context, wait: Wait) -> None:
        """Block a context."""
        context.wait = wait
        environment.stop(context, ContextState.BLOCKED)
        if wait.deadline < END_OF_TIME:
            self.clock.at(wait.deadline, WaitOver(environment.number, context.number, wait))
        self.consider(environment)

    def end_wait(self, environment: Environment, context: Context) -> None:
        """A context's wait is over without an answer; it is ready."""
        context.wait = None
        environment.make_ready(context)
        self.consider(environment)

    def _answer_wait(self, environment: Environment, context: Context, value: int) -> None:
        self.end_wait(environment, context)
        if context.machine is None:
            context.answer = Error.of(-value) if value < 0 else value
        elif not self.upcalls.resume_cpu(environment, context, ResumeReason.EVENT, value):
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
            self._answer_wait(environment, context, answer)
        if not waiting and event is not Event.CHILD:
            self.upcalls.request(environment, Upcall.EVENT, (event, value, status))

    def wait_over(self, event: WaitOver) -> None:
        """A deadline has come; if that very wait is still on, it ends."""
        environment = self.environments.get(event.environment)
        context = environment.contexts.get(event.context) if environment is not None else None
        if environment is not None and context is not None and context.wait is event.wait:
            late = 0 if event.wait.event is Event.TIME else -int(Error.TIMED_OUT)
            self._answer_wait(environment, context, late)
