"""Up-calls: how the kernel enters a library OS.

For machine code the interrupted registers that the delivery overwrites go onto the context's up-call stack, under an
`iretq` frame, and that is all the kernel does: the way back does not pass through it.  For a Python library OS the handler
is a coroutine in a context of its own, and the interrupted context stands still until it ends.  A fault or a trap is
delivered at once; a request waits while a handler of its kind runs or a critical section is open, and is withdrawn when it
is met.  A request goes to whichever context can take it, but `please_release_cpu` to the one that has the processor.
"""

from __future__ import annotations

import inspect
import struct
from typing import TYPE_CHECKING

from exokernel.abi.flags import ANY, Event
from exokernel.abi.layout import RED_ZONE
from exokernel.abi.upcalls import UPCALLS, Upcall
from exokernel.kernel import exposed, transfer
from exokernel.kernel.death import Cause
from exokernel.kernel.environment import REQUESTS_MAXIMUM, Context, ContextState, Environment, PendingUpcall, State
from exokernel.kernel.refusal import AccessFault
from exokernel.machine.context import MachineContext, Register
from exokernel.machine.costs import UPCALL_WORD
from exokernel.machine.cpu import USER_CODE, USER_STACK

if TYPE_CHECKING:
    from exokernel.kernel.kernel import Kernel
    from exokernel.kernel.processor import Processor

RIP, RSP, RFLAGS = int(Register.RIP), int(Register.RSP), int(Register.RFLAGS)
ARGUMENT_REGISTERS = (int(Register.RDI), int(Register.RSI), int(Register.RDX))
"""Of the up-calls that are pushed; `call`, which is not, has three more."""
CLEAN_FLAGS = 0x202
FRAME_WORDS = 5
SAVED = [ARGUMENT_REGISTERS[:arguments][::-1] for arguments in range(len(ARGUMENT_REGISTERS) + 1)]
"""The registers that a delivery overwrites, by the number of arguments, in the order in which they are stored."""
FRAMES = [struct.Struct(f"<{arguments + FRAME_WORDS}Q") for arguments in range(len(ARGUMENT_REGISTERS) + 1)]
"""What lies on the up-call stack, by the number of arguments."""
NO_STACK = (0, 0)
PENDING_MAXIMUM = 2 * REQUESTS_MAXIMUM
SYSCALL_LENGTH = 2
QUEUED = {entry.upcall for entry in UPCALLS if entry.queued}


class UpcallDelivery:
    """Delivers up-calls; keeps those that wait in the environment."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def request(
        self, environment: Environment, upcall: Upcall, arguments: tuple[int, ...], context: Context | None = None
    ) -> None:
        """Queue a request for an environment, or for one context of it; one of the same kind (an event of the same thing)
        that still waits is replaced or, for counts of pages taken, added to.  Wakes a blocked environment.  Of events that
        nobody takes only so many are kept; the counters in the own page and `block` have them all."""
        if environment.state is not State.ALIVE or not environment.handles(upcall):
            return
        for waiting in environment.pending:
            if (
                waiting.upcall is upcall
                and waiting.context is context
                and (upcall is not Upcall.EVENT or waiting.arguments[:2] == arguments[:2])
            ):
                if upcall is Upcall.PAGES_TAKEN:
                    arguments = (arguments[0] + waiting.arguments[0],)
                waiting.arguments = arguments
                return
        if len(environment.pending) >= PENDING_MAXIMUM and upcall is Upcall.EVENT:
            return
        environment.pending.append(PendingUpcall(upcall, arguments, context))
        self._kernel.consider(environment, urgent=upcall is not Upcall.EVENT)

    def heard(self, environment: Environment, event: int, value: int) -> None:
        """An environment has learnt of an event by itself, and need not be told."""
        for waiting in [
            one for one in environment.pending if one.upcall is Upcall.EVENT and one.arguments[:2] == (event, value)
        ]:
            environment.pending.remove(waiting)

    def withdraw(self, environment: Environment, upcall: Upcall, context: Context | None = None) -> None:
        """What was asked for has been done."""
        gone = [one for one in environment.pending if one.upcall is upcall and one.context is context]
        for waiting in gone:
            environment.pending.remove(waiting)

    def deliverable(
        self, environment: Environment, processor: Processor | None = None
    ) -> tuple[PendingUpcall, Context | None] | None:
        """The first waiting request that may be delivered now, by `processor` or by any, and the context that takes it;
        for a library in Python that is a new one."""
        if not environment.pending:
            return None
        if environment.library is not None:
            if not environment.has_room_for_a_context:
                return None
            running = {(one.upcall, one.interrupted) for one in environment.contexts.values() if one.upcall is not None}
            kinds = {upcall for upcall, _ in running}
            critical = self._kernel.exposed.own_word(environment, exposed.CRITICAL)
            for waiting in environment.pending if not critical else ():
                meant = waiting.context
                if meant is None:
                    if waiting.upcall not in kinds:
                        return waiting, None
                elif meant.processor in (None, processor) and (waiting.upcall, meant.number) not in running:
                    return waiting, None
            return None
        active = 0
        for number in environment.contexts:
            active |= self._kernel.exposed.own_word(environment, exposed.ACTIVE + exposed.CONTEXT_WORDS * number)
        taker = self._taker(environment, processor)
        for waiting in environment.pending:
            if waiting.context is not None:
                number, kind = waiting.context.number, 1 << waiting.upcall
                word = exposed.ACTIVE + exposed.CONTEXT_WORDS * number
                busy = self._kernel.exposed.own_word(environment, word) & kind
                if not busy and self._may_take(environment, waiting.context, processor):
                    return waiting, waiting.context
            elif taker is not None and not active >> waiting.upcall & 1:
                return waiting, taker
        return None

    def _taker(self, environment: Environment, processor: Processor | None) -> Context | None:
        """The context that is interrupted for a request: rather one that is ready than one that is blocked."""
        for context in (*reversed(environment.ready), *environment.contexts.values()):
            if self._may_take(environment, context, processor):
                return context
        return None

    def _may_take(self, environment: Environment, context: Context, processor: Processor | None) -> bool:
        if context.machine is None or context.processor not in (None, processor):
            return False
        if context.state is ContextState.BLOCKED:
            if context.wait is None or context.wait.event is Event.REPLY:
                return False
        elif context.state is ContextState.STOPPED:
            return False
        word = exposed.CRITICAL + exposed.CONTEXT_WORDS * context.number
        return not self._kernel.exposed.own_word(environment, word)

    def deliver_pending(self, environment: Environment, processor: Processor) -> bool:
        """Deliver at most one waiting request; called before the environment runs.  Gives whether there was one."""
        found = self.deliverable(environment, processor)
        if found is None:
            return False
        waiting, context = found
        environment.pending.remove(waiting)
        if context is None:
            meant = waiting.context
            interrupted = meant if meant is not None and meant.state is ContextState.READY else None
            self.start_handler(environment, interrupted, waiting.upcall, waiting.arguments)
            return True
        assert context.machine is not None
        if context.state is ContextState.BLOCKED:
            self._kernel.end_wait(environment, context)
            context.machine.words[RIP] -= SYSCALL_LENGTH
        elif context.state is ContextState.SERVING:
            transfer.serve_again_later(context)
        self.push(environment, context, waiting.upcall, waiting.arguments)
        return True

    def raise_in(self, environment: Environment, context: Context, upcall: Upcall, arguments: tuple[int, ...]) -> bool:
        """Deliver a fault or a trap of `context` at once.  Gives False if the library has no entry for it."""
        if environment.library is not None:
            if not environment.handles(upcall):
                return False
            self.start_handler(environment, context, upcall, arguments)
        elif not environment.entries[upcall] or context.machine is None:
            return False
        else:
            self.push(environment, context, upcall, arguments)
        return True

    def start_handler(
        self, environment: Environment, context: Context | None, upcall: Upcall, arguments: tuple[int, ...]
    ) -> Context | None:
        """A handler in Python: a coroutine in a context of its own, which is given; `context` stands still.  Gives
        None if the environment has been ended because there cannot be one."""
        number = ANY if context is None else context.number
        method = getattr(environment.library, upcall.name.lower())
        handler = environment.new_context(upcall=upcall, interrupted=None if context is None else context.number)
        if handler is None:
            self._kernel.kill(environment, context, Cause.TOO_MANY_CONTEXTS)
            return None
        try:
            coroutine = method(number, *arguments)
            if not inspect.iscoroutine(coroutine):
                raise TypeError("it is not an async method")
            handler.coroutine = coroutine
        except Exception as error:
            self._kernel.kill(
                environment, context, Cause.RAISED, f"{type(error).__name__}: {error} (in {upcall.name.lower()})"
            )
            return None
        environment.accounts.upcalls += 1
        handler.seen = self._kernel.clock.now
        if context is not None:
            handler.processor = context.processor
            environment.stop(context, ContextState.STOPPED)
        self._kernel.consider(environment)
        return handler

    def push(self, environment: Environment, context: Context, upcall: Upcall, arguments: tuple[int, ...]) -> None:
        """A handler in machine code: its frame goes onto the up-call stack, and the context goes on at the entry."""
        kernel, machine = self._kernel, context.machine
        assert machine is not None
        words = machine.words
        old = words[RSP]
        base, size = environment.stacks.get(context.number, NO_STACK)
        top = base + size
        if base < old <= top:
            top = old - RED_ZONE
        top &= ~15
        count = len(arguments)
        saved = [words[register] for register in SAVED[count]]
        frame = FRAMES[count].pack(*saved, words[RIP], USER_CODE, words[RFLAGS], old, USER_STACK)
        bottom = top - len(frame)
        try:
            if bottom < base:
                raise AccessFault(bottom, 0)
            kernel.spaces.write(environment, bottom, frame)
        except AccessFault as fault:
            where, detail = fault.va, f"delivering {upcall.name.lower()}"
            if upcall is Upcall.PAGE_FAULT:
                detail += f" for {arguments[0]:#x}"
            kernel.kill(environment, context, Cause.UPCALL_STACK, detail, where)
            return
        words[RSP] = bottom
        words[RIP] = environment.entries[upcall]
        words[RFLAGS] = CLEAN_FLAGS
        for place, value in enumerate(arguments):
            words[ARGUMENT_REGISTERS[place]] = value & 0xFFFF_FFFF_FFFF_FFFF
        active = (environment.own >> 3) + exposed.ACTIVE + exposed.CONTEXT_WORDS * context.number
        kernel.memory.words[active] |= 1 << upcall
        environment.accounts.upcalls += 1
        kernel.charge(environment, UPCALL_WORD * (count + FRAME_WORDS))
        if context.state is not ContextState.READY:
            environment.make_ready(context)
            kernel.consider(environment)

    def resume_cpu(self, environment: Environment, context: Context, reason: int, value: int) -> bool:
        """Start again at the `resume_cpu` entry with every register zero but the arguments, if the library handles that."""
        if environment.library is not None or not environment.entries[Upcall.RESUME_CPU] or context.machine is None:
            return False
        context.machine = MachineContext()
        words = context.machine.words
        words[RIP] = environment.entries[Upcall.RESUME_CPU]
        base, size = environment.stacks.get(context.number, NO_STACK)
        words[RSP] = base + size & ~15
        words[Register.RDI], words[Register.RSI] = reason, value & 0xFFFF_FFFF_FFFF_FFFF
        words[Register.RDX] = context.number
        environment.accounts.upcalls += 1
        return True

    def handler_ended(self, environment: Environment, handler: Context) -> None:
        """A handler's coroutine is over: the interrupted context goes on where the handler ran, unless it is kept."""
        transfer.no_reply(self._kernel, handler)
        if handler.interrupted is None:
            return
        context = environment.contexts.get(handler.interrupted)
        if context is not None and context.state is ContextState.STOPPED and not context.kept:
            environment.make_ready(context)
            context.processor, context.seen = handler.processor, self._kernel.clock.now
