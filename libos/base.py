"""The Python library OS: one async method for each up-call, and one for each function of the application's interface.

`LibraryOS` runs a program as it is.  A subclass overrides what it wants to do otherwise and calls `super()` for the
rest:

    class Quiet(LibraryOS):
        async def os_write(self, context, text, size):
            return size

The same binary runs over a native library OS: there the functions are machine code, here each is a `syscall` with a
library number, which arrives as the up-call `trap`.  The interrupted context is given by number; its registers are read
and set by down-calls.
"""

import copy
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import ClassVar, Final, NoReturn

from exokernel.abi.downcalls import REGISTER_WORDS, Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import Access, Event, TrapReason
from exokernel.abi.layout import OWN_PAGE, PAGE_SHIFT, PAGE_SIZE
from exokernel.abi.pages import OwnPage, offset_of
from libos import forking, rpc
from libos.advice import advise
from libos.books import Page
from libos.ending import BROKEN_LIBRARY, SEGMENTATION_FAULT, end
from libos.files.calls import FileCalls
from libos.files.client import FileClient
from libos.heap import Heap
from libos.interface import BY_CALL_NUMBER, Function
from libos.paging import Paging
from libos.pipes import Pipes
from libos.protection import Handler, NativeHandler, protect, run_native_handler
from libos.replacement import Clock, Strategy
from libos.scheduling import RoundRobin, ThreadStrategy
from libos.shared import SharedPages
from libos.startup import StartBlock
from libos.thread_calls import ThreadCalls

RAX: Final = 0
RSP: Final = 7
RIP: Final = 16
_ARGUMENTS: Final = (5, 4, 3, 10, 8, 9)
"""rdi, rsi, rdx, r10, r8, r9 in the order of `get_registers`."""
_NUMBER: Final = OWN_PAGE + offset_of(OwnPage, "environment")
_WORD: Final = (1 << 64) - 1
_TEXT_AT_ONCE: Final = 1 << 15
_NAME_MAXIMUM: Final = 4096
_NO_ADDRESSES: Final = range(1 << 47, (1 << 64) - (1 << 47))
"""What no page table can map, and the processor answers with an exception instead of a page fault."""
_GENERAL_PROTECTION: Final = 13
_SIGNALS: Final = {0: 8, 1: 5, 3: 5, 16: 8, 19: 8}
"""What Linux tells a program of these exceptions (SIGFPE and SIGTRAP); of the rest, SIGILL."""
_SIGILL: Final = 4
_SIGSYS: Final = 31


class LibraryOS(ThreadCalls, FileCalls):
    """The base: `frames` bounds the program's resident pages (0: only the kernel does), `seed` settles every random
    choice; `strategy`, which is called with these two, says which page leaves, and `scheduler`, which is called with the
    seed, which thread runs."""

    name: ClassVar[str] = "python"
    summary: ClassVar[str] = "demand paging, with clock replacement"

    def __init__(
        self,
        frames: int = 0,
        seed: int = 0,
        strategy: Callable[[int, int], Strategy] = Clock,
        scheduler: Callable[[int], ThreadStrategy] = RoundRobin,
    ) -> None:
        self.exo = Exo()
        self.frames = frames
        self.seed = seed
        self.strategy = strategy
        self.scheduler = scheduler
        self.handler: Handler | None = None
        """What the program wants called when it does what it has forbidden itself."""
        self.unborn: tuple[int, ...] = ()
        """In a child that has not run yet: the registers it begins with."""

    def attach(self, start: StartBlock) -> None:
        """Learn what has been loaded; called once, before the program starts."""
        self.start = start
        self.paging = Paging(self.exo, start, self.strategy)
        self.heap = Heap(self.paging.regions.grow)
        self.begin_threads(self)
        self.shared = SharedPages(self.exo, self.paging)
        self.pipes = Pipes(self.exo, self.paging, self.shared)
        self.files = self.paging.files = FileClient(self.exo, self.paging, self.shared, start.file_server)
        self.server: rpc.Server | None = None

    def fork(self, child: "LibraryOS", start: StartBlock, pages: Mapping[int, Page]) -> None:
        """Turn `child`, a shallow copy of this object, into the library OS of a forked environment beginning with `start`.

        Called when the child has been given its frames and its swap extent, of which `pages` tells by page number.  A
        subclass with mutable fields of its own gives the child copies of them, and calls this.
        """
        child.start = start
        child.paging = self.paging.fork(start, pages)
        child.heap = self.heap.copy(child.paging.regions.grow)
        self.fork_threads(child)
        child.shared = self.shared.copy(child.paging)
        child.pipes = self.pipes.copy(child.paging, child.shared)
        child.files = child.paging.files = self.files.copy(child.paging, child.shared)
        child.serve(None)

    # Up-calls.

    async def page_fault(self, context: int, va: int, access: int) -> None:
        """Bring in the page at `va` (bytes); `access` is what was tried (Access)."""
        if self.unborn:
            self.born_thread(self.unborn[RSP])
            await forking.be_born(self, context)
            await self.files.be_born()
        elif self.paging.forbids(va, access):
            await self.protection_fault(context, va, access)
        elif self.threads.is_guard(va) or not await self.paging.fault(va, access):
            server, registers = self.server, await self.registers(context) if self.server is not None else ()
            if server is not None and server.is_return(context, va, access, registers):
                await server.returned(registers[RAX])
            elif not await self.threads.has_returned(context, va):
                await self.segmentation_fault(context, va, access)

    async def protection_fault(self, context: int, va: int, access: int) -> None:
        """The program tried what it has forbidden itself: its handler is called, and the access tried again.  It ends the
        program if there is no handler, or if it is a function of this library that tried it in the program's place."""
        handler, writing = self.handler, bool(access & Access.WRITE)
        if isinstance(handler, NativeHandler):
            with suppress(Refused):
                registers = await self.registers(context)
                await run_native_handler(self.exo, context, registers, handler, va, writing)
                return
        elif handler is not None and await handler(va, writing):
            return
        await self.segmentation_fault(context, va, access)

    async def please_release_page(self, context: int, count: int, frame: int, deadline: int) -> None:
        """Give back `count` frames of the strategy's choice, or this very `frame` unless it is ANY."""
        await self.paging.release()

    async def pages_taken(self, context: int, count: int) -> None:
        """Bring the books in line with `count` new records of pages taken by force."""
        await self.paging.were_taken()

    async def event(self, context: int, event: int, value: int, status: int) -> None:
        """Something ended that nobody waited for; of interest is a page that was being cleaned."""
        if event == Event.DISK:
            await self.paging.transfer_ended(value)

    async def trap(self, context: int, reason: int, code: int, detail: int) -> None:
        """Answer a call of the interface; end the program at anything else."""
        function = BY_CALL_NUMBER.get(code) if reason == TrapReason.FOREIGN_CALL else None
        if function is None:
            await self.unknown_trap(context, reason, code)
        else:
            await self.answer(context, function)

    # Ends.

    async def segmentation_fault(self, context: int, va: int, access: int) -> NoReturn:
        """The program touched what is not its own."""
        tried = "execute" if access & Access.FETCH else "write" if access & Access.WRITE else "read"
        await end(self.exo, f"segmentation fault at {va:#x} ({tried}){await self._where(context)}", SEGMENTATION_FAULT)

    async def unknown_trap(self, context: int, reason: int, code: int) -> NoReturn:
        """The program did what nobody here answers; the status is 128 and the number of the signal Linux would send."""
        what = {
            TrapReason.PRIVILEGED: "privileged instruction, vector",
            TrapReason.INTERRUPT: "software interrupt",
            TrapReason.FOREIGN_CALL: "foreign system call",
        }.get(TrapReason(reason), "exception")
        signal = _SIGSYS if reason == TrapReason.FOREIGN_CALL else _SIGNALS.get(code, _SIGILL)
        await end(self.exo, f"trap: {what} {code}{await self._where(context)}", 128 + signal)

    async def _where(self, context: int) -> str:
        """At which instruction; nothing for a context of Python code."""
        with suppress(Refused):
            return f", rip {(await self.registers(context))[RIP]:#x}"
        return ""

    # Calls of the program.

    async def registers(self, context: int) -> tuple[int, ...]:
        """The twenty registers of a stopped context, in the order of `get_registers`."""
        return struct.unpack(f"<{REGISTER_WORDS}Q", await self.exo.get_registers(context))

    async def answer(self, context: int, function: Function) -> None:
        """Call the method of a function's name with its arguments, and put the result into rax."""
        registers = await self.registers(context)
        arguments = [registers[index] for index in _ARGUMENTS[: len(function.parameters)]]
        try:
            result = await getattr(self, function.name)(context, *arguments)
        except Refused as refused:
            if refused.error is Error.BAD_ARGUMENT and any(argument in _NO_ADDRESSES for argument in arguments):
                await self.unknown_trap(context, TrapReason.EXCEPTION, _GENERAL_PROTECTION)
            raise
        if result is not None:
            await self.exo.set_register(context, RAX, result & _WORD)

    async def os_exit(self, context: int, status: int) -> None:
        """End the program."""
        await self.exo.exit(status)

    async def os_write(self, context: int, text: int, size: int) -> int:
        """Write `size` bytes at `text` to the console; gives how many."""
        for begin in range(0, size, _TEXT_AT_ONCE):
            await self.exo.console_write(await self.exo.read(text + begin, min(_TEXT_AT_ONCE, size - begin)))
        return size

    async def os_time(self, context: int) -> int:
        """The virtual time in cycles."""
        return await self.exo.time()

    async def os_yield(self, context: int) -> None:
        """Let others run."""
        await self.exo.yield_()

    async def os_alloc(self, context: int, size: int) -> int:
        """The address of `size` bytes of the heap, or 0."""
        return self.heap.allocate(size) or 0

    async def os_free(self, context: int, memory: int) -> None:
        """Give memory of the heap back; anything but a block of it ends the program."""
        if memory and not self.heap.free(memory):
            await end(self.exo, "os_free: this is no block of the heap, or it was freed before.", BROKEN_LIBRARY)

    async def os_region(self, context: int, size: int) -> int:
        """The address of `size` bytes of pages of zeros, or 0."""
        return self.paging.regions.grow(size) or 0

    async def os_map_file(self, context: int, name: int, size: int) -> int:
        """The address of a file whose name lies at `name`, or 0; its size in bytes is stored at `size` unless that is
        0."""
        region = await self.map_file(await self.bytes_at(name))
        if region is None:
            return 0
        if size:
            await self.exo.write(size, region.size.to_bytes(8, "little"))
        return region.va

    async def os_advise(self, context: int, memory: int, size: int, advice: int) -> int:
        """Take the program's word for what it needs of whole pages in a range; 0, or -1 if that makes no sense."""
        return 0 if await advise(self.paging, memory, size, advice & 0xFFFF_FFFF) else -1

    async def os_fork(self, context: int) -> int:
        """A second environment with a copy of this one: its number, or -1; the child gets 0."""
        return await forking.fork(self, context)

    async def os_wait(self, context: int, child: int) -> int:
        """The exit status of a child when it has ended; -1 if it is no child."""
        try:
            return await self.exo.block(Event.EXIT, child)
        except Refused:
            return -1

    async def os_self(self, context: int) -> int:
        """The number of this environment."""
        return int.from_bytes(await self.exo.read(_NUMBER, 8), "little")

    async def os_yield_to(self, context: int, environment: int) -> None:
        """Give the rest of the slice to another environment."""
        with suppress(Refused):
            await self.exo.yield_(environment)

    async def os_shared(self, context: int) -> int:
        """The address of a page of zeros that children share, or 0."""
        place = await self.shared.make()
        return 0 if place is None else self.shared.address(place)

    async def os_pipe(self, context: int) -> int:
        """The number of a new pipe, or -1."""
        return await self.pipes.make()

    async def os_pipe_read(self, context: int, pipe: int, buffer: int, size: int) -> int:
        """Up to `size` bytes from a pipe to `buffer`: how many, 0 at the end, -1 if the end is not open."""
        return await self.pipes.read(pipe, buffer, size)

    async def os_pipe_write(self, context: int, pipe: int, contents: int, size: int) -> int:
        """Bytes into a pipe: how many, or -1."""
        return await self.pipes.write(pipe, contents, size)

    async def os_pipe_close(self, context: int, pipe: int, ends: int) -> int:
        """Close ends of a pipe; 0, or -1."""
        return await self.pipes.close(pipe, ends & 0xFFFF_FFFF)

    async def os_rpc_serve(self, context: int, handler: int) -> None:
        """From now on the calling context answers calls by running `handler`."""
        server = rpc.Server(self.exo, context, handler, (await self.registers(context))[RSP])
        await server.begin()
        self.serve(server)

    async def os_rpc_call(self, context: int, server: int, operation: int, a: int, b: int, c: int, result: int) -> int:
        """Call another environment's handler: 0 and its result at `result`, or an error."""
        status, word = await rpc.call(self.exo, server, (operation, a, b, c))
        if status == 0 and result:
            await self.exo.write(result, word.to_bytes(8, "little"))
        return status

    async def os_protect(self, context: int, memory: int, size: int, rights: int) -> int:
        """Say what the program may do with whole pages of its own from now on; 0, or -1 if that makes no sense."""
        return 0 if await protect(self.paging, memory, size, rights & 0xFFFF_FFFF) else -1

    async def os_on_fault(self, context: int, handler: int) -> None:
        """Have the function at `handler` called at what os_protect forbids; 0: no longer."""
        run_handler = (await self.registers(context))[_ARGUMENTS[1]]
        self.handler = NativeHandler(handler, run_handler) if handler else None

    async def os_dirty(self, context: int, memory: int) -> int:
        """Whether evicting the page at `memory` would cost a write: 1 or 0; -1 if it is not the program's."""
        if self.paging.regions.at(memory) is None:
            return -1
        return int(await self.paging.is_dirty(memory >> PAGE_SHIFT))

    # What the functions share.

    def serve(self, server: rpc.Server | None) -> None:
        """Let `server` answer the up-call `call`, or nobody: the kernel asks whether there is such a method."""
        self.server = server
        vars(self).pop("call", None)
        if server is not None:
            vars(self)["call"] = server.call

    async def bytes_at(self, va: int) -> bytes:
        """The C string at an address of the program; its first 4,096 bytes and perhaps some more if it is longer."""
        text = b""
        while b"\0" not in text and len(text) < _NAME_MAXIMUM:
            at = va + len(text)
            text += await self.exo.read(at, PAGE_SIZE - at % PAGE_SIZE)
        return text.partition(b"\0")[0]

    def shallow_copy(self) -> "LibraryOS":
        """The same object again, with the same fields, for `fork` to make a child's out of."""
        return copy.copy(self)
