"""The file system of a run: `init` makes an environment that mounts it and serves it to the programs, and has it unmounted
when they have ended.

`--fs NAME` serves one that needs no disk, or the one on the whole image of `--disk`; `--fs NAME:PARTITION` names a
partition of the image by number or label.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from exokernel.abi.downcalls import Exo
from exokernel.abi.flags import Rights, Sharing
from exokernel.images import ImageError, Place, extent_of
from exokernel.machine.disk import Disk
from exokernel.names import unknown
from exokernel.policy.memory import MEMORY_POLICIES
from libos.files.server import Begun, FileServer, finish_server, start_server
from libos.filesystems.interface import CorruptFileSystem, FileSystem, FileSystemError
from libos.filesystems.names import FILE_SYSTEMS
from libos.image import LoadError
from libos.storage.volume import Volume

if TYPE_CHECKING:
    from exokernel.scenario import Scenario

TITLE: Final = "files"
"""What reports call the environment that serves."""
BASE: Final = 0x1_0000_0000
"""Where the cache's address space begins."""
_READ_WRITE: Final = int(Rights.READ | Rights.WRITE)


def check(scenario: "Scenario") -> None:
    """Raise ScenarioError if a scenario's file system makes no sense, UnknownName if there is none of its name."""
    from exokernel.scenario import ScenarioError

    name, _, partition = scenario.fs.partition(":")
    if not name:
        if scenario.put:
            raise ScenarioError("There is no file system to put files into; choose one, for example: --fs memory")
        return
    if name not in FILE_SYSTEMS:
        raise unknown("file system", name, FILE_SYSTEMS)
    if FILE_SYSTEMS[name].on_disk and scenario.disk is None:
        raise ScenarioError(f"The file system {name} lies on a disk; name its image, for example: --disk disk.img")
    if not FILE_SYSTEMS[name].on_disk and partition:
        raise ScenarioError(f"The file system {name} lies on no disk, so there is no partition {partition} for it.")
    if FILE_SYSTEMS[name].on_disk and MEMORY_POLICIES[scenario.global_policy].seize:
        raise ScenarioError(
            f"The global policy {scenario.global_policy} would take frames with what is not on the disk yet; with "
            f"--fs {name} name one that asks for them, such as largest."
        )
    for one in scenario.put:
        _begun(one)


def _begun(text: str) -> Begun:
    """`HOSTFILE:/PATH`.  Raises ScenarioError."""
    from exokernel.scenario import ScenarioError

    host, _, path = text.rpartition(":")
    if not host or not path.startswith("/") or path.endswith("/"):
        raise ScenarioError(f"--put {text} names no file and place; write for example: --put words.txt:/words.txt")
    try:
        return Begun(path.encode("utf-8", "surrogateescape"), Path(host).read_bytes())
    except OSError as error:
        raise ScenarioError(f"--put {text}: {host} cannot be read: {error.strerror}.") from None


class FileService:
    """The file system of one run over `disk`; `environment` is the number of who serves it, 0 until then."""

    def __init__(self, scenario: "Scenario", disk: Disk) -> None:
        self.environment = 0
        self._name, _, partition = scenario.fs.partition(":")
        self._kind = FILE_SYSTEMS[self._name]
        self._files = tuple(_begun(one) for one in scenario.put)
        self._where = Place(scenario.disk or Path(), partition)
        self._extent = self._find_extent(disk) if self._kind.on_disk else (0, 0)

    def _find_extent(self, disk: Disk) -> tuple[int, int]:
        from exokernel.scenario import ScenarioError

        try:
            return extent_of(self._where) or (0, disk.image_sectors)
        except ImageError as error:
            raise ScenarioError(str(error)) from None

    async def begin(self, exo: Exo, creator: int, make_environment: Callable[[], Awaitable[int]]) -> None:
        """Start the server and wait until the file system is mounted.  `creator` is the calling environment.  Raises
        LoadError if it cannot be mounted."""
        self.environment = await make_environment()
        start, sectors = self._extent
        if sectors:
            await exo.share_sectors(start, self.environment, Sharing.HOLD, _READ_WRITE)

        async def mount(own: Exo) -> FileSystem:
            return await self._kind.mount(Volume(own, start, sectors), base=BASE)

        try:
            await start_server(exo, self.environment, FileServer(creator, mount, self._files))
        except FileSystemError as error:
            where = f" on {self._where}" if self._kind.on_disk else ""
            raise LoadError(f"The file system {self._name}{where} cannot be mounted: {error}") from None

    async def finish(self, exo: Exo) -> None:
        """Have it unmounted.  Raises LoadError if something could not be written."""
        try:
            await finish_server(exo, self.environment)
        except CorruptFileSystem as error:
            raise LoadError(f"The file system {self._where} could not be unmounted: {error}") from None
        except FileSystemError as error:
            raise LoadError(f"The file system {self._name} could not be unmounted: {error}.") from None
