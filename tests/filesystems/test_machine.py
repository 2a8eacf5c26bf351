"""Hypothesis chooses operations over the whole interface; every file system must do what the dictionary does.

A sequence is written down while it is chosen and played at its end, in one run of the machine; then everything is looked at
once more, the file system is mounted again and everything is looked at a third time; and e2fsck has the last word.
"""

from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from libos.filesystems.interface import Kind
from tests.filesystems.dictionary import Model, Node, Player
from tests.filesystems.long import LONG
from tests.filesystems.stages import InMemory, OnDisk, Session, Stage

NAMES = st.sampled_from(
    [b"a", b"b", b"c", b"d", b"e", b"dir", b"\xff\xfe", b"\xc3\xa4", b"x" * 255, b"y" * 254, b"z" * 200, b"w" * 128]
)
MANY = st.integers(0, 1 << 16)
MODES = st.integers(0, 0o7777)
OWNERS = st.sampled_from([0, 1, 1000, 65535, 65536, (1 << 32) - 2])
OFFSETS = st.one_of(
    st.integers(0, 3000), st.sampled_from([4095, 4096, 12288, 13 << 10, 48 << 10, 50 << 10, (12 + 256) << 10, 300 << 10])
)
KINDS = st.sampled_from([Kind.FILE, Kind.FILE, Kind.FIFO, Kind.SOCKET, Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE])


class FileSystemMachine(RuleBasedStateMachine):
    """The model, and rules that add steps to it."""

    stage: ClassVar[Stage]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def _pick(self, index: int, *kinds: Kind) -> Node:
        chosen = self.model.alive(*kinds) or self.model.alive()
        return chosen[index % len(chosen)]

    def _directory(self, index: int) -> Node:
        """Mostly a directory."""
        return self._pick(index // 16, Kind.DIRECTORY) if index % 16 else self._pick(index // 16)

    def _name_in(self, directory: Node, index: int, name: bytes) -> bytes:
        """Mostly a name that is there."""
        return sorted(directory.names)[index % len(directory.names)] if directory.names and index % 8 else name

    @rule(at=MANY, name=NAMES, mode=MODES, uid=OWNERS, gid=OWNERS, kind=KINDS, device=st.integers(0, 65535))
    def create(self, at: int, name: bytes, mode: int, uid: int, gid: int, kind: Kind, device: int) -> None:
        self.model.create(self._directory(at), name, mode, uid, gid, kind, device)

    @rule(at=MANY, stem=st.sampled_from([b"", b"f" * 60, b"g" * 240]), count=st.integers(1, 40))
    def create_many(self, at: int, stem: bytes, count: int) -> None:
        directory = self._pick(at, Kind.DIRECTORY)
        for number in range(count):
            self.model.create(directory, b"%d" % number + stem, 0o644, 0, 0, Kind.FILE, 0)

    @rule(at=MANY, start=MANY, count=st.integers(1, 40))
    def unlink_many(self, at: int, start: int, count: int) -> None:
        directory = self._pick(at, Kind.DIRECTORY)
        for name in sorted(directory.names)[start % 10 :: 2][:count]:
            self.model.unlink(directory, name)

    @rule(at=MANY, name=NAMES, mode=MODES, uid=OWNERS, gid=OWNERS)
    def make_directory(self, at: int, name: bytes, mode: int, uid: int, gid: int) -> None:
        self.model.make_directory(self._directory(at), name, mode, uid, gid)

    @rule(at=MANY, name=NAMES, length=st.sampled_from([1, 10, 58, 59, 60, 61, 500, 1000]))
    def symlink(self, at: int, name: bytes, length: int) -> None:
        self.model.symlink(self._directory(at), name, b"t" * length)

    @rule(node=MANY, at=MANY, name=NAMES)
    def link(self, node: int, at: int, name: bytes) -> None:
        self.model.link(self._pick(node), self._directory(at), name)

    @rule(at=MANY, index=MANY, name=NAMES)
    def unlink(self, at: int, index: int, name: bytes) -> None:
        directory = self._directory(at)
        self.model.unlink(directory, self._name_in(directory, index, name))

    @rule(at=MANY, index=MANY, name=NAMES)
    def remove_directory(self, at: int, index: int, name: bytes) -> None:
        directory = self._directory(at)
        self.model.remove_directory(directory, self._name_in(directory, index, name))

    @rule(at=MANY, index=MANY, name=NAMES, to=MANY, over=MANY, new=NAMES)
    def rename(self, at: int, index: int, name: bytes, to: int, over: int, new: bytes) -> None:
        source, target = self._directory(at), self._directory(to)
        old = self._name_in(source, index, name)
        self.model.rename(source, old, target, self._name_in(target, over, new) if over % 2 else new)

    @rule(at=MANY, index=MANY, name=st.one_of(NAMES, st.sampled_from([b".", b".."])))
    def lookup(self, at: int, index: int, name: bytes) -> None:
        directory = self._directory(at)
        self.model.lookup(directory, self._name_in(directory, index, name))

    @rule(node=MANY)
    def look(self, node: int) -> None:
        it = self._pick(node)
        self.model.attributes(it)
        self.model.entries(it)
        self.model.read_link(it)

    @rule(node=MANY, offset=OFFSETS, size=st.integers(0, 9000))
    def read(self, node: int, offset: int, size: int) -> None:
        self.model.read(self._pick(node // 4, *([Kind.FILE] if node % 4 else [])), offset, size)

    @rule(node=MANY, offset=OFFSETS, size=st.sampled_from([0, 1, 100, 1024, 5000, 20000]), fill=st.integers(1, 255))
    def write(self, node: int, offset: int, size: int, fill: int) -> None:
        pattern = bytes((fill + index) & 0xFF for index in range(251)) * (size // 251 + 1)
        self.model.write(self._pick(node // 4, *([Kind.FILE] if node % 4 else [])), offset, pattern[:size])

    @rule(node=MANY, size=OFFSETS)
    def set_size(self, node: int, size: int) -> None:
        self.model.set_size(self._pick(node // 4, *([Kind.FILE] if node % 4 else [])), size)

    @rule(node=MANY, values=st.fixed_dictionaries({}, optional={"mode": MODES, "uid": OWNERS, "gid": OWNERS}))
    def set_attributes(self, node: int, values: dict[str, int]) -> None:
        self.model.set_attributes(self._pick(node), **values)

    @rule(node=MANY)
    def open(self, node: int) -> None:
        self.model.open(self._pick(node))

    @rule(node=MANY)
    def close(self, node: int) -> None:
        users = [it for it in self.model.nodes if it.users]
        self.model.close(users[node % len(users)] if users else self._pick(node))

    @rule(node=MANY, method=st.sampled_from(["fsync", "fdatasync", "sync"]))
    def sync(self, node: int, method: str) -> None:
        self.model.plain(method, *([] if method == "sync" else [self._pick(node)]))

    @precondition(lambda self: not any(node.users for node in self.model.nodes))
    @rule()
    def remount(self) -> None:
        self.model.plain("remount")

    def teardown(self) -> None:
        model = self.model
        steps = [*model.steps, *model.everything()]
        for node in model.nodes:
            while node.users:
                model.close(node)
                steps.append(model.steps[-1])
        model.plain("remount")
        steps += [model.steps[-1], *model.everything()]

        async def play(session: Session) -> None:
            player = Player(model.root, session.files.root)
            lost = next((s for s in await session.files.entries(session.files.root) if s.name == b"lost+found"), None)
            if lost is not None:
                await session.files.remove_directory(session.files.root, b"lost+found")
            for step in steps:
                if step.method == "remount":
                    await session.remount()
                else:
                    await player.play(session.files, step)

        self.stage.run(play)


STAGES: list[tuple[Stage, int]] = [
    (InMemory(), 100),
    (OnDisk(1024, "ordered", 128), 40),
    (OnDisk(2048, "writeback", 256, capacity=64), 20),
    (OnDisk(4096, "journal", 256), 20),
    (OnDisk(1024, "journal", 256, features="^dir_index", capacity=48), 20),
]


@pytest.mark.parametrize(("stage", "count"), STAGES, ids=lambda value: str(value))
def test_a_file_system_does_what_a_dictionary_does(stage: Stage, count: int) -> None:
    machine: Any = type("Machine", (FileSystemMachine,), {"stage": stage})
    examples = count * (20 if LONG else 1)
    run_state_machine_as_test(machine, settings=settings(max_examples=examples, stateful_step_count=40))
