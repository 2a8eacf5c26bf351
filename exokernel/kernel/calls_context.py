"""The down-calls on contexts: an environment's own flows of control, made, stopped, looked into and ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exokernel.abi.errors import Error
from exokernel.abi.flags import ANY, Begin
from exokernel.abi.layout import USER_END
from exokernel.kernel import transfer
from exokernel.kernel.calls_environment import require_control
from exokernel.kernel.dispatch import NO_ANSWER, NoAnswer, serves
from exokernel.kernel.environment import Context, ContextState, Environment, State
from exokernel.kernel.refusal import Refusal
from exokernel.machine.context import MachineContext, Register

if TYPE_CHECKING:
    from exokernel.kernel.kernel import Kernel

WRITABLE_FLAGS = 0x240CD5
REGISTER_COUNT = len(Register)


@serves("create_context")
def create_context(
    kernel: Kernel, caller: Environment, context: Context, rip: int, rsp: int, argument: int, begin: int, env: Environment
) -> int:
    """Another flow of machine code; one that is ready waits its turn, and the one that makes it goes on."""
    require_control(caller, env)
    if env.state is not State.ALIVE:
        raise Refusal(Error.BAD_STATE)
    if begin > Begin.READY:
        raise Refusal(Error.BAD_ARGUMENT)
    machine = MachineContext()
    machine.words[Register.RIP], machine.words[Register.RSP], machine.words[Register.RDI] = rip, rsp, argument
    made = env.new_context(machine=machine, state=ContextState.STOPPED)
    if made is None:
        raise Refusal(Error.TOO_MANY)
    if env.library is None:
        kernel.exposed.new_context(env, made.number)
    if begin == Begin.READY:
        made.state, made.seen = ContextState.READY, kernel.clock.now
        env.ready.insert(0, made)
        kernel.consider(env)
    return made.number


@serves("end_context")
def end_context(kernel: Kernel, caller: Environment, context: Context, number: int) -> int | NoAnswer:
    """A flow of control is over."""
    ending = context if number == ANY else caller.contexts.get(number)
    if ending is None or (ending is not context and ending.processor is not None) or ending.coroutine is not None:
        raise Refusal(Error.NO_SUCH_CONTEXT)
    if ending.wait is not None:
        kernel.end_wait(caller, ending)
    transfer.no_reply(kernel, ending)
    caller.forget_interrupted(ending.number)
    caller.stop(ending, ContextState.STOPPED)
    del caller.contexts[ending.number]
    if not caller.contexts:
        kernel.end(caller, 0)
    return NO_ANSWER if ending is context else 0


def _stopped(caller: Environment, env: Environment, number: int, running: Context) -> MachineContext:
    """The registers of a stopped context.  Raises Refusal (NO_SUCH_CONTEXT)."""
    require_control(caller, env)
    context = env.contexts.get(number)
    if context is None or context.machine is None or context is running or context.processor is not None:
        raise Refusal(Error.NO_SUCH_CONTEXT)
    return context.machine


@serves("get_registers")
def get_registers(
    kernel: Kernel, caller: Environment, context: Context, number: int, buffer: object, env: Environment
) -> bytes:
    """Twenty words."""
    return bytes(memoryview(_stopped(caller, env, number, context).words).cast("B"))


@serves("set_register")
def set_register(
    kernel: Kernel, caller: Environment, context: Context, number: int, index: int, value: int, env: Environment
) -> int:
    """One word; of the flags only what a program may set itself."""
    machine = _stopped(caller, env, number, context)
    if index >= REGISTER_COUNT:
        raise Refusal(Error.BAD_ARGUMENT)
    if index in (Register.RIP, Register.FS_BASE, Register.GS_BASE) and value >= USER_END:
        raise Refusal(Error.BAD_ARGUMENT)
    machine.words[index] = value & WRITABLE_FLAGS | 0x202 if index == Register.RFLAGS else value
    return 0


@serves("keep")
def keep(kernel: Kernel, caller: Environment, context: Context, number: int) -> int:
    """Leave an interrupted context stopped, or stop one that is ready and not on another processor."""
    kept = caller.contexts.get(number)
    if kept is not None and kept is not context and kept.state is ContextState.READY:
        if kept.processor not in (None, kernel.processor):
            raise Refusal(Error.NO_SUCH_CONTEXT)
        caller.stop(kept, ContextState.STOPPED)
        kernel.consider(caller)
    _own_context(caller, number).kept = True
    return 0


@serves("resume")
def resume(kernel: Kernel, caller: Environment, context: Context, number: int) -> int:
    """Let a stopped context run again, after whatever is ready now."""
    stopped = _own_context(caller, number)
    caller.forget_interrupted(number)
    stopped.kept = False
    stopped.seen = max(stopped.seen, kernel.clock.now)
    stopped.state = ContextState.READY
    caller.ready.insert(0, stopped)
    kernel.consider(caller)
    return 0


def _own_context(caller: Environment, number: int) -> Context:
    context = caller.contexts.get(number)
    if context is None or context.state is not ContextState.STOPPED:
        raise Refusal(Error.NO_SUCH_CONTEXT)
    return context
