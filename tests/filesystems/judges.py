"""The judges of a file system: e2fsprogs on the host, and a reader of ext3 that others have written (dissect.extfs).

A test that needs a tool which is missing is skipped, unless EXO_REQUIRE_JUDGES is set: then it fails.  Images are bytes, or
paths of files; bytes are put into a file in the host's memory for as long as the tool runs.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest
from dissect.extfs import ExtFS

Image = bytes | bytearray | memoryview | Path
SCRATCH = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
CLEAN, CORRECTED = 0, 1
FEATURES = "has_journal,ext_attr,resize_inode,dir_index,filetype,sparse_super,large_file"
"""What mkfs.ext3 sets where no configuration says otherwise."""
_UNATTENDED = {
    "E2FSCK_TIME": "2147000000",  # later than any time in an image, so that none lies in the future
    "E2FSPROGS_FAKE_TIME": "1700000000",
    "MKE2FS_CONFIG": os.devnull,
    "LC_ALL": "C",
}


@cache
def _found(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))


def tool(name: str, package: str = "e2fsprogs") -> str:
    """The path of a host's tool; skips the test when it is missing, or fails if judges are required."""
    path = _found(name)
    if path is None:
        sentence = f"{name} is missing: install {package}."
        if os.environ.get("EXO_REQUIRE_JUDGES"):
            pytest.fail(sentence)
        pytest.skip(sentence)
    return path


@contextmanager
def on_disk(image: Image) -> Iterator[Path]:
    """A file with the image; the path itself if it is one already."""
    if isinstance(image, Path):
        yield image
        return
    handle, name = tempfile.mkstemp(suffix=".img", dir=SCRATCH)
    try:
        with open(handle, "wb") as file:
            file.write(image)
        yield Path(name)
    finally:
        os.unlink(name)


def _run(name: str, *arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool(name), *map(str, arguments)], input=text, capture_output=True, text=True, errors="surrogateescape",
        env={**os.environ, **_UNATTENDED}, check=False,
    )  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """What e2fsck said: its exit status, and every line but the headings of its passes and the closing summary."""

    status: int
    complaints: tuple[str, ...]

    @property
    def silent(self) -> bool:
        return self.status == CLEAN and not self.complaints

    def __str__(self) -> str:
        return f"e2fsck: status {self.status}\n" + "\n".join(self.complaints)


def _complaints(output: str) -> tuple[str, ...]:
    """What is left of e2fsck's output without its version, the names of the passes and the last line of numbers."""
    kept = []
    for line in output.splitlines():
        heading = line.startswith(("Pass ", "e2fsck ", "Warning!  ")) and not line.startswith("Warning!  Not")
        summary = ": " in line and "files (" in line and line.endswith(" blocks")
        if line.strip() and not heading and not summary:
            kept.append(line)
    return tuple(kept)


def check(image: Image, *options: str) -> Verdict:
    """e2fsck's judgement of an image, which it leaves as it is: every pass, no correction, no journal replayed."""
    with on_disk(image) as path:
        done = _run("e2fsck", "-fn", *options, path)
    return Verdict(done.returncode, _complaints(done.stdout + done.stderr))


def assert_silent(image: Image, about: str = "") -> None:
    """Fail unless e2fsck finds nothing at all to say about an image."""
    verdict = check(image)
    assert verdict.silent, f"{about}\n{verdict}" if about else str(verdict)


def recover(image: bytes | bytearray | memoryview) -> bytes:
    """The image after e2fsck has replayed its journal and done nothing else."""
    with on_disk(image) as path:
        done = _run("e2fsck", "-y", "-E", "journal_only", path)
        assert done.returncode in (CLEAN, CORRECTED), done.stdout + done.stderr
        return path.read_bytes()


def repair(image: bytes | bytearray | memoryview, *options: str) -> tuple[bytes, Verdict]:
    """The image after `e2fsck -fy`, and what it had to say."""
    with on_disk(image) as path:
        done = _run("e2fsck", "-fy", *options, path)
        return path.read_bytes(), Verdict(done.returncode, _complaints(done.stdout + done.stderr))


def debugfs(image: Image, commands: Sequence[str], write: bool = False) -> str:
    """What debugfs prints for a list of its commands; with `write`, `image` must be a path and is changed."""
    assert not write or isinstance(image, Path)
    with on_disk(image) as path:
        done = _run("debugfs", *(["-w"] if write else []), "-f", "-", path, text="".join(f"{c}\n" for c in commands))
        return done.stdout


def dumpe2fs(image: Image) -> dict[str, str]:
    """The superblock in words, as dumpe2fs names and prints its fields."""
    with on_disk(image) as path:
        done = _run("dumpe2fs", "-h", path)
    assert done.returncode == 0, done.stderr
    pairs = (line.partition(":") for line in done.stdout.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}


def make_ext3(
    size: int, *options: str, block_size: int = 1024, inode_size: int = 256, source: Path | None = None, features: str = "",
    extended: str = "",
) -> bytes:  # fmt: skip
    """An image of `size` bytes as mkfs.ext3 makes it, the same each time; filled with a copy of the folder `source`.
    `features` are added to the usual ones (`^name` takes one away)."""
    extended = ",".join(filter(None, ["hash_seed=00112233-4455-6677-8899-aabbccddeeff", extended]))
    with on_disk(bytes(0)) as path:
        os.truncate(path, size)
        arguments: list[str | Path] = ["-q", "-F", "-b", str(block_size), "-U", "01234567-89ab-cdef-0123-456789abcdef"]
        arguments += ["-I", str(inode_size), "-E", extended, "-O", ",".join(filter(None, ["none", FEATURES, features]))]
        arguments += options
        if source is not None:
            arguments += ["-d", source]
        done = _run("mkfs.ext3", *arguments, path)
        assert done.returncode == 0, done.stdout + done.stderr
        return path.read_bytes()


@dataclass(frozen=True)
class Seen:
    """One file, directory or link, as an independent reader sees it; `contents` is the target of a symbolic link."""

    kind: int
    mode: int
    uid: int
    gid: int
    links: int
    contents: bytes


def independent_tree(image: Image) -> Mapping[bytes, Seen]:
    """Everything reachable from the root, by path, as dissect.extfs reads it; `kind` is the upper four bits of the mode."""
    with on_disk(image) as path, path.open("rb") as file:
        reader = ExtFS(BytesIO(file.read()))
        seen: dict[bytes, Seen] = {}
        waiting = [(b"", reader.root)]
        while waiting:
            where, node = waiting.pop()
            mode = node.inode.i_mode
            contents = b""
            if mode & 0o170000 == 0o100000:
                contents = node.open().read()
            elif mode & 0o170000 == 0o120000:
                contents = _bytes(node.link)
            uid = node.inode.i_uid | node.inode.i_uid_high << 16
            gid = node.inode.i_gid | node.inode.i_gid_high << 16
            links = node.inode.i_links_count
            seen[where or b"/"] = Seen(mode & 0o170000, mode & 0o7777, uid, gid, links, contents)
            if mode & 0o170000 == 0o040000:
                for name, child in node.listdir().items():
                    if name not in (".", ".."):
                        waiting.append((where + b"/" + _bytes(name), child))
        return seen


def _bytes(name: str | bytes) -> bytes:
    return name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
