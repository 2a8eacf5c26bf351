"""The interface between an application and its library OS: one versioned table of C functions.

An application is an ordinary ELF program that needs `libos.so.1`.  Two kinds of shared object answer to that name: a
native library OS, which implements the functions in C, and the generated stub, in which each function is a `syscall`
with a library number, which reaches a Python library OS as a `trap` up-call.  So the same binary runs over either.

A function takes at most six words and gives one back; there are no data symbols.  Below the table is the header that
applications include and the assembly of the stub, both derived from it.
"""

from dataclasses import dataclass

from exokernel.abi.layout import LIBRARY_CALL_BASE

VERSION = 1
SONAME = f"libos.so.{VERSION}"


@dataclass(frozen=True)
class Function:
    """One function of the interface; `number` is its place in the table above LIBRARY_CALL_BASE."""

    number: int
    name: str
    returns: str
    parameters: tuple[str, ...]
    summary: str

    @property
    def call_number(self) -> int:
        """The number in rax when the stub traps."""
        return LIBRARY_CALL_BASE + self.number

    @property
    def prototype(self) -> str:
        return f"{self.returns}{self.name}({', '.join(self.parameters) or 'void'})"


_ROWS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    ("os_exit", "_Noreturn void ", ("int status",), "End the program."),
    (
        "os_write",
        "long ",
        ("const void *text", "size_t size"),
        "Write to the console; gives the bytes written.",
    ),
    ("os_time", "uint64_t ", (), "The virtual time in cycles."),
    ("os_yield", "void ", (), "Let others run."),
    (
        "os_alloc",
        "void *",
        ("size_t size",),
        "Memory from the heap, 16-byte aligned; a null pointer when there is none.",
    ),
    ("os_free", "void ", ("void *memory",), "Give memory from os_alloc back."),
    (
        "os_region",
        "void *",
        ("size_t size",),
        "Zero-filled pages, brought in when first touched; a null pointer when the address space or the swap area is full.",
    ),
    (
        "os_map_file",
        "const void *",
        ("const char *name", "size_t *size"),
        "A file given to the program, by name, as read-only pages loaded when first touched; a null pointer if there "
        "is none.",
    ),
    (
        "os_advise",
        "int ",
        ("void *memory", "size_t size", "int advice"),
        "What the program knows of whole pages inside the range: OS_NEEDED, OS_DISCARD or OS_RECOMPUTABLE; 0, or -1 if "
        "the range is not the program's.",
    ),
    (
        "os_fork",
        "long ",
        (),
        "A second environment with a copy of this one, copied when written: 0 in the child, its number in the parent, "
        "-1 if there is no room.",
    ),
    (
        "os_wait",
        "long ",
        ("long child",),
        "Wait until a child has ended; gives its exit status, -1 if it is no child.",
    ),
)
FUNCTIONS: tuple[Function, ...] = tuple(Function(number, *row) for number, row in enumerate(_ROWS))
BY_CALL_NUMBER: dict[int, Function] = {function.call_number: function for function in FUNCTIONS}

ADVICE = {
    "OS_NEEDED": (0, "keep the contents (the default)"),
    "OS_DISCARD": (1, "the contents are no longer needed now: the frames go, and the pages read as zero"),
    "OS_RECOMPUTABLE": (2, "never write these pages to swap: if they must go they read as zero afterwards"),
}


def c_header() -> str:
    """The text of `libos.h`, which applications include."""
    lines = [
        f"/* The interface of a library OS, version {VERSION}; generated from libos/interface.py. */",
        "#ifndef LIBOS_H",
        "#define LIBOS_H",
        "#include <stddef.h>",
        "#include <stdint.h>",
        "",
    ]
    lines += [f"#define {name} {value} /* {summary} */" for name, (value, summary) in ADVICE.items()]
    lines += [
        "",
        "/* What the program's entry gets a pointer to: argument strings as in C, then a null pointer. */",
        "struct os_arguments {",
        "    uint64_t count;",
        "    char *values[];",
        "};",
        "",
    ]
    for function in FUNCTIONS:
        lines += [f"/* {function.summary} */", f"{function.prototype};", ""]
    return "\n".join([*lines, "#endif", ""])


def stub_assembly() -> str:
    """Assembly of the second implementation of the interface, for a library OS in Python."""
    lines = ["    .text"]
    for function in FUNCTIONS:
        lines += [
            f"    .globl {function.name}",
            f"    .type {function.name}, @function",
            f"{function.name}:",
            "    mov %rcx, %r10",
            f"    mov ${function.call_number:#x}, %eax",
            "    syscall",
            "    ret",
            f"    .size {function.name}, . - {function.name}",
        ]
    return "\n".join([*lines, '    .section .note.GNU-stack,"",@progbits', ""])
