"""Earliest deadline first, with reservations that are admitted and enforced.

Liu and Layland, Scheduling Algorithms for Multiprogramming in a Hard-Real-Time Environment, JACM 1973: on one processor
the earliest deadline first meets every deadline as long as no more than all of it is promised.  Goossens, Funk and
Baruah, Priority-Driven Scheduling of Periodic Task Systems on Multiprocessors, Real-Time Systems 2003: so it does on m
processors if the sum of the utilisations is at most m - (m-1) times the largest.  A tenth of either bound is not given
away: it is for the kernel's own work and for the background.

A reservation is a constant-bandwidth server (Abeni and Buttazzo, Integrating Multimedia Applications in Hard Real-Time
Systems, RTSS 1998; on several processors Baruah, Goossens and Lipari, RTAS 2002) of the hard kind, as SCHED_DEADLINE of
Linux:

1. it has a budget and a deadline, one period after the budget was filled, and runs with the precedence of its deadline;
2. with its budget used up, or when it yields, it goes on in the background until the deadline, when the budget is filled
   again; what a slice ran beyond its budget is taken off the next;
3. on waking it keeps budget and deadline if the rest of the budget is no more, in proportion, than the rest of the time;
   otherwise it begins a period of its own.  So the promise holds from each waking on, and who sleeps saves nothing up;
4. a reservation given up is free for others when the period it has used some of is over.

The background, which is everybody else and whoever used up his budget, takes turns, and is asked for urgent things in turn
before the rest of the background.
"""

from dataclasses import dataclass
from heapq import heappop, heappush

from exokernel.policy.ordering import Ordering
from exokernel.policy.scheduling import Choice, CpuPolicy, SliceEnd

PROCESSOR = 10**12
"""Utilisation is counted in parts of one processor."""


@dataclass(slots=True)
class Reservation:
    """A promise of `cycles` in every `period`, and where it stands; times in cycles."""

    cycles: int
    period: int
    deadline: int
    budget: int
    """What it may still use before the deadline; less than nothing if a slice ran beyond it."""
    active: bool = False
    """It has had something to run ever since it woke."""
    running: int = 0
    """Slices that have begun and not ended."""
    granted: int = 0
    """What the running slices were given of the budget of the period that ends at `granted_until`; it is off the budget."""
    granted_until: int = 0
    used: int = 0
    """Cycles used by slices that have ended while others went on."""
    mixed: bool = False
    """Some of the running slices are background, so that it is not known which of the cycles used are."""

    @property
    def utilisation(self) -> int:
        return self.cycles * PROCESSOR // self.period

    def used_at(self, now: int) -> bool:
        """Whether a period is on of which it has used something."""
        return now < self.deadline and self.budget < self.cycles

    def wake(self, now: int) -> None:
        """It has something to run again."""
        self.active = True
        if now >= self.deadline or self.budget * self.period >= (self.deadline - now) * self.cycles:
            slept = 1 + max(0, now - self.deadline) // self.period
            self.budget = min(self.cycles, self.budget + slept * self.cycles)
            self.deadline = now + self.period

    def fill(self, now: int) -> None:
        """Its deadline has come while it waited in the background: the next period."""
        start = self.deadline if now < self.deadline + self.period else now
        self.budget = min(self.budget, 0) + self.cycles
        self.deadline = start + self.period

    def grant(self, cycles: int) -> None:
        """A slice of so much of the budget begins.  What an earlier period granted is not given back any more."""
        if self.granted_until != self.deadline:
            self.granted = 0
        self.granted_until = self.deadline
        self.granted += cycles
        self.budget -= cycles
        self.running += 1

    def settle(self, cycles: int) -> None:
        """A slice has ended after `cycles`; after the last, what the slices did not use goes back to the budget."""
        if not self.running:
            return
        self.running -= 1
        self.used += cycles
        if self.running:
            return
        rest = self.granted - self.used
        if self.granted and not self.mixed and (rest < 0 or self.granted_until == self.deadline):
            self.budget = min(self.cycles, self.budget + rest)
        self.granted = self.used = 0
        self.mixed = False


@dataclass(slots=True)
class Slice:
    """A slice under way: the cycle at which it ends, and what was left of its background turn (0: it runs on a budget)."""

    end: int
    turn: int


class Deadline(CpuPolicy):
    """Reservations by `reserve`, the earliest deadline first; the others in turn, with what is left.

    Who waits in the background with n others runs at the latest after ten times n + 1 quanta and the sum of all budgets.
    """

    name = "deadline"
    summary = "promises of so many cycles in every period, earliest deadline first; the rest in turn"
    preempting = True

    def __init__(self, quantum: int = 100_000, seed: int = 0, cpus: int = 1) -> None:
        super().__init__(quantum, seed, cpus)
        self._reservations: dict[int, Reservation] = {}
        self._given_up: list[tuple[int, int]] = []
        self._ready = Ordering()
        self._throttled = Ordering()
        self._background = Ordering()
        self._places: dict[int, int] = {}
        self._last_place = 0
        self._rests: dict[int, int] = {}
        self._slices: dict[int, Slice] = {}
        self._seen = 0

    def anybody_waits(self) -> bool:
        return super().anybody_waits() or len(self._ready) > 0

    def runnable(self, environment: int, urgent: bool = False, now: int = 0) -> None:
        reservation = self._reservations.get(environment)
        if reservation is not None and not reservation.active:
            reservation.wake(now or self._seen)
        if reservation is None or reservation.budget <= 0:
            super().runnable(environment, urgent)
        self._place(environment, reservation)

    def not_runnable(self, environment: int) -> None:
        self._unqueue(environment)
        if environment not in self._slices:
            self._end_turn(environment)
        reservation = self._reservations.get(environment)
        if reservation is not None and not reservation.running:
            reservation.active = False

    def ended(self, environment: int) -> None:
        self._end_reservation(environment)
        self._slices.pop(environment, None)
        super().ended(environment)

    def next(self, now: int) -> Choice | None:
        self._seen = now
        due = self._fill(now)
        environment = self._ready.pop()
        if environment is None:
            return super().next(now)
        reservation = self._reservations[environment]
        cycles = reservation.budget if due is None else min(reservation.budget, due - now)
        reservation.grant(cycles)
        self._slices[environment] = Slice(now + cycles, 0)
        return Choice(environment, cycles)

    def ran(self, environment: int, cycles: int, end: SliceEnd, now: int) -> None:
        self._seen = now
        over = self._slices.pop(environment, None)
        if over is not None:
            self._go_on(environment, over.turn, cycles, end)
        reservation = self._reservations.get(environment)
        if reservation is None:
            return
        reservation.settle(cycles)
        if end is SliceEnd.YIELDED:
            reservation.budget = min(reservation.budget, 0)
        if self._is_queued(environment):
            self._place(environment, reservation)
        elif end is SliceEnd.BLOCKED and not reservation.running:
            reservation.active = False

    def preempts(self, environment: int, running: int) -> bool:
        """An earlier deadline does, and any deadline a background slice; so does one that waits for its next period, if
        that begins before the slice ends and has the earlier deadline."""
        mine, other, under_way = (
            self._reservations.get(environment),
            self._reservations.get(running),
            self._slices.get(running),
        )
        if mine is None:
            return False
        if environment in self._ready:
            deadline = mine.deadline
        elif environment in self._throttled and (under_way is None or under_way.end > mine.deadline):
            deadline = mine.deadline + mine.period
        else:
            return False
        return other is None or not other.granted or deadline < other.granted_until

    def reserve(self, environment: int, cycles: int, period: int, now: int) -> bool:
        if cycles == 0:
            self._end_reservation(environment)
            return True
        if not 0 < cycles <= period:
            return False
        old = self._reservations.get(environment)
        used = old is not None and old.used_at(now)
        wanted = cycles * PROCESSOR // period
        surplus = max(0, old.utilisation - wanted) if old is not None and used else 0
        if not self._admissible(environment, wanted, surplus, now):
            return False
        if surplus and old is not None:
            heappush(self._given_up, (old.deadline, surplus))
        new = Reservation(cycles, period, now, cycles)
        if old is not None:
            new.running, new.mixed = old.running, True
            if used:
                # The new promise begins when the period is over of which the old one was used.
                new.deadline, new.budget, new.active = old.deadline, min(0, old.budget), old.active
        elif environment in self._slices:
            new.running, new.mixed = 1, True
        self._reservations[environment] = new
        if self._is_queued(environment):
            self._ready.discard(environment)
            self._throttled.discard(environment)
            self.runnable(environment, False, now)
        return True

    def _end_reservation(self, environment: int) -> None:
        """No promise any more; the utilisation is free at once, or when the period is over that was used."""
        reservation = self._reservations.pop(environment, None)
        if reservation is None:
            return
        if reservation.budget < reservation.cycles:
            heappush(self._given_up, (reservation.deadline, reservation.utilisation))
        self._throttled.discard(environment)
        if environment in self._ready:
            self._ready.discard(environment)
            self._enter(environment)

    def _admissible(self, environment: int, wanted: int, surplus: int, now: int) -> bool:
        """Whether all promises can be kept if that of `environment` becomes `wanted`, and for a while `surplus` more."""
        while self._given_up and self._given_up[0][0] <= now:
            heappop(self._given_up)
        promised = [other.utilisation for number, other in self._reservations.items() if number != environment]
        promised += [utilisation for _, utilisation in self._given_up]
        promised.append(wanted + surplus)
        return 10 * sum(promised) <= 9 * (self.cpus * PROCESSOR - (self.cpus - 1) * max(promised))

    def _fill(self, now: int) -> int | None:
        """Begin the next period of those for whom it is time; the cycle of the next such time, None if there is none."""
        while (due := self._throttled.first()) is not None and due <= now:
            environment = self._throttled.pop()
            assert environment is not None
            reservation = self._reservations[environment]
            reservation.fill(now)
            self._place(environment, reservation)
        return due

    def _place(self, environment: int, reservation: Reservation | None) -> None:
        """Queue `environment` where its budget says."""
        if reservation is None:
            return
        if reservation.budget > 0:
            if environment not in self._ready:
                self._unqueue(environment)
                self._ready.put(environment, reservation.deadline)
            return
        if environment in self._ready:
            self._ready.discard(environment)
            self._enter(environment)
        if environment not in self._throttled:
            self._throttled.put(environment, reservation.deadline)

    def _is_queued(self, environment: int) -> bool:
        return environment in self._ready or environment in self._background or environment in self._urgent

    def _unqueue(self, environment: int) -> None:
        super().not_runnable(environment)
        self._ready.discard(environment)
        self._throttled.discard(environment)

    def _go_on(self, environment: int, turn: int, cycles: int, end: SliceEnd) -> None:
        """What becomes of a place in the background after a slice: who was interrupted within its turn, or ran on its
        budget meanwhile, keeps it."""
        if end is SliceEnd.EXPIRED and turn > max(1, cycles):
            self._rests[environment] = turn - max(1, cycles)
        elif turn or end is not SliceEnd.EXPIRED:
            self._end_turn(environment)

    def _end_turn(self, environment: int) -> None:
        self._rests.pop(environment, None)
        self._places.pop(environment, None)

    def _enter(self, environment: int) -> None:
        if environment not in self._background:
            place = self._places.get(environment)
            if place is None:
                self._last_place += 1
                place = self._places[environment] = self._last_place
            self._background.put(environment, place)

    def _leave(self, environment: int) -> None:
        self._background.discard(environment)

    def _choose(self, now: int) -> Choice | None:
        environment = self._background.pop()
        return None if environment is None else self._favour(environment, now)

    def _favour(self, environment: int, now: int) -> Choice:
        cycles = turn = self._rests.pop(environment, self.quantum)
        reservation = self._reservations.get(environment)
        if reservation is not None:
            self._throttled.discard(environment)
            reservation.running += 1
            reservation.mixed = True
            cycles = min(cycles, reservation.deadline - now)
        if (due := self._throttled.first()) is not None:
            cycles = min(cycles, due - now)
        self._slices[environment] = Slice(now + cycles, turn)
        return self._turn(environment) if cycles == self.quantum else Choice(environment, cycles)


class ForcedDeadline(Deadline):
    """Earliest deadline first that takes the processor without asking."""

    name = "forced-deadline"
    summary = "promises of cycles in every period, kept by force (a monolithic kernel)"
    forced = True
