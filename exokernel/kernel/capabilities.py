"""Capabilities as in Xok: hierarchical names with permissions.

A name is a tuple of numbers; it dominates every name of which it is a prefix.  An environment carries capabilities on a key
ring of sixteen slots; a frame, an extent or an environment has an access list of four entries.  A right is there if some
capability's name dominates the name of an entry and both allow it.  Slot 0 of a new ring holds the environment's own name,
which continues its parent's: so whoever made an environment dominates it and all its descendants.

Source: Mazieres, Secure applications need flexible operating systems, HotOS 1997, and Xok's hierarchically named
capabilities (Kaashoek et al., SOSP 1997, section 3.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from exokernel.abi.errors import Error
from exokernel.abi.flags import Rights
from exokernel.kernel.refusal import Refusal

RING_SLOTS: Final = 16
ACCESS_ENTRIES: Final = 4
NAME_MAXIMUM: Final = 64
COMPONENT_MAXIMUM: Final = 0xFFFF
EVERY_RIGHT: Final = int(Rights.READ | Rights.WRITE | Rights.EXECUTE | Rights.CONTROL)

Name = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Capability:
    """A name with permissions; on a key ring the right itself, in an access list what it takes to have it."""

    name: Name
    permissions: int

    def dominates(self, name: Name) -> bool:
        """Whether this name is a prefix of `name`."""
        return name[: len(self.name)] == self.name


Ring = list[Capability | None]
AccessList = list[Capability | None]


def rights(ring: Sequence[Capability | None], access: Sequence[Capability | None]) -> int:
    """The rights that the capabilities of a ring give on something with this access list."""
    allowed = 0
    for entry in access:
        if entry is not None:
            for capability in ring:
                if capability is not None and capability.dominates(entry.name):
                    allowed |= capability.permissions & entry.permissions
    return allowed


def at(ring: Ring, slot: int) -> Capability:
    """The capability in a slot; refused if the slot is empty."""
    capability = ring[slot]
    if capability is None:
        raise Refusal(Error.BAD_ARGUMENT)
    return capability


def forged(source: Capability, component: int, permissions: int) -> Capability:
    """A capability one component further down, with no more permissions than its source."""
    if not 0 <= component <= COMPONENT_MAXIMUM or len(source.name) >= NAME_MAXIMUM:
        raise Refusal(Error.BAD_ARGUMENT)
    return Capability((*source.name, component), source.permissions & permissions)


def name_of(parent: Name, number: int) -> Name:
    """The name of a new environment: beyond every component that anybody can forge, so no name is forged in advance."""
    return (*parent, COMPONENT_MAXIMUM + 1 + number)
