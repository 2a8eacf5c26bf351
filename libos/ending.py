"""How a program ends when its library OS has to end it: one sentence on the console, and a status that tells why.

The statuses are the same over the native library OS.
"""

from typing import Final, NoReturn

from exokernel.abi.downcalls import Exo

BROKEN_LIBRARY: Final = 134
"""The library OS cannot go on, or was used wrongly."""
LOST_PAGE: Final = 135
"""A page was taken by force and its contents are needed."""
SEGMENTATION_FAULT: Final = 139


async def end(exo: Exo, sentence: str, status: int) -> NoReturn:
    """Write the sentence as a line of its own and end the environment."""
    await exo.console_write(sentence.encode() + b"\n")
    await exo.exit(status)
    raise AssertionError("the environment has ended")
