"""The global disk policies by name, and what the kernel needs to know of them."""

from exokernel.policy.disk_deadline import DiskDeadline
from exokernel.policy.disk_scheduling import DiskChoice, DiskPolicy, DiskRequest, FirstComeFirstServed
from exokernel.policy.disk_shares import DiskShares
from exokernel.policy.elevators import CircularLook, CircularScan, Look, Scan, ShortestSeekFirst

__all__ = ["DISK_POLICIES", "DiskChoice", "DiskPolicy", "DiskRequest", "FirstComeFirstServed"]

DISK_POLICIES: dict[str, type[DiskPolicy]] = {
    policy.name: policy
    for policy in (
        FirstComeFirstServed,
        ShortestSeekFirst,
        Scan,
        CircularScan,
        Look,
        CircularLook,
        DiskDeadline,
        DiskShares,
    )
}
