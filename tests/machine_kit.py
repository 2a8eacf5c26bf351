"""A small machine for tests: guests in assembly, an `init` in Python that arranges them, and everything visible afterwards.

Assembly is Intel syntax with these additions, one a line:

    exo NAME, a, b, ...   a down-call; an argument `&label` is that address; the arguments are loaded from left to right
    note a                append a word to the notes, a page that the host reads afterwards; r15 is the pen
    exit a                end with this status

`{name}` stands for what the caller of `assemble` gives; every number of the abi is there by its name.
"""

import os
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keystone
from hypothesis import settings

from exokernel.abi import layout, pages
from exokernel.abi.downcalls import BY_NAME, Exo
from exokernel.abi.errors import Error
from exokernel.abi.flags import ANY, FOREVER, Begin, Compare, Event, PageBits, Rights, Sharing, Subject
from exokernel.abi.layout import PAGE_SHIFT, PAGE_SIZE, SECTOR_SIZE
from exokernel.abi.upcalls import Upcall
from exokernel.kernel import calls
from exokernel.kernel.death import Cause, Death
from exokernel.kernel.environment import Environment
from exokernel.kernel.kernel import Kernel, Outcome, Settings
from exokernel.machine.clock import NEVER
from exokernel.machine.cpu import Cpu, FastCpu
from exokernel.machine.disk import Disk
from exokernel.machine.memory import PhysicalMemory
from exokernel.policy.disk import DiskPolicy
from exokernel.policy.memory import LargestHolder, MemoryPolicy
from exokernel.policy.processor import CPU_POLICIES

assert calls.complete()

CODE = 0x40_0000
DATA = 0x50_0000
NOTES = 0x60_0000
STACK = 0x70_0000
STACK_TOP = STACK + PAGE_SIZE
UPCALL_STACK = 0x80_0000
UPCALL_STACK_SIZE = 2 * PAGE_SIZE
FREE_VA = 0x90_0000
READ_WRITE = int(Rights.READ | Rights.WRITE)
READ_EXECUTE = int(Rights.READ | Rights.EXECUTE)
WORD = 0xFFFF_FFFF_FFFF_FFFF
ARGUMENTS = ("rdi", "rsi", "rdx", "r10", "r8", "r9")

exo = Exo()
_NAMES: dict[str, int] = {
    **{name: row.number for name, row in BY_NAME.items()},
    **{
        f"{kind.__name__}_{member.name}": int(member)
        for kind in (Upcall, Event, Rights, Sharing, PageBits, Subject, Compare, Begin)
        for member in kind
    },
    **{name: getattr(layout, name) for name in dir(layout) if name.isupper() and isinstance(getattr(layout, name), int)},
    **{
        field.name.upper(): layout.OWN_PAGE + pages.offset_of(pages.OwnPage, field.name)
        for field in pages.OwnPage.subcon.subcons
    },
    **{
        field.name.upper(): layout.OWN_PAGE
        + pages.offset_of(pages.OwnPage, "contexts")
        + pages.offset_of(pages.OwnContext, field.name)
        for field in pages.OwnContext.subcons
    },
    "CODE": CODE,
    "DATA": DATA,
    "NOTES": NOTES,
    "STACK": STACK,
    "STACK_TOP": STACK_TOP,
    "UPCALL_STACK": UPCALL_STACK,
    "UPCALL_STACK_SIZE": UPCALL_STACK_SIZE,
    "FREE": FREE_VA,
    "ANY": ANY,
    "FOREVER": FOREVER,
    "RW": READ_WRITE,
    "RX": READ_EXECUTE,
}
_assembler = keystone.Ks(keystone.KS_ARCH_X86, keystone.KS_MODE_64)


def _load(register: str, operand: str) -> str:
    if operand.startswith("&"):
        return f"lea {register}, [rip + {operand[1:]}]"
    if operand.isdigit() and int(operand) == 0:
        return f"xor {register}, {register}"
    return "" if operand == register else f"mov {register}, {operand}"


def _expand(line: str) -> str:
    label, colon, statement = line.strip().partition(":")
    if colon and re.fullmatch(r"\w+", label):
        return f"{label}:\n{_expand(statement)}"
    word, _, rest = line.strip().partition(" ")
    operands = [operand.strip() for operand in rest.split(",")] if rest.strip() else []
    if word == "exo":
        loads = [_load(register, operand) for register, operand in zip(ARGUMENTS, operands[1:], strict=False)]
        return "; ".join([load for load in loads if load] + [f"mov eax, {BY_NAME[operands[0]].number}", "syscall"])
    if word == "note":
        if re.fullmatch(r"-?\d+|0x[0-9a-f]+", operands[0]) is None and operands[0].startswith("["):
            return f"mov r14, {operands[0]}; mov qword ptr [r15], r14; lea r15, [r15 + 8]"
        return f"mov qword ptr [r15], {operands[0]}; lea r15, [r15 + 8]"
    if word == "exit":
        return f"{_load('rdi', operands[0])}; mov eax, {BY_NAME['exit'].number}; syscall"
    absolute = re.search(r"\[ *(0x)?[0-9]", line)
    assert not absolute or re.fullmatch(r"mov (rax, \[.*\]|\[.*\], rax)", line.strip()), f"Keystone mistakes {line}"
    return line


def assemble(source: str, at: int = CODE, **names: int) -> bytes:
    """The machine code of `source` at address `at`."""
    text = source.format(**{**_NAMES, **names})
    expanded = "\n".join(_expand(line.split("#")[0]) for line in text.splitlines() if line.split("#")[0].strip())
    code, _ = _assembler.asm(expanded, at, as_bytes=True)
    return bytes(code)


@dataclass
class Guest:
    """An environment of machine code that the kit has made; `notes` is the number of its notes' frame."""

    number: int
    notes: int
    frames: dict[int, int] = field(default_factory=dict)
    """The frames of its pages, by address."""


class Machine:
    """Memory and disk sizes in frames and sectors; `numbers` are the kernel's settings."""

    def __init__(
        self,
        frames: int = 1024,
        sectors: int = 2048,
        policy: MemoryPolicy | None = None,
        make_cpu: Callable[[PhysicalMemory, int], Cpu] = FastCpu,
        cpu_policy: str = "round-robin",
        disk: Disk | None = None,
        disk_policy: DiskPolicy | None = None,
        **numbers: Any,
    ) -> None:
        settings = Settings(**numbers)
        self.memory = PhysicalMemory(frames << PAGE_SHIFT)
        self.disk = disk or Disk(sectors)
        self.traps: list[tuple[Any, ...]] = []
        if make_cpu is FastCpu and settings.cpus > 1:
            make_cpu = partial(FastCpu, split=True)
        self.kernel = Kernel(
            self.memory,
            make_cpu,
            self.disk,
            policy or LargestHolder(),
            CPU_POLICIES[cpu_policy](settings.quantum, cpus=settings.cpus),
            settings=settings,
            disk_policy=disk_policy,
        )
        self.free_at_start = len(self.kernel.frames.free)

    def close(self) -> None:
        self.kernel.close()
        self.disk.close()

    def run(self, init: Callable[[], Awaitable[Any]], until: int = NEVER) -> Outcome:
        """Run `init` as the first environment, and the machine until it stops.  What `init` raises is raised here."""
        boot = self.kernel.boot_coroutine(init)
        outcome = self.kernel.run(until)
        for death in self.kernel.deaths:
            if death.environment == boot.number and death.cause is Cause.RAISED:
                raise self.kernel.python_errors[-1]
        return outcome

    def environment(self, number: int) -> Environment:
        """Living or dead."""
        return self.kernel.environments.get(number) or self.kernel.ended[number]

    def page(self, frame: int) -> bytes:
        return bytes(self.memory.view[frame << PAGE_SHIFT : frame + 1 << PAGE_SHIFT])

    def words(self, frame: int) -> Sequence[int]:
        return self.memory.words[frame << 9 : frame + 1 << 9].tolist()

    def notes(self, guest: Guest, count: int) -> list[int]:
        """The first `count` words that a guest has noted."""
        return list(self.words(guest.notes)[:count])

    def death_of(self, number: int) -> Death | None:
        return next((death for death in self.kernel.deaths if death.environment == number), None)

    # For `init`, with its authority.

    async def fill(self, frame: int, contents: bytes, window: int = 0x1_0000) -> None:
        """Store bytes in a frame that `init` holds or controls."""
        await exo.create_mapping(window, frame, READ_WRITE)
        await exo.write(window, contents.ljust(PAGE_SIZE, b"\0"))
        await exo.remove_mapping(window)

    async def give(self, environment: int, va: int, rights: int = READ_WRITE, contents: bytes = b"") -> int:
        """A new frame held by `environment`, mapped at `va` with `contents`."""
        frame = await exo.alloc_page(ANY, environment)
        if contents:
            await self.fill(frame, contents)
        await exo.create_mapping(va, frame, rights, environment)
        return frame

    async def guest(
        self,
        source: str,
        *,
        quota: int = ANY,
        argument: int = 0,
        start: bool = True,
        environment: int = 0,
        code: bytes = b"",
        entry: int = CODE,
        code_frame: int = ANY,
        **names: int,
    ) -> Guest:
        """Make an environment with code, one page of data, notes, a stack and an up-call stack, and start it.

        The notes are `init`'s frame, lent; `names` and the guest's own numbers are for the assembly.
        """
        number = environment or await exo.create_environment(quota)
        guest = Guest(number, await exo.alloc_page())
        await exo.share_page(guest.notes, number, Sharing.LOAN, READ_WRITE)
        await exo.create_mapping(NOTES, guest.notes, READ_WRITE, number)
        for va in (DATA, STACK, UPCALL_STACK, UPCALL_STACK + PAGE_SIZE):
            guest.frames[va] = await self.give(number, va)
        await exo.set_upcall_stack(UPCALL_STACK, UPCALL_STACK_SIZE, number)
        guest.frames[CODE] = await exo.alloc_page(code_frame, number)
        own = {
            "me": number,
            "code_frame": guest.frames[CODE],
            "data_frame": guest.frames[DATA],
            "notes_frame": guest.notes,
            "my_root": self.environment(number).root >> PAGE_SHIFT,
            "my_own": self.environment(number).own >> PAGE_SHIFT,
        }
        code = code or assemble(f"mov r15, {NOTES}\n" + source, **{**own, **names})
        assert len(code) <= PAGE_SIZE, "the guest's code is longer than a page"
        await self.fill(guest.frames[CODE], code)
        await exo.create_mapping(CODE, guest.frames[CODE], READ_EXECUTE, number)
        if start:
            await exo.start(number, entry, STACK_TOP, argument)
        return guest

    async def end_of(self, guest: Guest | int) -> int:
        """Wait until an environment has ended; its exit status."""
        return await exo.block(Event.EXIT, guest if isinstance(guest, int) else guest.number)


@contextmanager
def machine(**options: Any) -> Iterator[Machine]:
    made = Machine(**options)
    try:
        yield made
    finally:
        made.close()


def run(init: Callable[[Machine], Awaitable[Any]], **options: Any) -> Any:
    """Run `init(machine)` on a machine of its own, to the end; gives what `init` returned."""
    result: list[Any] = []
    with machine(**options) as made:

        async def main() -> None:
            result.append(await init(made))

        made.run(main)
    return result[0] if result else None


def examples(count: int) -> settings:
    """So many examples in the normal run, many more when `EXO_TEST_PROFILE` is `long`."""
    return settings(max_examples=count * (20 if os.environ.get("EXO_TEST_PROFILE") == "long" else 1))


def error_of(word: int) -> Error | None:
    """The error in a result as machine code sees it."""
    signed = word - (1 << 64) if word >> 63 else word
    return Error(-signed) if signed < 0 else None


__all__ = [
    "CODE",
    "DATA",
    "FREE_VA",
    "NOTES",
    "PAGE_SHIFT",
    "PAGE_SIZE",
    "READ_EXECUTE",
    "READ_WRITE",
    "SECTOR_SIZE",
    "STACK",
    "STACK_TOP",
    "UPCALL_STACK",
    "UPCALL_STACK_SIZE",
    "WORD",
    "Guest",
    "Machine",
    "assemble",
    "error_of",
    "examples",
    "exo",
    "machine",
    "run",
]
