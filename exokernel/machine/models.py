"""The models of drives by name."""

from exokernel.machine.drives import Drive, Ideal, SolidState
from exokernel.machine.rotating import Rotating

DRIVES: dict[str, type[Drive]] = {drive.name: drive for drive in (SolidState, Rotating, Ideal)}
