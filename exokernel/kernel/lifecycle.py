"""Environments from beginning to end: made with nothing, ended with nothing left behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exokernel.abi.errors import Error
from exokernel.abi.flags import Event
from exokernel.abi.layout import MAXIMUM_ENVIRONMENTS, SLICES
from exokernel.kernel import coroutines, partitions, transfer
from exokernel.kernel.capabilities import ACCESS_ENTRIES, EVERY_RIGHT, Capability, name_of
from exokernel.kernel.death import Cause, Death
from exokernel.kernel.environment import Context, Environment, Limits, State, empty_ring
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
        self._free_slots = list(range(MAXIMUM_ENVIRONMENTS - 1, 0, -1))

    def create(self, parent: Environment | None, quota: int) -> Environment:
        """Make an environment.  Raises Refusal (TOO_MANY, NO_FRAME, OVER_QUOTA)."""
        lineage = (parent, *(one for one in parent.lineage if one.state is not State.DEAD)) if parent is not None else ()
        if any(one.limits.environments_used >= one.limits.environments for one in lineage):
            raise Refusal(Error.TOO_MANY)
        slot = self._free_slots[-1] if self._free_slots else None
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
        environment.lineage = lineage
        environment.limits = Limits(
            parent.limits.environments if parent is not None else MAXIMUM_ENVIRONMENTS,
            parent.limits.slices if parent is not None else SLICES * len(self.cpus) * 3 // 4,
        )
        self.spaces.make(environment)
        for ancestor in lineage:
            ancestor.limits.environments_used += 1
        self._free_slots.pop()
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
        partitions.mount(self.disk, environment)
        environment.new_context(coroutine=start())
        self.exposed.environment(environment)
        self.consider(environment)
        return environment

    def end(self, environment: Environment, status: int) -> None:
        """An environment ends: everything it holds goes back, and its parent is told."""
        environment.state = State.DEAD
        environment.exit_status = status
        environment.accounts.ended_at = self.clock.now
        self.cpu_policy.ended(environment.number)
        environment.ready.clear()
        for context in environment.contexts.values():
            if context.coroutine is not None:
                coroutines.close(context.coroutine)
            transfer.no_reply(self, context)
        environment.contexts.clear()
        for ancestor in environment.lineage:
            ancestor.limits.environments_used -= 1
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
        self.disk.policy.ended(environment.number)
        del self.environments[environment.number]
        self._free_slots.append(environment.number % MAXIMUM_ENVIRONMENTS)
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
