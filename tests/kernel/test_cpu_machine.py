"""Random stateful attacks on everything about the processor, with what has to hold in between.

Several guests, each with several contexts, make random down-calls of the groups cpu and environments: a small interpreter
in machine code goes through a table of calls with random arguments, each context from another row on, and so do its
handlers; coroutines and a library in Python do the same to and with them.  Answers are stored into the arguments of other
rows, so that what one has made is used, shared and ended by others.  `consistent` looks at the kernel's own books between
any two turns of a processor.
"""

import random
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from exokernel.abi.downcalls import BY_NAME
from exokernel.abi.errors import Refused
from exokernel.abi.flags import ANY, FOREVER, Begin, Event, Sharing
from exokernel.abi.layout import MAXIMUM_CONTEXTS, OWN_PAGE, PREDICATE_TERMS, SLICES
from exokernel.abi.traps import DownCallTrap, trap
from exokernel.abi.upcalls import Upcall
from exokernel.kernel.environment import ContextState, State
from exokernel.machine.clock import NEVER
from exokernel.policy.deadline import Deadline
from exokernel.policy.processor import CPU_POLICIES
from tests.kernel.audit import audit
from tests.machine_kit import CODE, DATA, READ_WRITE, STACK_TOP, Machine, assemble, examples, exo, machine

TABLE = 0xB0_0000
SHARED = 0xA0_0000
ROWS = 64
ROW = 64
MOST_LEFT = 32
"""Deadlines in the heap that nobody waits for any more, beside as many as there are waits."""

INTERPRETER = """
mov rbp, {TABLE}
next:
and r12, 0xfc0
lea rbx, [rbp + r12]
add r12, 64
mov rcx, {SHARED}
inc qword ptr [rcx + 8]
add qword ptr [rcx + 16], r12
mov rax, qword ptr [rbx]
mov rdi, qword ptr [rbx + 8]
mov rsi, qword ptr [rbx + 16]
mov rdx, qword ptr [rbx + 24]
mov r10, qword ptr [rbx + 32]
mov r8, qword ptr [rbx + 40]
mov r9, qword ptr [rbx + 48]
syscall
mov rcx, qword ptr [rbx + 56]
test rcx, rcx
jz next
test rax, rax
js next
mov qword ptr [rcx], rax
jmp next
begin:
mov r12, rdi
mov rbp, {TABLE}
jmp next
resumed:
mov r12, rdx
imul r12, r12, 448
mov rbp, {TABLE}
jmp next
fault:
lea rdi, [rip + next]
mov qword ptr [rsp + 16], rdi
mov rdi, {OWN_PAGE}
mov qword ptr [rdi + 8], 0
pop rsi
pop rdi
iretq
trapped:
lea rdi, [rip + next]
mov qword ptr [rsp + 24], rdi
asked3:
pop rdx
asked2:
pop rsi
asked1:
pop rdi
push rax
mov rax, {OWN_PAGE}
mov qword ptr [rax + 8], 0
mov qword ptr [rax + 32], 0
mov qword ptr [rax + 56], 0
pop rax
iretq
release:
mov rax, {OWN_PAGE}
mov qword ptr [rax + 8], 0
xor edi, edi
mov eax, {yield}
syscall
hlt
"""
MARKS = ("begin", "resumed", "fault", "trapped", "asked3", "asked1", "release", "next")


def program() -> tuple[bytes, dict[str, int]]:
    """The interpreter's code and where its entries are."""
    table = "\n".join(f"jmp {mark}" for mark in MARKS)
    names = {"yield": BY_NAME["yield"].number, "TABLE": TABLE, "SHARED": SHARED, "OWN_PAGE": OWN_PAGE}
    code = assemble(INTERPRETER + table, **names)
    starts: dict[str, int] = {}
    place = len(assemble(INTERPRETER, **names))
    for mark in MARKS:
        size = 2 if code[place] == 0xEB else 5
        offset = int.from_bytes(code[place + 1 : place + size], "little", signed=True)
        starts[mark] = CODE + place + size + offset
        place += size
    return code, starts


# What has to hold between any two turns.


def _contexts_hold(kernel: Any, environment: Any) -> None:
    ready = environment.ready
    assert len(set(map(id, ready))) == len(ready), "a context is ready twice"
    assert len(environment.contexts) <= MAXIMUM_CONTEXTS
    living = set(map(id, environment.contexts.values()))
    for context in ready:
        assert id(context) in living, "a context that has ended is ready"
    for number, context in environment.contexts.items():
        assert context.number == number
        assert (context in ready) == (context.state is ContextState.READY)
        assert (context.state is ContextState.BLOCKED) == (context.wait is not None), (context.state, context.wait)
        if context.processor is not None:
            assert context.state is ContextState.READY
            assert context.processor.environment is environment, "it has a processor that runs another"
        if context.state is ContextState.SERVING:
            assert context.serving is not None
            assert context.caller is None
    for processor in kernel.processors:
        assert sum(context.processor is processor for context in ready) <= 1, "one processor runs two contexts"
    terms = sum(
        context.wait.predicate.terms
        for context in environment.contexts.values()
        if context.wait is not None and context.wait.predicate is not None
    )
    assert environment.watching == terms <= PREDICATE_TERMS
    assert min(environment.debt, environment.owed, environment.overruns) >= 0


def _calls_hold(kernel: Any) -> None:
    answers: dict[int, int] = {}
    for environment in kernel.environments.values():
        for context in environment.contexts.values():
            if context.caller is not None:
                caller, waiting, wait = context.caller
                if caller.state is State.ALIVE and waiting.wait is wait:
                    assert caller.contexts.get(waiting.number) is waiting
                    answers[id(wait)] = answers.get(id(wait), 0) + 1
    for environment in kernel.environments.values():
        for context in environment.contexts.values():
            if context.wait is not None and context.wait.event is Event.REPLY:
                assert answers.pop(id(context.wait), 0) == 1, "nobody, or more than one, will answer a call"
    assert not answers


def _limits_hold(kernel: Any) -> None:
    owners: list[Any] = [owner for processor in kernel.processors for owner in processor.slices if owner is not None]
    assert kernel._owned == len(owners)
    everybody = list(kernel.environments.values())
    assert all(kernel.environments.get(owner.number) is owner for owner in owners), "a slice of somebody who is no more"
    for environment in everybody:
        below = [other for other in everybody if environment in other.lineage]
        assert environment.limits.environments_used == len(below)
        family = (environment, *below)
        assert environment.limits.slices_used == sum(owner in family for owner in owners)


def _processors_hold(kernel: Any) -> None:
    for processor in kernel.processors:
        assert (processor.environment is None) == (processor.owner is None)
        if processor.environment is not None and processor.environment.state is State.ALIVE:
            assert processor.due == NEVER or processor.asked is not None
            if processor.due != NEVER:
                contexts = processor.environment.contexts.values()
                other = any(processor.asked in one.contexts.values() for one in kernel.environments.values())
                assert processor.asked in contexts or not other, "one is asked for the processor that another has"


def _nobody_is_forgotten(kernel: Any) -> None:
    policy = kernel.cpu_policy
    waiting = set(policy._waiting)
    if isinstance(policy, Deadline):
        waiting |= {number for number in kernel.environments if policy._is_queued(number)}
    assert all(number in kernel.environments for number in waiting), "one that has ended is queued"
    for environment in kernel.environments.values():
        if environment.state is not State.ALIVE or environment.number in waiting:
            continue
        running = [one for one in kernel.processors if one.environment is environment]
        about_to = sum(not any(context.processor is one for context in environment.ready) for one in running)
        free = sum(context.processor is None for context in environment.ready)
        assert free <= about_to, "one that is ready is not queued"
        if not running and not any(one.owner is environment for one in kernel.processors):
            assert not environment.watching, "one that waits for a predicate is not queued"
            assert kernel.upcalls.deliverable(environment) is None, "one that has an up-call is not queued"


def _requests_hold(kernel: Any) -> None:
    asked = {id(one.asked) for one in kernel.processors if one.asked is not None}
    for environment in kernel.environments.values():
        living = set(map(id, environment.contexts.values()))
        for pending in environment.pending:
            if pending.context is not None:
                assert id(pending.context) in living | asked, "a request for a context that is no more"
            if pending.upcall is Upcall.PLEASE_RELEASE_CPU:
                assert id(pending.context) in asked, "a request for a processor that nobody wants back"
    waits = sum(context.wait is not None for one in kernel.environments.values() for context in one.contexts.values())
    kept = sum(1 for _ in kernel.clock.waiting())
    assert kept <= 4 * (waits + MOST_LEFT + len(kernel.environments)), "deadlines of waits that are over pile up"


def consistent(kernel: Any) -> None:
    """Raises AssertionError naming the first rule about processors, contexts, calls and limits that is broken."""
    for environment in kernel.environments.values():
        _contexts_hold(kernel, environment)
    _calls_hold(kernel)
    _limits_hold(kernel)
    _processors_hold(kernel)
    _nobody_is_forgotten(kernel)
    _requests_hold(kernel)


def watched(made: Machine, every: int, audited: int) -> list[int]:
    """Look at the books at every so many turns, and at all of memory more rarely.  Gives a list of one: how often."""
    kernel, turns, looked = made.kernel, [0], [0]
    original: Callable[[], Any] = kernel._next_processor

    def between() -> Any:
        turns[0] += 1
        if not turns[0] % every:
            consistent(kernel)
            looked[0] += 1
        if not turns[0] % audited:
            audit(kernel, own_pages=False)
        return original()

    kernel._next_processor = between  # type: ignore[method-assign]
    return looked


# The attackers.

WEIGHTS = {
    "call": 12,
    "send": 5,
    "reply": 8,
    "serve": 8,
    "yield": 6,
    "block": 6,
    "block_until": 6,
    "wake": 3,
    "create_context": 8,
    "end_context": 4,
    "keep": 4,
    "resume": 6,
    "set_register": 3,
    "get_registers": 2,
    "alloc_slice": 3,
    "free_slice": 2,
    "set_limits": 1,
    "set_upcall": 2,
    "set_tickets": 1,
    "reserve_cpu": 1,
    "create_environment": 1,
    "destroy": 1,
    "alloc_page": 2,
    "dealloc_page": 1,
    "create_mapping": 3,
    "remove_mapping": 2,
    "give_capability": 1,
    "charge": 1,
    "exit": 0,
    "null": 1,
}
NAMES, HOW_OFTEN = list(WEIGHTS), list(WEIGHTS.values())


class Chance:
    """Random arguments; `others` are the numbers of the environments that there are at first."""

    def __init__(self, seed: int, others: list[int], marks: dict[str, int], frames: list[int]) -> None:
        self.random = random.Random(seed)
        self.others, self.marks, self.frames = others, marks, frames

    def environment(self) -> int:
        return self.random.choice([0, *self.others, *self.others])

    def address(self) -> int:
        return self.random.choice([TABLE, SHARED, DATA, OWN_PAGE, SHARED + 0x1000])

    def deadline(self, now: int) -> int:
        soon = now + self.random.randrange(200, 9_000)
        return self.random.choice([FOREVER, soon, soon, soon, 0, 1 << 61])

    def arguments(self, name: str, now: int) -> tuple[int, ...]:
        pick, number = self.random.choice, self.random.randrange
        someone, context, mark = self.environment(), number(6), self.marks
        return {
            "call": (someone, self.deadline(now), number(9), 1, 2, 3),
            "send": (someone, number(9), 1, 2, 3),
            "reply": (number(9), 1, 2, 3),
            "serve": (),
            "yield": (someone,),
            "block": (number(6), pick([0, 1, 2, someone]), self.deadline(now)),
            "block_until": (TABLE + number(63) * ROW, number(1, 4), self.deadline(now)),
            "wake": (someone,),
            "create_context": (
                mark["begin"],
                DATA + 0x400 + 0x100 * context,
                ROW * number(ROWS),
                number(2),
                pick([0, 0, someone]),
            ),
            "end_context": (pick([ANY, context, context]),),
            "keep": (context,),
            "resume": (context,),
            "set_register": (context, pick([0, 4, 5, 7, 13, 17]), number(1 << 20), pick([0, 0, someone])),
            "get_registers": (context, DATA + 0x800, pick([0, 0, someone])),
            "alloc_slice": (number(5), pick([ANY, number(SLICES)]), pick([0, someone])),
            "free_slice": (number(5), number(SLICES), pick([0, someone])),
            "set_limits": (someone, number(9), number(20)),
            "set_upcall": self._upcall(pick([0, 0, someone])),
            "set_tickets": (someone, number(1, 300)),
            "reserve_cpu": (someone, number(2000), number(1, 20_000)),
            "create_environment": (number(8, 20),),
            "destroy": (pick([1, 2, 3, pick([0, someone, 7])]),),
            "alloc_page": (ANY, 0),
            "dealloc_page": (pick(self.frames), 0),
            "create_mapping": (pick([SHARED, SHARED, self.address() & ~0xFFF]), pick(self.frames), pick([1, 3, 3, 5]), 0),
            "remove_mapping": (pick([SHARED, SHARED + 0x1000]), 0),
            "give_capability": (someone, 0, 15, number(1, 4)),
            "charge": (number(4000),),
            "exit": (number(256),),
            "null": (),
        }[name]

    def _upcall(self, env: int) -> tuple[int, ...]:
        entries = [
            (Upcall.PAGE_FAULT, "fault"),
            (Upcall.PLEASE_RELEASE_CPU, "release"),
            (Upcall.PLEASE_RELEASE_CPU, "asked1"),
            (Upcall.RESUME_CPU, "resumed"),
            (Upcall.EVENT, "asked3"),
            (Upcall.TRAP, "trapped"),
            (Upcall.CALL, "next"),
        ]
        upcall, mark = self.random.choice(entries)
        return int(upcall), self.random.choice([self.marks[mark]] * 5 + [0]), env

    def call(self, now: int = 0) -> tuple[int, tuple[int, ...]]:
        name = self.random.choices(NAMES, HOW_OFTEN)[0]
        return BY_NAME[name].number, self.arguments(name, now)

    def table(self) -> bytes:
        """Rows of number, six arguments, and where to store the answer; a few are terms of predicates as well."""
        rows = []
        for index in range(ROWS):
            number, values = self.call(self.random.randrange(200_000))
            store = 0
            if self.random.random() < 0.3:
                store = TABLE + self.random.randrange(ROWS) * ROW + 8 * self.random.randrange(1, 7)
            if self.random.random() < 0.06:
                # tag, va, compare, value: twice, where another row may point to
                term = (index, SHARED + 8 * self.random.randrange(4), self.random.randrange(6), self.random.randrange(99))
                rows.append(struct.pack("<8Q", *term, *term))
                continue
            filled = [value & (1 << 64) - 1 for value in (*values, 0, 0, 0, 0, 0, 0)][:6]
            rows.append(struct.pack("<8Q", number, *filled, store))
        return b"".join(rows)


class Library:
    """A library OS in Python that handles everything, and makes random calls while it does."""

    def __init__(self, chance: Chance, made: Machine) -> None:
        self.chance, self.made = chance, made

    async def some(self, most: int) -> None:
        for _ in range(self.chance.random.randrange(most)):
            number, arguments = self.chance.call(self.made.kernel.clock.now)
            with suppress(Refused):
                await trap(DownCallTrap(number, arguments))

    async def call(self, context: int, *words: int) -> None:
        await self.some(3)
        if self.chance.random.random() < 0.8:
            with suppress(Refused):
                await exo.reply(*words[1:5])
        await self.some(2)

    async def please_release_cpu(self, context: int, deadline: int) -> None:
        await self.some(2)
        if self.chance.random.random() < 0.7:
            await exo.yield_()

    async def event(self, context: int, *words: int) -> None:
        await self.some(3)

    async def trap(self, context: int, *words: int) -> None:
        with suppress(Refused):
            await exo.set_register(context, 16, self.chance.marks["next"])

    async def page_fault(self, context: int, va: int, access: int) -> None:
        with suppress(Refused):
            await exo.set_register(context, 16, self.chance.marks["next"])
        with suppress(Refused):
            await exo.create_mapping(va & ~0xFFF, await exo.alloc_page(), READ_WRITE)


def attacked(seed: int, cycles: int = 120_000) -> int:
    """One machine, chosen and attacked by `seed`; gives how often the books were looked at."""
    chance = random.Random(seed)
    code, marks = program()
    cpus = chance.randrange(1, 5)
    options: dict[str, Any] = {
        "cpus": cpus,
        "window": chance.choice((20, 100, 1_000)),
        "quantum": chance.choice((700, 2_000, 9_000)),
        "cpu_release_deadline": chance.choice((100, 600)),
        "overruns_allowed": chance.choice((3, 1000)),
        "cpu_policy": chance.choice(["round-robin", *CPU_POLICIES]),
    }
    with machine(frames=640, sectors=64, **options) as made:
        looked = watched(made, 1, chance.choice((40, 150)))
        done: list[bool] = []

        async def native(number: int, arguments: Chance, shared: int) -> None:
            await exo.set_limits(number, chance.randrange(4), chance.randrange(12))
            await exo.share_page(shared, number, Sharing.LOAN, READ_WRITE)
            await exo.create_mapping(SHARED, shared, READ_WRITE, number)
            await made.guest("", code=code, environment=number, start=False)
            await made.give(number, TABLE, READ_WRITE, arguments.table())
            for page in range(6):
                await made.give(number, 0xC0_0000 + 0x1000 * page)
                await exo.set_upcall_stack(0xC0_0000 + 0x1000 * page, 0x1000, number, page)
            entries = {"fault": 0, "trapped": 6, "next": 7}
            for mark, upcall in (*entries.items(), ("release", 2), ("resumed", 3), ("asked3", 5)):
                if upcall not in (2, 3, 5) or chance.random() < 0.4:
                    await exo.set_upcall(upcall, marks[mark], number)

        async def wild(arguments: Chance, seconds: int) -> None:
            while made.kernel.clock.now < seconds:
                number, values = arguments.call(made.kernel.clock.now)
                with suppress(Refused):
                    await trap(DownCallTrap(number, values))

        async def init() -> None:
            shared, me = await exo.alloc_page(), made.kernel.first_environment
            numbers = [await exo.create_environment(60) for _ in range(chance.randrange(3, 7))]
            frames = [shared, *range(300, 310)]
            prepared = []
            for number in numbers:
                prepared.append((number, Chance(chance.randrange(1 << 30), numbers, marks, frames)))
                await native(*prepared[-1], shared)
            for number, arguments in prepared:
                kind = chance.random()
                if number not in made.kernel.environments:
                    continue
                for other in numbers:
                    if chance.random() < 0.2 and other != number:
                        made.environment(number).ring[5] = made.environment(other).ring[0]
                if kind < 0.3:
                    await exo.set_library(number, Library(arguments, made))
                if 0.2 < kind < 0.4:
                    await exo.start_coroutine(number, wild(arguments, cycles))
                else:
                    await exo.start(number, CODE, STACK_TOP, 0)
                for _ in range(chance.randrange(4)):
                    with suppress(Refused):
                        begin = chance.choice(list(Begin))
                        row = ROW * chance.randrange(ROWS)
                        await exo.create_context(marks["begin"], DATA + 0x800, row, begin, number)
            while await exo.time() < cycles:
                await exo.block(Event.TIME, 0, await exo.time() + 8_000)
                for number in numbers:
                    with suppress(Refused):
                        await exo.wake(number)
                    with suppress(Refused):
                        row = ROW * chance.randrange(ROWS)
                        await exo.create_context(marks["begin"], DATA + 0x800, row, Begin.READY, number)
            while len(made.kernel.environments) > 1:
                with suppress(Refused):
                    await exo.destroy(next(number for number in made.kernel.environments if number != me))
            consistent(made.kernel)
            audit(made.kernel)
            done.append(True)

        made.run(init, 100 * cycles)
        assert done, [str(death) for death in made.kernel.deaths]
        assert not made.kernel.python_errors
        assert len(made.kernel.frames.free) == made.free_at_start
        return looked[0]


@given(st.integers(0, 1 << 32))
@examples(25)
def test_the_books_are_right_whatever_is_done_with_the_processor(seed: int) -> None:
    attacked(seed)
