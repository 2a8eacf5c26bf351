"""The down-calls on environments, contexts and capabilities."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from exokernel.abi.errors import Error
from exokernel.abi.flags import ANY, Rights, Subject
from exokernel.abi.layout import PAGE_SIZE, USER_END
from exokernel.abi.upcalls import Upcall
from exokernel.kernel import capabilities
from exokernel.kernel.death import Cause
from exokernel.kernel.dispatch import NO_ANSWER, NoAnswer, serves
from exokernel.kernel.environment import Context, Environment, State
from exokernel.kernel.refusal import Refusal
from exokernel.machine.context import MachineContext, Register
from exokernel.machine.costs import FULL_STATE_WORDS, SAVE_REGISTER

if TYPE_CHECKING:
    from exokernel.kernel.kernel import Kernel

CONTROL = int(Rights.CONTROL)


def require_control(caller: Environment, env: Environment) -> None:
    """Raise Refusal (DENIED) unless `caller` is `env` or a capability on its ring controls it."""
    if not controls(caller, env):
        raise Refusal(Error.DENIED)


def controls(caller: Environment, env: Environment) -> bool:
    """Whether `caller` may act in the place of `env`."""
    return env is caller or bool(capabilities.rights(caller.ring, env.access) & CONTROL)


@serves("create_environment")
def create_environment(kernel: Kernel, caller: Environment, context: Context, quota: int) -> int:
    """A new environment below the caller."""
    kernel.charge(caller, FULL_STATE_WORDS * SAVE_REGISTER)
    quota = min(quota, caller.quota)
    try:
        return kernel.create(caller, quota).number
    except Refusal as refusal:
        if refusal.error is not Error.NO_FRAME or not kernel.revocation.short_of_frames(caller):
            raise
        return kernel.create(caller, quota).number


@serves("set_upcall")
def set_upcall(kernel: Kernel, caller: Environment, context: Context, upcall: int, entry: int, env: Environment) -> int:
    """Where an up-call enters."""
    require_control(caller, env)
    if upcall not in Upcall.__members__.values():
        raise Refusal(Error.BAD_ARGUMENT)
    env.entries[upcall] = entry
    return 0


@serves("set_upcall_stack")
def set_upcall_stack(
    kernel: Kernel, caller: Environment, context: Context, base: int, size: int, env: Environment, number: int
) -> int:
    """Where up-calls are delivered."""
    require_control(caller, env)
    if not size or size % PAGE_SIZE or base + size > USER_END:
        raise Refusal(Error.BAD_ARGUMENT)
    env.stacks[number] = (base, size)
    return 0


def _startable(kernel: Kernel, caller: Environment, env: Environment) -> None:
    require_control(caller, env)
    if env.state is not State.NEW:
        raise Refusal(Error.BAD_STATE)


def _started(kernel: Kernel, env: Environment) -> int:
    env.state = State.ALIVE
    kernel.exposed.environment(env)
    kernel.consider(env)
    return 0


@serves("start")
def start(
    kernel: Kernel, caller: Environment, context: Context, env: Environment, rip: int, rsp: int, argument: int
) -> int:
    """Machine code in context 0."""
    _startable(kernel, caller, env)
    machine = MachineContext()
    machine.words[Register.RIP], machine.words[Register.RSP], machine.words[Register.RDI] = rip, rsp, argument
    env.new_context(machine=machine)
    return _started(kernel, env)


@serves("set_library")
def set_library(kernel: Kernel, caller: Environment, context: Context, env: Environment, library: Any) -> int:
    """A Python library OS for an environment."""
    _startable(kernel, caller, env)
    env.library = library
    return 0


@serves("start_coroutine")
def start_coroutine(kernel: Kernel, caller: Environment, context: Context, env: Environment, coroutine: Any) -> int:
    """Python code in context 0."""
    _startable(kernel, caller, env)
    if not inspect.iscoroutine(coroutine):
        raise Refusal(Error.BAD_ARGUMENT)
    env.new_context(coroutine=coroutine)
    return _started(kernel, env)


@serves("destroy")
def destroy(kernel: Kernel, caller: Environment, context: Context, env: Environment) -> int | NoAnswer:
    """End another environment, or oneself."""
    require_control(caller, env)
    if env is caller:
        kernel.end(caller, 0)
        return NO_ANSWER
    kernel.kill(env, env.contexts.get(0), Cause.DESTROYED, f"by environment {caller.number}")
    return 0


@serves("exit")
def exit_(kernel: Kernel, caller: Environment, context: Context, status: int) -> NoAnswer:
    """End oneself."""
    kernel.end(caller, status & 0xFF)
    return NO_ANSWER


@serves("set_quota")
def set_quota(kernel: Kernel, caller: Environment, context: Context, env: Environment, quota: int, guarantee: int) -> int:
    """How many frames an environment may hold, and how many of them are promised."""
    require_control(caller, env)
    family = (caller, *(one for one in caller.lineage if one.state is not State.DEAD))
    if env in family or quota > min(one.quota for one in family) or guarantee > quota:
        raise Refusal(Error.BAD_ARGUMENT)
    promised = sum(other.guarantee for other in kernel.environments.values() if other is not env)
    if promised + guarantee > kernel.memory.frames - kernel.frames.first:
        raise Refusal(Error.NO_FRAME)
    env.quota, env.guarantee = quota, guarantee
    kernel.exposed.environment(env)
    return 0


@serves("set_limits")
def set_limits(
    kernel: Kernel, caller: Environment, context: Context, env: Environment, environments: int, slices: int
) -> int:
    """How much of the kernel's tables an environment and its descendants may fill."""
    require_control(caller, env)
    family = [one.limits for one in (caller, *caller.lineage) if one.state is not State.DEAD]
    if env in (caller, *caller.lineage) or any(environments > one.environments or slices > one.slices for one in family):
        raise Refusal(Error.BAD_ARGUMENT)
    env.limits.environments, env.limits.slices = environments, slices
    return 0


@serves("forge_capability")
def forge_capability(
    kernel: Kernel, caller: Environment, context: Context, source: int, component: int, permissions: int, target: int
) -> int:
    """A weaker capability."""
    _put(kernel, caller, target, capabilities.forged(capabilities.at(caller.ring, source), component, permissions))
    return 0


def _put(kernel: Kernel, env: Environment, slot: int, capability: capabilities.Capability | None) -> None:
    had, env.ring[slot] = env.ring[slot], capability
    if had is not None:
        kernel.frames.ring_changed(env)


@serves("give_capability")
def give_capability(
    kernel: Kernel, caller: Environment, context: Context, env: Environment, slot: int, permissions: int, target: int
) -> int:
    """A copy on another's ring."""
    require_control(caller, env)
    given = capabilities.at(caller.ring, slot)
    _put(kernel, env, target, capabilities.Capability(given.name, given.permissions & permissions))
    return 0


@serves("drop_capability")
def drop_capability(kernel: Kernel, caller: Environment, context: Context, slot: int) -> int:
    """An empty slot."""
    _put(kernel, caller, slot, None)
    return 0


@serves("set_access")
def set_access(
    kernel: Kernel,
    caller: Environment,
    context: Context,
    subject: int,
    number: int,
    index: int,
    slot: int,
    permissions: int,
) -> int:
    """An entry of an access list; what loses its right by it is unbound at once."""
    if index >= capabilities.ACCESS_ENTRIES or permissions & ~capabilities.EVERY_RIGHT or number > ANY:
        raise Refusal(Error.BAD_ARGUMENT)
    entry = capabilities.Capability(capabilities.at(caller.ring, slot).name, permissions) if permissions else None
    if subject == Subject.FRAME:
        frame = kernel.frames.get(number)
        if not kernel.frames.rights(caller, frame) & CONTROL:
            raise Refusal(Error.DENIED)
        kernel.frames.access_list(caller, frame)[index] = entry
        kernel.frames.break_mappings(frame)
    elif subject == Subject.EXTENT:
        kernel.disk.set_access(caller, kernel.disk.extent(number), index, entry)
    elif subject == Subject.ENVIRONMENT:
        env = caller if number == 0 else kernel.environments.get(number)
        if env is None:
            raise Refusal(Error.NO_SUCH_ENVIRONMENT)
        require_control(caller, env)
        if not index:
            raise Refusal(Error.BAD_ARGUMENT)
        env.access[index] = entry
        for number in list(env.held):
            kernel.frames.break_mappings(kernel.frames.get(number))
    else:
        raise Refusal(Error.BAD_ARGUMENT)
    return 0
