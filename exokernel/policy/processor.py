"""The global CPU policies by name, and what the kernel needs to know of them."""

from exokernel.policy.deadline import Deadline, ForcedDeadline
from exokernel.policy.feedback import Feedback, ForcedFeedback
from exokernel.policy.lottery import ForcedLottery, Lottery
from exokernel.policy.round_robin import ForcedRoundRobin, RoundRobin
from exokernel.policy.scheduling import Choice, CpuPolicy, SliceEnd
from exokernel.policy.stride import ForcedStride, Stride

__all__ = ["CPU_POLICIES", "Choice", "CpuPolicy", "RoundRobin", "SliceEnd"]

CPU_POLICIES: dict[str, type[CpuPolicy]] = {
    policy.name: policy
    for policy in (
        RoundRobin,
        Stride,
        Lottery,
        Feedback,
        Deadline,
        ForcedRoundRobin,
        ForcedStride,
        ForcedLottery,
        ForcedFeedback,
        ForcedDeadline,
    )
}
