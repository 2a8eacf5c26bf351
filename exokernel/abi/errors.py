"""Every way in which the kernel refuses: a down-call that fails returns the negative of one of these in rax.

In C the constants are `EXO_NO_FRAME` and so on; in Python a coroutine gets the exception `Refused`.
"""

from enum import IntEnum

from exokernel.abi.direct import direct


@direct
class Error(IntEnum):
    """Why a down-call was refused."""

    summary: str

    def __new__(cls, value: int, summary: str) -> "Error":
        member = int.__new__(cls, value)
        member._value_ = value
        member.summary = summary
        return member

    @classmethod
    def of(cls, value: int) -> "Error":
        """The error of this value; raises KeyError if there is none."""
        return _BY_VALUE[value]

    NO_SUCH_CALL = 1, "the number is in the kernel's range but names no down-call"
    BAD_ARGUMENT = 2, "an argument is out of range, not aligned or of the wrong kind"
    NO_FRAME = 3, "no frame is free; whoever the global policy names has been asked, release one or block"
    OVER_QUOTA = 4, "the environment may not hold more; release something of its own first"
    NO_SUCH_FRAME = 5, "no frame has this number, or it belongs to the machine"
    FRAME_BUSY = 6, "that very frame is in use; its holders have been asked for it"
    DENIED = 7, "no binding and no capability on the key ring gives this right"
    WRITE_XOR_EXECUTE = 8, "the frame would be writable and executable at once"
    NOT_MAPPED = 9, "nothing is mapped there"
    NO_SUCH_ENVIRONMENT = 10, "no living environment has this number"
    NO_SUCH_CONTEXT = 11, "the environment has no context of this number, or it is not stopped"
    TOO_MANY = 12, "a bounded table (contexts, requests, reserved frames, key ring, environments) is full"
    NO_SECTORS = 13, "no free run of sectors is that long"
    BAD_SECTOR = 14, "the sectors lie outside the disk or outside what the caller may use"
    IO_ERROR = 15, "the disk reported an error"
    NO_SUCH_REQUEST = 16, "the caller has no disk request of this number"
    TIMED_OUT = 17, "the deadline passed before the event"
    ONLY_PYTHON = 18, "this call takes a Python object and cannot be made from machine code"
    BAD_STATE = 19, "the environment is not in a state in which this makes sense (started already, not started yet)"

    NO_SLICE = 20, "that slice, or every slice that may be taken, has an owner"
    NO_TIME = 21, "the global CPU policy cannot promise so much of the processors, or makes no promises"
    NOT_SERVING = 22, "the environment called takes no calls: it has no entry for them"
    BUSY = 23, "every context of the environment called that serves calls is serving one; try again"
    CALLEE_ENDED = 24, "the environment called has ended, or its handler has, without a reply"


_BY_VALUE = {error.value: error for error in Error}


class Refused(Exception):
    """A down-call made by a coroutine was refused; `error` says why."""

    def __init__(self, error: Error, call: str = "") -> None:
        self.error = error
        self.call = call
        super().__init__(f"{call + ': ' if call else ''}{error.name.lower()}: {error.summary}")
