from exokernel.machine.context import TrapKind

class MachineError(Exception): ...

class Context:
    words: memoryview[int]
    @property
    def vector(self) -> memoryview[int]: ...
    def clear(self) -> None: ...
    def take(self, source: Context, pairs: bytes, /) -> None:
        """Copy words of another context: each pair of bytes is the index here and the index there."""

class Trap:
    kind: TrapKind
    cycles: int
    code: int
    address: int

class Engine:
    def __init__(
        self,
        handle: int,
        functions: tuple[int, ...],
        memory_address: int,
        memory_size: int,
        executed: bytearray,
        layout: tuple[int, int, int, int, tuple[int, ...]],
        kinds: tuple[TrapKind, ...],
        record: tuple[int, int],
        split: bool,
        /,
    ) -> None: ...
    def adopt(self) -> None: ...
    def run(self, context: Context, root: int, budget: int, /) -> Trap: ...
    def flush_tlb(self) -> None: ...
    def flush_code(self) -> None: ...
    def code_changed(self) -> None: ...
    def drain_references(self) -> bytes: ...
    def close(self) -> None: ...
