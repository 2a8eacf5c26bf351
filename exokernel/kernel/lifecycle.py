"""Environments from beginning to end: made with nothing, ended with nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exokernel.abi.errors import Error
from exokernel.abi.flags import Event
from exokernel.abi.layout import MAXIMUM_ENVIRONMENTS
from exokernel.kernel import coroutines
from exokernel.kernel.capabilities import ACCESS_ENTRIES, EVERY_RIGHT, Capability, name_of
from exokernel.kernel.death import Cause, Death
from exokernel.kernel.environment import Context, Environment, State, empty_ring
from exokernel.kernel.refusal import AccessFault, Refusal
from exokernel.kernel.waiting import Waiting
from exokernel.machine.context import Register

LAST_GENERATION = (1 << 32) // MAXIMUM_ENVIRONMENTS - 2
"""An environment's number has 32 bits in the exposed pages, and all ones mean the machine."""


class Lifecycle(Waiting):
    """Makes and ends environments."""

    _generation = 0

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._slots: set[int] = set()

    def create(self, parent: Environment | None, quota: int) -> Environment:
        """Make an environment.  Raises Refusal (TOO_MANY, NO_FRAME, OVER_QUOTA)."""
        slot = next((s for s in range(1, MAXIMUM_ENVIRONMENTS) if s not in self._slots), None)
        if slot is None or self._generation == LAST_GENERATION:
            raise Refusal(Error.TOO_MANY)
        self._generation += 1
        number = self._generation * MAXIMUM_ENVIRONMENTS + slot
        name = name_of(parent.name if parent is not None else (), number)
        own = Capability(name, EVERY_RIGHT)
        environment = Environment(
            number,
            parent.number if parent is not None else 0,
            name,
            empty_ring(own),
            [own] + [None] * (ACCESS_ENTRIES - 1),
            quota,
            0,
            0,
        )
        self.spaces.make(environment)
        self._slots.add(slot)
        self.environments[number] = environment
        if parent is not None:
            parent.children[number] = None
        else:
            self.first_environment = number
        self.exposed.environment(environment)
        self.exposed.living(len(self.environments))
        return environment

    def boot_coroutine(self, start: Callable[[], Any]) -> Environment:
        """Make the first environment, which runs the coroutine that `start` makes and may hold every frame."""
        environment = self.create(None, self.memory.frames)
        environment.state = State.ALIVE
        environment.new_context(coroutine=start())
        self.exposed.environment(environment)
        self.consider(environment)
        return environment

    def end(self, environment: Environment, status: int) -> None:
        """An environment ends: everything it holds goes back, and its parent is told."""
        environment.state = State.DEAD
        environment.exit_status = status
        environment.accounts.ended_at = self.clock.now
        self._policy.not_runnable(environment.number)
        environment.ready.clear()
        for context in environment.contexts.values():
            if context.coroutine is not None:
                coroutines.close(context.coroutine)
        environment.contexts.clear()
        environment.pending.clear()
        environment.request = None
        self.revocation.no_longer_wants(environment)
        self.frames.promise_over(environment)
        self.exposed.environment(environment)
        self.exposed.library_counts(environment)
        self.spaces.unmap_everything(environment)
        for frame in list(self.frames.used.values()):
            for pair in [pair for pair in frame.loans if environment in pair]:
                del frame.loans[pair]
        for number in list(environment.held):
            self.frames.let_go(environment, self.frames.used[number])
        self.spaces.destroy(environment)
        self.disk.let_go_of_everything(environment)
        del self.environments[environment.number]
        self._slots.discard(environment.number % MAXIMUM_ENVIRONMENTS)
        self.ended[environment.number] = environment
        self.exposed.living(len(self.environments))
        parent = self.environments.get(environment.parent)
        if parent is not None:
            parent.children[environment.number] = status
            self.count_event(parent, Event.CHILD, 0, 0)
            self.count_event(parent, Event.EXIT, environment.number, status)

    def kill(
        self,
        environment: Environment,
        context: Context | None,
        cause: Cause,
        detail: str = "",
        where: int | None = None,
        access: int = 0,
    ) -> None:
        """End an environment that broke a rule, and write down which."""
        if environment.state is State.DEAD:
            return
        registers: tuple[int, ...] = ()
        code = b""
        if context is not None and context.machine is not None:
            registers = tuple(context.machine.words)
            try:
                code = self.spaces.read(environment, registers[Register.RIP], 15)
            except (AccessFault, Refusal):
                code = b""
        self.deaths.append(Death(environment.number, cause, self.clock.now, detail, where, access, registers, code))
        self.end(environment, 128)
