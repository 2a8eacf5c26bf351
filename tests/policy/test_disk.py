"""The disk policies against oracles, and what each promises: bounds, shares, and that everything is served once."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exokernel.policy.disk import DISK_POLICIES, DiskRequest
from exokernel.policy.disk_deadline import BATCH, WRITES_STARVED, DiskDeadline
from exokernel.policy.disk_shares import DiskShares
from exokernel.policy.elevators import Elevator
from tests.machine_kit import examples
from tests.policy.disk_simulator import CYCLES_EACH, DiskSimulation, Sweeps, nearest

SECTORS = 10_000
ELEVATORS = {name: policy for name, policy in DISK_POLICIES.items() if issubclass(policy, Elevator)}
FAIR = [name for name in DISK_POLICIES if name != "sstf"]

few_places = st.integers(0, 30).map(lambda place: place * 300)
steps = st.lists(
    st.one_of(st.none(), st.tuples(st.integers(1, 4), few_places, st.sampled_from([0, 1, 8]), st.booleans())), max_size=80
)
"""None: the disk serves one.  Otherwise a request is made."""
Step = tuple[int, int, int, bool] | None


def simulation(name: str, **numbers: Any) -> DiskSimulation:
    return DiskSimulation(DISK_POLICIES[name](SECTORS, **numbers))


@pytest.mark.parametrize("name", DISK_POLICIES)
@given(actions=steps)
@examples(100)
def test_every_request_is_served_once(name: str, actions: list[Step]) -> None:
    machine = simulation(name)
    for action in actions:
        if action is None:
            machine.serve()
        else:
            machine.ask(*action)
    machine.drain()
    assert sorted(one.number for one in machine.served) == list(machine.made)
    assert machine.policy.next(machine.head, machine.now) is None


@given(actions=steps)
def test_first_come_is_first_served(actions: list[Step]) -> None:
    machine = simulation("fcfs")
    for action in actions:
        oldest = min(machine.waiting, default=None)
        if action is not None:
            machine.ask(*action)
        elif (served := machine.serve()) is not None:
            assert served.number == oldest


def test_who_was_held_back_by_its_own_library_comes_before_those_made_later() -> None:
    policy = DISK_POLICIES["fcfs"](SECTORS)
    for number in (4, 2, 5, 1, 3):
        policy.add(DiskRequest(number, 1, 0, 8, False, 0))
    assert [choice.request for _ in range(5) if (choice := policy.next(0, 0))] == [1, 2, 3, 4, 5]


@given(actions=steps)
@examples(200)
def test_shortest_seek_first_takes_the_nearest_and_of_two_the_older(actions: list[Step]) -> None:
    machine = simulation("sstf")
    for action in actions:
        if action is not None:
            machine.ask(*action)
        elif machine.waiting:
            expected = nearest(machine.waiting.values(), machine.head)
            assert machine.serve() == expected


@pytest.mark.parametrize("name", ELEVATORS)
@given(actions=steps)
@examples(200)
def test_an_elevator_sweeps_as_its_definition_says(name: str, actions: list[Step]) -> None:
    """The order is that of the oracle; on the way, it goes over the edges exactly if it turns and is one that does."""
    policy = ELEVATORS[name]
    machine, oracle = simulation(name), Sweeps(policy.circular)
    for action in [*actions, *[None] * len(actions)]:
        if action is not None:
            machine.ask(*action)
        elif machine.waiting:
            up = oracle.up
            expected, turns = oracle.choose(machine.waiting.values())
            assert machine.serve() == expected
            through: tuple[int, ...] = ()
            if policy.to_the_edge:
                for _ in range(turns):
                    through += (SECTORS - 1, 0) if policy.circular else (SECTORS - 1,) if up else (0,)
                    up = not up
            assert machine.choices[-1].through == through


@pytest.mark.parametrize("name", ELEVATORS)
@given(seed=st.integers(0, 1000), place=st.integers(0, SECTORS - 1))
@examples(60)
def test_no_stream_of_requests_holds_an_elevator(name: str, seed: int, place: int) -> None:
    """Somebody asks for the place where the head is, again and again, and for others; who waits elsewhere is served before
    any position has been served three times."""
    chance = random.Random(seed)
    machine = simulation(name)
    for _ in range(chance.randrange(30)):
        machine.ask(1, chance.randrange(SECTORS), chance.choice([0, 8]))
        machine.serve()
    waiting = machine.ask(2, place)
    since = len(machine.served)
    for _ in range(2_000):
        if waiting.number not in machine.waiting:
            break
        for _ in range(2):
            machine.ask(1, max(0, machine.head - chance.choice([0, 8])), chance.choice([0, 8]))
        machine.serve()
    positions = [one.sector for one in machine.served[since:]]
    assert waiting.number not in machine.waiting
    assert max(positions.count(sector) for sector in positions) <= 3


def test_shortest_seek_first_may_starve_what_lies_far_away() -> None:
    """It says so itself; the others do not."""
    for name in DISK_POLICIES:
        machine = simulation(name, read_expiry=100 * CYCLES_EACH)
        far = machine.ask(2, 9_000)
        for _ in range(2):
            machine.ask(1, 0)
        for _ in range(1_000):
            machine.ask(1, 0)
            machine.serve()
        assert (far.number in machine.waiting) == (name == "sstf"), name


# Deadline.


@given(
    st.integers(1, 200), st.integers(1, 200),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, SECTORS - 8), st.booleans()), min_size=50, max_size=400),
)  # fmt: skip
@examples(60)
def test_nothing_waits_much_longer_than_its_expiry(reads: int, writes: int, load: list[tuple[int, int, bool]]) -> None:
    """Once a request has expired only the batch under way, what expired before it with a batch for each, and the batches
    of the other kind that its own has to let by come before it."""
    machine = simulation("deadline", read_expiry=reads * CYCLES_EACH, write_expiry=writes * CYCLES_EACH)
    for count, sector, write in load:
        for index in range(count):
            machine.ask(1, (sector + 977 * index) % SECTORS, 8, write)
        machine.serve()
    machine.drain()
    order = [one.number for one in machine.served]
    for one in machine.served:
        expiry = (writes if one.write else reads) * CYCLES_EACH
        expired = one.arrived + expiry
        if machine.at[one.number] <= expired:
            continue
        older = sum(1 for other in machine.served if other.write == one.write and other.number < one.number
                    and machine.at[other.number] >= expired)  # fmt: skip
        batches = 1 + (older + 1) * (1 + WRITES_STARVED)
        begun = sum(1 for number in order[: order.index(one.number)] if machine.at[number] >= expired)
        assert begun <= batches * BATCH


def test_an_expired_request_begins_the_next_batch() -> None:
    machine = simulation("deadline", read_expiry=5 * CYCLES_EACH)
    old = machine.ask(1, 100)
    machine.policy._at = 5_000  # type: ignore[attr-defined]
    for index in range(60):
        machine.ask(1, 5_000 + 8 * index)
    for _ in range(BATCH):
        assert machine.serve() != old
    assert machine.serve() == old


def test_reads_come_before_writes_and_writes_before_a_third_batch() -> None:
    machine = simulation("deadline")
    write = machine.ask(1, 0, 8, True)
    for index in range(200):
        machine.ask(2, 100 + 8 * index)
    machine.drain()
    place = machine.served.index(write)
    assert place == WRITES_STARVED * BATCH


@given(st.lists(st.tuples(st.integers(0, SECTORS - 8), st.booleans()), min_size=1, max_size=60))
def test_a_batch_is_of_one_kind_and_goes_upwards(load: list[tuple[int, bool]]) -> None:
    policy = DiskDeadline(SECTORS)
    machine = DiskSimulation(policy)
    for sector, write in load:
        machine.ask(1, sector, 8, write)
    before, length = None, 0
    while (one := machine.serve()) is not None:
        length = 1 if policy._left == BATCH - 1 else length + 1
        assert length <= BATCH
        if length > 1:
            assert before is not None
            assert one.write == before.write
            assert one.sector >= before.sector + before.sectors
        before = one


# Proportional share.

tickets_of_clients = st.lists(st.integers(1, 1000), min_size=2, max_size=6)


@given(tickets_of_clients, st.lists(st.integers(1, 8), min_size=6, max_size=6), st.integers(1, 4))
@examples(100)
def test_shares_are_in_proportion_to_tickets(tickets: list[int], sizes: list[int], depth: int) -> None:
    """For any two that always have a request waiting, what each has been served, by its tickets, differs by no more than
    one largest request of each (Goyal, Vin and Cheng, theorem 1)."""
    machine = simulation("proportional")
    for client, weight in enumerate(tickets):
        machine.policy.set_tickets(client, weight)
        for _ in range(depth):
            machine.ask(client, 1000 * client, sizes[client])
    served = [0] * len(tickets)
    for _ in range(300):
        one = machine.serve()
        assert one is not None
        served[one.environment] += one.sectors
        machine.ask(one.environment, one.sector, one.sectors)
        for a, weight in enumerate(tickets):
            for b, other in enumerate(tickets[:a]):
                bound = sizes[a] / weight + sizes[b] / other
                assert abs(served[a] / weight - served[b] / other) <= bound + 1e-6


def test_who_comes_back_has_saved_nothing_up() -> None:
    machine = simulation("proportional")
    machine.ask(1, 0)
    for _ in range(100):
        machine.ask(2, 0)
        machine.serve()
    for _ in range(20):
        machine.ask(1, 0)
        machine.ask(2, 0)
    machine.served.clear()
    for _ in range(10):
        machine.serve()
    assert 4 <= sum(one.environment == 1 for one in machine.served) <= 6


def test_tickets_of_who_has_ended_are_forgotten() -> None:
    policy = DiskShares(SECTORS)
    machine = DiskSimulation(policy)
    policy.set_tickets(1, 1000)
    machine.ask(1, 0)
    policy.ended(1)
    assert machine.serve() is not None
    assert not policy._tickets
    assert not policy._finish


@pytest.mark.parametrize("name", FAIR)
@given(seed=st.integers(0, 1000))
@examples(20)
def test_nobody_starves_beside_others_that_never_stop(name: str, seed: int) -> None:
    chance = random.Random(seed)
    machine = simulation(name, read_expiry=50 * CYCLES_EACH, write_expiry=50 * CYCLES_EACH)
    for _ in range(10):
        machine.ask(1, chance.randrange(SECTORS - 8), 8, chance.random() < 0.5)
    mine = machine.ask(2, chance.randrange(SECTORS - 8), 8, chance.random() < 0.5)
    for _ in range(3 * SECTORS):
        if mine.number not in machine.waiting:
            break
        machine.ask(1, min(machine.head, SECTORS - 8), 8, chance.random() < 0.5)
        machine.serve()
    assert mine.number not in machine.waiting
