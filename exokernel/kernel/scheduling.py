"""Slices: how a processor's time is divided, begun, ended and taken back.

A free processor goes on in its vector of slices: if the next position has an owner that can run, that one has the
processor for a quantum; otherwise the global policy names somebody.  Time is charged to whose slice it is.

When a slice is over the owner is asked, by `please_release_cpu`, to save what it needs and yield, and has until a deadline.
One that does not handle the request is preempted by force, with everything saved and charged.  One that handles it and
lets the deadline pass is preempted as well, keeps its state, and after too many such overruns in a row is ended.  What
anybody has had beyond a slice is taken off the next ones.  Under a policy that forces nobody is asked.
(Engler, Kaashoek and O'Toole, SOSP 1995, section 5.1.1: slice vector, time interrupts and excess time.)
"""

from __future__ import annotations

from typing import Any

from exokernel.abi.errors import Error
from exokernel.abi.flags import ANY
from exokernel.abi.layout import SLICES
from exokernel.abi.upcalls import Upcall
from exokernel.kernel import exposed
from exokernel.kernel.death import Cause
from exokernel.kernel.environment import Context, Environment, State
from exokernel.kernel.exposed import CYCLES
from exokernel.kernel.lifecycle import Lifecycle
from exokernel.kernel.processor import Processor
from exokernel.kernel.refusal import Refusal
from exokernel.kernel.waiting import FULL_STATE
from exokernel.machine.clock import NEVER
from exokernel.machine.costs import FAULT_CROSSING
from exokernel.policy.scheduling import CpuPolicy, SliceEnd


class Scheduling(Lifecycle):
    """Gives the processors' time to environments and takes it back."""

    processor: Processor
    """The one the kernel works for."""
    horizon: int
    """The cycle at which it has to let the others catch up; 0 to look around at once."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.processors = [Processor(number, cpu) for number, cpu in enumerate(self.cpus)]
        self.processor = self.processors[0]
        self.horizon = NEVER
        self._several = len(self.processors) > 1
        self._owned = 0
        self._may_preempt = self.cpu_policy.preempting
        self._use_matters = type(self.cpu_policy).ran is not CpuPolicy.ran
        self._looks_around = self._several or self._may_preempt

    # The vector of slices.

    def own_slice(self, environment: Environment, cpu: int, position: int) -> int:
        """Make `environment` the owner of a slice.  Gives its position.  Raises Refusal."""
        if cpu >= len(self.processors) or (position != ANY and position >= SLICES):
            raise Refusal(Error.BAD_ARGUMENT)
        slices = self.processors[cpu].slices
        if position == ANY:
            position = next((place for place in range(SLICES) if slices[place] is None), ANY)
        if position == ANY or slices[position] is not None:
            raise Refusal(Error.NO_SLICE)
        family = (environment, *environment.lineage)
        if any(one.limits.slices_used >= one.limits.slices for one in family if one.state is not State.DEAD):
            raise Refusal(Error.OVER_QUOTA)
        for one in family:
            one.limits.slices_used += 1
        slices[position] = environment
        self._owned += 1
        self.exposed.slice(cpu, position, environment.number)
        return position

    def disown_slice(self, environment: Environment, cpu: int, position: int) -> None:
        """The slice is nobody's again.  Raises Refusal (BAD_ARGUMENT, DENIED)."""
        if cpu >= len(self.processors) or position >= SLICES:
            raise Refusal(Error.BAD_ARGUMENT)
        if self.processors[cpu].slices[position] is not environment:
            raise Refusal(Error.DENIED)
        self.processors[cpu].slices[position] = None
        self._owned -= 1
        for one in (environment, *environment.lineage):
            one.limits.slices_used -= 1
        self.exposed.slice(cpu, position, 0)

    def _disown_everything(self, environment: Environment) -> None:
        if environment.limits.slices_used:
            for processor in self.processors:
                for position in [place for place, owner in enumerate(processor.slices) if owner is environment]:
                    self.disown_slice(environment, processor.number, position)

    # Beginning a slice.

    def choose(self, processor: Processor) -> bool:
        """Give a free processor to somebody.  False if nobody can run."""
        aside: list[int] = []
        found = False
        while not found:
            owner = self._next_owner(processor) if self._owned else None
            if owner is not None and self.could_run(owner):
                found = self._begin(processor, owner, self.settings.quantum)
                continue
            choice = self.cpu_policy.next(self.clock.now)
            if choice is None:
                break
            environment = self.environments[choice.environment]
            can_run = self.could_run(environment)
            found = can_run and self._begin(processor, environment, choice.cycles)
            if not found:
                self.cpu_policy.ran(environment.number, 0, SliceEnd.EXPIRED, self.clock.now)
                if can_run:
                    self.consider(environment)
                elif environment.watching:
                    aside.append(environment.number)
        for number in aside:
            self.cpu_policy.runnable(number, False, self.clock.now)
        return found

    def _next_owner(self, processor: Processor) -> Environment | None:
        owner = processor.slices[processor.position]
        processor.position = (processor.position + 1) % SLICES
        return owner

    def could_run(self, environment: Environment, payer: Environment | None = None) -> bool:
        """Whether a processor would be of use to an environment now; `payer`, by default itself, pays for looking."""
        if environment.watching:
            self.look_at_predicates(environment, payer or environment)
        ready = environment.ready
        if ready and ready[-1].processor is None:
            return True
        return environment.state is State.ALIVE and (
            environment.free_context() is not None or self.upcalls.deliverable(environment) is not None
        )

    def _begin(self, processor: Processor, environment: Environment, cycles: int) -> bool:
        """Begin a slice of so many cycles, less what the environment owes.  False, and it owes less, if it owes all."""
        if environment.debt >= cycles:
            environment.debt -= cycles
            return False
        cycles -= environment.debt
        environment.debt = 0
        clock = self.clock
        if environment.left_at > clock.now:
            clock.now = environment.left_at
        self.cpu_policy.not_runnable(environment.number)
        processor.environment = processor.owner = environment
        processor.began = clock.now
        processor.end = clock.now + cycles
        processor.due = NEVER
        if self._several and sum(context.processor is None for context in environment.ready) > 1:
            self.cpu_policy.runnable(environment.number, False, clock.now)
        return True

    # Within a slice.

    def give_up_slice(self) -> None:
        """The running environment yields to whom the policy chooses."""
        self.processor.end = 0

    def hand_over(self, to: Environment) -> None:
        """The rest of the slice, and no more, is another's."""
        processor, now = self.processor, self.clock.now
        owner = processor.owner
        if owner is None or owner is not processor.environment or processor.due != NEVER or self._looks_around:
            end = processor.end if processor.due == NEVER else 0
            self.end_slice(processor, SliceEnd.YIELDED)
            processor.end = end
        else:
            # The same without looking at what cannot be.
            self._leave(processor, owner)
            if self._use_matters:
                self.cpu_policy.ran(owner.number, now - processor.began, SliceEnd.YIELDED, now)
            self.cpu_policy.runnable(owner.number, False, now)
        processor.owner = processor.environment = to
        processor.began = now
        if to.left_at > self.clock.now:
            self.clock.now = to.left_at

    def lend(self, to: Environment) -> None:
        """The slice stays whose it is, and is charged to its owner, but another runs in it; or its owner runs again."""
        processor = self.processor
        lender = processor.environment
        assert lender is not None
        if lender.ready or lender.pending or self._several or self.frames.promised:
            self._leave(processor, lender)
            self.consider(lender)
        if processor.due != NEVER:
            # Nothing is left to be lent, or calling would be a way to be asked for ever.
            self._released(processor, lender, SliceEnd.BLOCKED)
            processor.end = 0
        processor.environment = to
        if to.left_at > self.clock.now:
            self.clock.now = to.left_at

    def is_lent(self) -> bool:
        """Whether who runs has the slice of somebody else."""
        return self.processor.owner is not self.processor.environment

    def became_runnable(self, environment: int) -> None:
        if self._several and any(processor.environment is None for processor in self.processors):
            self.horizon = 0
        elif self._may_preempt:
            for processor in self.processors:
                owner = processor.owner
                if (
                    owner is not None
                    and owner.number != environment
                    and processor.due == NEVER
                    and self.cpu_policy.preempts(environment, owner.number)
                ):
                    processor.end = min(processor.end, self.clock.now)
                    self.horizon = 0
                    break

    # The end of a slice.

    def slice_over(self, processor: Processor, environment: Environment) -> bool:
        """The slice, or the respite after it, has been used up.  Gives whether the processor is to be taken away now.  A
        library that handles the request is asked also if nobody else waits: it may have others in its own queue."""
        context = next((one for one in environment.ready if one.processor is processor), None)
        if context is None:
            return True
        self.charge(environment, FAULT_CROSSING)
        if environment.state is not State.ALIVE:
            return True
        if processor.due != NEVER:
            self._overrun(environment, context)
            return True
        if self.cpu_policy.forced or not environment.handles(Upcall.PLEASE_RELEASE_CPU):
            alone = len(environment.ready) == 1 and not self._owned and not self.cpu_policy.anybody_waits()
            if context.machine is not None and not alone:
                self.charge(environment, FULL_STATE)
            return True
        if context.upcall is Upcall.PLEASE_RELEASE_CPU:
            return True
        processor.asked = context
        processor.due = self.clock.now
        processor.end = self.clock.now + self.settings.cpu_release_deadline
        if environment.library is None:
            word = exposed.CPU_WANTED + exposed.CONTEXT_WORDS * context.number
            self.exposed.set_own_word(environment, word, processor.end)
        deadline = self.settings.cpu_release_deadline
        self.upcalls.request(environment, Upcall.PLEASE_RELEASE_CPU, (deadline,), context)
        return False

    def _overrun(self, environment: Environment, context: Context) -> None:
        """The deadline has passed: preempted by force, and for somebody who does so too often that is the end."""
        if context.machine is not None:
            self.charge(environment, FULL_STATE)
        environment.overruns += 1
        environment.accounts.overruns += 1
        if environment.overruns > self.settings.overruns_allowed:
            self.kill(environment, context, Cause.OVERRUN)

    def end_slice(self, processor: Processor, how: SliceEnd) -> None:
        """The processor is free again; whoever had it is told to the policy, and may run again if it can."""
        environment, owner, now = processor.environment, processor.owner, self.clock.now
        assert environment is not None
        assert owner is not None
        if processor.due != NEVER:
            self._released(processor, environment, how)
        processor.environment = processor.owner = None
        self._leave(processor, environment)
        if owner.state is State.ALIVE:
            self.cpu_policy.ran(owner.number, now - processor.began, how, now)
            if owner is not environment:
                self.consider(owner)
        self.consider(environment)

    def _released(self, processor: Processor, environment: Environment, how: SliceEnd) -> None:
        """Who has been asked for the processor has let go of it, or lost it: the request is over, and what there was beyond
        the slice is a debt of the slice's owner."""
        assert processor.owner is not None
        processor.owner.debt += self.clock.now - processor.due
        processor.due = NEVER
        if how is not SliceEnd.EXPIRED:
            environment.overruns = 0
        context, processor.asked = processor.asked, None
        if context is not None:
            self.upcalls.withdraw(environment, Upcall.PLEASE_RELEASE_CPU, context)
            if environment.library is None and environment.state is State.ALIVE:
                word = exposed.CPU_WANTED + exposed.CONTEXT_WORDS * context.number
                self.exposed.set_own_word(environment, word, 0)

    def _leave(self, processor: Processor, environment: Environment) -> None:
        """The environment has not got the processor any more."""
        for context in environment.ready:
            if context.processor is processor:
                context.processor = None
        environment.left_at = self.clock.now
        if environment.state is State.ALIVE:
            if self.frames.promised:
                self.frames.promise_over(environment)
            accounts = environment.accounts
            self.memory.words[environment.row + CYCLES] = accounts.instructions + accounts.kernel_cycles

    def end(self, environment: Environment, status: int) -> None:
        self._disown_everything(environment)
        super().end(environment, status)
        for processor in self.processors:
            if processor.environment is environment and processor is not self.processor:
                owner, used = processor.owner, max(0, processor.now - processor.began)
                processor.environment = processor.owner = processor.asked = None
                processor.due = NEVER
                if owner is not None and owner.state is State.ALIVE:
                    self.cpu_policy.ran(owner.number, used, SliceEnd.BLOCKED, processor.now)
                    self.consider(owner)
