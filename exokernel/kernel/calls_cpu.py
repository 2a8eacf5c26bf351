"""The down-calls on time, the CPU and the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exokernel.abi.downcalls import Kind
from exokernel.abi.errors import Error
from exokernel.abi.flags import Event, ResumeReason, Rights
from exokernel.abi.upcalls import Upcall
from exokernel.kernel import capabilities, predicates, transfer
from exokernel.kernel.calls_environment import require_control
from exokernel.kernel.dispatch import CHECKS, NO_ANSWER, NoAnswer, serves, serves_machine_code
from exokernel.kernel.environment import Context, Environment, Wait
from exokernel.kernel.refusal import Refusal
from exokernel.kernel.waiting import FULL_STATE
from exokernel.machine.context import MachineContext, Register
from exokernel.machine.costs import PREDICATE_TERM
from exokernel.policy.scheduling import MOST_TICKETS

if TYPE_CHECKING:
    from exokernel.kernel.kernel import Kernel

CHARGE_MAXIMUM = 1 << 32
LONGEST_PERIOD = 1 << 48
EVENTS = tuple(Event)
RESUME = int(Upcall.RESUME_CPU)
RAX, RDI = int(Register.RAX), int(Register.RDI)


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


@serves_machine_code("yield")
def yield_by_registers(kernel: Kernel, caller: Environment, context: Context, machine: MachineContext) -> int | NoAnswer:
    """The same from machine code."""
    words = machine.words
    to = kernel.environments.get(words[RDI])
    if to is None or to is caller or to.watching or not to.ready or to.ready[-1].processor is not None:
        return yield_(kernel, caller, context, CHECKS[Kind.ENVIRONMENT](kernel, caller, words[RDI]))
    if not caller.entries[RESUME] or not kernel.upcalls.resume_cpu(caller, context, ResumeReason.YIELDED, 0):
        words[RAX] = 0
        if caller.request is None:
            kernel.clock.now += FULL_STATE
            caller.accounts.kernel_cycles += FULL_STATE
        else:
            kernel.charge(caller, FULL_STATE)
    kernel.hand_over(to)
    return NO_ANSWER


@serves("yield")
def yield_(kernel: Kernel, caller: Environment, context: Context, env: Environment) -> int | NoAnswer:
    """To whom the policy chooses, or to a named one if it can run."""
    kept = not kernel.upcalls.resume_cpu(caller, context, ResumeReason.YIELDED, 0)
    if kept and context.machine is not None:
        kernel.charge(caller, FULL_STATE)
    if env is not caller and kernel.could_run(env, caller):
        kernel.hand_over(env)
    else:
        kernel.give_up_slice()
    return 0 if kept else NO_ANSWER


@serves("block")
def block(kernel: Kernel, caller: Environment, context: Context, event: int, value: int, deadline: int) -> int | NoAnswer:
    """Wait, unless it has happened already."""
    if event > Event.CHILD:
        raise Refusal(Error.BAD_ARGUMENT)
    kind = EVENTS[event]
    if kind is Event.DISK:
        if value not in caller.outstanding:
            raise Refusal(Error.NO_SUCH_REQUEST)
        ended = caller.outstanding[value]
        if ended is not None:
            del caller.outstanding[value]
            kernel.upcalls.heard(caller, kind, value)
            if ended < 0:
                raise Refusal(Error.IO_ERROR)
            return ended
    elif kind is Event.EXIT:
        if value not in caller.children:
            raise Refusal(Error.NO_SUCH_ENVIRONMENT)
        status = caller.children[value]
        if status is not None:
            kernel.upcalls.heard(caller, kind, value)
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


@serves("block_until")
def block_until(
    kernel: Kernel, caller: Environment, context: Context, terms: int, count: int, deadline: int
) -> int | NoAnswer:
    """Wait for a predicate, unless it holds already."""
    predicate = predicates.make(kernel.spaces, caller, terms, count)
    kernel.charge(caller, count * PREDICATE_TERM)
    tag = predicates.evaluate(kernel.spaces, caller, predicate)
    if tag is not None:
        return tag
    if deadline <= kernel.clock.now:
        raise Refusal(Error.TIMED_OUT)
    kernel.wait(caller, context, Wait(Event.MEMORY, 0, deadline, predicate))
    return NO_ANSWER


@serves("wake")
def wake(kernel: Kernel, caller: Environment, context: Context, env: Environment) -> int:
    """Count a WOKEN event."""
    related = env.number == caller.parent or env.parent == caller.number or env is caller
    if not related and not capabilities.rights(caller.ring, env.access) & (Rights.CONTROL | Rights.WRITE):
        raise Refusal(Error.DENIED)
    kernel.count_event(env, Event.WOKEN, caller.number, 0)
    return 0


@serves("alloc_slice")
def alloc_slice(kernel: Kernel, caller: Environment, context: Context, cpu: int, position: int, env: Environment) -> int:
    """Own a slice."""
    require_control(caller, env)
    return kernel.own_slice(env, cpu, position)


@serves("free_slice")
def free_slice(kernel: Kernel, caller: Environment, context: Context, cpu: int, position: int, env: Environment) -> int:
    """Own it no longer."""
    require_control(caller, env)
    kernel.disown_slice(env, cpu, position)
    return 0


@serves("set_tickets")
def set_tickets(kernel: Kernel, caller: Environment, context: Context, env: Environment, tickets: int) -> int:
    """An environment's weight."""
    require_control(caller, env)
    if env is caller or tickets > MOST_TICKETS:
        raise Refusal(Error.BAD_ARGUMENT)
    kernel.cpu_policy.set_tickets(env.number, tickets)
    kernel.disk.policy.set_tickets(env.number, tickets)
    return 0


@serves("reserve_cpu")
def reserve_cpu(kernel: Kernel, caller: Environment, context: Context, env: Environment, cycles: int, period: int) -> int:
    """A promise of time, if the policy makes any."""
    require_control(caller, env)
    if env is caller or cycles > period or period > LONGEST_PERIOD:
        raise Refusal(Error.BAD_ARGUMENT)
    if not kernel.cpu_policy.reserve(env.number, cycles, period, kernel.clock.now):
        raise Refusal(Error.NO_TIME)
    return 0


@serves("call")
def call(
    kernel: Kernel,
    caller: Environment,
    context: Context,
    env: Environment,
    deadline: int,
    a: int,
    b: int,
    c: int,
    d: int,
) -> NoAnswer:
    """Protected control transfer, synchronous."""
    transfer.call(kernel, caller, context, env, deadline, (a, b, c, d))
    return NO_ANSWER


@serves("reply")
def reply(kernel: Kernel, caller: Environment, context: Context, a: int, b: int, c: int, d: int) -> int | NoAnswer:
    """Back to the caller."""
    transfer.reply(kernel, caller, context, (a, b, c, d))
    return 0 if context.machine is None else NO_ANSWER


@serves("send")
def send(kernel: Kernel, caller: Environment, context: Context, env: Environment, a: int, b: int, c: int, d: int) -> int:
    """Protected control transfer, asynchronous."""
    transfer.send(kernel, caller, env, (a, b, c, d))
    return 0


@serves("serve")
def serve(kernel: Kernel, caller: Environment, context: Context) -> NoAnswer:
    """Wait for calls."""
    transfer.serve(caller, context)
    kernel.consider(caller)
    return NO_ANSWER
