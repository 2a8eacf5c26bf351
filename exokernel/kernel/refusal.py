"""How kernel code says no: an exception that the dispatcher turns into a negative result or a page fault."""

from exokernel.abi.errors import Error


class Refusal(Exception):
    """The down-call being served is refused with `error`; nothing has been changed."""

    def __init__(self, error: Error) -> None:
        self.error = error


class AccessFault(Exception):
    """Memory the caller named cannot be reached with its own rights: `va` in bytes, `code` as the x86 error code.

    The dispatcher delivers it as a page fault of the caller and makes the down-call again afterwards.
    """

    def __init__(self, va: int, code: int) -> None:
        self.va = va
        self.code = code
