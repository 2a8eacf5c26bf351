"""The down-calls on time, the CPU and the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exokernel.abi.errors import Error
from exokernel.abi.flags import Event, ResumeReason, Rights
from exokernel.kernel import capabilities
from exokernel.kernel.dispatch import NO_ANSWER, NoAnswer, serves
from exokernel.kernel.environment import Context, Environment, State, Wait
from exokernel.kernel.refusal import Refusal

if TYPE_CHECKING:
    from exokernel.kernel.kernel import Kernel

CHARGE_MAXIMUM = 1 << 32
EVENTS = tuple(Event)


@serves("null")
def null(kernel: Kernel, caller: Environment, context: Context) -> int:
    """Nothing."""
    return 0


@serves("time")
def time(kernel: Kernel, caller: Environment, context: Context) -> int:
    """The clock."""
    return kernel.clock.now


@serves("charge")
def charge(kernel: Kernel, caller: Environment, context: Context, cycles: int) -> int:
    """Work declared by a coroutine."""
    if cycles > CHARGE_MAXIMUM:
        raise Refusal(Error.BAD_ARGUMENT)
    caller.owed += cycles
    return 0


@serves("console_write")
def console_write(kernel: Kernel, caller: Environment, context: Context, text: bytes) -> int:
    """Bytes on the console, a cycle for each eight."""
    kernel.charge(caller, len(text) // 8)
    kernel.console.write(caller.number, text)
    return len(text)


@serves("yield")
def yield_(kernel: Kernel, caller: Environment, context: Context, env: Environment) -> int | NoAnswer:
    """To whom the policy chooses, or to a named one if it can run."""
    target = None
    if env is not caller and env.state is State.ALIVE and (env.ready or kernel.upcalls.deliverable(env)):
        target = env.number
    kernel.give_up_slice(target)
    if kernel.upcalls.resume_cpu(caller, context, ResumeReason.YIELDED, 0):
        return NO_ANSWER
    return 0


@serves("block")
def block(kernel: Kernel, caller: Environment, context: Context, event: int, value: int, deadline: int) -> int | NoAnswer:
    """Wait, unless it has happened already."""
    if event >= len(EVENTS):
        raise Refusal(Error.BAD_ARGUMENT)
    kind = EVENTS[event]
    if kind is Event.DISK:
        if value not in caller.outstanding:
            raise Refusal(Error.NO_SUCH_REQUEST)
        ended = caller.outstanding[value]
        if ended is not None:
            del caller.outstanding[value]
            if ended < 0:
                raise Refusal(Error.IO_ERROR)
            return ended
    elif kind is Event.EXIT:
        if value not in caller.children:
            raise Refusal(Error.NO_SUCH_ENVIRONMENT)
        status = caller.children[value]
        if status is not None:
            return status
    elif kind is not Event.TIME and caller.events[kind] != value:
        return caller.events[kind]
    if deadline <= kernel.clock.now:
        if kind is Event.TIME:
            return 0
        raise Refusal(Error.TIMED_OUT)
    if kind is Event.FRAMES:
        if kernel.frames.available(caller) and caller.charged < caller.quota:
            return caller.events[kind]
        kernel.revocation.wants(caller)
    kernel.wait(caller, context, Wait(kind, value, deadline))
    return NO_ANSWER


@serves("wake")
def wake(kernel: Kernel, caller: Environment, context: Context, env: Environment) -> int:
    """Count a WOKEN event."""
    related = env.number == caller.parent or env.parent == caller.number or env is caller
    if not related and not capabilities.rights(caller.ring, env.access) & (Rights.CONTROL | Rights.WRITE):
        raise Refusal(Error.DENIED)
    kernel.count_event(env, Event.WOKEN, caller.number, 0)
    return 0
