"""The machine at one moment in words: who, where, why a page-table walk failed, registers, instructions.

For a pager's author, and for the report of a death.  Everything is read; nothing is changed.
"""

from collections.abc import Iterator, Sequence

from exokernel.abi import layout
from exokernel.abi.downcalls import TABLE
from exokernel.abi.flags import Access
from exokernel.abi.layout import PAGE_SHIFT
from exokernel.abi.upcalls import Upcall
from exokernel.kernel.death import Death
from exokernel.kernel.environment import Environment
from exokernel.kernel.kernel import Kernel
from exokernel.kernel.refusal import AccessFault, Refusal
from exokernel.machine import paging
from exokernel.machine.context import Register

TABLE_NAMES = {4: "level 4", 3: "level 3", 2: "level 2", 1: "level 1 (page)"}


def access_in_words(code: int) -> str:
    """An x86 page-fault error code as a verb: read, write or execute."""
    if code & Access.FETCH:
        return "execute"
    return "write" if code & Access.WRITE else "read"


def place_in_words(va: int) -> str:
    """Which part of the address map an address lies in."""
    if va < layout.USER_BEGIN:
        return "page 0, which is never mappable"
    if va < layout.USER_END:
        return "user memory"
    if va >= layout.SUPERVISOR:
        return "the kernel half"
    if va >= 1 << 47:
        return "no address at all (not canonical)"
    if va >= layout.PAGE_TABLES:
        return "the window onto its own page tables, read-only"
    if layout.OWN_PAGE <= va < layout.OWN_PAGE + layout.PAGE_SIZE:
        return "its own page, shared with the kernel"
    return "the exposed pages, read-only"


def entry_in_words(entry: int) -> str:
    """A page-table entry: frame and bits."""
    if not entry & paging.PRESENT:
        return "not present"
    bits = [
        "writable" if entry & paging.WRITABLE else "read-only",
        "user" if entry & paging.USER else "supervisor",
        "no-execute" if entry & paging.NX else "executable",
    ]
    bits += ["accessed"] if entry & paging.ACCESSED else []
    bits += ["dirty"] if entry & paging.DIRTY else []
    return f"frame {(entry & paging.ADDRESS) >> PAGE_SHIFT}, " + ", ".join(bits)


def walk(kernel: Kernel, environment: Environment, va: int, access: int) -> Iterator[str]:
    """The page-table walk for an address, a line for each level, and a sentence that says why it failed, if it did."""
    if not paging.is_canonical(va):
        yield f"{va:#x} is not a canonical address"
        return
    steps = paging.walk(kernel.memory.words, environment.root, va)
    for step in steps:
        yield f"{TABLE_NAMES[step.level]}: entry at {step.address:#x}: {entry_in_words(step.entry)}"
    entries = [step.entry for step in steps]
    last = steps[-1]
    if not last.entry & paging.PRESENT:
        what = "the page is not mapped" if last.level == 1 else f"no page table covers it (missing at level {last.level})"
        yield f"-> {what}"
    elif not all(entry & paging.USER for entry in entries):
        yield "-> it belongs to the supervisor"
    elif access & Access.WRITE and not all(entry & paging.WRITABLE for entry in entries):
        yield "-> it is mapped read-only"
    elif access & Access.FETCH and any(entry & paging.NX for entry in entries):
        yield "-> it is mapped without the right to execute"
    else:
        yield "-> the walk succeeds now"


def registers(words: Sequence[int]) -> Iterator[str]:
    """The registers, four to a line."""
    names = [register.name.lower() for register in Register]
    for start in range(0, len(words), 4):
        row = zip(names[start : start + 4], words[start : start + 4], strict=True)
        yield "  ".join(f"{name:>7} {value:016x}" for name, value in row)


def instructions(code: bytes, rip: int, count: int = 1) -> list[str]:
    """Disassembly of up to `count` instructions; what cannot be decoded is shown as bytes."""
    from capstone import CS_ARCH_X86, CS_MODE_64, Cs

    lines = [
        f"{one.address:#x}: {one.mnemonic} {one.op_str}".rstrip()
        for one in Cs(CS_ARCH_X86, CS_MODE_64).disasm(code, rip, count)
    ]
    return lines or [f"{rip:#x}: {code[:8].hex(' ') or 'cannot be read'}"]


def _code(kernel: Kernel, environment: Environment, rip: int) -> bytes:
    for size in (48, 15, 4, 1):
        try:
            return kernel.spaces.read(environment, rip, size)
        except (AccessFault, Refusal):
            continue
    return b""


def moment(
    kernel: Kernel,
    environment: Environment,
    name: str,
    words: Sequence[int] | None,
    headline: str,
    va: int | None = None,
    access: int = 0,
) -> str:
    """Everything about an environment at this moment, several lines of text.  `words` are its registers, `va` and
    `access` the address it touched and how (an x86 page-fault error code)."""
    lines = [f"{_who(environment.number, name)} at cycle {kernel.clock.now}: {headline}"]
    lines.append(
        f"holds {len(environment.held)} frames and {len(environment.tables)} page tables of {environment.quota} "
        f"allowed, {len(environment.reserved)} reserved"
    )
    entries = [
        f"{upcall.name.lower()} at {environment.entries[upcall]:#x}" for upcall in Upcall if environment.entries[upcall]
    ]
    if entries:
        stacks = ", ".join(f"{base:#x} to {base + size:#x}" for base, size in environment.stacks.values())
        lines.append(f"up-calls: {', '.join(entries)}; stack {stacks}")
    elif environment.library is not None:
        lines.append(f"up-calls: answered by {type(environment.library).__name__} in Python")
    if va is not None:
        lines.append(f"address {va:#x} ({access_in_words(access)}), in {place_in_words(va)}")
        lines += [f"  {line}" for line in walk(kernel, environment, va, access)]
    if words:
        lines += registers(words)
        lines += instructions(_code(kernel, environment, words[Register.RIP]), words[Register.RIP], 4)
    return "\n".join(lines)


def _who(number: int, name: str) -> str:
    return f"environment {number}" + (f" ({name})" if name else "")


def death(report: Death, name: str = "") -> str:
    """A death in words: environment, the rule it broke, registers, the instruction."""
    lines = [f"{_who(report.environment, name)} ended at cycle {report.cycle}: {report.cause.value}"]
    if report.where is not None:
        verb = access_in_words(report.access)
        lines[0] += f" ({verb} at {report.where:#x}, {place_in_words(report.where)})"
    if report.detail:
        lines.append(f"  {report.detail}")
    if report.registers:
        rip = report.registers[Register.RIP]
        lines += [f"  {line}" for line in instructions(report.code, rip)]
        row = TABLE.get(report.registers[Register.RAX])
        if row is not None and report.code[:2] == b"\x0f\x05":
            lines.append(f"  in the down-call {row.name}")
        lines += [f"  {line}" for line in registers(report.registers)]
    return "\n".join(lines)
