"""Building guests: C sources become the ELF images that run on the emulated machine.

    compiler   finds a C compiler that makes x86-64 ELF
    flags      how it is called
    inputs     which files a source depends on
    store      images on the host's disk, by what they were made of
    check      refuses an image the loader could not run
    guests     the recipes: applications, the native library OS and its parts, the stub

An image is built once for each compiler and content of its inputs; after that no compiler runs.
"""

from exokernel.build.compiler import Compiler, find_compiler
from exokernel.build.errors import BuildError
from exokernel.build.guests import (
    Source,
    applications,
    build_application,
    build_everything,
    build_native_base,
    build_pager,
    build_stub,
    native_parts,
)

__all__ = [
    "BuildError",
    "Compiler",
    "Source",
    "applications",
    "build_application",
    "build_everything",
    "build_native_base",
    "build_pager",
    "build_stub",
    "find_compiler",
    "native_parts",
]
