"""The program of the ledger: what it prints is what the same transfers give on a list of numbers."""

import random

import pytest

from exokernel.scenario import ProgramSpec, Scenario


def _expected(transfers: int, seed: int) -> str:
    balances, chance, refused = [100] * 100, random.Random(seed), 0
    for _ in range(transfers):
        source, target = chance.sample(range(100), 2)
        amount = chance.randrange(1, 200)
        if balances[source] < amount:
            refused += 1
        else:
            balances[source] -= amount
            balances[target] += amount
    assert sum(balances) == 10_000
    return (
        f"{transfers} transfers, {refused} of them undone: 100 accounts with 10000 together, "
        f"{min(balances)} to {max(balances)} each\n"
    )


@pytest.mark.parametrize(("words", "transfers", "seed"), [((), 200, 1), (("50",), 50, 1), (("300", "7"), 300, 7)])
def test_transfers_are_whole_or_undone(words: tuple[str, ...], transfers: int, seed: int) -> None:
    (program,) = Scenario((ProgramSpec("ledger", "python+clock", words),)).run().programs
    assert program.output.decode() == _expected(transfers, seed)
    assert program.exit_status == 0


def test_it_works_beside_others_in_little_memory() -> None:
    programs = (ProgramSpec("ledger", "python+clock"), ProgramSpec("sieve", "python+clock", ("300000",)))
    first, second = Scenario(programs, memory=2 << 20).run().programs
    assert first.output.decode() == _expected(200, 1)
    assert second.exit_status == 0


@pytest.mark.parametrize("words", [("x",), ("1", "2", "3"), ("-1",)])
def test_wrong_arguments_are_refused(words: tuple[str, ...]) -> None:
    (program,) = Scenario((ProgramSpec("ledger", "python+clock", words),)).run().programs
    assert program.output.startswith(b"ledger: the arguments are two numbers")
    assert program.exit_status == 2


def test_a_disk_that_is_too_small_is_said() -> None:
    (program,) = Scenario((ProgramSpec("ledger", "python+clock", heap=1 << 20),), disk_size=2 << 20).run().programs
    assert b"no free run of sectors" in program.output
    assert program.exit_status == 1
