"""How guests are compiled and linked, for gcc and clang alike.

Text and constants, and data, lie on pages of their own, so that text can be lent to many address spaces.
Applications keep the red zone and may use SSE2; libraries run while the registers of the interrupted program are in
the processor, and so use the general ones only.  Nothing of the place or the time of a build goes into an image.
"""

from typing import Final

_CODE: Final = (
    "-O2",
    "-std=c11",
    "-g0",
    "-Wall",
    "-ffreestanding",
    "-fno-stack-protector",
    "-fcf-protection=none",
    "-fno-asynchronous-unwind-tables",
)

APPLICATION_CODE: Final = (*_CODE, "-fno-pie", "-mno-avx")
LIBRARY_CODE: Final = (*_CODE, "-fPIC", "-mgeneral-regs-only")
STRICT: Final = ("-Wextra", "-Werror")
ASSEMBLY: Final = ("-g0",)

_LINK: Final = (
    "-z",
    "now",
    "-z",
    "noexecstack",
    "-z",
    "separate-code",
    "-z",
    "norelro",
    "-z",
    "max-page-size=4096",
    "-z",
    "common-page-size=4096",
    "--hash-style=sysv",
    "--build-id=none",
)

APPLICATION_BASE: Final = 0x40_0000
APPLICATION_LINK: Final = (*_LINK, "--no-dynamic-linker", "--no-as-needed")
LIBRARY_LINK: Final = (*_LINK, "-Bsymbolic")


def renaming(directory: str) -> str:
    """The option by which files of a directory are called the same wherever it lies."""
    return f"-ffile-prefix-map={directory}=."
