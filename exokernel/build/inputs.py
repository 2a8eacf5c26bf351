"""Which files a C source depends on, found without a compiler.

Every `#include` counts, also one that a condition leaves out: an image may be rebuilt without need but is never
stale.  A source that names its inputs in a way that is not understood here (`#include MACRO`, `.incbin`, trigraphs)
is not `complete`, and is compiled each time.  Headers that are found nowhere here are the compiler's own and are
covered by its identity.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exokernel.build.errors import BuildError

_INCLUDE = re.compile(rb'(?:#|%:)\s*(?:include|include_next|import)\b\s*(?:"([^"\n]+)"|<([^>\n]+)>)?')
_ASKS = re.compile(rb'\b__has_include\w*\s*\(\s*(?:"([^"\n]+)"|<([^>\n]+)>)?')
_UNREADABLE = re.compile(rb"\bincbin\b|\.include\b|#\s*embed\b|\b__has_embed\b|#\s*/\*|\?\?[=/]")


@dataclass(frozen=True)
class Inputs:
    """The contents of all files a source is made of, by path, in the order in which they are met."""

    contents: dict[Path, bytes]
    complete: bool


def inputs_of(sources: Sequence[Path], include: Sequence[Path]) -> Inputs:
    """The inputs of `sources` with `include` as the directories in which headers are looked for.

    Raises BuildError if a source cannot be read.
    """
    contents: dict[Path, bytes] = {}
    complete = True
    waiting = [Path(source) for source in reversed(sources)]
    while waiting:
        path = waiting.pop()
        if path in contents:
            continue
        try:
            text = path.read_bytes()
        except OSError as error:
            raise BuildError(f"{path} cannot be read: {error.strerror}.") from None
        contents[path] = text
        joined = text.replace(b"\\\r\n", b"").replace(b"\\\n", b"")
        complete = complete and not _UNREADABLE.search(joined)
        for pattern in (_INCLUDE, _ASKS):
            for match in pattern.finditer(joined):
                quoted, angled = match.groups()
                complete = complete and bool(quoted or angled)
                name = (quoted or angled or b"").decode("utf-8", "surrogateescape")
                places = [path.parent, *include] if quoted else list(include)
                waiting += [found for place in places if name and (found := place / name).is_file()]
    return Inputs(contents, complete)
