"""The same machine with the same programs does the same, to the last cycle, however the host looks in between."""

from typing import Any

import pytest

from exokernel.abi.flags import Event
from exokernel.kernel.kernel import Outcome
from exokernel.machine.cpu import FastCpu
from exokernel.machine.memory import PhysicalMemory
from exokernel.policy.memory import MEMORY_POLICIES
from tests.machine_kit import Machine, exo, machine

WORK = """
exo alloc_sectors, 8, {ANY}
mov r13, rax
mov rbp, {seed}
work: imul rbp, rbp, 1103515245
add rbp, 12345
mov rcx, rbp
shr rcx, 16
and rcx, 255
inc rcx
spin: dec rcx
jnz spin
test ebp, 0x30000
jnz next
exo alloc_page, {ANY}, 0
mov r12, rax
exo write_sectors, r13, 8, {data_frame}, 0
mov rsi, rax
test ebp, 0x40000
jz next
exo block, {Event_DISK}, rsi, {FOREVER}
next: test ebp, 0x700000
jnz more
exo dealloc_page, r12, 0
rdtsc
mov [r15], rax
exo yield, 0
more: inc r14
cmp r14, 400
jne work
exit 1
"""


class Recording(FastCpu):
    """Notes every trap."""

    def __init__(self, memory: PhysicalMemory, supervisor: int) -> None:
        super().__init__(memory, supervisor)
        self.traps: list[tuple[int, int, int, int, int]] = []

    def run(self, context: Any, root: int, budget: int, /) -> Any:
        trap = super().run(context, root, budget)
        if self.traps is not None:
            self.traps.append((root, int(trap.kind), trap.code, trap.address, context.words[16]))
        return trap


def scenario(policy: str, steps: int | None = None) -> tuple[list[Any], int, list[int]]:
    cpus: list[Recording] = []

    def make(memory: PhysicalMemory, supervisor: int) -> Recording:
        cpus.append(Recording(memory, supervisor))
        return cpus[-1]

    with machine(
        frames=260, policy=MEMORY_POLICIES[policy](), make_cpu=make, quantum=3_000, release_deadline=5_000
    ) as made:
        notes: list[int] = []

        async def init() -> None:
            guests = [await made.guest(WORK, seed=seed) for seed in (7, 11, 13)]
            for guest in guests:
                await exo.block(Event.EXIT, guest.number)
                notes.extend(made.notes(guest, 1))

        outcome = _run(made, init, steps)
        assert outcome is Outcome.ALL_ENDED
        traps = cpus[0].traps if steps is None else [trap for trap in cpus[0].traps if trap[1]]
        return traps, made.kernel.clock.now, notes


def _run(made: Machine, init: Any, steps: int | None) -> Outcome:
    if steps is None:
        return made.run(init)
    made.kernel.boot_coroutine(init)
    while True:
        outcome = made.kernel.run(made.kernel.clock.now + steps)
        if outcome is not Outcome.TIME:
            return outcome


@pytest.mark.parametrize("policy", MEMORY_POLICIES)
def test_the_same_scenario_gives_the_same_traps(policy: str) -> None:
    first, second = scenario(policy), scenario(policy)
    assert len(first[0]) > 500
    assert first == second


@pytest.mark.parametrize("steps", [777, 50_000])
def test_looking_in_between_changes_nothing(steps: int) -> None:
    whole, parts = scenario("largest"), scenario("largest", steps)
    assert [trap for trap in whole[0] if trap[1]] == parts[0]
    assert whole[1:] == parts[1:]
