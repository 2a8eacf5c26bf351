"""The kernel's loop: choose an environment, run its current context until it traps, charge the time, answer the trap.

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
from exokernel.kernel.lifecycle import Lifecycle
from exokernel.kernel.revocation import HardLimit, Revocation, SampleTick
from exokernel.kernel.sectors import RequestDone, SectorTable
from exokernel.kernel.upcalls import UpcallDelivery
from exokernel.kernel.waiting import RAX, WaitOver
from exokernel.machine import costs
from exokernel.machine.clock import NEVER
from exokernel.machine.console import Console
from exokernel.machine.context import MachineContext, Trap, TrapKind
from exokernel.machine.cpu import Cpu
from exokernel.machine.disk import Disk
from exokernel.machine.memory import PhysicalMemory
from exokernel.policy.cpu import CpuPolicy
from exokernel.policy.memory import MemoryPolicy

BUDGET, DOWNCALL, PAGE_FAULT = TrapKind.BUDGET, TrapKind.DOWNCALL, TrapKind.PAGE_FAULT
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


class Kernel(Lifecycle):
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
    ) -> None:
        super().__init__(memory, make_cpu, cpu_policy, console, settings)
        self.stop_requested = self._paused = False
        self._slice_end = 0
        self._directed: tuple[int, int] | None = None
        self._loaded_root = 0
        self._unfinished: Environment | None = None
        self.disk = SectorTable(self, disk)
        self.upcalls = UpcallDelivery(self)
        self.revocation = Revocation(self, memory_policy)
        self.native_call = dispatch.native
        self.python_call = dispatch.python
        self.watchdog = coroutines.Watchdog(self.settings.watchdog_seconds)
        self.exposed.switch_on(memory.frames, self.frames.first, disk.sectors)

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
                if self._unfinished is not None and self._unfinished.state is State.ALIVE:
                    self._run_slice(self._unfinished, self._slice_end)
                    continue
                directed, self._directed = self._directed, None
                if directed is not None and directed[0] in self.environments and directed[1] > self.clock.now:
                    self._run_slice(self.environments[directed[0]], directed[1])
                elif (number := self._policy.next()) is not None:
                    self._run_slice(self.environments[number], self.clock.now + self.settings.quantum)
                elif not self.environments and not self.disk.busy:
                    return Outcome.ALL_ENDED
                elif self._only_samples() or not self.clock.jump():
                    self._deadlock()
            return Outcome.TIME if self._paused else Outcome.STOPPED

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
        """Nobody runs and nothing will happen: end whoever waits, saying for what, children before parents."""
        for environment in sorted(self.environments.values(), key=lambda e: -e.number):
            waits = [context.wait for context in environment.contexts.values() if context.wait is not None]
            if waits and not any(child in self.environments for child in environment.children):
                names = ", ".join(f"{wait.event.name.lower()} {wait.value}" for wait in waits)
                self.kill(environment, None, Cause.DEADLOCK, f"waiting for: {names}")
                return
        for environment in list(self.environments.values()):
            self.kill(environment, None, Cause.DEADLOCK, "no context of it can ever run")
            return

    def _run_slice(self, environment: Environment, end: int) -> None:
        """Give an environment the CPU until its slice ends at cycle `end`, it blocks, yields or ends.  A pause only
        interrupts the slice, which goes on when `run` is called again, so that looking in between changes nothing."""
        clock, run, words = self.clock, self.cpus[0].run, self.memory.words
        frames, accounts, shown = self.frames, environment.accounts, self.exposed.clock_word
        root = environment.root
        if root != self._loaded_root:
            self._loaded_root = root
            self.charge(environment, costs.ADDRESS_SPACE_SWITCH)
        self._unfinished = None
        self._slice_end = end
        preempted = False
        while environment.state is State.ALIVE:
            now = clock.now
            if clock.next <= now or frames.freed:
                self._due()
                continue
            if now >= self._slice_end:
                break
            if self.stop_requested:
                self._unfinished = environment
                return
            if environment.owed:
                paid = min(environment.owed, min(self._slice_end, clock.next) - now)
                environment.owed -= paid
                self.charge(environment, paid)
                continue
            if environment.pending and self.upcalls.deliver_pending(environment):
                continue
            if not environment.ready:
                break
            context = environment.ready[-1]
            words[shown] = now
            machine = context.machine
            if machine is None:
                coroutines.step(self, environment, context)
                continue
            limit = clock.next
            trap = run(machine, root, (limit if limit < self._slice_end else self._slice_end) - now)
            cycles = trap.cycles
            clock.now = now + cycles
            accounts.instructions += cycles
            if environment.request is not None:
                self.revocation.ran(environment, cycles)
            kind = trap.kind
            if kind is DOWNCALL and machine.words[RAX] >> 16 == DOWNCALL_RANGE:
                self.native_call(self, environment, context, machine)
            elif kind is BUDGET:
                preempted = clock.now >= self._slice_end
            else:
                self.answer(environment, context, machine, trap)
        if environment.state is State.ALIVE:
            frames.promise_over(environment)
            self.exposed.ran(environment)
            if preempted:
                self.charge(environment, costs.FULL_STATE_WORDS * costs.SAVE_REGISTER)
            self.consider(environment)

    def give_up_slice(self, to: int | None) -> None:
        """The running environment yields; to a named one, the rest of the slice and no more."""
        self._directed = None if to is None else (to, self._slice_end)
        self._slice_end = 0

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
