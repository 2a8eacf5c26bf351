"""Frames that must not be taken while they are in hand, since the kernel would not refuse a down-call on them afterwards.

That is so in an environment that has forked: what it loses may be a child's a moment later, and as it controls the child it
may do with the frame what it likes.  Only a holder can reserve a frame, so reserving it finds out, and keeps it.
"""

from contextlib import suppress

from exokernel.abi.downcalls import Exo
from exokernel.abi.errors import Error, Refused


class Pins:
    """Costs nothing before the environment has forked."""

    def __init__(self, exo: Exo) -> None:
        self._exo = exo
        self.has_children = False
        """Whether the program has forked."""

    async def pin(self, frame: int) -> bool:
        """Make sure that a frame is ours and stays so; False if it has been taken."""
        if self.has_children:
            try:
                await self._exo.reserve_page(frame)
            except Refused as refused:
                return refused.error is Error.TOO_MANY
        return True

    async def unpin(self, frame: int) -> None:
        """Let the kernel take a frame again; letting go of it does so too."""
        if self.has_children:
            with suppress(Refused):
                await self._exo.reserve_page(frame, 0)
