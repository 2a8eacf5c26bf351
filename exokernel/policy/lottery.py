"""Lottery scheduling: proportional shares by chance.

Waldspurger and Weihl, Lottery Scheduling: Flexible Proportional-Share Resource Management, OSDI 1994.  Each turn is drawn
among the tickets of all that wait.  One that used only a part f of its quantum holds 1/f times its tickets until it next
wins (compensation tickets), so that it gets its share of time and not only of turns.
"""

from dataclasses import dataclass
from random import Random

from exokernel.policy.scheduling import DEFAULT_TICKETS, LEAST_PART, Choice, CpuPolicy, SliceEnd

TICKET_PARTS = 1024
"""Parts of a ticket, so that compensation is not rounded away."""


class Weights:
    """Numbered places with a weight each: drawing and changing one cost the logarithm of how many there are.

    P. Fenwick, A New Data Structure for Cumulative Frequency Tables, 1994: node i holds the sum of the i & -i weights that
    end with its own.  Places count from 1.
    """

    def __init__(self) -> None:
        self.total = 0
        self._size = 64
        self._tree = [0] * (self._size + 1)
        self._free = list(range(self._size, 0, -1))

    def take(self) -> int:
        """A place nobody has, with no weight."""
        if not self._free:
            # The old root has the sum of the old half; the new one that of everything.
            self._free = list(range(2 * self._size, self._size, -1))
            self._tree += [0] * self._size
            self._size *= 2
            self._tree[self._size] = self.total
        return self._free.pop()

    def give_back(self, place: int) -> None:
        """Nobody has this place any more; its weight must be 0."""
        self._free.append(place)

    def add(self, place: int, weight: int) -> None:
        """Change the weight of a place by `weight`."""
        tree, size = self._tree, self._size
        self.total += weight
        while place <= size:
            tree[place] += weight
            place += place & -place

    def at(self, position: int) -> int:
        """The place on which `position`, from 0 to below the total, falls if all weights are laid end to end."""
        tree, place, step = self._tree, 0, self._size >> 1
        while step:
            below = tree[place + step]
            if below <= position:
                position -= below
                place += step
            step >>= 1
        return place + 1


@dataclass(slots=True)
class Player:
    """One environment: its place, its weight in parts of tickets, and whether it takes part in the drawing now."""

    environment: int
    place: int
    tickets: int = DEFAULT_TICKETS
    weight: int = DEFAULT_TICKETS * TICKET_PARTS
    laid_out: int = 0
    """Its weight at its place.  It stays there when it leaves, and is taken away only if it is drawn."""
    entered: bool = False
    advanced: bool = False
    """It has had an urgent turn, on account of its next win: that one passes on."""


class Lottery(CpuPolicy):
    """Each environment wins turns with the chance its tickets give it; after n turns its share is off by some sqrt(n).

    Who waits with a chance of p is still waiting after k turns with a probability of (1-p)^k.
    """

    name = "lottery"
    summary = "turns drawn by lot, with chances in proportion to tickets"

    def __init__(self, quantum: int = 100_000, seed: int = 0, cpus: int = 1) -> None:
        super().__init__(quantum, seed, cpus)
        self._least = max(1, quantum // LEAST_PART)
        self._bits = Random(seed).getrandbits
        self._weights = Weights()
        self._players: dict[int, Player] = {}
        self._at: dict[int, Player] = {}
        self._entered = 0

    def ended(self, environment: int) -> None:
        super().ended(environment)
        player = self._players.pop(environment, None)
        if player is not None:
            del self._at[player.place]
            self._lay_out(player, 0)
            self._weights.give_back(player.place)

    def ran(self, environment: int, cycles: int, end: SliceEnd, now: int) -> None:
        player = self._players.get(environment)
        if player is not None:
            used = cycles if cycles > self._least else self._least
            whole = player.tickets * TICKET_PARTS
            self._set_weight(player, whole * self.quantum // used if used < self.quantum else whole)

    def set_tickets(self, environment: int, tickets: int) -> None:
        super().set_tickets(environment, tickets)
        player = self._player(environment)
        weight = player.weight * tickets // player.tickets
        player.tickets = tickets
        self._set_weight(player, weight)

    def _enter(self, environment: int) -> None:
        player = self._players.get(environment) or self._player(environment)
        if not player.entered:
            player.entered = True
            self._entered += 1
            if player.laid_out != player.weight:
                self._lay_out(player, player.weight)

    def _leave(self, environment: int) -> None:
        player = self._players.get(environment)
        if player is not None and player.entered:
            player.entered = False
            self._entered -= 1

    def _choose(self, now: int) -> Choice | None:
        weights = self._weights
        while self._entered:
            player = self._at[weights.at(self._bits(64) * weights.total >> 64)]
            if not player.entered:
                self._lay_out(player, 0)
                continue
            if player.advanced:
                player.advanced = False
                self._set_weight(player, player.tickets * TICKET_PARTS)
                continue
            player.entered = False
            self._entered -= 1
            player.weight = player.tickets * TICKET_PARTS
            environment = player.environment
            return self._turns.get(environment) or self._turn(environment)
        return None

    def _favour(self, environment: int, now: int) -> Choice:
        self._player(environment).advanced = True
        return self._turn(environment)

    def _player(self, environment: int) -> Player:
        player = self._players.get(environment)
        if player is None:
            player = self._players[environment] = Player(environment, self._weights.take())
            self._at[player.place] = player
        return player

    def _set_weight(self, player: Player, weight: int) -> None:
        player.weight = weight
        if player.entered:
            self._lay_out(player, weight)

    def _lay_out(self, player: Player, weight: int) -> None:
        self._weights.add(player.place, weight - player.laid_out)
        player.laid_out = weight


class ForcedLottery(Lottery):
    """Lottery scheduling that takes the processor without asking."""

    name = "forced-lottery"
    summary = "turns drawn by lot, stopped by force (a monolithic kernel)"
    forced = True
