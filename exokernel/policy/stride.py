"""Stride scheduling: deterministic proportional shares.

Waldspurger and Weihl, Stride Scheduling: Deterministic Proportional-Share Resource Management, MIT/LCS/TM-528, 1995.
Each client has a *stride*, inversely proportional to its tickets, and a *pass*, the virtual time of its next turn; the
smallest pass runs and moves on by its stride for each quantum it used.  The global pass is the mean of the passes of all
active clients, weighted by their tickets; a client that leaves remembers how far its own was from it (*remain*) and comes
back at the same distance, so that sleeping neither saves up nor loses.

What is this implementation's own: a quantum is charged when a slice begins and what was not used is given back when it
ends, so that the passes are right while several processors run, and who wakes within a slice has no claim to it; and on
several processors a client with more tickets than one processor is worth cannot use its share, so what it lags behind the
others is limited.  Otherwise its claim would grow without end and be paid by whoever comes next (Chandra, Adler, Goyal and
Shenoy, Surplus Fair Scheduling, OSDI 2000, describe the problem and adjust the weights instead).
"""

from dataclasses import dataclass

from exokernel.policy.ordering import Ordering
from exokernel.policy.scheduling import DEFAULT_TICKETS, LEAST_PART, Choice, CpuPolicy, SliceEnd

STRIDE1 = 1 << 40
"""Stride of a client with one ticket, per cycle: so large that rounding the others' is no matter."""


@dataclass(slots=True)
class Client:
    """One environment: `passed` is its pass while it is active, and its distance from the global pass while not."""

    tickets: int = DEFAULT_TICKETS
    stride: int = STRIDE1 // DEFAULT_TICKETS
    passed: int = 0
    running: int = 0
    active: bool = False


class Stride(CpuPolicy):
    """Each environment gets its share by tickets, to within a quantum relative to any other.

    Who waits with t of T tickets has its turn at the latest after T/t + n quanta, n being the number of others.
    """

    name = "stride"
    summary = "shares in proportion to tickets, evenly spread"

    def __init__(self, quantum: int = 100_000, seed: int = 0, cpus: int = 1) -> None:
        super().__init__(quantum, seed, cpus)
        self._least = max(1, quantum // LEAST_PART)
        self._clients: dict[int, Client] = {}
        self._queue = Ordering()
        self._running: dict[int, Client] = {}
        self._active = 0
        self._tickets = 0
        self._weighted = 0
        self._last_global = 0

    def not_runnable(self, environment: int) -> None:
        super().not_runnable(environment)
        client = self._clients.get(environment)
        if client is not None and client.active and not client.running:
            self._deactivate(client)

    def ended(self, environment: int) -> None:
        super().ended(environment)
        client = self._clients.pop(environment, None)
        self._running.pop(environment, None)
        if client is not None and client.active:
            self._deactivate(client)

    def ran(self, environment: int, cycles: int, end: SliceEnd, now: int) -> None:
        client = self._clients.get(environment)
        if client is None:
            return
        charge = cycles if cycles > self._least else self._least
        if client.running:
            charge -= self.quantum
            client.running -= 1
            if not client.running:
                del self._running[environment]
        amount = charge * client.stride
        client.passed += amount
        if not client.active:
            return
        self._weighted += amount * client.tickets
        if environment in self._queue:
            self._queue.put(environment, client.passed)
        elif end is SliceEnd.BLOCKED and not client.running and environment not in self._urgent:
            self._deactivate(client)

    def set_tickets(self, environment: int, tickets: int) -> None:
        super().set_tickets(environment, tickets)
        client = self._client(environment)
        active = client.active
        if active:
            self._deactivate(client)
        client.passed = client.passed * client.tickets // tickets
        client.tickets, client.stride = tickets, STRIDE1 // tickets
        if active:
            self._activate(client)
        if environment in self._queue:
            self._queue.put(environment, client.passed)

    def _enter(self, environment: int) -> None:
        if environment not in self._queue:
            client = self._clients.get(environment) or self._client(environment)
            if not client.active:
                self._activate(client)
            self._queue.put(environment, client.passed)

    def _leave(self, environment: int) -> None:
        self._queue.discard(environment)

    def _choose(self, now: int) -> Choice | None:
        environment = self._queue.pop()
        if environment is None:
            return None
        client = self._clients[environment]
        if self.cpus > 1:
            self._let_claims_lapse(client.passed)
        return self._begin(environment, client)

    def _favour(self, environment: int, now: int) -> Choice:
        client = self._client(environment)
        if not client.active:
            self._activate(client)
        return self._begin(environment, client)

    def _begin(self, environment: int, client: Client) -> Choice:
        client.running += 1
        self._running[environment] = client
        amount = self.quantum * client.stride
        client.passed += amount
        self._weighted += amount * client.tickets
        return self._turns.get(environment) or self._turn(environment)

    def _let_claims_lapse(self, passed: int) -> None:
        """The one with the smallest pass of all queued is to run; whoever is behind it has a processor already.  Behind by
        a quantum for each client is within the error of stride scheduling; more it can never use."""
        for client in self._running.values():
            behind = passed - client.passed - self._active * self.quantum * client.stride
            if behind > 0:
                client.passed += behind
                self._weighted += behind * client.tickets

    def _client(self, environment: int) -> Client:
        client = self._clients.get(environment)
        if client is None:
            client = self._clients[environment] = Client()
        return client

    def _global_pass(self) -> int:
        return self._weighted // self._tickets if self._tickets else self._last_global

    def _activate(self, client: Client) -> None:
        """The client's own pass shifts the mean; it joins so far from the others' that its distance is right afterwards."""
        others = self._tickets
        if others:
            client.passed = client.passed * (others + client.tickets) // others
        client.passed += self._global_pass()
        client.active = True
        self._active += 1
        self._tickets += client.tickets
        self._weighted += client.tickets * client.passed

    def _deactivate(self, client: Client) -> None:
        self._last_global = self._global_pass()
        self._active -= 1
        self._tickets -= client.tickets
        self._weighted -= client.tickets * client.passed
        client.active = False
        client.passed -= self._last_global


class ForcedStride(Stride):
    """Stride scheduling that takes the processor without asking."""

    name = "forced-stride"
    summary = "shares in proportion to tickets, stopped by force (a monolithic kernel)"
    forced = True
