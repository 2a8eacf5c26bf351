"""How an attack is made: the attacker runs beside an innocent environment, and afterwards that one must be as it was.

The innocent keeps a secret in its general, vector and x87 registers, in its memory and on its sectors, compares them all
again and again, yields in between, and ends with INTACT. `attack` asserts, whatever the attacker did, that the innocent got
that far, that the secret is in nothing the attacker could read when it ended, that the sectors are as they were, that the
machine passes the audit all along, and that every frame has come back at the end.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from exokernel.abi.errors import Error
from exokernel.abi.layout import PAGE_SHIFT
from exokernel.kernel.death import Cause
from exokernel.kernel.kernel import Outcome
from tests.kernel.audit import audit
from tests.machine_kit import (
    DATA,
    NOTES,
    PAGE_SIZE,
    SECTOR_SIZE,
    Guest,
    Machine,
    error_of,
    exo,
    machine,
)

SECRET = 0x5EC2_E75E_C2E7_F00D
SECRET_BYTES = SECRET.to_bytes(8, "little")
INTACT = 42
ROUNDS = 24
LIMIT = 200_000_000
"""Cycles after which nobody can still be at it."""

_KEEP = "\n".join([f"movq xmm{i}, rbx\n pinsrq xmm{i}, rbx, 1" for i in range(16)])
INNOCENT = (
    "mov rbx, {secret}\n mov rbp, rbx\n mov r12, rbx\n mov r13, rbx\n"
    + _KEEP
    + """
    mov rdi, {DATA}
    mov rcx, 512
    mov rax, rbx
    fill: mov [rdi], rax
    add rdi, 8
    dec rcx
    jnz fill
    fninit
    mov rdi, {DATA}
    fild qword ptr [rdi]
    mov r11, {rounds}
    round:
    mov r9, 200
    compute: dec r9
    jnz compute
    cmp rbx, rbp
    jne harmed
    cmp rbx, r12
    jne harmed
    cmp rbx, r13
    jne harmed
    mov rdi, {DATA}
    mov rcx, 512
    compare: cmp [rdi], rbx
    jne harmed
    add rdi, 8
    dec rcx
    jnz compare
    """
    + "\n".join(
        f"movq rax, xmm{i}\n cmp rax, rbx\n jne harmed\n pextrq rax, xmm{i}, 1\n cmp rax, rbx\n jne harmed"
        for i in range(16)
    )
    + """
    mov rdi, {NOTES}
    fld st(0)
    fistp qword ptr [rdi]
    cmp [rdi], rbx
    jne harmed
    exo yield, 0
    dec r11
    jnz round
    exit {intact}
    harmed: exit 13
    """
)


@dataclass
class Attack:
    """What became of an attacker: its exit status, the rule it broke if it was ended for one, the words it noted."""

    status: int
    cause: Cause | None
    notes: list[int]
    guest: Guest
    machine: Machine
    innocent: Guest
    detail: str = ""
    extra: Any = None
    deaths: list[Any] = field(default_factory=list)

    def error(self, index: int) -> Error | None:
        """The error in a noted result."""
        return error_of(self.notes[index])


def _readable(made: Machine, number: int) -> bytes:
    """Everything an environment could read that is its own: frames, registers."""
    environment = made.environment(number)
    parts = [made.page(frame) for frame in (*environment.held, environment.own >> PAGE_SHIFT)]
    for context in environment.contexts.values():
        if context.machine is not None:
            parts += [context.machine.words.tobytes(), bytes(context.machine.vector)]
    return b"".join(parts)


def _watch(made: Machine, number: int) -> None:
    """Look at the attacker when it ends: it must not hold the secret."""
    kernel, end = made.kernel, made.kernel.end

    def looked(environment: Any, status: int) -> None:
        audit(kernel)
        if environment.number == number:
            assert SECRET_BYTES not in _readable(made, number), "the attacker holds the secret"
        end(environment, status)
        audit(kernel)

    kernel.end = looked  # type: ignore[method-assign]


async def innocent(made: Machine) -> Guest:
    """Start one that has something to lose."""
    return await made.guest(INNOCENT, secret=SECRET, intact=INTACT, rounds=ROUNDS)


def attack(
    source: str,
    *,
    prepare: Callable[[Machine, Guest, Guest], Awaitable[dict[str, int] | None]] | None = None,
    after: Callable[[Machine, Guest, Guest], Awaitable[Any]] | None = None,
    quota: int = 64,
    frames: int = 1024,
    code: bytes = b"",
    **options: Any,
) -> Attack:
    """Run `source` as an attacker, and check that nobody else was harmed.

    In `source`, `{victim}` is the innocent's number, `{victim_frame}` the frame of its secret, `{victim_root}` and
    `{victim_own}` frames of its page tables and own page, `{victim_sector}` its sectors.
    """
    result: list[Attack] = []
    with machine(frames=frames, **options) as made:

        async def init() -> None:
            victim = await innocent(made)
            sector = await exo.alloc_sectors(8)
            made.disk.write(sector, SECRET_BYTES * (8 * SECTOR_SIZE // 8))
            await exo.share_sectors(sector, victim.number, 1, 15)
            environment = made.environment(victim.number)
            names = {
                "victim": victim.number,
                "victim_frame": victim.frames[DATA],
                "victim_code": victim.frames[0x40_0000],
                "victim_root": environment.root >> PAGE_SHIFT,
                "victim_own": environment.own >> PAGE_SHIFT,
                "victim_sector": sector,
                "victim_notes": victim.notes,
                "init": made.kernel.first_environment,
            }
            number = await exo.create_environment(quota)
            _watch(made, number)
            attacker = Guest(number, 0)
            more = await prepare(made, attacker, victim) if prepare is not None else None
            guest = await made.guest(source, environment=number, code=code, **names, **(more or {}))
            status = await made.end_of(guest)
            assert SECRET_BYTES not in made.page(guest.notes), "the attacker has noted the secret"
            extra = await after(made, guest, victim) if after is not None else None
            survived = await made.end_of(victim)
            death = made.death_of(guest.number)
            notes = made.notes(guest, 512)
            result.append(
                Attack(
                    status,
                    death.cause if death else None,
                    notes,
                    guest,
                    made,
                    victim,
                    death.detail if death else "",
                    extra,
                    list(made.kernel.deaths),
                )
            )
            assert survived == INTACT, f"the innocent ended with {survived}: {made.death_of(victim.number)}"
            assert made.disk.read(sector, 8) == SECRET_BYTES * (8 * SECTOR_SIZE // 8), "the innocent's sectors were changed"

        outcome = made.run(init, LIMIT)
        assert outcome is Outcome.ALL_ENDED
        assert result, [str(death) for death in made.kernel.deaths]
        assert len(made.kernel.frames.free) == made.free_at_start, "a frame did not come back"
        assert not made.kernel.disk.busy
    return result[0]


__all__ = ["INTACT", "NOTES", "PAGE_SIZE", "SECRET", "SECRET_BYTES", "Attack", "attack", "innocent"]
