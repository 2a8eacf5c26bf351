"""Attacks through and on protected control transfer: a call ends, with the reply or an error, and tells no more."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import Event
from exokernel.abi.layout import MAXIMUM_CONTEXTS
from exokernel.kernel.death import Cause
from exokernel.kernel.environment import ContextState
from exokernel.kernel.kernel import Outcome
from tests.machine_kit import STACK_TOP, Guest, Machine, error_of, exo, machine

LIMIT = 60_000_000
SERVE = "exo set_upcall, {Upcall_CALL}, &entry, 0\n exo serve\n note rax\n exit 99\n entry: "
ANSWER = "add rsi, 1000\n exo reply, rsi, rdx, rcx, r8"
CALL = "exo call, {server}, {FOREVER}, 1, 2, 3, 4\n note rax\n note rdx\n"
SECRETS = [0x5EC0_0000 + index for index in range(11)]
DIRECTION = 0x400
HELD = ("rbx", "rcx", "rsi", "rdi", "rbp", "r11", "r12", "r13", "r14")
"""Registers that a call leaves as they are in the caller."""
SEEN = ("rax", "rbx", "rbp", "r10", "r11", "r12", "r13", "r14")
"""Registers that are the server's own at its entry."""


class Pair:
    """A server, and clients that know it as {server}; `statuses` and `notes` are what became of them, in their order."""

    def __init__(self, **options: Any) -> None:
        self.options = {"quantum": 10_000, **options}
        self.statuses: list[int] = []
        self.notes: list[list[int]] = []

    def run(
        self,
        server: str,
        *clients: str,
        then: Callable[[Machine, Guest, list[Guest]], Awaitable[Any]] | None = None,
        names: dict[str, Any] | None = None,
    ) -> "Pair":
        """Start the server, wait until it can do nothing more, start the clients and wait for their end."""
        with machine(**self.options) as made:
            self.guests: list[Guest] = []

            async def init() -> None:
                first = await made.guest(server, **(names or {}))
                contexts = made.environment(first.number).contexts
                while any(context.state is ContextState.READY for context in contexts.values()):
                    await exo.yield_(first.number)
                    if "spin" in server:
                        break
                numbers = [await exo.create_environment() for _ in clients]
                everybody: dict[str, Any] = {
                    "server": first.number,
                    **{f"client{n}": number for n, number in enumerate(numbers)},
                }
                guests = [
                    await made.guest(source, environment=number, **everybody)
                    for number, source in zip(numbers, clients, strict=True)
                ]
                self.guests = [first, *guests]
                if then is not None:
                    await then(made, first, guests)
                self.statuses = [await made.end_of(guest) for guest in guests]
                with suppress(Refused):
                    await exo.destroy(first.number)

            assert made.run(init, LIMIT) is Outcome.ALL_ENDED, made.kernel.environments
            self.notes = [made.notes(guest, 64) for guest in self.guests]
            self.deaths = {death.environment: death.cause for death in made.kernel.deaths}
            self.accounts = [made.environment(guest.number).accounts for guest in self.guests]
        return self


def errors(words: list[int], count: int) -> list[Error | None]:
    return [error_of(word) for word in words[:count]]


# What arrives, and what does not.


def fill(registers: tuple[str, ...], values: list[int]) -> str:
    return "".join(f"mov {register}, {value}\n" for register, value in zip(registers, values, strict=False))


def test_words_and_the_caller_s_number_arrive_and_come_back() -> None:
    entry = SERVE + "".join(f"note {name}\n" for name in ("rdi", "rsi", "rdx", "rcx", "r8", "r9")) + ANSWER
    client = "exo call, {server}, {FOREVER}, {client1}, 22, 33, 44\n" + "".join(
        f"note {name}\n" for name in ("rax", "rdx", "r10", "r8", "r9")
    )
    pair = Pair().run(entry, client + "exit 5", "exit 6")
    forged = pair.guests[2].number
    assert pair.notes[0][:6] == [pair.guests[1].number, forged, 22, 33, 44, 1]
    assert pair.notes[1][:5] == [0, forged + 1000, 22, 33, 44]
    assert pair.statuses == [5, 6]


def test_nothing_else_of_the_caller_arrives_and_nothing_else_of_the_server_comes_back() -> None:
    own = fill(SEEN[1:], [0xAA0 + index for index in range(7)])
    vectors = "".join(f"movq r14, xmm{n}\n note r14\n" for n in range(16))
    look = "".join(f"note {name}\n" for name in SEEN) + "pushfq\n pop rax\n note rax\n note rsp\n" + vectors
    spoil = fill(("rax", *HELD, "rdx"), [0xBAD] * 11) + "movq xmm0, rax\n movq xmm9, rax\n std\n mov esi, 7\n"
    server = own + SERVE + look + spoil + "xor edx, edx\n xor r10d, r10d\n exo reply, rsi, 0, 0, 0"
    secret = "".join(f"mov r14, {SECRETS[10]}\n movq xmm{n}, r14\n" for n in range(16)) + fill(HELD, SECRETS)
    held = [name for name in HELD if name not in ("rsi", "rdi")]
    after = "".join(f"note {name}\n" for name in ("rax", "rdx", "r10", "r8", "r9", *held)) + "pushfq\n pop rax\n note rax\n"
    client = secret + "std\n exo call, {server}, {FOREVER}, 1, 0, 0, 0\n" + after + vectors
    client += "cld\n exo call, {server}, {FOREVER}, 1, 0, 0, 0\n pushfq\n pop rax\n note rax\n exit 0"
    pair = Pair().run(server, client)
    seen, came = pair.notes
    # rax is the number of `serve`, r14 and the rest as the server left them.
    assert seen[1:8] == [0xAA0 + index for index in range(7)]
    assert seen[8] & DIRECTION == 0, "flags of the caller"
    assert not set(seen[:26]) & set(SECRETS)
    assert came[:5] == [0, 7, 0, 0, 0]
    assert came[5:12] == [SECRETS[HELD.index(name)] for name in held]
    assert came[12] & DIRECTION, "the caller's own flags"
    assert came[13:29] == [SECRETS[10]] * 16
    assert came[29] & DIRECTION == 0, "flags of the server"


def test_each_call_begins_with_the_stack_pointer_of_serve() -> None:
    pair = Pair().run(
        "lea rsp, [rsp - 80]\n" + SERVE + "note rsp\n sub rsp, 64\n push rax\n" + ANSWER, CALL + CALL + "exit 0"
    )
    assert pair.notes[0][:2] == [STACK_TOP - 80] * 2


def test_a_send_says_that_nobody_waits_and_nothing_comes_back() -> None:
    server = SERVE + "note rdi\n note rsi\n note r9\n" + ANSWER
    pair = Pair().run(server, "mov r10, 5\n exo send, {server}, 8, 0, 0, 0\n note rax\n note rdx\n exit 0")
    assert pair.notes[0][:3] == [pair.guests[1].number, 8, 0]
    assert pair.notes[1][:2] == [0, 0]


# Callees that do not answer.


@pytest.mark.parametrize(
    ("server", "error"),
    [
        ("exit 0", Error.NO_SUCH_ENVIRONMENT),
        ("exo block, {Event_TIME}, 0, {FOREVER}", Error.NOT_SERVING),
        ("exo set_upcall, {Upcall_CALL}, &entry, 0\n entry: exo block, {Event_TIME}, 0, {FOREVER}", Error.NOT_SERVING),
        (SERVE.replace("exo serve", "exo set_upcall, {Upcall_CALL}, 0, 0\n exo serve") + ANSWER, Error.NOT_SERVING),
        (SERVE + "mov rax, 16\n mov rax, [rax]", Error.CALLEE_ENDED),
        (SERVE + "exit 3", Error.CALLEE_ENDED),
        (SERVE + "exo end_context, {ANY}", Error.CALLEE_ENDED),
        (SERVE + "hlt", Error.CALLEE_ENDED),
        (SERVE.replace("&entry", "0x12345000") + ANSWER, Error.CALLEE_ENDED),
        (SERVE + "exo destroy, {me}", None),
    ],
)
def test_a_callee_that_is_dead_or_unwilling_is_an_error(server: str, error: Error | None) -> None:
    pair = Pair().run(server, CALL.replace("{FOREVER}", "40000000") + "exit 7")
    assert pair.statuses == [7]
    assert errors(pair.notes[1], 1)[0] in (error, *([Error.TIMED_OUT, Error.CALLEE_ENDED] if error is None else []))


@pytest.mark.parametrize(
    "body", ["spin: jmp spin", "exo block, {Event_TIME}, 0, {FOREVER}", "again: exo yield, 0\n jmp again"]
)
def test_a_busy_callee_refuses_others_and_a_deadline_ends_the_wait(body: str) -> None:
    first = "exo time\n lea rsi, [rax + 300000]\n mov edi, {server}\n mov eax, {call}\n syscall\n note rax\n exit 0"
    second = "exo block, {Event_TIME}, 0, 200000\n" + CALL + "exo send, {server}, 1, 2, 3, 4\n note rax\n exit 0"
    pair = Pair().run(SERVE + body, first, second)
    assert errors(pair.notes[1], 1) == [Error.TIMED_OUT]
    assert errors(pair.notes[2], 1) == errors(pair.notes[2][2:], 1) == [Error.BUSY]


def test_a_reply_that_comes_too_late_changes_nothing() -> None:
    server = SERVE + "mov r12, rsi\n exo block, {Event_TIME}, 0, r12\n mov rsi, 0xbad\n exo reply, rsi, rsi, rsi, rsi"
    client = (
        "exo time\n lea rsi, [rax + 50000]\n lea rdx, [rax + 150000]\n mov edi, {server}\n mov eax, {call}\n syscall\n"
        "note rax\n mov edx, 5\n mov r10, 6\n exo block, {Event_TIME}, 0, 1000000\n note rax\n note r10\n"
        "exo call, {server}, {FOREVER}, 1, 2, 3, 4\n note rax\n note rdx\n exit 0"
    )
    pair = Pair().run(server, client)
    assert errors(pair.notes[1], 1) == [Error.TIMED_OUT]
    assert pair.notes[1][1:5] == [0, 6, 0, 0xBAD]


@pytest.mark.parametrize("deadline", ["0", "1"])
def test_a_deadline_that_has_passed_is_an_error_and_nothing_arrives(deadline: str) -> None:
    pair = Pair().run(SERVE + "note rdi\n" + ANSWER, CALL.replace("{FOREVER}", deadline) + "exit 0")
    assert errors(pair.notes[1], 1) == [Error.TIMED_OUT]
    assert pair.notes[0][0] == 0


def test_the_call_of_an_environment_that_has_not_begun_is_refused() -> None:
    with machine() as made:
        library = Library()

        async def init() -> None:
            unborn = await exo.create_environment()
            client = await made.guest(CALL + "exit 0", server=unborn)
            await made.end_of(client)
            assert errors(made.notes(client, 1), 1) == [Error.NOT_SERVING]
            await exo.set_library(unborn, library)
            client = await made.guest(CALL + "exit 0", server=unborn)
            await made.end_of(client)
            assert errors(made.notes(client, 1), 1) == [Error.NOT_SERVING]
            assert not library.callers
            await exo.destroy(unborn)

        assert made.run(init, LIMIT) is Outcome.ALL_ENDED


# Ends in between.


def test_a_caller_that_is_killed_while_it_waits_leaves_a_server_that_goes_on() -> None:
    server = SERVE + "mov r12, rsi\n exo block, {Event_TIME}, 0, 300000\n exo reply, r12, 0, 0, 0"
    waiting = CALL + "exit 0"

    async def destroy(made: Machine, first: Guest, clients: list[Guest]) -> None:
        await exo.block(Event.TIME, 0, 100_000)
        assert next(iter(made.environment(clients[0].number).contexts.values())).wait is not None
        await exo.destroy(clients[0].number)

    later = "exo block, {Event_TIME}, 0, 400000\n" + CALL + "exit 0"
    pair = Pair().run(server, waiting, later, then=destroy)
    assert pair.deaths[pair.guests[1].number] is Cause.DESTROYED
    assert pair.notes[1][0] == 0
    assert pair.notes[2][:2] == [0, 1]


def test_a_callee_that_is_killed_while_it_serves_ends_the_call() -> None:
    async def destroy(made: Machine, first: Guest, clients: list[Guest]) -> None:
        await exo.block(Event.TIME, 0, 200_000)
        await exo.destroy(first.number)

    pair = Pair().run(SERVE + "spin: jmp spin", CALL + CALL + "exit 0", then=destroy)
    assert errors(pair.notes[1], 3)[::2] == [Error.CALLEE_ENDED, Error.NO_SUCH_ENVIRONMENT]


def test_the_end_of_a_chain_comes_back_through_it() -> None:
    middle = "mov r13, {last}\n" + SERVE + "exo call, r13, {FOREVER}, 1, 2, 3, 4\n exo reply, rax, rdx, 0, 0"
    with machine(quantum=10_000) as made:

        async def init() -> None:
            last = await made.guest(SERVE + "exit 3")
            await exo.yield_(last.number)
            between = await made.guest(middle, last=last.number)
            await exo.yield_(between.number)
            client = await made.guest(CALL + "exit 0", server=between.number)
            await made.end_of(client)
            words = made.notes(client, 2)
            assert words[0] == 0
            assert error_of(words[1]) is Error.CALLEE_ENDED
            await exo.destroy(between.number)

        assert made.run(init, LIMIT) is Outcome.ALL_ENDED


# Replies and calls that make no sense.


def test_a_reply_without_a_call_is_refused() -> None:
    source = "exo reply, 1, 2, 3, 4\n note rax\n" + SERVE + "exo serve\n note rax\n exo reply, 7, 0, 0, 0"
    pair = Pair().run(source, CALL + CALL + "exo reply, 1, 1, 1, 1\n note rax\n exit 0")
    assert errors(pair.notes[0], 3) == [Error.BAD_STATE, Error.BAD_STATE, Error.BAD_STATE]
    assert pair.notes[1][:4] == [0, 7, 0, 7]
    assert errors(pair.notes[1][4:], 1) == [Error.BAD_STATE]


def test_another_context_of_the_server_cannot_reply_for_it() -> None:
    server = (
        "exo create_context, &other, {UPCALL_STACK} + 4096, 0, 1, 0\n" + SERVE + "mov r12, rsi\n"
        "exo block, {Event_TIME}, 0, 400000\n exo reply, r12, 0, 0, 0\n"
        "other: exo block, {Event_TIME}, 0, 200000\n exo reply, 0xbad, 0, 0, 0\n mov [{DATA}], rax\n"
        "exo block, {Event_TIME}, 0, {FOREVER}"
    ).replace("mov [{DATA}], rax", "mov r15, {NOTES}\n note rax")
    pair = Pair().run(server, CALL + "exit 0")
    assert errors(pair.notes[0], 1) == [Error.BAD_STATE]
    assert pair.notes[1][:2] == [0, 1]


def test_nobody_calls_oneself() -> None:
    client = (
        "exo set_upcall, {Upcall_CALL}, &entry, 0\n entry: "
        + CALL.replace("{server}", "{me}")
        + CALL.replace("{server}", "0")
    )
    pair = Pair().run("exit 0", client + "exo send, {me}, 0, 0, 0, 0\n note rax\n exit 0")
    assert errors(pair.notes[1], 5)[::2] == [Error.BAD_STATE] * 3


def test_two_that_call_each_other_get_an_error_and_no_deadlock() -> None:
    server = SERVE + "mov r12, rdi\n exo call, r12, {FOREVER}, 5, 0, 0, 0\n note rax\n exo reply, rax, 0, 0, 0"
    pair = Pair().run(server, CALL + "exit 0")
    assert errors(pair.notes[0], 1) == [Error.NOT_SERVING]
    assert error_of(pair.notes[1][1]) is Error.NOT_SERVING


def test_a_call_back_is_served_by_a_context_that_is_free() -> None:
    server = SERVE + "mov r12, rdi\n exo call, r12, {FOREVER}, 5, 0, 0, 0\n exo reply, rdx, rax, 0, 0"
    client = (
        "exo create_context, &serving, {UPCALL_STACK} + 4096, 0, 1, 0\n exo yield, 0\n" + CALL + "note r10\n exit 0\n"
        "serving: exo set_upcall, {Upcall_CALL}, &entry, 0\n exo serve\n"
        "entry: mov r13, rdi\n cmp rdi, {server}\n jne wrong\n exo reply, 77, 0, 0, 0\n wrong: exit 98"
    )
    pair = Pair().run(server, client)
    assert pair.statuses == [0]
    assert pair.notes[1][:3] == [0, 77, 0]


def test_a_ring_of_servers_that_call_on_and_on_ends_with_busy() -> None:
    body = SERVE + "exo call, {next}, {FOREVER}, rsi, 0, 0, 0\n note rax\n exo reply, rax, 0, 0, 0"
    with machine(quantum=10_000) as made:

        async def init() -> None:
            numbers = [await exo.create_environment() for _ in range(4)]
            servers = [
                await made.guest(body, environment=number, next=numbers[(index + 1) % 4])
                for index, number in enumerate(numbers)
            ]
            for number in numbers:
                await exo.yield_(number)
            client = await made.guest(CALL + "exit 0", server=numbers[0])
            await made.end_of(client)
            assert error_of(made.notes(servers[3], 1)[0]) is Error.BUSY
            assert made.notes(servers[0], 1) == [0]
            for number in numbers:
                await exo.destroy(number)

        assert made.run(init, LIMIT) is Outcome.ALL_ENDED


# Time and frames.


def test_frames_are_had_from_one_that_waits_for_a_reply() -> None:
    hold = "mov ebx, 150\n more: exo alloc_page, {ANY}, 0\n dec ebx\n jnz more\n"
    asked = "exo set_upcall, {Upcall_PLEASE_RELEASE_PAGE}, &handler, 0\n"
    client = asked + hold + CALL + "exit 0\n handler: mov rax, {ACTIVE}\n mov qword ptr [rax], 0\n"
    client += "pop rdx\n pop rsi\n pop rdi\n iretq"

    async def take(made: Machine, first: Guest, clients: list[Guest]) -> None:
        await exo.block(Event.TIME, 0, 300_000)
        assert len(made.environment(clients[0].number).held) > 150
        for frame in clients[0].frames.values():
            await exo.reserve_page(frame, 1, clients[0].number)
        frames: list[int] = []
        while len(frames) < 200:
            seen = made.kernel.environments[made.kernel.first_environment].events[Event.FRAMES]
            try:
                frames.append(await exo.alloc_page())
            except Refused:
                with suppress(Refused):
                    await exo.block(Event.FRAMES, seen, await exo.time() + 1_000_000)
        await exo.destroy(first.number)

    pair = Pair(frames=330, release_hard_limit=1_000_000).run(SERVE + "spin: jmp spin", client, then=take)
    assert errors(pair.notes[1], 1) == [Error.CALLEE_ENDED]
    assert pair.accounts[1].taken > 80


SEND_BACK = "exo send, rdi, 0, 0, 0, 0\n exo reply, 0, 0, 0, 0"
COUNTING = "count: inc qword ptr [r15]\n jmp count"


def test_the_rest_of_the_slice_goes_with_a_call_and_comes_back_with_the_reply() -> None:
    client = "mov r12d, 20\n exo time\n mov r13, rax\n again: exo call, {server}, {FOREVER}, 0, 0, 0, 0\n dec r12d\n"
    client += "jnz again\n exo time\n sub rax, r13\n note rax\n exit 0"

    async def destroy(made: Machine, first: Guest, clients: list[Guest]) -> None:
        await made.end_of(clients[0])
        await exo.destroy(clients[1].number)

    pair = Pair(quantum=100_000).run(SERVE + ANSWER, client, COUNTING, then=destroy)
    assert pair.notes[1][0] < 20_000
    assert pair.accounts[2].instructions > 0


@pytest.mark.parametrize(
    ("server", "client"),
    [
        (SERVE + "spin: jmp spin", "again: exo call, {server}, {FOREVER}, 0, 0, 0, 0\n jmp again"),
        (SERVE + ANSWER, "again: exo call, {server}, {FOREVER}, 0, 0, 0, 0\n jmp again"),
        (SERVE + ANSWER, "again: exo send, {server}, 0, 0, 0, 0\n jmp again"),
        (SERVE + "exo yield, 0\n" + ANSWER, "again: exo send, {server}, 0, 0, 0, 0\n jmp again"),
        (SERVE + SEND_BACK, SERVE.replace("exo serve", "exo send, {server}, 0, 0, 0, 0\n exo serve") + SEND_BACK),
        ("spin: exo yield, 0\n jmp spin", "again: exo send, {server}, 0, 0, 0, 0\n jmp again"),
    ],
    ids=["a callee that loops", "calls", "sends", "sends to one that yields", "sends to and fro", "sends to nobody"],
)  # fmt: skip
@pytest.mark.parametrize("cpus", [1, 2])
def test_a_flood_takes_no_time_from_others(server: str, client: str, cpus: int) -> None:
    length = 3_000_000

    async def watch(made: Machine, first: Guest, clients: list[Guest]) -> None:
        begin = await exo.time()
        await exo.block(Event.TIME, 0, begin + length)
        for guest in clients:
            with suppress(Refused):
                await exo.destroy(guest.number)

    pair = Pair(cpus=cpus).run(server, client, COUNTING, then=watch)
    assert pair.accounts[2].instructions > 0.3 * length
    assert pair.guests[2].number in pair.deaths


@pytest.mark.parametrize("cpus", [1, 2, 3, 4])
@pytest.mark.parametrize("contexts", [1, 2])
def test_every_reply_is_the_caller_s_own_on_any_number_of_processors(cpus: int, contexts: int) -> None:
    second = "exo create_context, &serving, {UPCALL_STACK} + 4096, 0, 1, 0\n"
    server = (second if contexts == 2 else "") + SERVE + (
        "mov r13, rdi\n mov r12, rsi\n and esi, 255\n wait: dec esi\n jns wait\n add r12, r13\n exo reply, r12, r13, 0, 0\n"
        "serving: exo serve"
    )  # fmt: skip
    client = (
        "mov r12d, 60\n again: mov edi, {server}\n mov rsi, {FOREVER}\n mov rdx, r12\n mov eax, {call}\n syscall\n"
        "cmp rax, 0\n jl refused\n lea r13, [r12 + {me}]\n cmp rdx, r13\n jne wrong\n cmp r10, {me}\n jne wrong\n"
        "dec r12d\n jnz again\n exit 7\n"
        "refused: cmp rax, -23\n jne wrong\n exo yield, {server}\n jmp again\n wrong: exit 8"
    )
    pair = Pair(cpus=cpus, quantum=1_500).run(server, *[client] * 4)
    assert pair.statuses == [7] * 4
    assert not {cause for cause in pair.deaths.values()} - {Cause.DESTROYED}


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_servers_and_clients_may_die_at_any_moment(cpus: int) -> None:
    server = SERVE + "and esi, 1023\n wait: dec esi\n jns wait\n exo reply, 1, 0, 0, 0"
    client = "again: inc rdx\n exo call, {server}, {FOREVER}, rdx, 0, 0, 0\n mov r12, rax\n cmp rax, 0\n jne end\n"
    client += "mov rdx, r8\n jmp again\n end: cmp rax, -23\n je again\n note rax\n exit 0"
    for moment in range(0, 20_000, 1_700):

        async def destroy(made: Machine, first: Guest, clients: list[Guest], moment: int = moment) -> None:
            await exo.block(Event.TIME, 0, await exo.time() + moment)
            await exo.destroy(clients[0].number)
            await exo.block(Event.TIME, 0, await exo.time() + moment % 2_999)
            await exo.destroy(first.number)

        pair = Pair(cpus=cpus, quantum=3_000).run(server, client, client, then=destroy)
        assert error_of(pair.notes[2][0]) in (Error.CALLEE_ENDED, Error.NO_SUCH_ENVIRONMENT)


# Servers in Python.


class Library:
    """Answers a call in the way its first word says."""

    def __init__(self) -> None:
        self.callers: list[int] = []

    async def call(self, context: int, caller: int, a: int, b: int, c: int, d: int, awaited: int) -> None:
        self.callers.append(caller)
        if a == 0:
            await Exo().reply(b + 1, c, d, awaited)
        elif a == 2:
            await Exo().exit(4)
        elif a == 3:
            await Exo().block(Event.TIME)
        elif a == 4:
            await Exo().reply(1)
            await Exo().reply(2)


@pytest.mark.parametrize(
    ("operation", "expected"),
    [(0, None), (1, Error.CALLEE_ENDED), (2, Error.CALLEE_ENDED), (3, Error.TIMED_OUT), (4, None)],
)
def test_a_server_in_python_answers_or_ends_the_call(operation: int, expected: Error | None) -> None:
    with machine(quantum=10_000) as made:

        async def nothing() -> None:
            await exo.block(Event.TIME)

        async def init() -> None:
            library, number = Library(), await exo.create_environment()
            await exo.set_library(number, library)
            await exo.start_coroutine(number, nothing())
            client = await made.guest(
                f"exo call, {{server}}, 5000000, {operation}, 5, 6, 7\n note rax\n note rdx\n exit 0", server=number
            )
            await made.end_of(client)
            word, value = made.notes(client, 2)
            assert error_of(word) is expected
            assert library.callers == [client.number]
            if operation == 0:
                assert value == 6
            with suppress(Refused):
                await exo.destroy(number)

        made.run(init, LIMIT)


def test_a_flood_of_calls_to_python_fills_its_contexts_and_is_refused() -> None:
    with machine(quantum=10_000) as made:

        async def nothing() -> None:
            await exo.block(Event.TIME)

        async def init() -> None:
            number = await exo.create_environment()
            await exo.set_library(number, Library())
            await exo.start_coroutine(number, nothing())
            client = await made.guest(
                "mov r12d, 40\n again: exo send, {server}, 3, 0, 0, 0\n note rax\n dec r12d\n jnz again\n exit 0",
                server=number,
            )
            await made.end_of(client)
            answers = errors(made.notes(client, 40), 40)
            assert answers[0] is None
            assert answers[-1] is Error.BUSY
            assert answers.count(None) == MAXIMUM_CONTEXTS // 2 - 1
            await exo.destroy(number)

        made.run(init, LIMIT)


@pytest.mark.parametrize("call", ["exo send, {server}, 1, 2, 3, 4", "exo call, {server}, {FOREVER}, 1, 2, 3, 4"])
def test_who_calls_pays_for_the_time_and_not_who_serves(call: str) -> None:
    """A server that takes its time has not lost a cycle of its share to its callers."""
    charged: dict[int, int] = {}
    pair = Pair(quantum=50_000)

    async def watch(made: Machine, server: Guest, clients: list[Guest]) -> None:
        policy, ran = made.kernel.cpu_policy, made.kernel.cpu_policy.ran

        def noted(environment: int, cycles: int, *rest: Any) -> None:
            charged[environment] = charged.get(environment, 0) + cycles
            ran(environment, cycles, *rest)

        policy.ran = noted  # type: ignore[method-assign]

    work = "mov rbx, 5000\n work: dec rbx\n jnz work\n exo reply, 0, 0, 0, 0"
    client = f"mov r12, 10\n again: {call}\n dec r12\n jnz again\n exit 5"
    pair.run(SERVE + work, client, then=watch)
    assert pair.statuses == [5]
    server, caller = (guest.number for guest in pair.guests)
    assert charged.get(server, 0) < 10_000
    assert charged[caller] > 100_000


def test_who_serves_is_not_punished_for_a_caller_that_was_asked_for_the_processor() -> None:
    """The caller answers the request by calling, every time; the server works on, and neither has overrun."""
    asked = "exo set_upcall, {Upcall_PLEASE_RELEASE_CPU}, &release, 0\n"
    handles = asked + "exo set_upcall, {Upcall_CALL}, &entry, 0\n exo serve\n entry: "
    work = "mov rbx, 20000\n work: dec rbx\n jnz work\n exo reply, 0, 0, 0, 0\n"
    release = "release: push rax\n mov rax, {ACTIVE}\n mov qword ptr [rax], 0\n"
    server = handles + work + release + "exo yield, 0\n pop rax\n pop rdi\n iretq"
    client = asked + "mov r12, 200000\n spin: dec r12\n jnz spin\n exit 5\n" + release
    client += "exo call, {server}, {FOREVER}, 1, 2, 3, 4\n inc qword ptr [r15]\n pop rax\n pop rdi\n iretq"
    pair = Pair(quantum=9_000, cpu_release_deadline=3_000, overruns_allowed=1)
    pair.run(server, client)
    assert pair.statuses == [5]
    assert pair.notes[1][0] > 10
    assert [accounts.overruns for accounts in pair.accounts] == [0, 0]


class _NeverReplies:
    """A server in Python that keeps every caller waiting, and hears of events."""

    def __init__(self) -> None:
        self.callers = self.replies = 0
        self.replies_before_events: list[int] = []

    async def call(self, context: int, caller: int, a: int, b: int, c: int, d: int, awaited: int) -> None:
        self.callers += 1
        await exo.block(Event.TIME, 0, await exo.time() + 10_000_000)
        self.replies += 1
        await exo.reply()

    async def event(self, context: int, event: int, value: int, status: int) -> None:
        self.replies_before_events.append(self.replies)


def test_callers_do_not_keep_a_servers_other_handlers_from_running() -> None:
    """However many call at a time, there is room for a request, and the server is not ended for want of it."""
    server = _NeverReplies()
    busy: list[Error] = []

    async def caller(number: int) -> None:
        try:
            await exo.call(number, LIMIT)
        except Refused as refused:
            busy.append(refused.error)

    async def first() -> None:
        number = await exo.create_environment()
        await exo.set_library(number, server)
        await exo.start_coroutine(number, _sleeps())
        callers = [await exo.create_environment() for _ in range(40)]
        for one in callers:
            await exo.start_coroutine(one, caller(number))
        await exo.block(Event.TIME, 0, await exo.time() + 5_000_000)
        await exo.wake(number)
        await exo.block(Event.EXIT, number)

    with machine(quantum=100_000) as made:
        made.run(first)
        assert made.kernel.deaths == []
    assert server.callers >= 8
    assert busy == [Error.BUSY] * (40 - server.callers)
    assert server.replies_before_events == [0]


async def _sleeps() -> None:
    await exo.block(Event.TIME, 0, 30_000_000)
