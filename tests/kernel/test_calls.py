"""Every row of the table keeps its word: its errors can be had, no others come, and the bounds are what the table says."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import hypothesis.strategies as st
import pytest
from hypothesis import given

from exokernel.abi.downcalls import BY_NAME, TABLE, DownCall, Kind
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import ANY, Begin, Event, Sharing, Subject
from exokernel.abi.layout import ENVIRONMENT_TABLE, MAXIMUM_ENVIRONMENTS
from exokernel.abi.pages import EnvironmentRow, PredicateTerm
from exokernel.abi.partitions import DATA_TYPE, Partition, PartitionTable
from exokernel.abi.traps import DownCallTrap, trap
from exokernel.abi.upcalls import Upcall
from exokernel.kernel import calls_memory, dispatch
from exokernel.kernel.capabilities import Capability
from exokernel.kernel.partitions import RecordedAccess
from exokernel.kernel.sectors import Extent
from tests.kernel.audit import audit
from tests.machine_kit import Machine, examples, exo, machine

OF_A_KIND = {
    Kind.PAGE: Error.BAD_ARGUMENT,
    Kind.ADDRESS: Error.BAD_ARGUMENT,
    Kind.FRAME: Error.NO_SUCH_FRAME,
    Kind.ENVIRONMENT: Error.NO_SUCH_ENVIRONMENT,
    Kind.COUNT: Error.BAD_ARGUMENT,
    Kind.SECTOR: Error.BAD_SECTOR,
    Kind.SLOT: Error.BAD_ARGUMENT,
    Kind.CONTEXT: Error.NO_SUCH_CONTEXT,
    Kind.BYTES: Error.BAD_ARGUMENT,
    Kind.BUFFER: Error.BAD_ARGUMENT,
}
"""What the decoder says to an argument of the wrong kind, for every call alike."""


def documented(row: DownCall) -> set[Error]:
    return {*row.errors, *(OF_A_KIND[argument.kind] for argument in row.arguments if argument.kind in OF_A_KIND)}


async def error_of(call: Awaitable[Any]) -> Error | None:
    try:
        await call
    except Refused as refused:
        return refused.error
    return None


def test_every_row_has_a_function_and_every_number_is_in_the_range() -> None:
    assert dispatch.complete()
    assert all(number >> 16 == 0x4558 for number in TABLE)
    assert {row.name for row in TABLE.values()} == set(BY_NAME)


words = (
    st.integers(0, 90) | st.integers(0, (1 << 64) - 1) | st.sampled_from([4097, 8194, 12291, ANY, 0x1000, 0x2000, 0x3001])
)


@given(st.lists(st.tuples(st.sampled_from(sorted(TABLE)), st.tuples(*[words] * 6)), min_size=5, max_size=40))
@examples(60)
def test_no_error_comes_that_is_not_documented(calls: list[tuple[int, tuple[int, ...]]]) -> None:
    with machine(frames=160, sectors=32) as made:
        found: list[tuple[str, Error]] = []

        async def wild() -> None:
            for number, values in calls:
                row = TABLE[number]
                if row.python_only or row.name in ("block", "exit", "destroy", "end_context"):
                    continue
                arguments = [
                    b"" if a.kind in (Kind.BYTES, Kind.BUFFER) else v for a, v in zip(row.arguments, values, strict=False)
                ]
                try:
                    await trap(DownCallTrap(number, tuple(arguments)))
                except Refused as refused:
                    found.append((row.name, refused.error))

        async def init() -> None:
            other = await exo.create_environment(50)
            await exo.start_coroutine(other, wild())
            await exo.block(Event.EXIT, other)

        made.run(init)
        assert [(name, error) for name, error in found if error not in documented(BY_NAME[name])] == []


# How each documented error is had.  `w` is a world with a child, a stranger, frames, extents.


class World:
    """What the recipes need: `child` is controlled by the caller, `parent` is not; `frame` is held, `strange` another's."""

    child = parent = stranger = running = caller = frame = strange = sector = strange_sector = 0
    made: Machine


async def _full(w: World, call: Callable[[], Awaitable[Any]]) -> Any:
    kernel = w.made.kernel
    held, kernel.frames.free = kernel.frames.free, type(kernel.frames.free)()
    try:
        return await call()
    finally:
        kernel.frames.free = held


async def _over(w: World, call: Callable[[], Awaitable[Any]], number: int) -> Any:
    environment = w.made.kernel.environments[number]
    quota, environment.quota = environment.quota, environment.charged
    try:
        return await call()
    finally:
        environment.quota = quota


async def _mapped_execute(w: World, call: Callable[[int], Awaitable[Any]]) -> Any:
    frame = await exo.alloc_page()
    await exo.create_mapping(0x77_0000, frame, 5)
    return await call(frame)


async def _used(w: World) -> Any:
    for _ in range(70):
        error = await error_of(exo.flush())
        if error:
            raise Refused(error)


async def _reserve(w: World) -> None:
    for _ in range(70):
        await exo.reserve_page(await exo.alloc_page())


async def _loans(w: World) -> None:
    calls_memory.LOANS_MAXIMUM, maximum = 1, calls_memory.LOANS_MAXIMUM
    try:
        await exo.share_page(w.frame, w.child, Sharing.LOAN, 1)
        await exo.share_page(w.frame, w.stranger, Sharing.LOAN, 1)
    finally:
        calls_memory.LOANS_MAXIMUM = maximum


async def _environments(w: World) -> None:
    kernel = w.made.kernel
    slots, kernel._free_slots = kernel._free_slots, []
    try:
        await exo.create_environment()
    finally:
        kernel._free_slots = slots


async def _guarantees(w: World) -> None:
    other = await exo.create_environment(20)
    await exo.set_quota(w.child, 300, 300)
    await exo.set_quota(other, 300, 300)


async def _io_error(w: World) -> None:
    lender = w.made.kernel.environments[w.parent]
    caller = w.made.kernel.environments[w.caller]
    frame = w.made.kernel.frames.used[w.strange]
    frame.loans[lender, caller] = 3
    request = await exo.read_sectors(w.sector, 1, w.strange)
    del frame.loans[lender, caller]
    await exo.block(Event.DISK, request)


async def _unrecorded(w: World) -> None:
    """A partition of a disk that has no place for access records."""
    sectors = w.made.kernel.disk
    partition = Partition(0, "one", 1000, 8, DATA_TYPE, UUID(int=1))
    root = Capability(w.made.kernel.environments[w.made.kernel.first_environment].name, 15)
    recorded = RecordedAccess(sectors, PartitionTable(UUID(int=2), 34, 2000, (partition,)), partition, root)
    sectors.put(Extent(1000, 8, [w.made.kernel.environments[w.caller]], recorded=recorded))
    await exo.set_access(Subject.EXTENT, 1000, 0, 0, 1)


async def _until(w: World, va: int, compare: int, deadline: int = 1 << 40) -> None:
    await exo.create_mapping(0x5000, w.frame, 3)
    await exo.write(0x5100, PredicateTerm.build({"tag": 1, "va": va, "compare": compare, "value": 0}))
    await exo.block_until(0x5100, 1, deadline)


async def _twice(call: Callable[[], Awaitable[Any]], times: int = 2) -> None:
    for _ in range(times):
        await call()


class _Server:
    """Takes calls and never replies; with `full` there is no room for another handler."""

    def __init__(self, ends: bool) -> None:
        self.ends = ends

    async def call(self, context: int, caller: int, a: int, b: int, c: int, d: int, awaited: int) -> None:
        if not self.ends:
            await exo.block(Event.WOKEN, 0)


async def _serving(w: World, ends: bool) -> int:
    async def idle() -> None:
        await exo.block(Event.TIME, 0, 1 << 40)

    server = await exo.create_environment(30)
    await exo.set_library(server, _Server(ends))
    await exo.start_coroutine(server, idle())
    return server


async def _busy(w: World, sends: bool = False) -> None:
    server = await _serving(w, False)
    for _ in range(40):
        await exo.send(server)
    await exo.call(server)


async def _ends_when_called(w: World) -> None:
    await exo.call(await _serving(w, True))


NONE = 0x7777
RECIPES: dict[tuple[str, Error], Callable[[World], Awaitable[Any]]] = {
    ("charge", Error.BAD_ARGUMENT): lambda w: exo.charge(1 << 60),
    ("batch", Error.BAD_ARGUMENT): lambda w: exo.batch(0x1000, 65),
    ("console_write", Error.BAD_ARGUMENT): lambda w: exo.console_write(bytes(1 << 17)),
    ("alloc_page", Error.NO_FRAME): lambda w: _full(w, exo.alloc_page),
    ("alloc_page", Error.OVER_QUOTA): lambda w: _over(w, lambda: exo.alloc_page(ANY, w.child), w.child),
    ("alloc_page", Error.FRAME_BUSY): lambda w: exo.alloc_page(w.strange),
    ("alloc_page", Error.NO_SUCH_FRAME): lambda w: exo.alloc_page(1),
    ("alloc_page", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.alloc_page(ANY, NONE),
    ("alloc_page", Error.DENIED): lambda w: exo.alloc_page(ANY, w.parent),
    ("dealloc_page", Error.DENIED): lambda w: exo.dealloc_page(w.strange),
    ("dealloc_page", Error.NO_SUCH_FRAME): lambda w: exo.dealloc_page(2),
    ("dealloc_page", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.dealloc_page(w.frame, NONE),
    ("create_mapping", Error.DENIED): lambda w: exo.create_mapping(0x1000, w.strange, 1),
    ("create_mapping", Error.NO_SUCH_FRAME): lambda w: exo.create_mapping(0x1000, 1, 1),
    ("create_mapping", Error.BAD_ARGUMENT): lambda w: exo.create_mapping(0x1000, w.frame, 8),
    ("create_mapping", Error.WRITE_XOR_EXECUTE): lambda w: exo.create_mapping(0x1000, w.frame, 7),
    ("create_mapping", Error.NO_FRAME): lambda w: _full(w, lambda: exo.create_mapping(0x7000_0000_0000, w.frame, 1)),
    ("create_mapping", Error.OVER_QUOTA): lambda w: _over(
        w, lambda: exo.create_mapping(0x7000_0000_0000, w.frame, 1), w.caller
    ),
    ("create_mapping", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.create_mapping(0x1000, w.frame, 1, NONE),
    ("remove_mapping", Error.NOT_MAPPED): lambda w: exo.remove_mapping(0x66_0000),
    ("remove_mapping", Error.BAD_ARGUMENT): lambda w: exo.remove_mapping(5),
    ("remove_mapping", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.remove_mapping(0x1000, NONE),
    ("remove_mapping", Error.DENIED): lambda w: exo.remove_mapping(0x1000, w.parent),
    ("clear_page_bits", Error.BAD_ARGUMENT): lambda w: exo.clear_page_bits(0x1000, 1, 1),
    ("share_page", Error.DENIED): lambda w: exo.share_page(w.strange, w.child, Sharing.LOAN, 1),
    ("share_page", Error.NO_SUCH_FRAME): lambda w: exo.share_page(1, w.child, Sharing.LOAN, 1),
    ("share_page", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.share_page(w.frame, NONE, Sharing.LOAN, 1),
    ("share_page", Error.OVER_QUOTA): lambda w: _over(
        w, lambda: exo.share_page(w.frame, w.child, Sharing.HOLD, 15), w.child
    ),
    ("share_page", Error.BAD_ARGUMENT): lambda w: exo.share_page(w.frame, w.child, 7, 1),
    ("share_page", Error.TOO_MANY): _loans,
    ("unshare_page", Error.DENIED): lambda w: exo.unshare_page(w.frame, w.stranger),
    ("unshare_page", Error.NO_SUCH_FRAME): lambda w: exo.unshare_page(1, w.child),
    ("unshare_page", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.unshare_page(w.frame, NONE),
    ("reserve_page", Error.DENIED): lambda w: exo.reserve_page(w.strange),
    ("reserve_page", Error.NO_SUCH_FRAME): lambda w: exo.reserve_page(1),
    ("reserve_page", Error.TOO_MANY): _reserve,
    ("reserve_page", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.reserve_page(w.frame, 1, NONE),
    ("set_backing", Error.DENIED): lambda w: exo.set_backing(w.strange, w.sector),
    ("set_backing", Error.NO_SUCH_FRAME): lambda w: exo.set_backing(1, w.sector),
    ("set_backing", Error.BAD_SECTOR): lambda w: exo.set_backing(w.frame, w.strange_sector),
    ("set_backing", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.set_backing(w.frame, w.sector, NONE),
    ("yield", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.yield_(NONE),
    ("block", Error.TIMED_OUT): lambda w: exo.block(Event.WOKEN, 0, 1),
    ("block", Error.NO_SUCH_REQUEST): lambda w: exo.block(Event.DISK, 99_999),
    ("block", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.block(Event.EXIT, w.parent),
    ("block", Error.BAD_ARGUMENT): lambda w: exo.block(77),
    ("block", Error.IO_ERROR): _io_error,
    ("wake", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.wake(NONE),
    ("wake", Error.DENIED): lambda w: exo.wake(w.stranger),
    ("block_until", Error.TIMED_OUT): lambda w: _until(w, 0x5000, 1, deadline=1),
    ("block_until", Error.NOT_MAPPED): lambda w: _until(w, 0x66_0000, 0),
    ("block_until", Error.TOO_MANY): lambda w: exo.block_until(0x1000, 65),
    ("block_until", Error.BAD_ARGUMENT): lambda w: _until(w, 0x5001, 0),
    ("alloc_slice", Error.NO_SLICE): lambda w: _twice(lambda: exo.alloc_slice(0, 3)),
    ("alloc_slice", Error.OVER_QUOTA): lambda w: _twice(exo.alloc_slice, 65),
    ("alloc_slice", Error.BAD_ARGUMENT): lambda w: exo.alloc_slice(1),
    ("alloc_slice", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.alloc_slice(0, ANY, NONE),
    ("alloc_slice", Error.DENIED): lambda w: exo.alloc_slice(0, ANY, w.parent),
    ("free_slice", Error.DENIED): lambda w: exo.free_slice(0, 3),
    ("free_slice", Error.BAD_ARGUMENT): lambda w: exo.free_slice(0, 64),
    ("free_slice", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.free_slice(0, 3, NONE),
    ("set_tickets", Error.BAD_ARGUMENT): lambda w: exo.set_tickets(w.child, 10_001),
    ("set_tickets", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.set_tickets(NONE, 5),
    ("set_tickets", Error.DENIED): lambda w: exo.set_tickets(w.stranger, 5),
    ("reserve_cpu", Error.NO_TIME): lambda w: exo.reserve_cpu(w.child, 5, 10),
    ("reserve_cpu", Error.BAD_ARGUMENT): lambda w: exo.reserve_cpu(w.child, 11, 10),
    ("reserve_cpu", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.reserve_cpu(NONE, 5, 10),
    ("reserve_cpu", Error.DENIED): lambda w: exo.reserve_cpu(w.stranger, 5, 10),
    ("call", Error.NOT_SERVING): lambda w: exo.call(w.running),
    ("call", Error.BUSY): _busy,
    ("call", Error.CALLEE_ENDED): _ends_when_called,
    ("call", Error.TIMED_OUT): lambda w: exo.call(w.running, 1),
    ("call", Error.BAD_STATE): lambda w: exo.call(0),
    ("call", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.call(NONE),
    ("reply", Error.BAD_STATE): lambda w: exo.reply(),
    ("send", Error.NOT_SERVING): lambda w: exo.send(w.running),
    ("send", Error.BUSY): lambda w: _busy(w, True),
    ("send", Error.BAD_STATE): lambda w: exo.send(0),
    ("send", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.send(NONE),
    ("serve", Error.BAD_STATE): lambda w: exo.serve(),
    ("set_limits", Error.BAD_ARGUMENT): lambda w: exo.set_limits(w.child, 5000, 0),
    ("set_limits", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.set_limits(NONE, 5, 0),
    ("set_limits", Error.DENIED): lambda w: exo.set_limits(w.stranger, 5, 0),
    ("create_context", Error.TOO_MANY): lambda w: _twice(lambda: exo.create_context(0x1000, 0, 0, Begin.STOPPED), 40),
    ("create_context", Error.BAD_ARGUMENT): lambda w: exo.create_context(0x1000, 0, 0, 2),
    ("create_context", Error.BAD_STATE): lambda w: exo.create_context(0x1000, 0, 0, 1, w.child),
    ("create_context", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.create_context(0x1000, 0, 0, 1, NONE),
    ("create_context", Error.DENIED): lambda w: exo.create_context(0x1000, 0, 0, 1, w.parent),
    ("end_context", Error.NO_SUCH_CONTEXT): lambda w: exo.end_context(5),
    ("create_environment", Error.NO_FRAME): lambda w: _full(w, exo.create_environment),
    ("create_environment", Error.OVER_QUOTA): lambda w: exo.create_environment(4),
    ("create_environment", Error.TOO_MANY): _environments,
    ("set_upcall", Error.BAD_ARGUMENT): lambda w: exo.set_upcall(len(Upcall), 0),
    ("set_upcall", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.set_upcall(0, 0, NONE),
    ("set_upcall", Error.DENIED): lambda w: exo.set_upcall(0, 0, w.parent),
    ("set_upcall_stack", Error.BAD_ARGUMENT): lambda w: exo.set_upcall_stack(0x1000, 5),
    ("set_upcall_stack", Error.NO_SUCH_CONTEXT): lambda w: exo.set_upcall_stack(0x1000, 4096, 0, 32),
    ("set_upcall_stack", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.set_upcall_stack(0x1000, 4096, NONE),
    ("set_upcall_stack", Error.DENIED): lambda w: exo.set_upcall_stack(0x1000, 4096, w.parent),
    ("start", Error.BAD_STATE): lambda w: exo.start(0, 0x1000, 0),
    ("start", Error.BAD_ARGUMENT): lambda w: exo.start(w.child, 1 << 60, 0),
    ("start", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.start(NONE, 0x1000, 0),
    ("start", Error.DENIED): lambda w: exo.start(w.stranger, 0x1000, 0),
    ("destroy", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.destroy(NONE),
    ("destroy", Error.DENIED): lambda w: exo.destroy(w.parent),
    ("set_quota", Error.BAD_ARGUMENT): lambda w: exo.set_quota(0, 5),
    ("set_quota", Error.NO_FRAME): _guarantees,
    ("set_quota", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.set_quota(NONE, 5),
    ("set_quota", Error.DENIED): lambda w: exo.set_quota(w.stranger, 5),
    ("set_library", Error.BAD_STATE): lambda w: exo.set_library(0, object()),
    ("set_library", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.set_library(NONE, object()),
    ("set_library", Error.DENIED): lambda w: exo.set_library(w.stranger, object()),
    ("start_coroutine", Error.BAD_STATE): lambda w: exo.start_coroutine(0, None),
    ("start_coroutine", Error.BAD_ARGUMENT): lambda w: exo.start_coroutine(w.child, 5),
    ("start_coroutine", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.start_coroutine(NONE, None),
    ("start_coroutine", Error.DENIED): lambda w: exo.start_coroutine(w.stranger, None),
    ("get_registers", Error.NO_SUCH_CONTEXT): lambda w: exo.get_registers(0),
    ("get_registers", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.get_registers(0, b"", NONE),
    ("get_registers", Error.DENIED): lambda w: exo.get_registers(0, b"", w.stranger),
    ("set_register", Error.NO_SUCH_CONTEXT): lambda w: exo.set_register(0, 0, 0),
    ("set_register", Error.BAD_ARGUMENT): lambda w: exo.set_register(0, 20, 0, w.running),
    ("set_register", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.set_register(0, 0, 0, NONE),
    ("set_register", Error.DENIED): lambda w: exo.set_register(0, 0, 0, w.stranger),
    ("keep", Error.NO_SUCH_CONTEXT): lambda w: exo.keep(0),
    ("resume", Error.NO_SUCH_CONTEXT): lambda w: exo.resume(0),
    ("forge_capability", Error.BAD_ARGUMENT): lambda w: exo.forge_capability(9, 0, 1, 2),
    ("give_capability", Error.BAD_ARGUMENT): lambda w: exo.give_capability(w.child, 9, 1, 2),
    ("give_capability", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.give_capability(NONE, 0, 1, 2),
    ("give_capability", Error.DENIED): lambda w: exo.give_capability(w.stranger, 0, 1, 2),
    ("drop_capability", Error.BAD_ARGUMENT): lambda w: exo.drop_capability(16),
    ("set_access", Error.BAD_ARGUMENT): lambda w: exo.set_access(9, 0, 0, 0, 1),
    ("set_access", Error.DENIED): lambda w: exo.set_access(Subject.FRAME, w.strange, 0, 0, 1),
    ("set_access", Error.NO_SUCH_FRAME): lambda w: exo.set_access(Subject.FRAME, 1, 0, 0, 1),
    ("set_access", Error.BAD_SECTOR): lambda w: exo.set_access(Subject.EXTENT, 1, 0, 0, 1),
    ("set_access", Error.NO_SECTORS): _unrecorded,
    ("set_access", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.set_access(Subject.ENVIRONMENT, NONE, 1, 0, 1),
    ("alloc_sectors", Error.NO_SECTORS): lambda w: exo.alloc_sectors(10_000),
    ("alloc_sectors", Error.BAD_SECTOR): lambda w: exo.alloc_sectors(1, w.strange_sector),
    ("free_sectors", Error.DENIED): lambda w: exo.free_sectors(w.strange_sector),
    ("free_sectors", Error.BAD_SECTOR): lambda w: exo.free_sectors(w.sector + 1),
    ("share_sectors", Error.DENIED): lambda w: exo.share_sectors(w.strange_sector, w.child, 0, 1),
    ("share_sectors", Error.BAD_SECTOR): lambda w: exo.share_sectors(w.sector + 1, w.child, 0, 1),
    ("share_sectors", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.share_sectors(w.sector, NONE, 0, 1),
    ("share_sectors", Error.BAD_ARGUMENT): lambda w: exo.share_sectors(w.sector, w.child, 7, 1),
    ("unshare_sectors", Error.DENIED): lambda w: exo.unshare_sectors(w.sector, w.child),
    ("unshare_sectors", Error.BAD_SECTOR): lambda w: exo.unshare_sectors(w.sector + 1, w.child),
    ("unshare_sectors", Error.NO_SUCH_ENVIRONMENT): lambda w: exo.unshare_sectors(w.sector, NONE),
    ("read_sectors", Error.BAD_SECTOR): lambda w: exo.read_sectors(w.strange_sector, 1, w.frame),
    ("read_sectors", Error.DENIED): lambda w: exo.read_sectors(w.sector, 1, w.strange),
    ("read_sectors", Error.NO_SUCH_FRAME): lambda w: exo.read_sectors(w.sector, 1, 1),
    ("read_sectors", Error.WRITE_XOR_EXECUTE): lambda w: _mapped_execute(w, lambda f: exo.read_sectors(w.sector, 1, f)),
    ("read_sectors", Error.TOO_MANY): lambda w: _many(w, exo.read_sectors),
    ("read_sectors", Error.BAD_ARGUMENT): lambda w: exo.read_sectors(w.sector, 9, w.frame),
    ("write_sectors", Error.BAD_SECTOR): lambda w: exo.write_sectors(w.strange_sector, 1, w.frame),
    ("write_sectors", Error.DENIED): lambda w: exo.write_sectors(w.sector, 1, w.strange),
    ("write_sectors", Error.NO_SUCH_FRAME): lambda w: exo.write_sectors(w.sector, 1, 1),
    ("write_sectors", Error.TOO_MANY): lambda w: _many(w, exo.write_sectors),
    ("write_sectors", Error.BAD_ARGUMENT): lambda w: exo.write_sectors(w.sector, 1, w.frame, 5),
    ("flush", Error.TOO_MANY): _used,
}


async def _many(w: World, call: Callable[..., Awaitable[Any]]) -> None:
    for _ in range(70):
        await call(w.sector, 1, w.frame)


ROWS = [(row.name, error) for row in TABLE.values() for error in row.errors]


@pytest.mark.parametrize(
    ("name", "error"), [row for row in ROWS if row in RECIPES], ids=lambda value: str(getattr(value, "name", value))
)
def test_a_documented_error_can_be_had(name: str, error: Error) -> None:
    with machine(frames=400, sectors=64) as made:
        found: list[Error | None] = []

        async def tries(world: World) -> None:
            world.frame = await exo.alloc_page()
            world.sector = await exo.alloc_sectors(8)
            world.child = await exo.create_environment(20)
            world.running = await exo.create_environment(20)
            await exo.start(world.running, 0x1000, 0)
            found.append(await error_of(RECIPES[name, error](world)))

        async def init() -> None:
            world = World()
            world.made = made
            world.parent = made.kernel.first_environment
            world.strange, world.strange_sector = await exo.alloc_page(), await exo.alloc_sectors(8)
            world.stranger = await exo.create_environment(20)
            world.caller = await exo.create_environment(300)
            await exo.start_coroutine(world.caller, tries(world))
            await exo.block(Event.EXIT, world.caller)
            audit(made.kernel)

        made.run(init)
        assert not made.kernel.python_errors, made.kernel.python_errors
        assert found == [error]


WITHOUT_A_RECIPE = {(name, Error.ONLY_PYTHON) for name in ("set_library", "start_coroutine")}
"""These answer machine code only: the random calls of `test_random_calls` meet them."""


def test_every_documented_error_has_a_recipe() -> None:
    assert set(ROWS) - set(RECIPES) - WITHOUT_A_RECIPE == set()
    assert set(RECIPES) <= set(ROWS)


def test_the_environment_table_shows_the_cycles_of_every_slice_that_has_ended() -> None:
    async def play(made: Machine) -> None:
        other = await exo.create_environment()

        async def busy() -> None:
            await exo.charge(12_345)
            await exo.block(Event.WOKEN, 0)

        await exo.start_coroutine(other, busy())
        await exo.block(Event.TIME, 0, await exo.time() + 1_000_000)
        row = await exo.read(ENVIRONMENT_TABLE + other % MAXIMUM_ENVIRONMENTS * EnvironmentRow.sizeof(), 32)
        shown = EnvironmentRow.parse(row).cycles
        assert shown == made.kernel.environments[other].accounts.cycles >= 12_345
        await exo.destroy(other)

    with machine() as made:
        made.run(lambda: play(made))
