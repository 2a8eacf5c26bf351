"""The one door: decodes a down-call, checks its arguments by the table, makes it, and stores the answer.

Machine code and coroutines come through the same decoders and the same functions.  An argument of the wrong kind is refused
before any function sees it.  A down-call whose bytes lie on a page that is not there is a page fault of the caller at the
`syscall`, and is made again afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from exokernel.abi.downcalls import BATCH_MAXIMUM, BATCH_WORDS, BY_NAME, TABLE, Argument, DownCall, Kind
from exokernel.abi.errors import Error
from exokernel.abi.flags import ANY
from exokernel.abi.layout import MAXIMUM_CONTEXTS, PAGE_SIZE, USER_BEGIN, USER_END
from exokernel.kernel.capabilities import RING_SLOTS
from exokernel.kernel.environment import Context, Environment, State
from exokernel.kernel.refusal import AccessFault, Refusal
from exokernel.machine.context import MachineContext, Register
from exokernel.machine.costs import KERNEL_CROSSING

if TYPE_CHECKING:
    from exokernel.kernel.kernel import Kernel

Function = TypeVar("Function", bound=Callable[..., Any])
Check = Callable[["Kernel", Environment, Any], Any]
WORD = 0xFFFF_FFFF_FFFF_FFFF
RAX, RIP = int(Register.RAX), int(Register.RIP)
ARGUMENTS = tuple(map(int, (Register.RDI, Register.RSI, Register.RDX, Register.R10, Register.R8, Register.R9)))
NOT_IN_A_BATCH = {
    "batch", "block", "block_until", "yield", "exit", "destroy", "call", "send", "reply", "serve", "end_context"
}  # fmt: skip
TEXT_MAXIMUM = 1 << 16


class NoAnswer:
    """What a down-call function gives when the caller is not to be answered now: it is blocked, or has ended."""


NO_ANSWER = NoAnswer()


@dataclass(frozen=True, slots=True)
class Call:
    """A row of the table with the function behind it."""

    row: DownCall
    function: Callable[..., Any]
    checks: tuple[Check | None, ...]
    buffer: int | None
    words: bool
    """Whether every argument is one word: none is a buffer, bytes or an object."""
    plain: tuple[tuple[int, Check | None], ...] | None
    """Then, register and check of each argument."""
    direct: Callable[..., Any] | None = None
    """Instead, for machine code: a function that looks at the registers itself."""


CALLS: dict[int, Call] = {}
DIRECT: dict[int, Callable[..., Any]] = {}
"""What `serves_machine_code` has declared."""


def serves(name: str) -> Callable[[Function], Function]:
    """Declare the function behind the down-call `name`; it is called (kernel, environment, context, *arguments)."""

    def declare(function: Function) -> Function:
        row = BY_NAME[name]
        kinds = [argument.kind for argument in row.arguments]
        buffer = kinds.index(Kind.BUFFER) if Kind.BUFFER in kinds else None
        checks = tuple(CHECKS.get(kind) for kind in kinds)
        words = not {Kind.BUFFER, Kind.BYTES, Kind.OBJECT} & set(kinds)
        direct = DIRECT.get(row.number)
        plain = tuple(zip(ARGUMENTS, checks, strict=False)) if words and not direct else None
        CALLS[row.number] = Call(row, function, checks, buffer, words, plain, direct)
        return function

    return declare


def serves_machine_code(name: str) -> Callable[[Function], Function]:
    """Declare the function that makes the down-call `name` for machine code; it is called (kernel, environment, context,
    machine) and does its own checks, for the two calls in which every microsecond counts."""

    def declare(function: Function) -> Function:
        DIRECT[BY_NAME[name].number] = function
        return function

    return declare


def _page(kernel: Kernel, caller: Environment, value: int) -> int:
    if value % PAGE_SIZE or not USER_BEGIN <= value < USER_END:
        raise Refusal(Error.BAD_ARGUMENT)
    return value


def _address(kernel: Kernel, caller: Environment, value: int) -> int:
    if value >= USER_END:
        raise Refusal(Error.BAD_ARGUMENT)
    return value


def _frame(kernel: Kernel, caller: Environment, value: int) -> int:
    if value != ANY and value >= kernel.memory.frames:
        raise Refusal(Error.NO_SUCH_FRAME)
    return value


def _environment(kernel: Kernel, caller: Environment, value: int) -> Environment:
    if value == 0:
        return caller
    environment = kernel.environments.get(value)
    if environment is None or environment.state is State.DEAD:
        raise Refusal(Error.NO_SUCH_ENVIRONMENT)
    return environment


def _count(kernel: Kernel, caller: Environment, value: int) -> int:
    if not 1 <= value <= ANY:
        raise Refusal(Error.BAD_ARGUMENT)
    return value


def _sector(kernel: Kernel, caller: Environment, value: int) -> int:
    if value > ANY:
        raise Refusal(Error.BAD_SECTOR)
    return value


def _slot(kernel: Kernel, caller: Environment, value: int) -> int:
    if value >= RING_SLOTS:
        raise Refusal(Error.BAD_ARGUMENT)
    return value


def _context(kernel: Kernel, caller: Environment, value: int) -> int:
    if value >= MAXIMUM_CONTEXTS:
        raise Refusal(Error.NO_SUCH_CONTEXT)
    return value


CHECKS: dict[Kind, Check] = {
    Kind.PAGE: _page,
    Kind.ADDRESS: _address,
    Kind.FRAME: _frame,
    Kind.ENVIRONMENT: _environment,
    Kind.COUNT: _count,
    Kind.SECTOR: _sector,
    Kind.SLOT: _slot,
    Kind.CONTEXT: _context,
}


def native(kernel: Kernel, environment: Environment, context: Context, machine: MachineContext) -> None:
    """A `syscall` whose number is in the kernel's range."""
    words = machine.words
    call = CALLS.get(words[RAX])
    accounts = environment.accounts
    accounts.downcalls += 1
    accounts.kernel_cycles += KERNEL_CROSSING
    kernel.clock.now += KERNEL_CROSSING
    if environment.request is not None:
        kernel.revocation.ran(environment, KERNEL_CROSSING)
    if environment.state is not State.ALIVE:
        return
    result: Any
    try:
        if call is None:
            raise Refusal(Error.NO_SUCH_CALL)
        if call.plain is not None:
            result = call.function(
                kernel,
                environment,
                context,
                *[words[at] if check is None else check(kernel, environment, words[at]) for at, check in call.plain],
            )
        elif call.direct is not None:
            result = call.direct(kernel, environment, context, machine)
        else:
            raw = [words[register] for register in ARGUMENTS]
            result = call.function(kernel, environment, context, *_from_words(kernel, environment, call, raw))
            if call.buffer is not None:
                kernel.spaces.write(environment, raw[call.buffer], result)
                result = 0
    except Refusal as refusal:
        result = -refusal.error
    except AccessFault as fault:
        words[RIP] -= 2
        kernel.page_fault(environment, context, fault.va, fault.code)
        return
    if result is not NO_ANSWER:
        words[RAX] = result & WORD


def _from_words(kernel: Kernel, environment: Environment, call: Call, raw: list[int]) -> list[Any]:
    """The arguments of a call out of six words.  Raises Refusal, and AccessFault for bytes that cannot be read."""
    if call.row.python_only:
        raise Refusal(Error.ONLY_PYTHON)
    values: list[Any] = []
    place = 0
    for argument, check in zip(call.row.arguments, call.checks, strict=True):
        if argument.kind is Kind.BYTES:
            if raw[place + 1] > TEXT_MAXIMUM:
                raise Refusal(Error.BAD_ARGUMENT)
            values.append(kernel.spaces.read(environment, raw[place], raw[place + 1]))
        else:
            values.append(raw[place] if check is None else check(kernel, environment, raw[place]))
        place += argument.registers
    return values


def python(kernel: Kernel, environment: Environment, context: Context, number: int, arguments: tuple[Any, ...]) -> None:
    """A coroutine's down-call.  Raises Refusal and AccessFault for the caller to answer with."""
    environment.accounts.downcalls += 1
    kernel.charge(environment, KERNEL_CROSSING)
    if environment.state is not State.ALIVE:
        return
    call = CALLS.get(number)
    if call is None:
        raise Refusal(Error.NO_SUCH_CALL)
    if len(arguments) != len(call.checks):
        raise Refusal(Error.BAD_ARGUMENT)
    if call.words:
        for value in arguments:
            if value.__class__ is not int or not 0 <= value <= WORD:
                arguments = tuple([_word(one) for one in arguments])
                break
    else:
        arguments = tuple(map(_from_python, call.row.arguments, arguments))
    result = call.function(
        kernel,
        environment,
        context,
        *[
            value if check is None else check(kernel, environment, value)
            for check, value in zip(call.checks, arguments, strict=True)
        ],
    )
    if result is not NO_ANSWER:
        context.answer = result


def _word(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= WORD:
        raise Refusal(Error.BAD_ARGUMENT)
    # An IntFlag is an int whose complement has only the flags it knows: no mask for a page-table entry.
    return int(value)


def _from_python(argument: Argument, value: Any) -> Any:
    if argument.kind is Kind.OBJECT:
        return value
    if argument.kind in (Kind.BYTES, Kind.BUFFER):
        if not isinstance(value, bytes) or len(value) > TEXT_MAXIMUM:
            raise Refusal(Error.BAD_ARGUMENT)
        return value
    return _word(value)


@serves("batch")
def batch(kernel: Kernel, caller: Environment, context: Context, calls: int, count: int) -> int:
    """Make calls out of an array; one that is refused, or whose bytes are not there, does not stop the rest."""
    if count > BATCH_MAXIMUM:
        raise Refusal(Error.BAD_ARGUMENT)
    size = 8 * BATCH_WORDS * count
    array = memoryview(kernel.spaces.read(caller, calls, size)).cast("Q")
    kernel.spaces.write(caller, calls, array.cast("B"))
    for index in range(count):
        words = array[BATCH_WORDS * index : BATCH_WORDS * (index + 1)]
        call = CALLS.get(words[0])
        try:
            if call is None or call.row.name in NOT_IN_A_BATCH or call.buffer is not None:
                raise Refusal(Error.NO_SUCH_CALL)
            result = call.function(kernel, caller, context, *_from_words(kernel, caller, call, list(words[1:7])))
        except Refusal as refusal:
            result = -refusal.error
        except AccessFault:
            result = -int(Error.BAD_ARGUMENT)
        if caller.state is not State.ALIVE:
            return 0
        try:
            at = calls + 8 * (BATCH_WORDS * index + 7)
            kernel.spaces.write(caller, at, (result & WORD).to_bytes(8, "little"))
        except AccessFault:
            return index
    return count


def read_time_stamp(kernel: Kernel, environment: Environment, machine: MachineContext) -> bool:
    """`rdtsc` and `rdtscp` read the virtual clock; gives False if the instruction is another."""
    words = machine.words
    try:
        code = kernel.spaces.read(environment, words[Register.RIP], 2)
        if code != b"\x0f\x31":
            code = kernel.spaces.read(environment, words[Register.RIP], 3)
    except AccessFault:
        return False
    if code not in (b"\x0f\x31", b"\x0f\x01\xf9"):
        return False
    kernel.charge(environment, KERNEL_CROSSING)
    now = kernel.clock.now
    words[Register.RAX], words[Register.RDX] = now & 0xFFFF_FFFF, now >> 32 & 0xFFFF_FFFF
    if len(code) == 3:
        words[Register.RCX] = 0
    words[Register.RIP] += len(code)
    return True


def complete() -> bool:
    """Whether every row of the table has a function."""
    return CALLS.keys() == TABLE.keys()
