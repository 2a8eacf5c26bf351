"""The down-calls on memory: each checks a right and does one thing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exokernel.abi.errors import Error
from exokernel.abi.flags import ANY, PageBits, Rights, Sharing
from exokernel.abi.layout import SECTORS_PER_PAGE
from exokernel.kernel import capabilities
from exokernel.kernel.calls_environment import controls, require_control
from exokernel.kernel.dispatch import serves
from exokernel.kernel.environment import RESERVED_MAXIMUM, Context, Environment
from exokernel.kernel.frames import LOANS_MAXIMUM
from exokernel.kernel.refusal import Refusal
from exokernel.machine import costs

if TYPE_CHECKING:
    from exokernel.kernel.kernel import Kernel

READ, WRITE, CONTROL = int(Rights.READ), int(Rights.WRITE), int(Rights.CONTROL)
ANY_RIGHT = int(Rights.READ | Rights.WRITE | Rights.EXECUTE)
CLEARABLE = int(PageBits.ACCESSED | PageBits.DIRTY | PageBits.ACCESSED_BEFORE)
CLEAR_MAXIMUM = 1 << 16


@serves("alloc_page")
def alloc_page(kernel: Kernel, caller: Environment, context: Context, number: int, env: Environment) -> int:
    """A free frame, this very frame, or NO_FRAME and the asking has begun."""
    if env is not caller:
        require_control(caller, env)
    kernel.charge(caller, costs.ZERO_FRAME)
    if number != ANY:
        frame = kernel.frames.take_free(env, number)
        if frame is None and number not in kernel.frames.free:
            for holder in list(kernel.frames.get(number).holders):
                if holder is not caller:
                    kernel.revocation.ask(holder, 1, number, controls(caller, holder))
            frame = kernel.frames.take_free(env, number)
        if frame is None:
            raise Refusal(Error.FRAME_BUSY)
        return frame.number
    frame = kernel.frames.take_free(env)
    if frame is None and kernel.revocation.short_of_frames(env):
        frame = kernel.frames.take_free(env)
    if frame is None:
        raise Refusal(Error.NO_FRAME)
    if env.wants_frames:
        kernel.revocation.no_longer_wants(env)
    return frame.number


@serves("dealloc_page")
def dealloc_page(kernel: Kernel, caller: Environment, context: Context, number: int, env: Environment) -> int:
    """End a hold."""
    require_control(caller, env)
    frame = kernel.frames.get(number)
    if env not in frame.holders:
        raise Refusal(Error.DENIED)
    freed = kernel.frames.let_go(env, frame)
    kernel.revocation.gave_back(env, frame, freed)
    return 0


@serves("create_mapping")
def create_mapping(
    kernel: Kernel, caller: Environment, context: Context, va: int, number: int, rights: int, env: Environment
) -> int:
    """Bind a page to a frame; the page table enforces it from now on."""
    if env is not caller:
        require_control(caller, env)
    if rights & ~ANY_RIGHT or not rights:
        raise Refusal(Error.BAD_ARGUMENT)
    kernel.charge(caller, 4 * costs.TABLE_LEVEL)
    try:
        _map(kernel, caller, va, number, rights, env)
    except Refusal as refusal:
        if refusal.error is not Error.NO_FRAME or not kernel.revocation.short_of_frames(env):
            raise
        _map(kernel, caller, va, number, rights, env)
    return 0


def _map(kernel: Kernel, caller: Environment, va: int, number: int, rights: int, env: Environment) -> None:
    """Nothing may come between the check and the entry: neither a charge nor a revocation.  READ is always needed,
    because no page table can withhold it."""
    frame = kernel.frames.get(number)
    rights |= READ
    if caller not in frame.holders and rights & ~kernel.frames.rights(caller, frame):
        raise Refusal(Error.DENIED)
    if env is not caller and rights & ~kernel.frames.rights(env, frame):
        raise Refusal(Error.DENIED)
    kernel.spaces.map(env, va, frame, rights)


@serves("remove_mapping")
def remove_mapping(kernel: Kernel, caller: Environment, context: Context, va: int, env: Environment) -> int:
    """Unbind a page."""
    require_control(caller, env)
    kernel.charge(caller, 4 * costs.TABLE_LEVEL + kernel.flush_cost)
    return kernel.spaces.unmap(env, va)


@serves("clear_page_bits")
def clear_page_bits(kernel: Kernel, caller: Environment, context: Context, va: int, count: int, bits: int) -> int:
    """Clear accessed or dirty bits in a range."""
    if not bits or bits & ~CLEARABLE or count > CLEAR_MAXIMUM:
        raise Refusal(Error.BAD_ARGUMENT)
    kernel.charge(caller, kernel.flush_cost + count)
    return kernel.spaces.clear_bits(caller, va, count, bits)


@serves("share_page")
def share_page(
    kernel: Kernel, caller: Environment, context: Context, number: int, env: Environment, sharing: int, rights: int
) -> int:
    """Lend a frame, or make another environment its co-holder."""
    frame = kernel.frames.get(number)
    if not kernel.frames.rights(caller, frame) & CONTROL:
        raise Refusal(Error.DENIED)
    if env is caller and sharing == Sharing.LOAN:
        raise Refusal(Error.BAD_ARGUMENT)
    if sharing == Sharing.HOLD:
        if not controls(caller, env) and not capabilities.rights(caller.ring, env.access) & WRITE:
            raise Refusal(Error.DENIED)
        kernel.frames.hold(env, frame)
    elif sharing == Sharing.LOAN and rights and not rights & ~ANY_RIGHT:
        if caller not in frame.holders:
            raise Refusal(Error.DENIED)
        if len(frame.loans) >= LOANS_MAXIMUM:
            raise Refusal(Error.TOO_MANY)
        frame.loans[caller, env] = rights
        kernel.frames.break_mappings(frame)
    else:
        raise Refusal(Error.BAD_ARGUMENT)
    return 0


@serves("unshare_page")
def unshare_page(kernel: Kernel, caller: Environment, context: Context, number: int, env: Environment) -> int:
    """End a loan."""
    frame = kernel.frames.get(number)
    if frame.loans.pop((caller, env), None) is None:
        raise Refusal(Error.DENIED)
    kernel.frames.break_mappings(frame)
    return 0


@serves("reserve_page")
def reserve_page(kernel: Kernel, caller: Environment, context: Context, number: int, on: int, env: Environment) -> int:
    """Name a frame that is never taken, or no longer."""
    require_control(caller, env)
    frame = kernel.frames.get(number)
    if env not in frame.holders:
        raise Refusal(Error.DENIED)
    if not on:
        env.reserved.discard(number)
    elif number not in env.reserved:
        if len(env.reserved) >= RESERVED_MAXIMUM:
            raise Refusal(Error.TOO_MANY)
        env.reserved.add(number)
    kernel.exposed.frame(frame)
    kernel.exposed.charged(env)
    return 0


@serves("set_backing")
def set_backing(kernel: Kernel, caller: Environment, context: Context, number: int, sector: int, env: Environment) -> int:
    """Preload the repossession vector."""
    require_control(caller, env)
    frame = kernel.frames.get(number)
    if env not in frame.holders:
        raise Refusal(Error.DENIED)
    if sector == ANY:
        frame.backing.pop(env, None)
        return 0
    if not kernel.disk.may_write(env, sector, SECTORS_PER_PAGE):
        raise Refusal(Error.BAD_SECTOR)
    frame.backing[env] = sector
    return 0
