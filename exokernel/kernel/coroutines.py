"""Python contexts: coroutines that trap by awaiting.

A coroutine is resumed with the answer to its last trap, runs until it awaits the next, and that trap is answered as one of
machine code is.  Each resumption is charged a fixed cost.  Python cannot confine Python, so a coroutine is trusted not to
reach around its `Exo`; what it is *allowed* is what its environment is allowed.  One that never awaits is stopped by a
watchdog on the host.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from exokernel.abi.errors import Error
from exokernel.abi.traps import DownCallTrap, ReadTrap, WriteTrap
from exokernel.kernel.death import Cause
from exokernel.kernel.environment import Context, ContextState, Environment, State
from exokernel.kernel.refusal import AccessFault, Refusal
from exokernel.machine import costs
from exokernel.machine.watchdog import NeverCameBack

if TYPE_CHECKING:
    from exokernel.kernel.kernel import Kernel


def _name(coroutine: Coroutine[Any, Any, Any]) -> str:
    return getattr(coroutine, "__qualname__", "a coroutine")


def close(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Drop a coroutine whose environment has ended; it may not trap any more."""
    try:
        coroutine.close()
    except Exception:  # its `finally` may raise what it likes, and nobody is left to hear of it
        return


def step(kernel: Kernel, environment: Environment, context: Context) -> None:
    """Resume a coroutine until its next trap, and answer that."""
    coroutine = context.coroutine
    assert coroutine is not None
    kernel.charge(environment, costs.COROUTINE_RESUMPTION)
    if environment.state is not State.ALIVE:
        return
    request = context.again
    if request is not None:
        context.again = None
    else:
        answer, context.answer = context.answer, None
        watchdog = kernel.watchdog
        watchdog.resuming()
        try:
            request = coroutine.send(answer)
        except StopIteration:
            watchdog.running = False
            _ended(kernel, environment, context)
            return
        except NeverCameBack:
            kernel.kill(environment, context, Cause.WATCHDOG, f"in {_name(coroutine)}")
            return
        except (Exception, SystemExit) as error:
            watchdog.running = False
            kernel.kill(environment, context, Cause.RAISED, f"{type(error).__name__}: {error} (in {_name(coroutine)})")
            kernel.python_errors.append(error)
            return
        finally:
            watchdog.running = False
    try:
        match request:
            case DownCallTrap(number=number, arguments=arguments):
                kernel.python_call(kernel, environment, context, number, arguments)
            case ReadTrap(va=va, size=size):
                if not (isinstance(va, int) and isinstance(size, int)):
                    raise Refusal(Error.BAD_ARGUMENT)
                context.answer = kernel.spaces.read(environment, va, size)
            case WriteTrap(va=va, data=data):
                if not (isinstance(va, int) and isinstance(data, bytes | bytearray)):
                    raise Refusal(Error.BAD_ARGUMENT)
                kernel.spaces.write(environment, va, bytes(data))
            case _:
                kernel.kill(environment, context, Cause.BAD_AWAIT, repr(request))
    except AccessFault as fault:
        if isinstance(request, ReadTrap | WriteTrap) and request.or_refused:
            context.answer = Error.NOT_MAPPED
        else:
            context.again = request
            kernel.page_fault(environment, context, fault.va, fault.code)
    except Refusal as refusal:
        context.answer = refusal.error


def _ended(kernel: Kernel, environment: Environment, context: Context) -> None:
    """A coroutine has returned: a handler lets what it interrupted go on; a program's end is its environment's."""
    environment.ready.remove(context)
    context.state = ContextState.STOPPED
    del environment.contexts[context.number]
    if context.upcall is not None:
        kernel.upcalls.handler_ended(environment, context)
        if environment.contexts:
            kernel.consider(environment)
        else:
            kernel.end(environment, 0)
    elif not environment.contexts or context.number == 0:
        kernel.end(environment, 0)
