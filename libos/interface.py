"""The interface between an application and its library OS: one versioned table of C functions.

An application is an ordinary ELF program that needs `libos.so.1`.  Two kinds of shared object answer to that name: a
native library OS, which implements the functions in C, and the generated stub, in which each function is a `syscall`
with a library number, which reaches a Python library OS as a `trap` up-call.  So the same binary runs over either.

A function takes at most six words and gives one back; there are no data symbols.  Below the table is the header that
applications include and the assembly of the stub, both derived from it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exokernel.abi.layout import LIBRARY_CALL_BASE
from libos.files.functions import FILE_CONSTANTS, FILE_ROWS, structures

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
        "A file given to the program, by name, or else one of the mounted file system, as read-only pages loaded when "
        "first touched; a null pointer if there is none, or no address space for it.",
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
    ("os_self", "long ", (), "The number of this environment."),
    (
        "os_yield_to",
        "void ",
        ("long environment",),
        "Give the rest of the slice to another environment, if it can run; let others run if not.",
    ),
    (
        "os_shared",
        "void *",
        (),
        "A page of zeros that children forked from now on share and do not copy; a null pointer when there is none.",
    ),
    (
        "os_pipe",
        "long ",
        (),
        "A pipe: its number, -1 when there is none.  Children that this very environment forks have it too, both ends.",
    ),
    (
        "os_pipe_read",
        "long ",
        ("long pipe", "void *buffer", "size_t size"),
        "Wait for bytes and take up to `size`; gives how many, 0 when nobody has the write end any more, -1 if the read "
        "end is not open here.  An end is for one reader or writer at a time.",
    ),
    (
        "os_pipe_write",
        "long ",
        ("long pipe", "const void *bytes", "size_t size"),
        "Put all bytes into a pipe, waiting for room; gives how many, -1 when nobody has the read end any more or the "
        "write end is not open here.",
    ),
    (
        "os_pipe_close",
        "int ",
        ("long pipe", "int ends"),
        "Close OS_READ_END, OS_WRITE_END or both; 0, or -1 if the pipe is not open here.  The end of an environment closes "
        "all that it has.",
    ),
    (
        "os_rpc_serve",
        "long ",
        ("os_rpc_handler *handler",),
        "Answer the calls of other environments with what `handler` returns, one after the other, until the environment "
        "ends; comes back, with -1, only if that cannot be.",
    ),
    (
        "os_rpc_call",
        "long ",
        ("long server", "uint64_t operation", "uint64_t a", "uint64_t b", "uint64_t c", "uint64_t *result"),
        "Call the handler of another environment and wait: 0 and its result, or OS_RPC_NOBODY or OS_RPC_LATE.",
    ),
    (
        "os_thread_create",
        "long ",
        ("os_thread_entry *entry", "void *argument"),
        "A thread that calls `entry` and ends with it; gives its number, -1 if there is no room.  The first is 0.",
    ),
    ("os_thread_exit", "_Noreturn void ", ("long result",), "End this thread; with the last one the program ends."),
    (
        "os_thread_join",
        "long ",
        ("long thread",),
        "Wait until a thread has ended, once; gives its result, -1 if there is no such thread to wait for.",
    ),
    ("os_thread_self", "long ", (), "The number of this thread."),
    ("os_thread_yield", "void ", (), "Let other threads run."),
    (
        "os_processors",
        "long ",
        ("long count",),
        "Let up to `count` threads run at a time, at first 1; gives how many can, at most a processor for each.",
    ),
    ("os_mutex_lock", "void ", ("struct os_mutex *mutex",), "Hold a mutex, waiting while another thread holds it."),
    ("os_mutex_unlock", "void ", ("struct os_mutex *mutex",), "Let go of a mutex that this thread holds."),
    (
        "os_condition_wait",
        "void ",
        ("struct os_condition *condition", "struct os_mutex *mutex"),
        "Let go of the mutex until the condition is signalled, and hold it again then.",
    ),
    ("os_condition_signal", "void ", ("struct os_condition *condition",), "Let one that waits for a condition go on."),
    ("os_condition_broadcast", "void ", ("struct os_condition *condition",), "Let all that wait for a condition go on."),
    (
        "os_barrier_wait",
        "int ",
        ("struct os_barrier *barrier", "uint64_t count"),
        "Wait until `count` threads have come here: 1 for the last of them, 0 for the others.",
    ),
    ("os_spin_lock", "void ", ("struct os_spin *lock",), "Hold a lock for a few instructions, however one waits for it."),
    ("os_spin_unlock", "void ", ("struct os_spin *lock",), "Let go of a lock from os_spin_lock."),
    ("os_critical_enter", "void ", (), "Until os_critical_leave no other thread takes this one's place."),
    ("os_critical_leave", "void ", (), "The end of a critical section, which may lie in another."),
    (
        "os_protect",
        "int ",
        ("void *memory", "size_t size", "int rights"),
        "Say what the program may do with whole pages of its own from now on: OS_NO_ACCESS, OS_READ or OS_READ_WRITE; "
        "0, or -1 if the range is not whole pages of its own or their region never allows so much, or there is no room.",
    ),
    (
        "os_on_fault",
        "void ",
        ("int (*handler)(void *address, int write)",),
        "Have this function called, on the stack of the thread that faults, at every access that os_protect forbids; the "
        "access is tried again if it gives anything but 0, and else, or with a null pointer for a handler, it ends the "
        "program.",
    ),
    (
        "os_dirty",
        "int ",
        ("const void *memory",),
        "Whether the page was written since it was last equal to its place on the disk, which is what evicting it would "
        "cost: 1 or 0; -1 if it is not the program's.",
    ),
)
FUNCTIONS: tuple[Function, ...] = tuple(Function(number, *row) for number, row in enumerate(_ROWS + FILE_ROWS))
BY_CALL_NUMBER: dict[int, Function] = {function.call_number: function for function in FUNCTIONS}

ADVICE = {
    "OS_NEEDED": (0, "keep the contents (the default)"),
    "OS_DISCARD": (1, "the contents are no longer needed now: the frames go, and the pages read as zero"),
    "OS_RECOMPUTABLE": (2, "never write these pages to swap: if they must go they read as zero afterwards"),
}

ENDS = {
    "OS_READ_END": (1, "of a pipe"),
    "OS_WRITE_END": (2, "of a pipe"),
}
RPC_ERRORS = {
    "OS_RPC_NOBODY": (-1, "the environment called does not exist, or has ended without a reply"),
    "OS_RPC_LATE": (-2, "for 50,000,000 cycles it did not serve, had others to serve, or did not reply"),
}
SYNCHRONIZATION = {"os_mutex": 4, "os_condition": 4, "os_barrier": 4, "os_spin": 1}
"""Structures of the program's by name, and the words in each."""
PROTECTION = {
    "OS_NO_ACCESS": (0, "no access at all"),
    "OS_READ": (1, "reading alone"),
    "OS_READ_WRITE": (3, "reading and writing (the default)"),
}
ON_FAULT: Final = "os_on_fault"
"""The function whose stub also tells the library, in rsi, where `run_handler` is."""
_RUN_HANDLER: Final = Path(__file__).parent / "native" / "run_handler.S"
CONSTANTS = ADVICE | ENDS | RPC_ERRORS | PROTECTION | FILE_CONSTANTS


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
    for name, (value, summary) in CONSTANTS.items():
        lines.append(f"#define {name} {value if value >= 0 else f'({value})'} /* {summary} */")
    lines += [
        "",
        "/* What the program's entry gets a pointer to: argument strings as in C, then a null pointer. */",
        "struct os_arguments {",
        "    uint64_t count;",
        "    char *values[];",
        "};",
        "",
        "/* What answers calls: who calls, by number, and the four words. */",
        "typedef uint64_t os_rpc_handler(long caller, uint64_t operation, uint64_t a, uint64_t b, uint64_t c);",
        "",
    ]
    lines += [
        "/* What a thread runs; the result is that of os_thread_join. */",
        "typedef long os_thread_entry(void *argument);",
        "",
        "/* What threads wait for each other with: nothing but zeros to begin with, and not to be copied. */",
    ]
    lines += [f"struct {name} {{\n    uint64_t words[{words}];\n}};" for name, words in SYNCHRONIZATION.items()] + [""]
    lines += structures()
    for function in FUNCTIONS:
        lines += [f"/* {function.summary} */", f"{function.prototype};", ""]
    return "\n".join([*lines, "#endif", ""])


def stub_assembly() -> str:
    """Assembly of the second implementation of the interface, for a library OS in Python.

    What it has in common with a native library is how a handler of the program is run.
    """
    lines = [_RUN_HANDLER.read_text(encoding="utf-8"), "    .text"]
    for function in FUNCTIONS:
        lines += [
            *(["no_handler:", "    xor %edi, %edi"] if function.name == ON_FAULT else []),
            f"    .globl {function.name}",
            f"    .type {function.name}, @function",
            f"{function.name}:",
            *(["    lea run_handler(%rip), %rsi"] if function.name == ON_FAULT else []),
            "    mov %rcx, %r10",
            f"    mov ${function.call_number:#x}, %eax",
            "    syscall",
            "    ret",
            f"    .size {function.name}, . - {function.name}",
        ]
    return "\n".join([*lines, '    .section .note.GNU-stack,"",@progbits', ""])
