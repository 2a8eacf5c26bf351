"""The partitions of the disk image: lasting extents whose access lists are recorded on the disk.

A partition needs no holder: who may use it says its list, and the root of all names may do everything with it.  The table
and the records are everybody's to read and nobody's to write.  An image without a table is the first environment's.
"""

from __future__ import annotations

from exokernel.abi import partitions as format
from exokernel.abi.errors import Error
from exokernel.abi.flags import Rights
from exokernel.abi.partitions import Partition, PartitionTable
from exokernel.kernel.capabilities import ACCESS_ENTRIES, COMPONENT_MAXIMUM, EVERY_RIGHT, Capability, Name
from exokernel.kernel.environment import Environment
from exokernel.kernel.refusal import Refusal
from exokernel.kernel.sectors import Extent, SectorTable


class RecordedAccess:
    """The access list of one partition.  The last entry of `entries` is the root's, which nobody changes."""

    def __init__(self, sectors: SectorTable, table: PartitionTable, partition: Partition, root: Capability) -> None:
        self._medium, self._table, self._partition = sectors.medium, table, partition
        self._root = root.name
        self.entries: list[Capability | None] = [self._read(index) for index in range(ACCESS_ENTRIES)] + [root]

    def _read(self, index: int) -> Capability | None:
        sector = format.access_sector(self._table, self._partition, index)
        record = None if sector is None else format.parse_access(self._medium.read(sector, 1), self._partition, index)
        if record is None or not _lasts(record[1]):
            return None
        return Capability(self._root + record[1], record[0] & EVERY_RIGHT)

    def set(self, index: int, entry: Capability | None) -> None:
        """Change an entry, durably.  Refused if the disk has no place for it, and for the name of an environment."""
        sector = format.access_sector(self._table, self._partition, index)
        if sector is None:
            raise Refusal(Error.NO_SECTORS)
        name = entry.name[len(self._root) :] if entry is not None else ()
        if len(name) > format.COMPONENTS or not _lasts(name):
            raise Refusal(Error.BAD_ARGUMENT)
        permissions = entry.permissions if entry is not None else 0
        self._medium.write(sector, format.build_access(self._partition, index, permissions, name))
        self.entries[index] = entry


def _lasts(name: Name) -> bool:
    """Whether a name means the same after the next start; an environment's then is another's."""
    return all(component <= COMPONENT_MAXIMUM for component in name)


def mount(sectors: SectorTable, first: Environment) -> None:
    """The machine has been switched on: make extents of what is on the image."""
    disk = sectors.medium
    table = disk.partitions
    if table is None:
        if disk.image_sectors:
            sectors.attach(first, 0, disk.image_sectors, EVERY_RIGHT)
        return
    root, read = Capability(first.name, EVERY_RIGHT), int(Rights.READ)
    for start, end in ((0, table.first_usable), (table.last_usable + 1, disk.image_sectors)):
        sectors.put(Extent(start, end - start, allowed=read, lasting=True, everybody=read))
    for partition in table.partitions:
        extent = sectors.put(Extent(partition.start, partition.sectors, lasting=True))
        if partition.type == format.ACCESS_TYPE:
            extent.allowed = extent.everybody = read
        else:
            extent.recorded = RecordedAccess(sectors, table, partition, root)
