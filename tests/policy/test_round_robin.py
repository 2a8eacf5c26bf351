"""Round robin: everybody in turn."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from exokernel.policy.processor import RoundRobin, SliceEnd
from tests.machine_kit import examples


def turn(policy: RoundRobin, again: bool = True) -> int:
    """One slice; who had it."""
    choice = policy.next(0)
    assert choice is not None
    policy.ran(choice.environment, choice.cycles, SliceEnd.EXPIRED if again else SliceEnd.BLOCKED, 0)
    if again:
        policy.runnable(choice.environment)
    else:
        policy.not_runnable(choice.environment)
    return choice.environment


def test_everybody_in_turn() -> None:
    policy = RoundRobin()
    for number in (1, 2, 3):
        policy.runnable(number)
    assert [turn(policy) for _ in range(6)] == [1, 2, 3, 1, 2, 3]
    policy.not_runnable(2)
    assert [turn(policy) for _ in range(4)] == [1, 3, 1, 3]
    policy.runnable(2, urgent=True)
    assert turn(policy) == 2


def test_every_slice_is_one_quantum() -> None:
    policy = RoundRobin(quantum=777)
    policy.runnable(1)
    policy.runnable(2, urgent=True)
    assert [choice.cycles for _ in range(2) if (choice := policy.next(0))] == [777, 777]


@given(st.lists(st.tuples(st.sampled_from(["run", "urgent", "stop", "next"]), st.integers(1, 4)), max_size=200))
@examples(100)
def test_who_stays_runnable_is_never_shut_out(events: list[tuple[str, int]]) -> None:
    """Environment 9 stays runnable: between two turns of it the four others have one ordinary and one urgent turn each at
    most for each ordinary turn."""
    policy = RoundRobin()
    policy.runnable(9)
    since = 0
    for what, number in events:
        if what == "next":
            since = 0 if turn(policy) == 9 else since + 1
            assert since <= 4 + 4 * 5
        elif what == "stop":
            policy.not_runnable(number)
        else:
            policy.runnable(number, urgent=what == "urgent")


def test_two_that_keep_each_other_urgent_do_not_shut_out_a_third() -> None:
    policy = RoundRobin()
    for number in (1, 2, 3):
        policy.runnable(number)
    ran = []
    for _ in range(300):
        choice = policy.next(0)
        assert choice is not None
        number = choice.environment
        ran.append(number)
        if number in (1, 2):
            policy.not_runnable(number)
            policy.runnable(3 - number, urgent=True)
        else:
            policy.runnable(3)
    assert ran.count(3) > 60


@given(st.lists(st.tuples(st.sampled_from(["run", "stop", "next", "block"]), st.integers(1, 6)), max_size=300))
@examples(100)
def test_without_urgency_it_is_a_plain_queue(events: list[tuple[str, int]]) -> None:
    policy, reference = RoundRobin(), deque[int]()
    for what, number in events:
        if what == "run":
            policy.runnable(number)
            if number not in reference:
                reference.append(number)
        elif what == "stop":
            policy.not_runnable(number)
            reference = deque(other for other in reference if other != number)
        elif reference:
            expected = reference.popleft()
            assert turn(policy, what == "next") == expected
            if what == "next":
                reference.append(expected)
