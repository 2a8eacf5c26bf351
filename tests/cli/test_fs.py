"""`exo fs`: what it makes, puts and gets is what e2fsprogs and an independent reader find, and the other way round."""

import json
import os
import signal
import stat
import threading
from pathlib import Path

import pytest

from exokernel.filesystem_session import DiskSession, PowerCut
from exokernel.machine.disk import Disk
from exokernel.observe.files import columns, printable
from libos.filesystems.ext3.filesystem import Ext3
from libos.storage.volume import Volume
from tests.cli.commands import Ended, exo, exo_process, start
from tests.filesystems import judges

RANDOM = bytes((i * i * 31 + (i >> 8) * 7) & 0xFF for i in range(300_000))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fs(*words: object) -> Ended:
    """`exo fs`, which must end well."""
    ended = exo("fs", *words)
    assert ended.status == 0, ended.err
    assert ended.err == ""
    return ended


@pytest.fixture
def image(here: Path) -> Path:
    """A new file system of 8 MiB."""
    path = here / "disk.img"
    fs("mkfs", path, "--size", "8M", "--seed", "1")
    return path


@pytest.fixture
def folder(here: Path) -> Path:
    """A folder with everything that a folder of a host may have."""
    top = here / "folder"
    (top / "sub" / "empty").mkdir(parents=True)
    (top / "plain").write_bytes(b"hello\n")
    (top / "sub" / "large").write_bytes(RANDOM)
    with open(top / "sparse", "wb") as file:
        file.seek(500_000)
        file.write(b"here")
        file.truncate(700_000)
    (top / "sub" / "link").symlink_to("../plain")
    (top / "long link").symlink_to("x" * 200)
    os.link(top / "plain", top / "sub" / "same")
    os.mkfifo(top / "fifo", 0o620)
    (top / os.fsdecode(b"\xff\xfe")).write_bytes(b"a name that is no text")
    (top / "plain").chmod(0o640)
    (top / "sub" / "large").chmod(0o4755)
    os.utime(top / "plain", (1_000_000_000, 1_100_000_000))
    os.utime(top / "sub" / "link", (1_200_000_000, 1_300_000_000), follow_symlinks=False)
    (top / "sub").chmod(0o2750)
    os.utime(top / "sub", (1_400_000_000, 1_500_000_000))
    return top


def seen(top: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder of the host: mode, links, size, time, contents."""
    found = {}
    for path in sorted(top.rglob("*")):
        it = path.lstat()
        contents = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else b""
        size = it.st_size if path.is_file() else 0
        links = 0 if stat.S_ISDIR(it.st_mode) else it.st_nlink
        found[os.fsdecode(path.relative_to(top))] = (it.st_mode, links, size, int(it.st_mtime), contents)
    return found


# Making.


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ([], {"Block size": "1024", "Inode size": "256", "Default directory hash": "half_md4"}),
        (["--block-size", "4K"], {"Block size": "4096"}),
        (["--block-size", "2048", "--inode-size", "128"], {"Block size": "2048", "Inode size": "128"}),
        (["--hash", "tea", "--label", "name"], {"Default directory hash": "tea", "Filesystem volume name": "name"}),
        (
            ["--uuid", "01234567-89ab-cdef-0123-456789abcdef", "--inodes", "512"],
            {"Filesystem UUID": "01234567-89ab-cdef-0123-456789abcdef", "Inode count": "512"},
        ),
    ],
)
def test_mkfs_makes_what_its_options_say(here: Path, options: list[str], fields: dict[str, str]) -> None:
    fs("mkfs", "new.img", "--size", "8M", *options)
    path = here / "new.img"
    assert path.stat().st_size == 8 << 20
    judges.assert_silent(path)
    found = judges.dumpe2fs(path)
    assert {name: found[name] for name in fields} == fields


def test_the_same_seed_makes_the_same_image_and_another_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        fs("mkfs", name, "--size", "4M", "--seed", seed)
    a, b, c = (Path(name).read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_two_images_made_without_a_seed_differ_in_their_uuid() -> None:
    for name in ("a", "b"):
        fs("mkfs", name, "--size", "4M")
    first, second = (json.loads(fs("info", name, "--json").out) for name in ("a", "b"))
    assert first["uuid"] != second["uuid"]
    assert first["file_system"] == second["file_system"] == "ext3"


def test_mkfs_over_a_file_system_needs_force(image: Path) -> None:
    fs("mkdir", image, "kept")
    before = image.read_bytes()
    sentence = exo("fs", "mkfs", image).sentences
    assert sentence == f"{image} is not empty; to lose what it has: exo fs mkfs {image} --force"
    assert image.read_bytes() == before
    fs("mkfs", image, "--force")
    assert fs("ls", image).out == "lost+found\n"
    judges.assert_silent(image)


def test_info_says_what_dumpe2fs_says(image: Path) -> None:
    told, found = json.loads(fs("info", image, "--json").out), judges.dumpe2fs(image)
    assert told["blocks"] == int(found["Block count"])
    assert told["free_blocks"] == int(found["Free blocks"])
    assert told["free_inodes"] == int(found["Free inodes"])
    assert told["uuid"] == found["Filesystem UUID"]
    assert "free blocks:" in fs("info", image).out


# There and back.


def test_a_folder_comes_back_as_it_was(image: Path, folder: Path, here: Path) -> None:
    fs("put", "-r", image, folder, "/copy")
    judges.assert_silent(image)
    fs("get", "-r", image, "/copy", here / "back")
    assert seen(here / "back") == seen(folder)
    assert (here / "back" / "sparse").stat().st_blocks < 100
    assert fs("ls", image).out == "copy\nlost+found\n"


def test_what_is_put_is_what_mkfs_ext3_makes_of_the_same_folder(image: Path, folder: Path) -> None:
    fs("put", "-r", image, f"{folder}/.", "/")
    ours = judges.independent_tree(image)
    theirs = judges.independent_tree(judges.make_ext3(8 << 20, source=folder))
    assert {path: ours[path] for path in ours if path != b"/"} == {path: theirs[path] for path in theirs if path != b"/"}


@pytest.mark.parametrize("block_size", [1024, 2048, 4096])
@pytest.mark.parametrize("inode_size", [128, 256])
def test_what_mkfs_ext3_fills_is_read(here: Path, folder: Path, block_size: int, inode_size: int) -> None:
    (here / "theirs.img").write_bytes(
        judges.make_ext3(8 << 20, block_size=block_size, inode_size=inode_size, source=folder)
    )
    fs("get", "-r", "theirs.img", "/", here / "back")
    found = seen(here / "back")
    found.pop("lost+found")
    assert found == seen(folder)


def test_debugfs_reads_what_is_put(image: Path, here: Path) -> None:
    (here / "file").write_bytes(RANDOM)
    fs("put", image, "file", "/deep")
    judges.debugfs(image, [f"dump /deep {here}/dumped"])
    assert (here / "dumped").read_bytes() == RANDOM


def test_what_debugfs_writes_is_read(image: Path, here: Path) -> None:
    (here / "file").write_bytes(RANDOM)
    judges.debugfs(image, ["mkdir /d", "cd /d", f"write {here}/file f", "symlink s f"], write=True)
    fs("get", image, "d/s", "got")
    assert (here / "got").read_bytes() == RANDOM
    assert fs("ls", image, "/d").out == "f\ns\n"


def test_looking_leaves_the_image_as_it_is_byte_for_byte(image: Path, folder: Path, here: Path) -> None:
    fs("put", "-r", image, folder, "/")
    before = image.read_bytes()
    image.chmod(0o444)
    for words in (["info"], ["ls"], ["tree"], ["stat", "/folder"], ["cat", "/folder/plain"]):
        fs(words[0], image, *words[1:])
    fs("get", "-r", image, "/folder", here / "back")
    assert image.read_bytes() == before


def test_a_put_file_keeps_mode_owner_and_times(image: Path, folder: Path) -> None:
    fs("put", image, folder / "plain", "/")
    told = json.loads(fs("stat", image, "/plain", "--json").out)
    it = (folder / "plain").stat()
    assert (told["mode"], told["modified"], told["accessed"]) == ("0640", 1_100_000_000, 1_000_000_000)
    assert (told["uid"], told["gid"]) == (it.st_uid, it.st_gid)


def test_files_older_than_1970_and_younger_than_2038_are_put_with_the_nearest_time(image: Path, here: Path) -> None:
    (here / "old").mkdir()
    for name, time in (("file", -1_000_000_000), ("young", 1 << 32)):
        (here / "old" / name).write_text("contents")
        os.utime(here / "old" / name, (time, time))
    os.utime(here / "old", (-1, -1))
    fs("put", "-r", image, "old", "/")
    fs("put", image, "old/file", "/")
    times = [
        one["modified"] for one in json.loads(fs("stat", image, "/old", "/old/file", "/old/young", "/file", "--json").out)
    ]
    assert times == [0, 0, (1 << 31) - 1, 0]


def test_standard_input_and_pipes_are_put(image: Path, here: Path) -> None:
    os.mkfifo(here / "pipe")
    writer = threading.Thread(target=lambda: (here / "pipe").write_bytes(RANDOM))
    writer.start()
    fs("put", image, "pipe", "/from a pipe")
    writer.join()
    (here / "typed").write_bytes(b"typed\n")
    code = f"import os\nos.dup2(os.open({str(here / 'typed')!r}, os.O_RDONLY), 0)"
    assert exo_process("fs", "put", image, "-", "/from stdin", python=code).status == 0
    assert fs("cat", image, "/from stdin").out == "typed\n"
    fs("get", image, "/from a pipe", "back")
    assert (here / "back").read_bytes() == RANDOM


def test_cat_writes_the_bytes_alone(image: Path, here: Path) -> None:
    (here / "a").write_bytes(RANDOM)
    (here / "b").write_bytes(b"\0\xff")
    fs("put", image, "a", "/")
    fs("put", image, "b", "/")
    code = f"import os\nos.dup2(os.open({str(here / 'out')!r}, os.O_CREAT | os.O_WRONLY), 1)"
    assert exo_process("fs", "cat", image, "/a", "/b", python=code).status == 0
    assert (here / "out").read_bytes() == RANDOM + b"\0\xff"


# Names.


def test_directories_files_and_links_are_made_moved_and_removed(image: Path, here: Path) -> None:
    (here / "file").write_text("contents")
    fs("mkdir", image, "one", "two")
    fs("mkdir", "-p", image, "one/deep/er", "one/deep")
    fs("put", image, "file", "/one")
    fs("ln", image, "/one/file", "/two/hard")
    fs("ln", "-s", image, "../one/file", "/two/soft")
    assert fs("cat", image, "/two/hard", "two/soft").out == "contentscontents"
    assert json.loads(fs("stat", image, "/one/file", "--json").out)["links"] == 2
    fs("mv", image, "/one/file", "/two")
    fs("mv", image, "/two", "/three")
    assert fs("ls", image, "three").out == "file\nhard\nsoft\n"
    fs("rm", image, "/three/soft", "/three/hard")
    fs("rm", "-r", image, "/one")
    assert fs("tree", image, "/").out == "/\n├── lost+found\n└── three\n    └── file\n"
    judges.assert_silent(image)


def test_tree_and_ls_say_the_same_in_json(image: Path, folder: Path) -> None:
    fs("put", "-r", image, folder, "/")
    told = json.loads(fs("tree", image, "/folder", "--json").out)
    listed = json.loads(fs("ls", image, "/folder", "--json").out)
    assert [entry["name"] for entry in told["entries"]] == [entry["name"] for entry in listed]
    sub = next(entry for entry in told["entries"] if entry["name"] == "sub")
    listed = json.loads(fs("ls", image, "/folder/sub", "--json").out)
    assert [{k: v for k, v in one.items() if k != "entries"} for one in sub["entries"]] == listed
    assert next(one for one in listed if one["name"] == "link")["target"] == "../plain"


def test_a_long_listing_has_mode_size_and_time(image: Path, folder: Path) -> None:
    fs("put", "-r", image, folder, "/")
    lines = fs("ls", "-l", image, "/folder").out.splitlines()
    plain = next(line for line in lines if line.endswith(" plain"))
    assert plain.startswith("-rw-r-----")
    assert "2004-11-09 11:33:20" in plain
    assert any(line.startswith("l") and line.endswith(f" long link -> {'x' * 200}") for line in lines)


def test_names_in_columns_are_no_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert columns(["a", "bb", "ccccc", "d", "e"]) == ["a      d", "bb     e", "ccccc"]
    assert columns([]) == []
    assert printable("a\x1b[2J\udcff") == "a\\x1b[2J\\udcff"


# Nothing is lost.


def test_a_file_that_is_replaced_has_all_its_old_names_but_one(image: Path, here: Path) -> None:
    (here / "file").write_text("old")
    fs("put", image, "file", "/a")
    fs("ln", image, "/a", "/b")
    (here / "file").write_text("new")
    fs("put", image, "file", "/a")
    assert fs("cat", image, "/a", "/b").out == "newold"
    assert fs("ls", image).out == "a\nb\nlost+found\n"


def test_a_put_that_is_interrupted_leaves_nothing(image: Path, here: Path) -> None:
    os.mkfifo(here / "pipe")
    process = start("fs", "put", image, "pipe", "/half")
    with open(here / "pipe", "wb", buffering=0) as pipe:  # opens when the command has done so
        pipe.write(RANDOM[:5000])
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "exo: Interrupted; every file is there whole or not at all.\n"
    judges.assert_silent(image)
    assert fs("ls", image).out == "lost+found\n"


def test_what_was_synced_is_read_after_a_power_cut_and_the_image_recovers(image: Path) -> None:
    async def main(volume: Volume) -> None:
        files = await Ext3.mount(volume, base=0x1000_0000)
        inode = await files.create(files.root, b"synced", 0o644)
        await files.write(inode, 0, b"kept")
        await files.fsync(inode)
        while True:
            await volume.flush()

    with DiskSession(Disk(path=image)) as session, pytest.raises(PowerCut):
        session.run(main, power_cut=1_000_000_000)
    before = image.read_bytes()
    assert "needs_recovery" in judges.dumpe2fs(image)["Filesystem features"]
    assert fs("cat", image, "/synced").out == "kept"
    assert image.read_bytes() == before
    fs("mkdir", image, "after")
    judges.assert_silent(image)
    assert fs("ls", image).out == "after\nlost+found\nsynced\n"
