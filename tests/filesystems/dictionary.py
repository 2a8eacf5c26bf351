"""A file system as a dictionary: what the interface promises, in the fewest words, to compare others with.

Each operation is a `Step`: which method, with which arguments, and what must come of it.  The model knows that before
anything has run, so a sequence can be written down first and played on any file system later.  Where several things are
wrong at once, any of their errors is right.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from libos.filesystems.interface import Errno, FileSystem, FileSystemError, Kind

NEW_LINK_MODE: Final = 0o777


@dataclass(eq=False)
class Node:
    """A file, directory or link of the model."""

    kind: Kind
    mode: int
    uid: int = 0
    gid: int = 0
    device: int = 0
    contents: bytearray = field(default_factory=bytearray)
    names: dict[bytes, "Node"] = field(default_factory=dict)
    parent: "Node | None" = None
    links: int = 1
    users: int = 0

    @property
    def is_directory(self) -> bool:
        return self.kind is Kind.DIRECTORY

    @property
    def alive(self) -> bool:
        return self.links > 0 or self.users > 0

    @property
    def facts(self) -> tuple[Kind, int, int, int, int, int, int]:
        """What `attributes` must say; a directory's size is the file system's own business, and counts as 0 here."""
        return self.kind, self.mode, self.links, self.uid, self.gid, len(self.contents), self.device


@dataclass
class Step:
    """A call; nodes among the arguments stand for their numbers.  `errors`: it must raise one of these; otherwise it must
    return `result`.  `made`: the node whose number it returns."""

    method: str
    arguments: tuple[Any, ...]
    named: dict[str, Any] = field(default_factory=dict)
    errors: frozenset[Errno] = frozenset()
    result: Any = None
    made: Node | None = None

    def __str__(self) -> str:
        shown = [f"<{hex(id(a))[-5:]}>" if isinstance(a, Node) else repr(a)[:60] for a in self.arguments]
        wanted = "/".join(error.name for error in self.errors) or repr(self.result)[:60]
        return f"{self.method}({', '.join(shown)}, {self.named}) -> {wanted}"


class Model:
    """The dictionary, and the steps so far."""

    def __init__(self) -> None:
        self.root = Node(Kind.DIRECTORY, 0o755, links=2)
        self.root.parent = self.root
        self.nodes = [self.root]
        self.steps: list[Step] = []

    def alive(self, *kinds: Kind) -> list[Node]:
        """The nodes that can be used, of some kinds or of all."""
        return [node for node in self.nodes if node.alive and (not kinds or node.kind in kinds)]

    def _step(self, method: str, *arguments: Any, errors: set[Errno] | None = None, **rest: Any) -> bool:
        """Write a step down; gives whether it succeeds."""
        self.steps.append(Step(method, arguments, errors=frozenset(errors or ()), **rest))
        return not errors

    # Names.

    @staticmethod
    def _vacant(directory: Node, name: bytes) -> set[Errno]:
        errors = set()
        if not directory.is_directory:
            errors.add(Errno.ENOTDIR)
        if not directory.links:
            errors.add(Errno.ENOENT)
        if name in directory.names or name in (b".", b".."):
            errors.add(Errno.EEXIST)
        if len(name) > 255:
            errors.add(Errno.ENAMETOOLONG)
        return errors

    @staticmethod
    def _present(directory: Node, name: bytes) -> set[Errno]:
        errors = set()
        if not directory.is_directory:
            errors.add(Errno.ENOTDIR)
        elif name not in directory.names:
            errors.add(Errno.ENOENT)
        if len(name) > 255:
            errors.add(Errno.ENAMETOOLONG)
        return errors

    def create(self, directory: Node, name: bytes, mode: int, uid: int, gid: int, kind: Kind, device: int) -> None:
        node = Node(kind, mode, uid, gid, device if kind in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE) else 0)
        arguments = (directory, name, mode, uid, gid, kind, device)
        self._add(self._step("create", *arguments, errors=self._vacant(directory, name), made=node), directory, name, node)

    def make_directory(self, directory: Node, name: bytes, mode: int, uid: int, gid: int) -> None:
        node = Node(Kind.DIRECTORY, mode, uid, gid, parent=directory, links=2)
        errors = self._vacant(directory, name)
        if self._step("make_directory", directory, name, mode, uid, gid, errors=errors, made=node):
            directory.links += 1
            self._add(True, directory, name, node)

    def symlink(self, directory: Node, name: bytes, target: bytes) -> None:
        node = Node(Kind.SYMLINK, NEW_LINK_MODE, contents=bytearray(target))
        errors = self._vacant(directory, name)
        self._add(self._step("symlink", directory, name, target, errors=errors, made=node), directory, name, node)

    def _add(self, succeeds: bool, directory: Node, name: bytes, node: Node) -> None:
        if succeeds:
            directory.names[name] = node
            self.nodes.append(node)

    def link(self, node: Node, directory: Node, name: bytes) -> None:
        errors = self._vacant(directory, name)
        if node.is_directory:
            errors.add(Errno.EPERM)
        if not node.links:
            errors.add(Errno.ENOENT)
        if self._step("link", node, directory, name, errors=errors):
            directory.names[name] = node
            node.links += 1

    def unlink(self, directory: Node, name: bytes) -> None:
        errors = self._present(directory, name)
        if directory.names.get(name, self.root).is_directory and name in directory.names:
            errors.add(Errno.EISDIR)
        if self._step("unlink", directory, name, errors=errors):
            directory.names.pop(name).links -= 1

    def remove_directory(self, directory: Node, name: bytes) -> None:
        errors = self._present(directory, name)
        node = directory.names.get(name)
        if node is not None:
            errors |= {Errno.ENOTDIR} if not node.is_directory else {Errno.ENOTEMPTY} if node.names else set()
        if self._step("remove_directory", directory, name, errors=errors):
            directory.names.pop(name).links = 0
            directory.links -= 1

    def rename(self, directory: Node, name: bytes, new_directory: Node, new_name: bytes) -> None:
        errors = self._present(directory, name)
        if not new_directory.is_directory:
            errors.add(Errno.ENOTDIR)
        elif not new_directory.links:
            errors.add(Errno.ENOENT)
        if len(new_name) > 255:
            errors.add(Errno.ENAMETOOLONG)
        node, over = directory.names.get(name), new_directory.names.get(new_name)
        if node is not None and node.is_directory and self._lies_in(new_directory, node):
            errors.add(Errno.EINVAL)
        if node is not None and over is not None and over is not node:
            if node.is_directory != over.is_directory:
                errors.add(Errno.ENOTDIR if node.is_directory else Errno.EISDIR)
            if over.names:
                errors.add(Errno.ENOTEMPTY)
        if self._step("rename", directory, name, new_directory, new_name, errors=errors) and node is not over:
            self._move(directory, name, new_directory, new_name)

    @staticmethod
    def _move(directory: Node, name: bytes, new_directory: Node, new_name: bytes) -> None:
        node, over = directory.names.pop(name), new_directory.names.get(new_name)
        new_directory.names[new_name] = node
        if over is not None:
            over.links = 0 if over.is_directory else over.links - 1
            new_directory.links -= over.is_directory
        if node.is_directory:
            directory.links -= 1
            new_directory.links += 1
            node.parent = new_directory

    @staticmethod
    def _lies_in(node: Node, ancestor: Node) -> bool:
        while node is not ancestor:
            if node.parent is None or node.parent is node:
                return False
            node = node.parent
        return True

    def lookup(self, directory: Node, name: bytes) -> None:
        special = {b".": directory, b"..": directory.parent}
        found = directory.names.get(name) or special.get(name)
        errors = set() if found is not None and directory.is_directory else self._present(directory, name)
        if name == b".." and not directory.links:
            errors = {Errno.ENOENT}
        self._step("lookup", directory, name, errors=errors, result=found)

    def entries(self, node: Node) -> None:
        errors = set() if node.is_directory else {Errno.ENOTDIR}
        if node.links or errors:
            self._step("entries", node, errors=errors, result={} if errors else self._listing(node))

    @staticmethod
    def _listing(node: Node) -> dict[bytes, tuple[Node, Kind]]:
        assert node.parent is not None
        special = {b".": (node, Kind.DIRECTORY), b"..": (node.parent, Kind.DIRECTORY)}
        return special | {name: (child, child.kind) for name, child in node.names.items()}

    # Contents and attributes.

    def _contents(self, node: Node) -> set[Errno]:
        return set() if node.kind is Kind.FILE else {Errno.EISDIR if node.is_directory else Errno.EINVAL}

    def read(self, node: Node, offset: int, size: int) -> None:
        wanted = bytes(node.contents[offset : offset + size])
        self._step("read", node, offset, size, errors=self._contents(node), result=wanted)

    def write(self, node: Node, offset: int, contents: bytes) -> None:
        if self._step("write", node, offset, contents, errors=self._contents(node), result=len(contents)) and contents:
            node.contents.extend(bytes(max(offset + len(contents) - len(node.contents), 0)))
            node.contents[offset : offset + len(contents)] = contents

    def set_size(self, node: Node, size: int) -> None:
        if self._step("set_size", node, size, errors=self._contents(node)):
            del node.contents[size:]
            node.contents.extend(bytes(size - len(node.contents)))

    def read_link(self, node: Node) -> None:
        errors = set() if node.kind is Kind.SYMLINK else {Errno.EINVAL}
        self._step("read_link", node, errors=errors, result=bytes(node.contents))

    def attributes(self, node: Node) -> None:
        self._step("attributes", node, result=node.facts)

    def set_attributes(self, node: Node, **values: int) -> None:
        self._step("set_attributes", node, named=values)
        node.mode, node.uid, node.gid = (values.get(key, getattr(node, key)) for key in ("mode", "uid", "gid"))

    def open(self, node: Node) -> None:
        self._step("open", node)
        node.users += 1

    def close(self, node: Node) -> None:
        if self._step("close", node, errors=set() if node.users else {Errno.EBADF}):
            node.users -= 1

    def plain(self, method: str, *arguments: Any) -> None:
        """A step that changes nothing the model knows: fsync, fdatasync, sync, remount."""
        self._step(method, *arguments)

    def everything(self) -> Iterator[Step]:
        """Steps that look at all there is: every name, every attribute, every content."""
        kept, self.steps = self.steps, []
        for node in self.alive():
            self.attributes(node)
            if node.is_directory:
                self.entries(node)
            elif node.kind is Kind.FILE:
                self.read(node, 0, len(node.contents) + 1)
            elif node.kind is Kind.SYMLINK:
                self.read_link(node)
        looks, self.steps = self.steps, kept
        yield from looks


class Player:
    """Plays steps on a file system; knows the numbers of the nodes."""

    def __init__(self, root: Node, number: int) -> None:
        self._numbers = {root: number}

    async def play(self, files: FileSystem, step: Step) -> None:
        """One step.  Raises AssertionError unless what comes of it is what must."""
        arguments = [self._numbers[a] if isinstance(a, Node) else a for a in step.arguments]
        raised = None
        try:
            got = await getattr(files, step.method)(*arguments, **step.named)
        except FileSystemError as error:
            raised, got = error.errno, None
        assert (raised in step.errors) if step.errors else raised is None, f"{step}: {raised!r}, {got!r:.300}"
        if raised is not None:
            return
        if step.made is not None:
            self._numbers[step.made] = got
            return
        wanted = step.result
        match step.method:
            case "lookup":
                wanted = self._numbers[wanted]
            case "entries":
                wanted = {name: (self._numbers[node], kind) for name, (node, kind) in wanted.items()}
                assert len(got) == len({entry.name for entry in got}), f"{step}: a name twice"
                got = {entry.name: (entry.inode, entry.kind) for entry in got}
            case "attributes":
                size = 0 if got.kind is Kind.DIRECTORY else got.size
                got = (got.kind, got.mode, got.links, got.uid, got.gid, size, got.device)
        assert got == wanted, f"{step}: gave {got!r:.300}"
