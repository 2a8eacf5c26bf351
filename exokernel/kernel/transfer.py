"""Protected control transfer: one environment enters another at an agreed place, with words in registers.

A call is atomic: either the callee has a context that waits for calls, and is running in it before anything else happens;
or the call is refused, and nothing has happened.  The rest of the caller's slice goes with it, and comes back with the
reply.  Nothing of the callee is saved, because a context that serves has nothing to save between calls; of the caller, its
general registers.  Whoever calls learns no more than four words, and the callee is told by the kernel who calls.

Source: Engler, Kaashoek and O'Toole, Exokernel, SOSP 1995, section 5.2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from exokernel.abi.downcalls import BY_NAME, Kind
from exokernel.abi.errors import Error
from exokernel.abi.flags import FOREVER, Event
from exokernel.abi.upcalls import Upcall
from exokernel.kernel.dispatch import ARGUMENTS, CHECKS, NO_ANSWER, NoAnswer, serves_machine_code
from exokernel.kernel.environment import Context, ContextState, Environment, State, Wait
from exokernel.kernel.refusal import Refusal
from exokernel.machine.context import MachineContext, Register
from exokernel.machine.costs import GENERAL_REGISTERS, SAVE_REGISTER

if TYPE_CHECKING:
    from exokernel.kernel.kernel import Kernel
    from exokernel.kernel.waiting import Waiting

SERVE: Final = BY_NAME["serve"].number
RAX, RSP, RIP = int(Register.RAX), int(Register.RSP), int(Register.RIP)
ENTRY_REGISTERS: Final = tuple(map(int, (Register.RDI, Register.RSI, Register.RDX, Register.RCX, Register.R8, Register.R9)))
REPLY_REGISTERS: Final = tuple(map(int, (Register.RDX, Register.R10, Register.R8, Register.R9)))
RDI, RSI, R9 = int(Register.RDI), int(Register.RSI), int(Register.R9)
CALL_WORDS: Final = bytes(
    map(int, (Register.RSI, Register.RDX, Register.RDX, Register.R10, Register.RCX, Register.R8, Register.R8, Register.R9))
)
"""Where each word of a call goes, and where it comes from; see `MachineContext.take`."""
REPLY_WORDS: Final = bytes(
    map(int, (Register.RDX, Register.RDI, Register.R10, Register.RSI, Register.R8, Register.RDX, Register.R9, Register.R10))
)
CALL_ENTRY: Final = int(Upcall.CALL)
ALIVE, REPLY = State.ALIVE, Event.REPLY
SERVING, READY, BLOCKED = ContextState.SERVING, ContextState.READY, ContextState.BLOCKED
SAVED: Final = GENERAL_REGISTERS * SAVE_REGISTER
SYSCALL_LENGTH: Final = 2

Words = tuple[int, int, int, int]


def _server(callee: Environment) -> Context | None:
    """A context of `callee` that is free to serve; for a library in Python None, because its handler gets a new one.
    Raises Refusal (NOT_SERVING, BUSY)."""
    if callee.state is not State.ALIVE or not callee.handles(Upcall.CALL):
        raise Refusal(Error.NOT_SERVING)
    if callee.library is not None:
        if not callee.has_room_for_a_call:
            raise Refusal(Error.BUSY)
        return None
    for context in callee.contexts.values():
        if context.state is ContextState.SERVING:
            return context
    if not any(context.serving is not None for context in callee.contexts.values()):
        raise Refusal(Error.NOT_SERVING)
    raise Refusal(Error.BUSY)


def _enter(kernel: Kernel, caller: Environment, callee: Environment, words: Words, awaited: bool) -> Context:
    """Make the callee's handler ready, in the context that is given."""
    server = _server(callee)
    arguments = (caller.number, *words, int(awaited))
    if server is None:
        server = kernel.upcalls.start_handler(callee, None, Upcall.CALL, arguments)
        if server is None:
            raise Refusal(Error.NOT_SERVING)
    else:
        assert server.machine is not None
        assert server.serving is not None
        registers = server.machine.words
        for register, word in zip(ENTRY_REGISTERS, arguments, strict=True):
            registers[register] = word
        registers[RIP], registers[RSP] = callee.entries[Upcall.CALL], server.serving[1]
        callee.accounts.upcalls += 1
        callee.make_ready(server)
    return server


def call(kernel: Kernel, caller: Environment, context: Context, callee: Environment, deadline: int, words: Words) -> None:
    """The synchronous form.  Raises Refusal (NOT_SERVING, BUSY, TIMED_OUT)."""
    if deadline <= kernel.clock.now:
        raise Refusal(Error.TIMED_OUT)
    if callee is caller:
        raise Refusal(Error.BAD_STATE)
    wait = Wait(Event.REPLY, callee.number, deadline)
    _enter(kernel, caller, callee, words, True).caller = (caller, context, wait)
    kernel.stop_for(caller, context, wait)
    kernel.charge(caller, SAVED)
    kernel.lend(callee)


@serves_machine_code("call")
def call_by_registers(kernel: Kernel, caller: Environment, context: Context, machine: MachineContext) -> NoAnswer:
    """The synchronous form from machine code; between two in machine code, the words go from registers to registers.

    What is done is what `call` does.  It is written out once more, as is `reply`, because a round trip over the general
    functions costs more than four and a half empty down-calls, and four is what it may cost (`exo bench`).
    """
    words = machine.words
    callee = kernel.environments.get(words[RDI])
    if callee is not None and callee is not caller and words[RSI] == FOREVER and callee.library is None:
        entry = callee.entries[CALL_ENTRY]
        for server in callee.contexts.values() if entry else ():
            if server.state is SERVING and server.serving is not None and server.machine is not None:
                server.machine.take(machine, CALL_WORDS)
                registers = server.machine.words
                registers[RDI], registers[RIP], registers[RSP], registers[R9] = caller.number, entry, server.serving[1], 1
                wait = context.wait = context.for_reply
                wait.value = callee.number
                server.caller = (caller, context, wait)
                server.state, context.state, context.processor = READY, BLOCKED, None
                callee.ready.append(server)
                caller.ready.remove(context)
                callee.accounts.upcalls += 1
                kernel.charge(caller, SAVED)
                kernel.lend(callee)
                return NO_ANSWER
    env, deadline, a, b, c, d = (words[register] for register in ARGUMENTS)
    call(kernel, caller, context, CHECKS[Kind.ENVIRONMENT](kernel, caller, env), deadline, (a, b, c, d))
    return NO_ANSWER


@serves_machine_code("reply")
def reply_by_registers(kernel: Kernel, callee: Environment, server: Context, machine: MachineContext) -> NoAnswer:
    """The reply from machine code; on a lent slice, to machine code, the words go from registers to registers."""
    if server.caller is not None and server.serving is not None:
        caller, context, wait = server.caller
        if context.wait is wait and context.machine is not None and caller.state is ALIVE and kernel.is_lent():
            context.machine.take(machine, REPLY_WORDS)
            context.machine.words[RAX] = 0
            server.caller = context.wait = server.processor = None
            server.state, context.state = SERVING, READY
            callee.ready.remove(server)
            caller.ready.append(context)
            kernel.lend(caller)
            return NO_ANSWER
    a, b, c, d = (machine.words[register] for register in ARGUMENTS[:4])
    reply(kernel, callee, server, (a, b, c, d))
    return NO_ANSWER


def send(kernel: Kernel, caller: Environment, callee: Environment, words: Words) -> None:
    """The asynchronous form: whoever sends pays for what is left of the slice.  Raises Refusal (NOT_SERVING, BUSY)."""
    if callee is caller:
        raise Refusal(Error.BAD_STATE)
    _enter(kernel, caller, callee, words, False)
    kernel.lend(callee)


def reply(kernel: Kernel, callee: Environment, server: Context, words: Words) -> bool:
    """End the call that a context serves.  Gives whether the processor went back to the caller.  Raises Refusal (BAD_STATE)
    if it serves none."""
    if server.serving is None and server.upcall is not Upcall.CALL:
        raise Refusal(Error.BAD_STATE)
    caller, server.caller = server.caller, None
    if server.serving is not None:
        callee.stop(server, ContextState.SERVING)
    if caller is None:
        return False
    environment, context, wait = caller
    if environment.state is not State.ALIVE or context.wait is not wait:
        return False
    context.wait = None
    environment.make_ready(context)
    if context.machine is None:
        context.answer = words
    else:
        registers = context.machine.words
        registers[RAX] = 0
        for register, word in zip(REPLY_REGISTERS, words, strict=True):
            registers[register] = word
    if kernel.is_lent():
        kernel.lend(environment)
        return True
    kernel.consider(environment)
    return False


def no_reply(kernel: Waiting, server: Context) -> None:
    """A context that serves is going: whoever waits for its reply waits no longer."""
    caller, server.caller = server.caller, None
    if caller is not None:
        environment, context, wait = caller
        if environment.state is State.ALIVE and context.wait is wait:
            kernel.answer_wait(environment, context, -int(Error.CALLEE_ENDED))


def serve(callee: Environment, context: Context) -> None:
    """Let a context wait for calls.  Raises Refusal (BAD_STATE) for a coroutine and while it serves one."""
    if context.machine is None or context.caller is not None:
        raise Refusal(Error.BAD_STATE)
    words = context.machine.words
    context.serving = (words[RIP] - SYSCALL_LENGTH, words[RSP])
    callee.stop(context, ContextState.SERVING)


def serve_again_later(context: Context) -> None:
    """An up-call interrupts a context that waits for calls: when its handler ends, the context says `serve` again."""
    assert context.machine is not None
    assert context.serving is not None
    words = context.machine.words
    words[RIP], words[RSP], words[RAX] = *context.serving, SERVE
