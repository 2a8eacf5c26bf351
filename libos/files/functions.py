"""The functions of the interface that are about files, with their constants and structures, as `libos.interface` has them.

A file is known by a number from os_open on, which children that the environment forks have too, position and all.  What
goes wrong is the negative of an OS_E constant; the numbers are Linux's.
"""

from typing import Final

from libos.files.protocol import DirectoryEntry, FileStatus, Whence, structure
from libos.filesystems.handles import OpenFlags
from libos.filesystems.interface import Errno, Kind

Row = tuple[str, str, tuple[str, ...], str]

FILE_ROWS: Final[tuple[Row, ...]] = (
    (
        "os_open",
        "long ",
        ("const char *path", "int flags", "int mode"),
        "Open a file or, for reading, a directory of the mounted file system; `flags` are OS_OPEN constants, `mode` the "
        "permissions of a file that is made.  Gives its number, or -OS_E...; so do all functions below.",
    ),
    ("os_close", "int ", ("long file",), "Close a file: 0."),
    (
        "os_read_file",
        "long ",
        ("long file", "void *buffer", "size_t size"),
        "Up to `size` bytes from the position on, which moves; gives how many, fewer only at the end.",
    ),
    (
        "os_write_file",
        "long ",
        ("long file", "const void *bytes", "size_t size"),
        "Store bytes at the position, which moves, or with OS_OPEN_APPEND at the end; gives how many, fewer only if there "
        "is no space left.",
    ),
    (
        "os_seek",
        "long ",
        ("long file", "long distance", "int from"),
        "Go to a position, so many bytes from OS_FROM_START, OS_FROM_HERE or OS_FROM_END; gives it.  A directory goes to "
        "its first entry.",
    ),
    (
        "os_sync",
        "int ",
        ("long file", "int data_only"),
        "Wait until what was written is on the medium, without times if `data_only`; -1 for a file means all of them: 0.",
    ),
    ("os_truncate", "int ", ("long file", "size_t size"), "Cut a file off, or make it longer by zeros: 0."),
    (
        "os_stat",
        "int ",
        ("const char *path", "struct os_file_status *status", "int follow"),
        "What is known of what a path leads to, or with 0 for `follow` of a symbolic link at its end itself: 0.",
    ),
    (
        "os_list",
        "long ",
        ("long directory", "struct os_entry *entries", "size_t count"),
        "The next entries of an open directory, at most `count`, in no particular order; gives how many, 0 at the end.",
    ),
    ("os_make_directory", "int ", ("const char *path", "int mode"), "A new directory: 0."),
    ("os_remove", "int ", ("const char *path",), "Take the name of a file away, or remove an empty directory: 0."),
    (
        "os_rename",
        "int ",
        ("const char *path", "const char *new_path"),
        "Another name, in one step, over an existing one that fits: 0.",
    ),
    (
        "os_link",
        "int ",
        ("const char *path", "const char *new_path"),
        "One more name for what is not a directory: 0.",
    ),
    ("os_symlink", "int ", ("const char *target", "const char *path"), "A new symbolic link: 0."),
    (
        "os_read_link",
        "long ",
        ("const char *path", "char *target", "size_t size"),
        "Up to `size` bytes of a symbolic link's target, without a zero behind them; gives how many the target has.",
    ),
    ("os_set_mode", "int ", ("const char *path", "int mode"), "Other permissions: 0."),
)

FILE_CONSTANTS: Final = (
    {
        f"OS_OPEN_{flag}": (int(value), summary)
        for flag, value, summary in (
            ("READ", OpenFlags.READ, "a file is opened for reading"),
            ("WRITE", OpenFlags.WRITE, "for writing"),
            ("BOTH", OpenFlags.READ_WRITE, "for both"),
            ("CREATE", OpenFlags.CREATE, "and made if it is not there"),
            ("EXCLUSIVE", OpenFlags.EXCLUSIVE, "with OS_OPEN_CREATE: only if it is not there"),
            ("TRUNCATE", OpenFlags.TRUNCATE, "and emptied"),
            ("APPEND", OpenFlags.APPEND, "and written at its end alone"),
            ("DIRECTORY", OpenFlags.DIRECTORY, "only if it is a directory"),
            ("NO_FOLLOW", OpenFlags.NO_FOLLOW, "only if it is no symbolic link"),
        )
    }
    | {f"OS_FROM_{whence.name}": (whence.value, "in os_seek") for whence in Whence}
    | {f"OS_KIND_{kind.name}": (kind.value, "of a file") for kind in Kind}
    | {f"OS_{errno.name}": (errno.value, errno.sentence) for errno in Errno}
)


def structures() -> list[str]:
    """The lines of the structures that applications know."""
    lines = ["/* What os_stat tells: `mode` has permissions alone, times are in seconds since 1970. */"]
    lines += structure("os_file_status", FileStatus)
    return [*lines, "", "/* What os_list gives: an entry of a directory. */", *structure("os_entry", DirectoryEntry), ""]
