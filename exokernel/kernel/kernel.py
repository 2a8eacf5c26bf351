"""The kernel's loop: choose an environment, run its current context until it traps, charge the time, answer the trap.

With several processors, the one whose clock is behind the others' runs next, at most a window past the next one's, and its
traps are answered before any other runs.

What is protected from what:

 1. Frames, page by page, by page tables that only `spaces` writes (memory of one environment from every other).
 2. Sectors, by a check before the disk sees a request.
 3. Processor time, by a budget that ends at exactly its instruction.
 4. Registers, because a context is loaded whole; nothing of another environment is left in any of them.
 5. The kernel, because nothing it believes is writable by an environment, and nothing calls back into it.

Everything else is decided elsewhere: whom to ask for a frame or for the CPU by the global policies, what to do about a
fault, what to give back and what is a file, a heap or a thread by library code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from exokernel.abi.flags import TrapReason
from exokernel.abi.layout import DOWNCALL_BASE
from exokernel.abi.upcalls import Upcall
from exokernel.kernel import coroutines, dispatch
from exokernel.kernel.core import Settings
from exokernel.kernel.death import Cause
from exokernel.kernel.environment import Context, Environment, State
from exokernel.kernel.processor import Processor
from exokernel.kernel.requests import DiskRequests, RequestDone
from exokernel.kernel.revocation import HardLimit, Revocation, SampleTick
from exokernel.kernel.scheduling import Scheduling
from exokernel.kernel.upcalls import UpcallDelivery
from exokernel.kernel.waiting import RAX, WaitOver
from exokernel.machine import costs
from exokernel.machine.clock import NEVER
from exokernel.machine.console import Console
from exokernel.machine.context import MachineContext, Trap, TrapKind
from exokernel.machine.cpu import Cpu
from exokernel.machine.disk import Disk
from exokernel.machine.memory import PhysicalMemory
from exokernel.machine.watchdog import Watchdog
from exokernel.policy.disk_scheduling import DiskPolicy, FirstComeFirstServed
from exokernel.policy.memory import MemoryPolicy
from exokernel.policy.scheduling import CpuPolicy, SliceEnd

BUDGET, DOWNCALL, PAGE_FAULT = TrapKind.BUDGET, TrapKind.DOWNCALL, TrapKind.PAGE_FAULT
ADDRESS_SPACE_SWITCH = costs.ADDRESS_SPACE_SWITCH
DOWNCALL_RANGE = DOWNCALL_BASE >> 16

__all__ = ["Kernel", "Outcome", "Settings"]


@dataclass(frozen=True)
class Pause:
    """Timed event: `run` was to come back now."""


class Outcome(Enum):
    """Why `run` came back."""

    ALL_ENDED = "every environment has ended"
    TIME = "the time given to run has passed"
    STOPPED = "somebody asked for it"


class Kernel(Scheduling):
    """One machine's kernel.  `run` is the loop; the rest are its parts.

    Observers put themselves in the place of a method (`kill`, `native_call`, `upcalls.push` …) and call the original: the
    kernel does not know of them.
    """

    def __init__(
        self,
        memory: PhysicalMemory,
        make_cpu: Callable[[PhysicalMemory, int], Cpu],
        disk: Disk,
        memory_policy: MemoryPolicy,
        cpu_policy: CpuPolicy,
        console: Console | None = None,
        settings: Settings | None = None,
        disk_policy: DiskPolicy | None = None,
    ) -> None:
        super().__init__(memory, make_cpu, cpu_policy, console, settings)
        self.stop_requested = self._paused = False
        self.disk = DiskRequests(self, disk, disk_policy or FirstComeFirstServed(disk.sectors))
        self.upcalls = UpcallDelivery(self)
        self.revocation = Revocation(self, memory_policy)
        self.native_call = dispatch.native
        self.python_call = dispatch.python
        self.watchdog = Watchdog(self.settings.watchdog_seconds)
        self.exposed.switch_on(memory.frames, self.frames.first, disk.sectors, len(self.cpus), self.settings.quantum)

    def run(self, until: int = NEVER) -> Outcome:
        """Run until every environment has ended, the clock reaches `until` (cycles), or `stop_requested` is set.

        Environments that wait for what can never happen are ended and reported.
        """
        self.stop_requested = self._paused = False
        if until < NEVER:
            self.clock.at(until, Pause())
        with self.watchdog:
            while not self.stop_requested:
                self._due()
                if self.stop_requested:
                    break
                if (processor := self._next_processor()) is not None:
                    self._work(processor)
                    continue
                if not self.environments and not self.disk.busy:
                    return Outcome.ALL_ENDED
                self.forget_what_is_over()
                if self._only_samples() or not self.clock.jump():
                    self._deadlock()
            return Outcome.TIME if self._paused else Outcome.STOPPED

    def _next_processor(self) -> Processor | None:
        """The processor to work for: of those that are busy, or can be given work, the one that is furthest behind."""
        processors, clock = self.processors, self.clock
        if not self._several:
            self.horizon = NEVER
            return processors[0] if processors[0].environment is not None or self.choose(processors[0]) else None
        busy = [processor for processor in processors if processor.environment is not None]
        least = min((one.now for one in busy), default=max(clock.now, *(one.now for one in processors)))
        for processor in processors:
            if processor.environment is None and processor.now <= least:
                self.processor = processor
                clock.now = least
                if self.choose(processor):
                    busy.append(processor)
                processor.now = clock.now
        if not busy:
            clock.now = max(processor.now for processor in processors)
            return None
        self.processor = chosen = min(busy, key=lambda one: (one.now, one.number))
        clock.now = chosen.now
        window = self.settings.window
        self.horizon = min((one.now for one in busy if one is not chosen), default=NEVER) + window
        if self.cpu_policy.anybody_waits():
            free = min((one.now for one in processors if one.environment is None), default=NEVER)
            self.horizon = min(self.horizon, max(free, chosen.now + window))
        return chosen

    def _due(self) -> None:
        """Handle every timed event whose cycle has come."""
        while (event := self.clock.due()) is not None:
            match event:
                case RequestDone():
                    self.disk.done()
                case WaitOver():
                    self.wait_over(event)
                case Pause():
                    self._paused = self.stop_requested = True
                case HardLimit():
                    self.revocation.hard_limit(event)
                case SampleTick():
                    self.revocation.sample()
        if self.frames.freed:
            self.frames.freed = 0
            self.revocation.frames_came_free()

    def _only_samples(self) -> bool:
        """Whether nothing but the kernel's own tick is still to come, so that waiting for it is no use."""
        return all(isinstance(event, SampleTick | Pause) for event in self.clock.waiting())

    def _deadlock(self) -> None:
        """Nobody runs and nothing will happen: end the youngest, saying what it waits for.  A child is younger than its
        parent, which may go on then."""
        youngest = self.environments[max(self.environments)]
        waits = "; ".join(self.describe_waits(youngest))
        self.kill(youngest, None, Cause.DEADLOCK, waits or "no context of it can ever run")

    def _work(self, processor: Processor) -> None:
        """Run whoever has the processor until a slice is over, or the other processors have to catch up.  A pause only
        interrupts the slice, which goes on when `run` is called again, so that looking in between changes nothing."""
        while processor.environment is not None:
            how = self._run(processor, processor.environment)
            if how is None:
                break
            self.end_slice(processor, how)
        processor.now = self.clock.now

    def _run(self, processor: Processor, environment: Environment) -> SliceEnd | None:
        """Run one environment, and whoever it hands the processor to.  Gives how the slice ended, or None if the kernel has
        to look around."""
        clock, run, words = self.clock, processor.run, self.memory.words
        frames, shown, several = self.frames, self.exposed.clock_word, self._several
        accounts, root = environment.accounts, 0
        while True:
            if processor.environment is not environment or not root:
                if processor.environment is None:
                    return None
                environment = processor.environment
                accounts, root = environment.accounts, environment.root
                if root != processor.root:
                    processor.root = root
                    clock.now += ADDRESS_SPACE_SWITCH
                    accounts.kernel_cycles += ADDRESS_SPACE_SWITCH
            if environment.state is not State.ALIVE:
                return SliceEnd.BLOCKED
            now = clock.now
            if clock.next <= now or frames.freed:
                self._due()
                continue
            if now >= processor.end:
                if processor.end and not self.slice_over(processor, environment):
                    continue
                self._rotate(processor, environment)
                return SliceEnd.EXPIRED if processor.end else SliceEnd.YIELDED
            if now >= self.horizon or self.stop_requested:
                return None
            if environment.owed:
                paid = min(environment.owed, min(processor.end, clock.next) - now)
                environment.owed -= paid
                self.charge(environment, paid)
                continue
            if environment.pending and self.upcalls.deliver_pending(environment, processor):
                continue
            if not environment.ready:
                return SliceEnd.BLOCKED
            context = environment.ready[-1]
            if context.processor is not processor:
                if several:
                    free = environment.free_context(processor)
                    if free is None:
                        return SliceEnd.BLOCKED
                    if free.seen > now:
                        clock.now = free.seen
                        continue
                    context = free
                if len(environment.ready) > 1:
                    for other in environment.ready:
                        if other.processor is processor:
                            other.processor = None
                context.processor = processor
            words[shown] = now
            machine = context.machine
            if machine is None:
                coroutines.step(self, environment, context)
                context.seen = clock.now
                continue
            limit = clock.next
            if limit > processor.end:
                limit = processor.end
            if limit > self.horizon:
                limit = self.horizon
            trap = run(machine, root, limit - now)
            cycles = trap.cycles
            clock.now = now + cycles
            accounts.instructions += cycles
            if environment.request is not None:
                self.revocation.ran(environment, cycles)
            kind = trap.kind
            if kind is DOWNCALL and machine.words[RAX] >> 16 == DOWNCALL_RANGE:
                self.native_call(self, environment, context, machine)
            elif kind is not BUDGET:
                self.answer(environment, context, machine, trap)
            if several:
                context.seen = clock.now

    @staticmethod
    def _rotate(processor: Processor, environment: Environment) -> None:
        """Of several contexts in machine code that are ready, another one has its turn next."""
        ready = environment.ready
        if len(ready) > 1:
            for context in ready:
                if context.processor is processor and context.upcall is None:
                    ready.remove(context)
                    ready.insert(0, context)
                    break

    def answer(self, environment: Environment, context: Context, machine: MachineContext, trap: Trap) -> None:
        """Answer a trap of machine code that is not one of the kernel's calls."""
        kind = trap.kind
        if environment.state is not State.ALIVE:
            return
        if kind is DOWNCALL:
            number = machine.words[RAX]
            self._trap(environment, context, Cause.FOREIGN_CALL, TrapReason.FOREIGN_CALL, number, 0)
        elif kind is PAGE_FAULT:
            self.page_fault(environment, context, trap.address, trap.code)
        elif kind == TrapKind.PRIVILEGED:
            if not dispatch.read_time_stamp(self, environment, machine):
                self._trap(environment, context, Cause.PRIVILEGED, TrapReason.PRIVILEGED, 13, 0)
        elif kind == TrapKind.INTERRUPT:
            self._trap(environment, context, Cause.INTERRUPT, TrapReason.INTERRUPT, trap.code, 0)
        else:
            self._trap(environment, context, Cause.NO_TRAP_HANDLER, TrapReason.EXCEPTION, trap.code, trap.address)

    def page_fault(self, environment: Environment, context: Context, va: int, access: int) -> None:
        """Deliver a page fault, or end an environment that does not handle it."""
        environment.accounts.faults += 1
        self.charge(environment, costs.FAULT_CROSSING)
        if environment.state is State.ALIVE and not self.upcalls.raise_in(
            environment, context, Upcall.PAGE_FAULT, (va, access)
        ):
            self.kill(environment, context, Cause.NO_FAULT_HANDLER, "", va, access)

    def _trap(
        self, environment: Environment, context: Context, cause: Cause, reason: TrapReason, code: int, detail: int
    ) -> None:
        self.charge(environment, costs.FAULT_CROSSING)
        if environment.state is State.ALIVE and not self.upcalls.raise_in(
            environment, context, Upcall.TRAP, (reason, code, detail)
        ):
            self.kill(environment, context, cause, f"{reason.name.lower()} {code:#x}")

    def close(self) -> None:
        """Let go of the engines; the memory and the disk are whoever made them's."""
        for environment in list(self.environments.values()):
            for context in environment.contexts.values():
                if context.coroutine is not None:
                    coroutines.close(context.coroutine)
        for cpu in self.cpus:
            cpu.close()
