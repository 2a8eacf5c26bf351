"""The language of the table: a claim, and steps that show it.

A claim stands at the beginning of a line; the steps follow, indented, separated by `;`.  A step is an operation with
arguments and, after `=`, what must come of it: an error by name (or several, joined by `|`), or a value.  Without `=` it
must succeed.  `ada@` in front makes it the operation of that user, not of the privileged one.  `{any}`, `{other}` (than
directory) and `{plain}` (no symbolic link) stand for each kind of file in turn, and `$255` for a name of so many bytes.
"""

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from libos.filesystems.handles import File, OpenFlags
from libos.filesystems.interface import Attributes, Errno, FileSystemError, Kind
from libos.filesystems.paths import Tree
from tests.filesystems.stages import Session

KINDS = ("FILE", "DIRECTORY", "FIFO", "SOCKET", "CHARACTER_DEVICE", "BLOCK_DEVICE", "SYMLINK")
USERS = {"root": (0, 0, ()), "ada": (1001, 1001, ()), "bob": (1002, 1002, ()), "eve": (1003, 1003, (1001, 1004))}
"""Users by name: number, group, further groups."""
_PLACES = {
    "{any}": KINDS,
    "{other}": tuple(kind for kind in KINDS if kind != "DIRECTORY"),
    "{plain}": KINDS[:-1],
    "{rest}": KINDS[2:-1],
}
FLAGS = {
    "RDONLY": OpenFlags.READ, "WRONLY": OpenFlags.WRITE, "RDWR": OpenFlags.READ_WRITE, "CREAT": OpenFlags.CREATE,
    "EXCL": OpenFlags.EXCLUSIVE, "TRUNC": OpenFlags.TRUNCATE, "APPEND": OpenFlags.APPEND,
    "DIRECTORY": OpenFlags.DIRECTORY, "NOFOLLOW": OpenFlags.NO_FOLLOW,
}  # fmt: skip
_NAMED = re.compile(r"\$(\d+)")


@dataclass(frozen=True)
class Case:
    """A claim and its steps."""

    claim: str
    steps: tuple[str, ...]


def cases(text: str) -> Iterator[Case]:
    """The cases of a part of the table, one for each kind where a place for kinds is used."""
    claim, steps = "", list[str]()
    for line in [*text.splitlines(), "end"]:
        if line.startswith(" "):
            steps += [step.strip() for step in line.split(";") if step.strip()]
        elif line:
            if claim:
                yield from _expanded(Case(claim, tuple(steps)))
            claim, steps = line, []


def _expanded(case: Case) -> Iterator[Case]:
    for place, kinds in _PLACES.items():
        if any(place in step for step in case.steps):
            for kind in kinds:
                steps = tuple(step.replace(place, kind) for step in case.steps)
                yield from _expanded(Case(f"{case.claim} ({kind})", steps))
            return
    yield case


class Script:
    """One case, played in a directory of its own; `assertions` counts what has been shown."""

    def __init__(self, session: Session, home: bytes) -> None:
        self._session = session
        self._home = home
        self._trees: dict[str, Tree] = {}
        self._held: dict[str, File] = {}
        self._remembered: dict[str, Attributes] = {}
        self.assertions = 0

    async def play(self, case: Case) -> None:
        root = await self._tree("root", home=False)
        await root.mkdir(self._home, 0o777)
        try:
            for step in case.steps:
                await self._step(step)
        finally:
            for file in self._held.values():
                await file.close()
        await root.remove_tree(self._home)

    async def _tree(self, user: str, home: bool = True) -> Tree:
        uid, gid, groups = USERS[user]
        if user not in self._trees:
            self._trees[user] = Tree(self._session.files, uid, gid, groups, umask=0)
        if home:
            await self._trees[user].chdir(self._home)
        return self._trees[user]

    async def _step(self, step: str) -> None:
        step = _NAMED.sub(lambda found: "n" * int(found[1]), step)
        command, expects, expected = (part.strip() for part in step.partition(" = "))
        user, at, rest = command.partition("@")
        if not at:
            user, rest = "root", command
        operation, *arguments = rest.split()
        tree = await self._tree(user)
        perform: Callable[..., Awaitable[Any]] = getattr(self, f"do_{operation}")
        try:
            result = await perform(tree, *arguments)
        except FileSystemError as error:
            result = error.errno.name
            assert expects, f"{step}: {result}"
        if expects:
            self.assertions += 1
            assert str(result) in expected.split("|"), f"{step}: {result}"

    async def do_make(self, tree: Tree, kind: str, path: str, mode: str = "0644") -> None:
        match Kind[kind]:
            case Kind.FILE:
                await self.do_open(tree, path, "WRONLY,CREAT,EXCL", mode)
            case Kind.DIRECTORY:
                await tree.mkdir(path, int(mode, 8))
            case Kind.SYMLINK:
                await tree.symlink("nowhere", path)
            case special:
                device = 0x123 if special in (Kind.CHARACTER_DEVICE, Kind.BLOCK_DEVICE) else 0
                await tree.mknod(path, int(mode, 8), special, device)

    async def do_open(self, tree: Tree, path: str, flags: str, mode: str = "0644") -> None:
        await (await tree.open(path, _flags(flags), int(mode, 8))).close()

    async def do_hold(self, tree: Tree, name: str, path: str, flags: str, mode: str = "0644") -> None:
        self._held[name] = await tree.open(path, _flags(flags), int(mode, 8))

    async def do_drop(self, tree: Tree, name: str) -> None:
        await self._held.pop(name).close()

    async def do_hwrite(self, tree: Tree, name: str, text: str) -> int:
        return await self._held[name].write(text.encode())

    async def do_hread(self, tree: Tree, name: str) -> str:
        return (await self._held[name].read_at(0, 1000)).decode()

    async def do_hseek(self, tree: Tree, name: str, position: str) -> None:
        await self._held[name].seek(int(position))

    async def do_hstat(self, tree: Tree, name: str, field: str) -> str:
        return _shown(await self._held[name].attributes(), field)

    async def do_ftruncate(self, tree: Tree, name: str, size: str) -> None:
        await self._held[name].truncate(int(size))

    async def do_mkdir(self, tree: Tree, path: str, mode: str = "0755") -> None:
        await tree.mkdir(path, int(mode, 8))

    async def do_rmdir(self, tree: Tree, path: str) -> None:
        await tree.rmdir(path)

    async def do_unlink(self, tree: Tree, path: str) -> None:
        await tree.unlink(path)

    async def do_rename(self, tree: Tree, path: str, new: str) -> None:
        await tree.rename(path, new)

    async def do_link(self, tree: Tree, path: str, new: str) -> None:
        await tree.link(path, new)

    async def do_symlink(self, tree: Tree, target: str, path: str) -> None:
        await tree.symlink("" if target == "NOTHING" else target, path)

    async def do_readlink(self, tree: Tree, path: str) -> str:
        return (await tree.readlink(path)).decode()

    async def do_chmod(self, tree: Tree, path: str, mode: str) -> None:
        await tree.chmod(path, int(mode, 8))

    async def do_chown(self, tree: Tree, path: str, uid: str, gid: str) -> None:
        await tree.chown(path, _owner(uid), _owner(gid))

    async def do_lchown(self, tree: Tree, path: str, uid: str, gid: str) -> None:
        await tree.chown(path, _owner(uid), _owner(gid), follow=False)

    async def do_truncate(self, tree: Tree, path: str, size: str) -> None:
        await tree.truncate(path, int(size))

    async def do_utimes(self, tree: Tree, path: str, accessed: str, modified: str) -> None:
        await tree.utimes(path, _owner(accessed), _owner(modified))

    async def do_lutimes(self, tree: Tree, path: str, accessed: str, modified: str) -> None:
        await tree.utimes(path, _owner(accessed), _owner(modified), follow=False)

    async def do_touch(self, tree: Tree, path: str) -> None:
        await tree.touch(path)

    async def do_write(self, tree: Tree, path: str, text: str) -> None:
        async with await tree.open(path, OpenFlags.WRITE) as file:
            await file.write_all(text.encode())

    async def do_read(self, tree: Tree, path: str) -> str:
        return (await tree.read_file(path)).decode()

    async def do_list(self, tree: Tree, path: str) -> str:
        return ",".join(entry.name.decode() for entry in await tree.list(path)) or "nothing"

    async def do_stat(self, tree: Tree, path: str, field: str = "kind") -> str:
        return _shown(await tree.stat(path), field)

    async def do_lstat(self, tree: Tree, path: str, field: str = "kind") -> str:
        return _shown(await tree.lstat(path), field)

    async def do_umask(self, tree: Tree, mask: str) -> None:
        tree.umask = int(mask, 8)

    async def do_note(self, tree: Tree, path: str) -> None:
        """Remember all times of a file, and let time pass."""
        self._remembered[path] = await tree.lstat(path)
        await self._session.tick()

    async def do_moved(self, tree: Tree, path: str, noted: str = "") -> str:
        """Which times are later than they were noted: a subset of `amc`."""
        old, new = self._remembered[noted or path], await tree.lstat(path)
        pairs = {"a": "accessed", "m": "modified", "c": "changed"}
        return "".join(key for key, name in pairs.items() if getattr(new, name) > getattr(old, name)) or "nothing"


def _flags(text: str) -> OpenFlags:
    flags = OpenFlags(0)
    for name in text.split(","):
        flags |= FLAGS[name]
    return flags


def _owner(text: str) -> int | None:
    return None if text == "-" else int(text)


def _shown(it: Attributes, field: str) -> str:
    value = getattr(it, field)
    return f"{value:04o}" if field == "mode" else it.kind.name if field == "kind" else str(value)


__all__ = ["Case", "Errno", "Script", "cases"]
