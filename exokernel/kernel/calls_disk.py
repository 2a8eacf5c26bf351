"""The down-calls on sectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exokernel.abi.errors import Error
from exokernel.abi.flags import Rights, Sharing
from exokernel.kernel import capabilities
from exokernel.kernel.calls_environment import controls
from exokernel.kernel.dispatch import serves
from exokernel.kernel.environment import Context, Environment
from exokernel.kernel.refusal import Refusal

if TYPE_CHECKING:
    from exokernel.kernel.kernel import Kernel

LOANABLE = int(Rights.READ | Rights.WRITE)


@serves("alloc_sectors")
def alloc_sectors(kernel: Kernel, caller: Environment, context: Context, count: int, start: int) -> int:
    """A run of free sectors."""
    return kernel.disk.allocate(caller, count, start)


@serves("free_sectors")
def free_sectors(kernel: Kernel, caller: Environment, context: Context, start: int) -> int:
    """End a hold on an extent."""
    kernel.disk.let_go(caller, kernel.disk.extent(start))
    return 0


@serves("share_sectors")
def share_sectors(
    kernel: Kernel, caller: Environment, context: Context, start: int, env: Environment, sharing: int, rights: int
) -> int:
    """Lend an extent, or make another environment its co-holder."""
    extent = kernel.disk.extent(start)
    if not kernel.disk.rights(caller, extent) & Rights.CONTROL:
        raise Refusal(Error.DENIED)
    if sharing == Sharing.HOLD:
        if not controls(caller, env) and not capabilities.rights(caller.ring, env.access) & Rights.WRITE:
            raise Refusal(Error.DENIED)
        if env not in extent.holders:
            extent.holders.append(env)
    elif sharing == Sharing.LOAN and env is not caller and rights and not rights & ~LOANABLE:
        kernel.disk.lend(caller, extent, env, rights)
    else:
        raise Refusal(Error.BAD_ARGUMENT)
    return 0


@serves("unshare_sectors")
def unshare_sectors(kernel: Kernel, caller: Environment, context: Context, start: int, env: Environment) -> int:
    """End a loan of an extent."""
    if kernel.disk.extent(start).loans.pop((caller, env), None) is None:
        raise Refusal(Error.DENIED)
    return 0


@serves("read_sectors")
def read_sectors(
    kernel: Kernel, caller: Environment, context: Context, sector: int, count: int, number: int, offset: int, flags: int
) -> int:
    """From the disk into a frame."""
    return kernel.disk.request(caller, False, sector, count, kernel.frames.get(number), offset, flags)


@serves("write_sectors")
def write_sectors(
    kernel: Kernel, caller: Environment, context: Context, sector: int, count: int, number: int, offset: int, flags: int
) -> int:
    """From a frame onto the disk."""
    return kernel.disk.request(caller, True, sector, count, kernel.frames.get(number), offset, flags)


@serves("flush")
def flush(kernel: Kernel, caller: Environment, context: Context) -> int:
    """After every write that came before."""
    return kernel.disk.flush(caller)
