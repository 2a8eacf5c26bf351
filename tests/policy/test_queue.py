"""What every CPU policy owes the kernel: a queue that keeps its rules, whatever the order."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exokernel.policy.ordering import Ordering
from exokernel.policy.processor import CPU_POLICIES, CpuPolicy, RoundRobin, SliceEnd
from exokernel.policy.scheduling import CpuPolicy as Base
from tests.machine_kit import examples
from tests.policy.simulator import Simulation, hog, scripted

QUANTUM = 1000
PLAIN = [name for name in CPU_POLICIES if not name.startswith("forced-")]
each_policy = pytest.mark.parametrize("name", PLAIN)

environments = st.integers(1, 5)
operations = st.one_of(
    st.tuples(st.sampled_from(["runnable", "urgent", "not_runnable", "ended", "next", "next", "next"]), environments),
    st.tuples(st.sampled_from(list(SliceEnd)), environments, st.integers(0, 2 * QUANTUM)),
    st.tuples(st.just("tickets"), environments, st.integers(1, 10_000)),
    st.tuples(st.just("reserve"), environments, st.integers(0, 400), st.integers(500, 3000)),
    st.tuples(st.just("later"), st.integers(1, 5000)),
)


def drain(policy: CpuPolicy, now: int = 0) -> list[int]:
    """Whoever is queued, as it comes."""
    order = []
    while (choice := policy.next(now)) is not None:
        order.append(choice.environment)
    return order


@each_policy
@given(st.lists(operations, max_size=120), st.integers(1, 4))
@examples(150)
def test_next_takes_each_queued_environment_once_and_none_only_if_nobody_waits(
    name: str, events: list[tuple[object, ...]], cpus: int
) -> None:
    """Whatever is said in whatever order, against a plain set: also slices nobody chose, and news of those who ended."""
    policy = CPU_POLICIES[name](quantum=QUANTUM, seed=1, cpus=cpus)
    queued: set[int] = set()
    now = 1
    for what, *arguments in events:
        match what, arguments:
            case "runnable" | "urgent", [int(number)]:
                policy.runnable(number, what == "urgent", now)
                queued.add(number)
            case "not_runnable", [int(number)]:
                policy.not_runnable(number)
                queued.discard(number)
            case "ended", [int(number)]:
                policy.ended(number)
                queued.discard(number)
            case "next", _:
                choice = policy.next(now)
                assert (choice is None) == (not queued)
                if choice is not None:
                    assert choice.cycles > 0
                    queued.remove(choice.environment)
            case "tickets", [int(number), int(tickets)]:
                policy.set_tickets(number, tickets)
            case "reserve", [int(number), int(cycles), int(period)]:
                policy.reserve(number, cycles, period, now)
            case "later", [int(cycles)]:
                now += cycles
            case SliceEnd() as end, [int(number), int(cycles)]:
                policy.ran(number, cycles, end, now)
        for number in (1, 2):
            policy.preempts(number, 3 - number)
    assert sorted(drain(policy, now)) == sorted(queued)


@each_policy
def test_queued_twice_is_queued_once_and_keeps_its_place(name: str) -> None:
    once, twice = (CPU_POLICIES[name](QUANTUM, 3) for _ in range(2))
    for number in (1, 2, 3):
        once.runnable(number)
        twice.runnable(number)
        twice.runnable(1)
    assert drain(once) == drain(twice)


@each_policy
def test_who_cannot_run_is_not_chosen_urgent_or_not(name: str) -> None:
    policy = CPU_POLICIES[name](QUANTUM)
    for number in (1, 2, 3, 4):
        policy.runnable(number, urgent=number > 2)
    policy.not_runnable(2)
    policy.not_runnable(3)
    policy.not_runnable(9)
    assert sorted(drain(policy)) == [1, 4]


@each_policy
def test_who_ended_leaves_nothing_behind(name: str) -> None:
    """Also if the end of its slice is reported afterwards."""
    policy = CPU_POLICIES[name](QUANTUM)
    empty = {key: repr(value) for key, value in vars(policy).items() if isinstance(value, dict | set | list)}
    for number in range(1, 40):
        policy.set_tickets(number, number)
        policy.runnable(number, urgent=number % 2 == 0)
        policy.next(0)
        policy.runnable(number)
    for number in range(1, 40):
        policy.ended(number)
        policy.ran(number, 10, SliceEnd.BLOCKED, 10)
    assert {key: repr(value) for key, value in vars(policy).items() if isinstance(value, dict | set | list)} == {
        **empty,
        **({"_levels": empty["_levels"]} if "_levels" in empty else {}),
    }
    assert policy.next(10) is None


@each_policy
def test_an_urgent_one_comes_first_and_once(name: str) -> None:
    policy = CPU_POLICIES[name](QUANTUM)
    for number in range(1, 30):
        policy.runnable(number)
    policy.runnable(17, urgent=True)
    policy.runnable(5, urgent=True)
    policy.runnable(17, urgent=True)
    order = drain(policy)
    assert order[:2] == [17, 5]
    assert len(order) == 29


@each_policy
def test_after_somebodys_ordinary_turn_it_may_be_urgent_again(name: str) -> None:
    policy = CPU_POLICIES[name](QUANTUM)
    for number in range(1, 30):
        policy.runnable(number)
    for _ in range(3):
        policy.runnable(17, urgent=True)
        assert (choice := policy.next(0)) is not None
        assert choice.environment == 17
        policy.runnable(17, urgent=True)
        assert (choice := policy.next(0)) is not None
        assert choice.environment != 17, "not twice in a row"
        policy.runnable(17)


@each_policy
def test_who_uses_nothing_again_and_again_does_not_shut_out_another(name: str) -> None:
    """The other one uses all of its slice each time, and comes again all the same."""
    policy = CPU_POLICIES[name](QUANTUM, 1)
    policy.runnable(2)
    policy.runnable(1)
    order = []
    for _ in range(2000):
        choice = policy.next(0)
        assert choice is not None
        order.append(choice.environment)
        used = QUANTUM if choice.environment == 2 else 0
        policy.ran(choice.environment, used, SliceEnd.EXPIRED if used else SliceEnd.YIELDED, 0)
        policy.runnable(choice.environment)
    assert order.count(2) >= 5


@each_policy
@given(
    st.lists(st.tuples(environments, st.booleans(), st.integers(1, QUANTUM)), min_size=30, max_size=60), st.integers(1, 5)
)
@examples(40)
def test_those_who_keep_each_other_urgent_get_one_turn_each_between_ordinary_turns(
    name: str, turns: list[tuple[int, bool, int]], count: int
) -> None:
    """Everybody is asked for something after every slice: from one ordinary turn to the next nobody has two turns."""
    policy = CPU_POLICIES[name](QUANTUM, 5)
    order: list[int] = []
    for number in range(1, count + 2):
        policy.runnable(number)
    now = 0
    for number, again, cycles in turns:
        choice = policy.next(now)
        assert choice is not None
        order.append(choice.environment)
        used = choice.cycles if again else min(cycles, choice.cycles)
        now += used
        policy.ran(choice.environment, used, SliceEnd.EXPIRED if again else SliceEnd.YIELDED, now)
        policy.runnable(choice.environment)
        for other in range(1, count + 1):
            policy.runnable(other, urgent=True)
        policy.runnable(min(number, count), urgent=True)
    # The one that nobody hurries has ordinary turns only; among the others' urgent turns it must not be lost.
    longest = max(
        stop - start for start, stop in pairwise([-1, *(i for i, n in enumerate(order) if n == count + 1), len(order)])
    )
    assert longest <= {"lottery": 30 * (count + 1) ** 2}.get(name, 2 * (count + 1) ** 2 + 1)


@each_policy
@given(
    st.lists(
        st.tuples(
            st.integers(1, 400),
            st.lists(
                st.tuples(st.integers(20, 3 * QUANTUM), st.none() | st.integers(1, 5 * QUANTUM)), min_size=1, max_size=4
            ),
        ),
        max_size=6,
    ),
    st.lists(st.tuples(st.integers(0, 200 * QUANTUM), st.integers(1, 6)), max_size=30),
    st.integers(1, 4),
)
@examples(40)
def test_nobody_starves_and_no_processor_idles_while_somebody_waits(
    name: str, others: list[tuple[int, list[tuple[int, int | None]]]], urgencies: list[tuple[int, int]], cpus: int
) -> None:
    """An environment that always computes, with 100 of all tickets, among others that yield, sleep and are hurried."""
    policy = CPU_POLICIES[name](QUANTUM, 11, cpus)
    simulation = Simulation(policy, cpus)
    simulation.start(99, hog())
    for number, (tickets, steps) in enumerate(others, 1):
        policy.set_tickets(number, tickets)
        policy.reserve(number, tickets, 6000, 0)
        simulation.start(number, scripted(steps))
    for cycle, number in urgencies:
        simulation.at(cycle, lambda number=number: simulation.urge(number))  # type: ignore[misc]
    end = 250 * QUANTUM
    simulation.run(end)
    mine = [0, *(s.start for s in simulation.slices if s.environment == 99), end]
    n, share = len(others), 100 / (100 + sum(tickets for tickets, _ in others))
    bound = {
        "round-robin": 2 * n + 2,
        # T/t turns by shares, one each for rounding and one each for urgency
        "stride": 1 / share + 2 * n + 2,
        # the chance to wait longer is below exp(-25)
        "lottery": 25 / share,
        # until the next boost, then one turn each
        "feedback": 101 + 16 * (n + 1),
        "deadline": 10 * (n + 1) + 3,
    }[name]
    assert max(later - earlier for earlier, later in pairwise(mine)) <= bound * QUANTUM + QUANTUM * 8
    if n < cpus:
        assert simulation.used(99) >= end - 9 * QUANTUM, "a processor was there for it all the time"
    busy = sum(s.cycles for s in simulation.slices)
    assert busy >= end - 9 * QUANTUM, "the hog can always run"


@each_policy
@given(st.integers(0, 1000), st.integers(1, 4))
@examples(10)
def test_the_same_calls_and_the_same_seed_give_the_same_order(name: str, seed: int, cpus: int) -> None:
    orders = []
    for _ in range(2):
        policy = CPU_POLICIES[name](QUANTUM, seed, cpus)
        policy.reserve(2, 300, 1700, 0)
        simulation = Simulation(policy, cpus)
        for number in range(1, 9):
            simulation.start(number, scripted([(number * 170, None), (900, number * 400), (2500, None)]))
        simulation.run(100 * QUANTUM)
        orders.append(simulation.slices)
    assert orders[0] == orders[1]
    assert len(orders[0]) > 50


def test_another_seed_is_another_lottery() -> None:
    def order(seed: int) -> list[int]:
        policy = CPU_POLICIES["lottery"](QUANTUM, seed)
        for number in range(1, 20):
            policy.runnable(number)
        return drain(policy)

    assert order(1) != order(2)


@each_policy
def test_a_forced_policy_differs_in_nothing_but_force(name: str) -> None:
    plain, forced = CPU_POLICIES[name], CPU_POLICIES[f"forced-{name}"]
    assert (plain.forced, forced.forced) == (False, True)
    assert issubclass(forced, plain)
    own = {key for key in vars(forced) if not key.startswith("__") and not key.startswith("_abc")}
    assert own == {"name", "summary", "forced"}
    assert plain.summary != forced.summary


def test_every_policy_is_listed_under_its_own_name_with_a_summary_of_one_line() -> None:
    assert [policy.name for policy in CPU_POLICIES.values()] == list(CPU_POLICIES)
    assert len({policy.summary for policy in CPU_POLICIES.values()}) == len(CPU_POLICIES) == 10
    assert all(policy.summary and "\n" not in policy.summary for policy in CPU_POLICIES.values())
    assert all(policy.preempting == (policy.preempts is not Base.preempts) for policy in CPU_POLICIES.values())


@each_policy
@pytest.mark.parametrize("tickets", [0, -1, 10_001])
def test_a_senseless_number_of_tickets_is_refused(name: str, tickets: int) -> None:
    with pytest.raises(ValueError, match=f"{tickets} is no number of tickets"):
        CPU_POLICIES[name]().set_tickets(1, tickets)


@pytest.mark.parametrize("arguments", [(0, 0, 1), (-5, 0, 1), (100, 0, 0)])
def test_a_policy_without_a_quantum_or_a_processor_is_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="quantum of at least one cycle"):
        RoundRobin(*arguments)


@each_policy
def test_only_deadline_makes_promises(name: str) -> None:
    assert CPU_POLICIES[name]().reserve(1, 10, 100, 0) == (name == "deadline")


@given(
    st.lists(st.tuples(st.sampled_from(["put", "discard", "pop", "first"]), environments, st.integers(0, 4)), max_size=200)
)
@examples(100)
def test_an_ordering_is_a_sorted_list(events: list[tuple[str, int, int]]) -> None:
    ordering = Ordering()
    reference: list[tuple[int, int, int]] = []
    for count, (what, number, key) in enumerate(events):
        match what:
            case "put":
                ordering.put(number, key)
                reference = sorted([row for row in reference if row[2] != number] + [(key, count, number)])
            case "discard":
                ordering.discard(number)
                reference = [row for row in reference if row[2] != number]
            case "pop":
                assert ordering.pop() == (reference.pop(0)[2] if reference else None)
            case "first":
                assert ordering.first() == (reference[0][0] if reference else None)
        assert len(ordering) == len(reference)
        assert (number in ordering) == any(row[2] == number for row in reference)


def test_an_ordering_does_not_grow_with_what_left_it() -> None:
    ordering = Ordering()
    for key in range(10_000):
        ordering.put(1, key)
        ordering.put(2, key)
        ordering.discard(2)
    assert len(ordering._heap) < 100
