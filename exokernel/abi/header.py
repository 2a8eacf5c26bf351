"""The C header of the contract, derived from the tables: constants, structures of the exposed pages, inline down-calls."""

from collections.abc import Iterator
from enum import IntEnum
from textwrap import wrap
from typing import Any

from exokernel.abi import flags, layout, pages
from exokernel.abi.downcalls import TABLE, DownCall, Kind
from exokernel.abi.errors import Error
from exokernel.abi.upcalls import UPCALLS

_PROLOGUE = """\
/* The exokernel's contract for C, generated from exokernel/abi.  Version {version}. */
#ifndef EXO_H
#define EXO_H
"""

NESTED = {"taken": "exo_taken", "contexts": "exo_own_context"}
"""Arrays of structures, by their names in the own page."""

_CALLS = """\
#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

static inline int64_t exo_downcall(uint64_t number, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e,
                                   uint64_t f) {
    register uint64_t r10 __asm__("r10") = d;
    register uint64_t r8 __asm__("r8") = e;
    register uint64_t r9 __asm__("r9") = f;
    int64_t result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
"""

_CALL = """\
static inline int64_t exo_call(uint64_t env, uint64_t deadline, uint64_t words[4]) {
    register uint64_t c __asm__("r8") = words[2];
    register uint64_t b __asm__("r10") = words[1];
    register uint64_t d __asm__("r9") = words[3];
    uint64_t a = words[0];
    int64_t result;
    __asm__ volatile("syscall"
                     : "=a"(result), "+d"(a), "+r"(b), "+r"(c), "+r"(d)
                     : "a"(EXO_CALL_CALL), "D"(env), "S"(deadline)
                     : "rcx", "r11", "memory");
    words[0] = a, words[1] = b, words[2] = c, words[3] = d;
    return result;
}"""


def _constants() -> Iterator[str]:
    """The numbers: layout, errors, flags, call and up-call numbers; usable from assembly too."""
    for name in (
        "PAGE_SIZE",
        "PAGE_SHIFT",
        "SECTOR_SIZE",
        "SECTORS_PER_PAGE",
        "USER_BEGIN",
        "USER_END",
        "EXPOSED",
        "OWN_PAGE",
        "DISK_QUEUE",
        "SLICE_TABLE",
        "ENVIRONMENT_TABLE",
        "FRAME_TABLE",
        "PAGE_TABLES",
        "LIBRARY_CALL_BASE",
        "MAXIMUM_CONTEXTS",
        "MAXIMUM_CPUS",
        "SLICES",
    ):
        yield f"#define EXO_{name} {getattr(layout, name):#x}"
    for error in Error:
        yield f"#define EXO_{error.name} (-{error.value}) /* {error.summary} */"
    yield f"#define EXO_ANY {flags.ANY:#x}"
    yield f"#define EXO_SELF {flags.SELF}"
    yield f"#define EXO_FOREVER {flags.FOREVER:#x}"
    enums: tuple[type[IntEnum] | Any, ...] = (
        flags.Rights,
        flags.Sharing,
        flags.PageBits,
        flags.Access,
        flags.Event,
        flags.Transfer,
        flags.TrapReason,
        flags.ResumeReason,
        flags.Taken,
        flags.Compare,
        flags.Begin,
        flags.Subject,
    )
    for enum in enums:
        prefix = "".join("_" + c if c.isupper() else c.upper() for c in enum.__name__).strip("_")
        for member in enum:
            yield f"#define EXO_{prefix}_{member.name} {member.value:#x}"
    for upcall in UPCALLS:
        yield f"#define EXO_UPCALL_{upcall.upcall.name} {upcall.upcall.value}"
        yield f"#define EXO_UPCALL_{upcall.upcall.name}_ARGUMENTS {len(upcall.arguments)}"
    for row in TABLE.values():
        if not row.python_only:
            yield f"#define EXO_CALL_{row.name.upper()} {row.number:#x}"
    yield f"#define EXO_TAKEN_RECORDS {pages.TAKEN_RECORDS}"
    for field in pages.OwnPage.subcon.subcons:
        yield f"#define EXO_OWN_{field.name.upper()} {pages.offset_of(pages.OwnPage, field.name):#x}"
    for field in pages.OwnContext.subcons:
        yield f"#define EXO_CONTEXT_{field.name.upper()} {pages.offset_of(pages.OwnContext, field.name):#x}"
    yield f"#define EXO_CONTEXT_SIZE {pages.OwnContext.sizeof():#x}"


def _structure(name: str, structure: Any) -> Iterator[str]:
    body = getattr(structure, "subcon", structure) if not hasattr(structure, "subcons") else structure
    yield f"struct {name} {{"
    for field in body.subcons:
        size = field.sizeof()
        count = getattr(field.subcon, "count", None)
        if field.name in NESTED:
            yield f"    struct {NESTED[field.name]} {field.name}[{count}];"
        elif count is not None:
            yield f"    uint64_t {field.name}[{count}];"
        elif size not in (4, 8) or field.name == "magic":
            yield f"    uint8_t {field.name}[{size}];"
        else:
            yield f"    uint{size * 8}_t {field.name};"
    yield "};"


def _prototype(row: DownCall) -> str:
    parameters, passed = [], []
    for argument in row.arguments:
        if argument.kind is Kind.BYTES:
            parameters += [f"const void *{argument.name}", f"size_t {argument.name}_size"]
            passed += [f"(uint64_t){argument.name}", f"{argument.name}_size"]
        elif argument.kind is Kind.BUFFER:
            parameters.append(f"void *{argument.name}")
            passed.append(f"(uint64_t){argument.name}")
        else:
            parameters.append(f"uint64_t {argument.name}")
            passed.append(argument.name)
    passed += ["0"] * (6 - len(passed))
    if row.name == "call":
        return _CALL
    signature = f"static inline int64_t exo_{row.name}({', '.join(parameters) or 'void'})"
    return f"{signature} {{\n    return exo_downcall(EXO_CALL_{row.name.upper()}, {', '.join(passed)});\n}}"


def c_header() -> str:
    """The text of `exo.h`: for C11 and, before `__ASSEMBLER__` ends it, for assembly."""
    lines = [_PROLOGUE.format(version=pages.VERSION)]
    lines += _constants()
    lines += ["", _CALLS]
    lines += _structure("exo_taken", pages.TakenRecord)
    lines += _structure("exo_own_context", pages.OwnContext)
    lines += _structure("exo_predicate_term", pages.PredicateTerm)
    lines += _structure("exo_machine_page", pages.MachinePage)
    lines += _structure("exo_own_page", pages.OwnPage)
    lines += _structure("exo_environment_row", pages.EnvironmentRow)
    lines += _structure("exo_disk_queue_row", pages.DiskQueueRow)
    lines += [
        "#define EXO_MACHINE ((const volatile struct exo_machine_page *)EXO_EXPOSED)",
        "#define EXO_OWN ((volatile struct exo_own_page *)EXO_OWN_PAGE)",
        "#define EXO_SLICE_OWNERS ((const volatile uint32_t *)EXO_SLICE_TABLE)",
        "#define EXO_FRAMES ((const volatile uint64_t *)EXO_FRAME_TABLE)",
        "#define EXO_FRAME_HOLDERS(word) (((word) >> 32) & 0xff)",
        "#define EXO_PTE(va) (*(const volatile uint64_t *)(EXO_PAGE_TABLES + (((uint64_t)(va) & 0xfffffffff000) >> 9)))",
        "",
    ]
    for row in TABLE.values():
        if row.python_only:
            continue
        lines += ["/* " + "\n * ".join(wrap(f"{row.summary} Returns {row.returns}, or an error.", 112)) + " */"]
        lines += [_prototype(row), ""]
    lines += ["#endif", "#endif", ""]
    return "\n".join(lines)
