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
from typing import Any

from exokernel.abi.errors import Error
from exokernel.abi.flags import Event, ResumeReason, TrapReason
from exokernel.abi.layout import DOWNCALL_BASE, MAXIMUM_ENVIRONMENTS, PAGE_SHIFT
from exokernel.abi.upcalls import Upcall
from exokernel.kernel import coroutines, dispatch
from exokernel.kernel.capabilities import ACCESS_ENTRIES, EVERY_RIGHT, Capability, name_of
from exokernel.kernel.death import Cause, Death
from exokernel.kernel.environment import Context, ContextState, Environment, State, Wait, empty_ring
from exokernel.kernel.exposed import ExposedPages
from exokernel.kernel.frames import FrameTable
from exokernel.kernel.refusal import AccessFault, Refusal
from exokernel.kernel.revocation import HardLimit, Revocation, SampleTick
from exokernel.kernel.sectors import RequestDone, SectorTable
from exokernel.kernel.spaces import AddressSpaces
from exokernel.kernel.upcalls import UpcallDelivery
from exokernel.machine import costs
from exokernel.machine.clock import NEVER, Clock
from exokernel.machine.console import Console
from exokernel.machine.context import MachineContext, Register, Trap, TrapKind
from exokernel.machine.cpu import Cpu, prepare_supervisor
from exokernel.machine.disk import Disk
from exokernel.machine.memory import PhysicalMemory
from exokernel.policy.cpu import CpuPolicy
from exokernel.policy.memory import MemoryPolicy

BUDGET, DOWNCALL, PAGE_FAULT = TrapKind.BUDGET, TrapKind.DOWNCALL, TrapKind.PAGE_FAULT
RAX = int(Register.RAX)
DOWNCALL_RANGE = DOWNCALL_BASE >> 16
SUPERVISOR_FRAME = 1
"""Frame 0 stays unused, so that physical address 0 is never anybody's."""
LAST_GENERATION = (1 << 32) // MAXIMUM_ENVIRONMENTS - 2
"""An environment's number has 32 bits in the exposed pages, and all ones mean the machine."""


@dataclass(frozen=True)
class Settings:
    """Numbers of the kernel's mechanisms, in cycles of virtual time."""

    quantum: int = 100_000
    release_deadline: int = 200_000
    release_hard_limit: int = 20_000_000
    sample_every: int = 200_000
    watchdog_seconds: float = 10.0


@dataclass(frozen=True)
class WaitOver:
    """Timed event: a context's wait may have reached its deadline."""

    environment: int
    context: int
    wait: Wait


@dataclass(frozen=True)
class Pause:
    """Timed event: `run` was to come back now."""


class Outcome(Enum):
    """Why `run` came back."""

    ALL_ENDED = "every environment has ended"
    TIME = "the time given to run has passed"
    STOPPED = "somebody asked for it"


class Kernel:
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
        self.memory = memory
        self.clock = Clock()
        self.console = console or Console()
        self.settings = settings or Settings()
        self.environments: dict[int, Environment] = {}
        self.ended: dict[int, Environment] = {}
        self.deaths: list[Death] = []
        self.first_environment = 0
        self.stop_requested = False
        self._policy = cpu_policy
        self._generation = 0
        self._slots: set[int] = set()
        self.python_errors: list[BaseException] = []
        self._slice_end = 0
        self._directed: tuple[int, int] | None = None
        self._loaded_root = 0
        self._unfinished: Environment | None = None
        self._boot(make_cpu)
        self.disk = SectorTable(self, disk)
        self.upcalls = UpcallDelivery(self)
        settings_ = self.settings
        self.revocation = Revocation(
            self, memory_policy, settings_.release_deadline, settings_.release_hard_limit, settings_.sample_every
        )
        self.native_call = dispatch.native
        self.python_call = dispatch.python
        self.watchdog = coroutines.Watchdog(settings_.watchdog_seconds)
        self.exposed.switch_on(memory.frames, self.frames.first, disk.sectors)

    def _boot(self, make_cpu: Callable[[PhysicalMemory, int], Cpu]) -> None:
        """Lay out the machine's own frames: supervisor page and its tables, exposed pages and theirs; the rest is free."""
        memory = self.memory
        supervisor = SUPERVISOR_FRAME << PAGE_SHIFT
        next_frame = SUPERVISOR_FRAME + 1
        entry = prepare_supervisor(memory, supervisor)
        self.cpus: list[Cpu] = [make_cpu(memory, supervisor)]
        self.exposed = ExposedPages(memory, next_frame)
        next_frame += ExposedPages.frames_needed(memory.frames)
        tables = range(next_frame, next_frame + AddressSpaces.tables_needed(memory.frames))
        self.spaces = AddressSpaces(memory, self.cpus, entry)
        self.frames = FrameTable(memory, tables.stop, self.exposed, self.spaces)
        self.spaces.frames, self.spaces.exposed = self.frames, self.exposed
        self.spaces.switch_on(tables)

    # Environments.

    def create(self, parent: Environment | None, quota: int) -> Environment:
        """Make an environment.  Raises Refusal (TOO_MANY, NO_FRAME, OVER_QUOTA)."""
        slot = next((s for s in range(1, MAXIMUM_ENVIRONMENTS) if s not in self._slots), None)
        if slot is None or self._generation == LAST_GENERATION:
            raise Refusal(Error.TOO_MANY)
        self._generation += 1
        number = self._generation * MAXIMUM_ENVIRONMENTS + slot
        name = name_of(parent.name if parent is not None else (), number)
        own = Capability(name, EVERY_RIGHT)
        environment = Environment(
            number, parent.number if parent is not None else 0, name, empty_ring(own),
            [own] + [None] * (ACCESS_ENTRIES - 1), quota, 0, 0,
        )
        self.spaces.make(environment)
        self._slots.add(slot)
        self.environments[number] = environment
        if parent is not None:
            parent.children[number] = None
        else:
            self.first_environment = number
        self.exposed.environment(environment)
        self.exposed.living(len(self.environments))
        return environment

    def boot_coroutine(self, start: Callable[[], Any]) -> Environment:
        """Make the first environment, which runs the coroutine that `start` makes and may hold every frame."""
        environment = self.create(None, self.memory.frames)
        environment.state = State.ALIVE
        environment.new_context(coroutine=start())
        self.exposed.environment(environment)
        self.consider(environment)
        return environment

    def end(self, environment: Environment, status: int) -> None:
        """An environment ends: everything it holds goes back, and its parent is told."""
        environment.state = State.DEAD
        environment.exit_status = status
        environment.accounts.ended_at = self.clock.now
        self._policy.not_runnable(environment.number)
        environment.ready.clear()
        for context in environment.contexts.values():
            if context.coroutine is not None:
                coroutines.close(context.coroutine)
        environment.contexts.clear()
        environment.pending.clear()
        environment.request = None
        self.revocation.no_longer_wants(environment)
        self.exposed.environment(environment)
        self.exposed.library_counts(environment)
        self.spaces.unmap_everything(environment)
        for frame in list(self.frames.used.values()):
            for pair in [pair for pair in frame.loans if environment in pair]:
                del frame.loans[pair]
        for number in list(environment.held):
            self.frames.let_go(environment, self.frames.used[number])
        self.spaces.destroy(environment)
        self.disk.let_go_of_everything(environment)
        del self.environments[environment.number]
        self._slots.discard(environment.number % MAXIMUM_ENVIRONMENTS)
        self.ended[environment.number] = environment
        self.exposed.living(len(self.environments))
        parent = self.environments.get(environment.parent)
        if parent is not None:
            parent.children[environment.number] = status
            self.count_event(parent, Event.CHILD, 0, 0)
            self.count_event(parent, Event.EXIT, environment.number, status)

    def kill(
        self, environment: Environment, context: Context | None, cause: Cause, detail: str = "", where: int | None = None,
        access: int = 0,
    ) -> None:
        """End an environment that broke a rule, and write down which."""
        if environment.state is State.DEAD:
            return
        registers: tuple[int, ...] = ()
        code = b""
        if context is not None and context.machine is not None:
            registers = tuple(context.machine.words)
            try:
                code = self.spaces.read(environment, registers[Register.RIP], 15)
            except (AccessFault, Refusal):
                code = b""
        self.deaths.append(Death(environment.number, cause, self.clock.now, detail, where, access, registers, code))
        self.end(environment, 128)

    # Time.

    def charge(self, environment: Environment, cycles: int) -> None:
        """The kernel works for `environment`: its account and the clock move on."""
        self.clock.now += cycles
        environment.accounts.kernel_cycles += cycles
        if environment.request is not None:
            self.revocation.ran(environment, cycles)

    # Waiting.

    def consider(self, environment: Environment, urgent: bool = False) -> None:
        """Tell the CPU policy whether an environment can run."""
        if environment.state is State.ALIVE and (environment.ready or self.upcalls.deliverable(environment)):
            self._policy.runnable(environment.number, urgent)
        else:
            self._policy.not_runnable(environment.number)

    def wait(self, environment: Environment, context: Context, wait: Wait) -> None:
        """Block a context."""
        context.wait = wait
        environment.stop(context, ContextState.BLOCKED)
        if wait.deadline < NEVER:
            self.clock.at(wait.deadline, WaitOver(environment.number, context.number, wait))
        self.consider(environment)

    def end_wait(self, environment: Environment, context: Context) -> None:
        """A context's wait is over without an answer; it is ready."""
        context.wait = None
        environment.make_ready(context)
        self.consider(environment)

    def _answer_wait(self, environment: Environment, context: Context, value: int) -> None:
        self.end_wait(environment, context)
        if context.machine is None:
            context.answer = Error.of(-value) if value < 0 else value
        elif not self.upcalls.resume_cpu(environment, context, ResumeReason.EVENT, value):
            context.machine.words[RAX] = value & 0xFFFF_FFFF_FFFF_FFFF

    def count_event(self, environment: Environment, event: Event, value: int, status: int) -> None:
        """Something an environment may wait for has happened: count it, end waits for it, or tell by up-call."""
        if environment.state is not State.ALIVE:
            return
        environment.events[event] += 1
        self.exposed.event(environment, event)
        waiting = [
            context
            for context in environment.contexts.values()
            if context.wait is not None and context.wait.event is event
            and (event not in (Event.DISK, Event.EXIT) or context.wait.value == value)
        ]
        for context in waiting:
            answer = status if event in (Event.DISK, Event.EXIT) else environment.events[event]
            if event is Event.DISK:
                environment.outstanding.pop(value, None)
            self._answer_wait(environment, context, answer)
        if not waiting and event is not Event.CHILD:
            self.upcalls.request(environment, Upcall.EVENT, (event, value, status))

    def _due(self) -> None:
        """Handle every timed event whose cycle has come."""
        while (event := self.clock.due()) is not None:
            match event:
                case RequestDone():
                    self.disk.done()
                case WaitOver(environment=number, context=place, wait=wait):
                    environment = self.environments.get(number)
                    context = environment.contexts.get(place) if environment is not None else None
                    if environment is not None and context is not None and context.wait is wait:
                        late = 0 if wait.event is Event.TIME else -int(Error.TIMED_OUT)
                        self._answer_wait(environment, context, late)
                case Pause():
                    self._paused = self.stop_requested = True
                case HardLimit():
                    self.revocation.hard_limit(event)
                case SampleTick():
                    self.revocation.sample()
        if self.frames.freed:
            self.frames.freed = 0
            self.revocation.frames_came_free()

    # The loop.

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
        """Give an environment the CPU until its slice ends at cycle `end`, it blocks, yields or ends.  A pause only interrupts
        the slice, which goes on when `run` is called again, so that looking in between changes nothing."""
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

