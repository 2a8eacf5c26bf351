"""A call of the file server from Python."""

from contextlib import suppress
from typing import Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused
from exokernel.abi.flags import FOREVER
from libos.filesystems.interface import Errno, FileSystemError

_TRY_AGAIN: Final = frozenset((Error.BUSY, Error.NOT_SERVING))
_WORD: Final = (1 << 64) - 1
_SIGN: Final = 1 << 63


async def call_server(exo: Exo, environment: int, operation: int, *words: int) -> int:
    """The result of a call of a server; one that is busy is given the rest of the slice and asked again.

    Raises FileSystemError: the result if that is an error, EIO if there is no server any more.
    """
    masked = [word & _WORD for word in (operation, *words)]
    while True:
        try:
            word = (await exo.call(environment, FOREVER, *masked))[0]
            break
        except Refused as refused:
            if refused.error not in _TRY_AGAIN:
                raise FileSystemError(Errno.EIO) from None
        with suppress(Refused):
            await exo.yield_(environment)
    if word & _SIGN:
        raise FileSystemError(Errno((1 << 64) - word))
    return word
