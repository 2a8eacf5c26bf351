"""What programs and the file server say to each other, declared once; `c_header` is the same for C.

A call is a protected control transfer with four words, the operation first, and the first word of its reply is the result:
a number, or the negative of an `Errno`.  Everything longer lies in the client's window: frames of the client's, reserved,
mapped in its own memory and lent to the server, which maps them too.  So the client pays for them, and what is copied is
copied once on either side.

    page 0       one page of a mapped file, for the client's page-fault handler alone
    from page 1  paths, one behind the other without zeros between; contents; a FileStatus; directory entries

Rules for the server: who calls is told by the kernel; every other word may be a lie; the window may change while it is
read, and go at any moment.  Rules for the client: one call at a time has the window behind page 0.
"""

from enum import IntEnum
from typing import Any, Final

from construct import Bytes, Int64ul, Struct

from exokernel.abi.direct import direct
from exokernel.abi.layout import PAGE_SIZE

FAULT_PAGES: Final = 1
DATA_PAGES: Final = 8
WINDOW_PAGES: Final = FAULT_PAGES + DATA_PAGES
DATA: Final = FAULT_PAGES * PAGE_SIZE
"""Where everything but pages of mapped files lies in the window, in bytes."""
DATA_SIZE: Final = DATA_PAGES * PAGE_SIZE
HANDLES: Final = 64
"""Files that one environment may have open."""
PLACE_SHIFT: Final = 32
"""Contents have a size in the lower half of a word, and in the upper one their place in the window."""


@direct
class Operation(IntEnum):
    """What a client asks for; the words behind it are in the order named.  A path is its size in bytes; a second one lies
    behind the first.  Contents are size and place (PLACE_SHIFT)."""

    READY = 0
    """Wait until the file system is mounted: 0."""
    FINISH = 1
    """Close everything, unmount and end.  For the server's creator alone."""
    ATTACH = 2
    """Page of the window, frame: take this frame of the caller's, lent before, for that page: 0."""
    INHERIT = 3
    """Environment: a child of the caller's, that has nothing yet, has every handle of the caller's from now on: 0."""
    OPEN = 4
    """Path, flags, mode of a new file: a handle."""
    CLOSE = 5
    """Handle: 0."""
    READ = 6
    """Handle, contents: how many bytes there were at the position, which moves behind them."""
    WRITE = 7
    """Handle, contents: how many bytes were stored at the position, which moves behind them."""
    READ_AT = 8
    """Handle, contents, offset: how many bytes there were; the position stays."""
    WRITE_AT = 9
    """Handle, contents, offset: how many bytes were stored; the position stays."""
    SEEK = 10
    """Handle, distance, from where (Whence): the position now."""
    SYNC = 11
    """Handle or EVERYTHING, 1 to leave out times: 0 when it is on the medium."""
    STATUS = 12
    """Path, 1 to follow a symbolic link at its end: 0, and a FileStatus."""
    LIST = 13
    """Handle of a directory, most entries: how many there are now, 0 behind the last."""
    MAKE_DIRECTORY = 14
    """Path, mode: 0."""
    REMOVE = 15
    """Path of a directory that is empty or of anything else: 0."""
    RENAME = 16
    """Path, new path: 0."""
    LINK = 17
    """Path, new path: 0."""
    SYMLINK = 18
    """Target, path: 0."""
    READ_LINK = 19
    """Path, most bytes: how many bytes the target has, no more."""
    TRUNCATE = 20
    """Handle, size in bytes: 0."""
    SET_MODE = 21
    """Path, mode: 0."""


@direct
class Whence(IntEnum):
    """Where a distance begins."""

    START = 0
    HERE = 1
    END = 2


EVERYTHING: Final = (1 << 64) - 1
"""In place of a handle: the whole file system."""

_NUMBER: Final = Int64ul

FileStatus: Final = Struct(
    "inode" / _NUMBER,
    "kind" / _NUMBER,
    "mode" / _NUMBER,
    "links" / _NUMBER,
    "uid" / _NUMBER,
    "gid" / _NUMBER,
    "size" / _NUMBER,
    "sectors" / _NUMBER,
    "accessed" / _NUMBER,
    "modified" / _NUMBER,
    "changed" / _NUMBER,
)
"""The fields of `libos.filesystems.interface.Attributes` by their names."""

NAME_SIZE: Final = 256
DirectoryEntry: Final = Struct("inode" / _NUMBER, "kind" / _NUMBER, "name" / Bytes(NAME_SIZE))
"""`name` ends with a zero."""
ENTRIES_AT_ONCE: Final = DATA_SIZE // DirectoryEntry.sizeof()


def structure(name: str, declared: Any) -> list[str]:
    """The lines of a C structure."""
    lines = [f"struct {name} {{"]
    for part in declared.subcons:
        size = part.sizeof()
        lines.append(f"    uint64_t {part.name};" if part.subcon is _NUMBER else f"    char {part.name}[{size}];")
    return [*lines, "};"]


def c_header() -> str:
    """The text of `files.h`, for library OSes in C."""
    lines = [
        "/* What is said to the file server; generated from libos/files/protocol.py, where its meaning is told. */",
        "#ifndef FILES_H",
        "#define FILES_H",
        "",
    ]
    lines += [f"#define FILES_{operation.name} {operation.value}" for operation in Operation]
    for name in ("WINDOW_PAGES", "DATA", "DATA_SIZE", "PLACE_SHIFT", "ENTRIES_AT_ONCE", "NAME_SIZE"):
        lines.append(f"#define FILES_{name} {globals()[name]}")
    return "\n".join([*lines, "", "#endif", ""])
