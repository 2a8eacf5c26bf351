"""What a user gets wrong with images is a sentence and status 2, and costs nothing that was there."""

import contextlib
import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import exo
from tests.filesystems import judges

IN_THE_MIDDLE = 4 << 20


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def image(here: Path) -> Path:
    """A file system of 4 MiB with a file and a directory with a file in it."""
    (here / "file").write_text("contents")
    for words in (
        ("mkfs", "disk.img", "--size", "4M"),
        ("mkdir", "disk.img", "/docs"),
        ("put", "disk.img", "file", "/docs/readme"),
        ("put", "disk.img", "file", "/plain"),
    ):
        assert exo("fs", *words).status == 0
    return here / "disk.img"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["ls", "dsk.img"], "There is no image dsk.img; did you mean disk.img?"),
        (["ls", "other"], "There is no image other; make one with: exo fs mkfs other --size 64M"),
        (["ls", "."], ". is not a disk image, but a directory."),
        (["ls", "file"], "file has 8 bytes, which is not a whole number of 512-byte sectors"),
        (["ls", "empty.img"], "There is no file system in empty.img; make one with: exo fs mkfs empty.img"),
        (["ls", "disk.img:2"], "disk.img has no partitions; make one that has with: exo disk new"),
        (["ls", "disk.img", "/dosc"], "There is no /dosc in disk.img; did you mean /docs?"),
        (["cat", "disk.img", "docs/redame"], "There is no /docs/redame in disk.img; did you mean /docs/readme?"),
        (["cat", "disk.img", "/xyz/a"], "There is no /xyz in disk.img; see: exo fs ls disk.img /"),
        (["cat", "disk.img", "/docs"], "/docs in disk.img: it is a directory."),
        (["ls", "disk.img", "/plain/x"], "/plain/x in disk.img: a part of the path is not a directory."),
        (["ls", "disk.img", "/loose"], "/loose in disk.img is a symbolic link to docs/gone, which is not there."),
        (["cat", "disk.img", "/loose/x"], "/loose in disk.img is a symbolic link to docs/gone, which is not there."),
        (["cat", "disk.img", "/pipe"], "/pipe in disk.img is a fifo, which has no contents."),
        (["tree", "disk.img", "/plain"], "/plain in disk.img is no directory; see: exo fs stat disk.img /plain"),
        (["get", "disk.img", "/plain", "new.img/"], "There is no directory new.img/ on this computer; make it with: mkdir"),
        (["get", "disk.img", "/plain", "-"], "- is no file of this computer; to see /plain: exo fs cat disk.img /plain"),
        (["stat", "disk.img", ""], "There is no '' in disk.img."),
        (["get", "disk.img", "/docs", "out"], "/docs in disk.img is a directory; get it and all in it with: exo fs get -r"),
        (["get", "disk.img", "/plain", "no/where"], "no/where on this computer: no such file or directory."),
        (["get", "-r", "disk.img", "/docs", "file"], "file is no directory, and a directory cannot replace it."),
        (["put", "disk.img", "nowhere", "/"], "nowhere on this computer: no such file or directory."),
        (["put", "disk.img", "folder", "/"], "folder is a directory; put it and all that is in it with: exo fs put -r"),
        (["put", "disk.img", "file", "/nowhere/"], "There is no directory /nowhere/ in disk.img; make it with: exo fs"),
        (["put", "disk.img", "file", "/no/where"], "There is no /no in disk.img"),
        (["put", "disk.img", "docs", "/"], "/docs in disk.img is a directory, and a file cannot replace it."),
        (["put", "-r", "disk.img", "plain", "/"], "/plain in disk.img is no directory, and a directory cannot replace it."),
        (["mkdir", "disk.img", "/docs"], "/docs in disk.img: it exists already."),
        (["mkdir", "disk.img", "/a/b"], "There is no /a in disk.img"),
        (["mkdir", "-p", "disk.img", "/plain"], "/plain in disk.img: it exists already."),
        (["rm", "disk.img", "/docs"], "/docs in disk.img is a directory; remove it and all in it with: exo fs rm -r"),
        (["rm", "disk.img", "/plan"], "There is no /plan in disk.img; did you mean /plain?"),
        (["rm", "-r", "disk.img", "/"], "/ in disk.img cannot be removed; name what is in it."),
        (["rm", "-r", "disk.img", "/docs/."], "/docs/. in disk.img cannot be removed; name what is in it."),
        (["mv", "disk.img", "/docs", "/docs/in"], "/docs in disk.img cannot go into itself, to /docs/in."),
        (["mv", "disk.img", "/docs", "/docs"], "/docs in disk.img cannot go into itself, to /docs/docs."),
        (["mv", "disk.img", "/", "/docs"], "/ in disk.img cannot go into itself, to /docs/."),
        (["mv", "disk.img", "/docs", "/plain"], "/docs to /plain in disk.img: a part of the path is not a directory."),
        (["ln", "disk.img", "/plain", "/docs/readme"], "/docs/readme in disk.img: it exists already."),
        (["ln", "disk.img", "/docs", "/more"], "/docs in disk.img is a directory, which has one name only; try: exo fs"),
        (["ln", "-s", "disk.img", "x", "/plain"], "/plain in disk.img: it exists already."),
        (["mkdir", "disk.img", "/" + "x" * 256], "in disk.img: the name is too long."),
        (["mkfs", "new.img"], "There is no image new.img; say how large a new one is to be, such as --size 64M."),
        (["mkfs", "new.img", "--size", "1X"], "'1X' is no size for the image"),
        (["mkfs", "new.img", "--size", "1000"], "An image of 1000 bytes makes no sense; it is a multiple of 512"),
        (["mkfs", "new.img", "--size", "16K"], "new.img: The volume has 16384 bytes, too few for a file system."),
        (["mkfs", "new.img", "--size", "4M", "--block-size", "3K"], "new.img: Blocks have 1024, 2048 or 4096 bytes"),
        (["mkfs", "new.img", "--size", "4M", "--inode-size", "100"], "new.img: Inodes have 128 or 256 bytes"),
        (["mkfs", "new.img", "--size", "4M", "--inodes", "-1"], "-1 inodes make no sense."),
        (["mkfs", "new.img", "--size", "4M", "--label", "x" * 17], "new.img: A label has at most 16 bytes."),
        (["mkfs", "new.img", "--size", "4M", "--uuid", "x"], "'x' is no UUID; one looks like 00000000-0000-0000-0000-"),
        (["mkfs", "new.img", "--size", "4M", "--hash", "md5"], "There is no hash called md5; there are: half_md4, legacy"),
        (["mkfs", "no/new.img", "--size", "4M"], "no/new.img cannot be made: No such file or directory."),
        (["mkfs", "disk.img", "--size", "8M", "--force"], "disk.img is there already, with 4194304 bytes, and"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_answered_with_a_sentence(here: Path, image: Path, words: list[str], sentence: str) -> None:
    (here / "folder").mkdir()
    (here / "plain").mkdir()
    (here / "docs").write_text("a file here, a directory there")
    (here / "empty.img").write_bytes(bytes(1 << 20))
    judges.debugfs(image, ["symlink /loose docs/gone", "mknod pipe p"], write=True)
    before = image.read_bytes()
    assert sentence in exo("fs", *words).sentences
    assert not (here / "new.img").exists()
    assert (here / "file").read_text() == "contents"
    judges.assert_silent(image)
    assert judges.independent_tree(image) == judges.independent_tree(before)


def test_an_image_that_may_not_be_written_is_named(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = open

    def refuse(path: Any, mode: str = "r", *more: Any, **named: Any) -> Any:  # as for a user who is not root
        if path == Path("disk.img") and "+" in mode:
            raise PermissionError(13, "Permission denied")
        return real(path, mode, *more, **named)

    monkeypatch.setattr("exokernel.machine.disk.open", refuse, raising=False)
    assert exo("fs", "mkdir", "disk.img", "/x").sentences == (
        "The disk image disk.img cannot be opened for reading and writing: Permission denied."
    )
    assert exo("fs", "ls", "disk.img").status == 0


@pytest.mark.parametrize(("lock", "words"), [(fcntl.LOCK_EX, ["ls"]), (fcntl.LOCK_SH, ["mkdir", "/x"])])
def test_an_image_that_somebody_uses_is_left_alone(image: Path, lock: int, words: list[str]) -> None:
    with image.open("rb") as file:
        fcntl.flock(file, lock)
        sentence = exo("fs", words[0], "disk.img", *words[1:]).sentences
        assert sentence == "The disk image disk.img is in use by another exo command; wait until that has ended."
    assert exo("fs", words[0], "disk.img", *words[1:]).status == 0


def test_a_machine_with_the_image_as_its_disk_uses_it(image: Path) -> None:
    with image.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert "is in use by another exo command" in exo("run", "hello", "--disk", image).sentences


def test_two_who_only_look_do_not_wait_for_each_other(image: Path) -> None:
    with image.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert exo("fs", "ls", image).status == 0


# What does not fit.


def test_a_file_that_does_not_fit_leaves_nothing(image: Path, here: Path) -> None:
    (here / "big").write_bytes(os.urandom(IN_THE_MIDDLE))
    before = judges.independent_tree(image)
    assert exo("fs", "put", "disk.img", "big", "/docs/").sentences == (
        "disk.img is full: /docs/big does not fit, and nothing of it was kept."
    )
    judges.assert_silent(image)
    assert judges.independent_tree(image) == before


def test_a_stream_that_does_not_fit_leaves_nothing_and_what_it_was_to_replace_stays(image: Path, here: Path) -> None:
    os.mkfifo(here / "pipe")

    def feed() -> None:
        with open(here / "pipe", "wb") as pipe, contextlib.suppress(BrokenPipeError):
            pipe.write(os.urandom(2 * IN_THE_MIDDLE))

    writer = threading.Thread(target=feed)
    writer.start()
    before = judges.independent_tree(image)
    assert "disk.img is full: /plain does not fit" in exo("fs", "put", "disk.img", "pipe", "/plain").sentences
    writer.join()
    judges.assert_silent(image)
    assert judges.independent_tree(image) == before


def test_of_a_folder_that_does_not_fit_whole_files_are_left(image: Path, here: Path) -> None:
    (here / "many").mkdir()
    for number in range(20):
        (here / "many" / f"{number:02}").write_bytes(bytes([number + 1]) * 300_000)
    assert "does not fit" in exo("fs", "put", "-r", "disk.img", "many", "/").sentences
    judges.assert_silent(image)
    kept = {path: one for path, one in judges.independent_tree(image).items() if path.startswith(b"/many/")}
    assert 3 < len(kept) < 20
    assert all(one.contents == bytes([int(path[-2:]) + 1]) * 300_000 for path, one in kept.items())


# Images that make no sense.


def test_an_image_with_a_feature_nobody_knows_is_refused_with_its_name(image: Path) -> None:
    judges.debugfs(image, ["feature extents"], write=True)
    before = image.read_bytes()
    assert "extents" in exo("fs", "mkdir", "disk.img", "/x").sentences
    assert image.read_bytes() == before


def test_an_image_with_a_feature_only_writers_must_know_is_read_and_not_written(image: Path) -> None:
    judges.debugfs(image, ["feature huge_file"], write=True)
    assert exo("fs", "cat", "disk.img", "/plain").out == "contents"
    before = image.read_bytes()
    assert "it can only be read" in exo("fs", "mkdir", "disk.img", "/x").sentences
    assert image.read_bytes() == before


@pytest.mark.parametrize("command", [["ls"], ["tree"], ["get", "-r", "/", "out"], ["mkdir", "/x"], ["info"]])
def test_a_corrupt_image_is_a_sentence(image: Path, command: list[str]) -> None:
    data = bytearray(image.read_bytes())
    data[2048 : 2048 + 1024] = b"\xa5" * 1024  # the group descriptors
    image.write_bytes(data)
    ended = exo("fs", command[0], *command[1:-2], "disk.img", *command[-2:]) if len(command) > 3 else exo(
        "fs", command[0], "disk.img", *command[1:]
    )  # fmt: skip
    assert "To see what else is wrong: e2fsck -fn disk.img" in ended.sentences


def test_a_corrupt_partition_is_examined_where_it_lies(here: Path) -> None:
    assert exo("disk", "new", "parts.img", "--size", "8M", "--partition", "home").status == 0
    assert exo("fs", "mkfs", "parts.img:home").status == 0
    start = 512 * int(json.loads(exo("disk", "info", "parts.img", "--json").out)["partitions"][1]["first_sector"])
    with open(here / "parts.img", "r+b") as file:
        file.seek(start + 2048)
        file.write(b"\xa5" * 1024)
    sentence = exo("fs", "ls", "parts.img:home").sentences
    assert sentence.endswith(f"To see what else is wrong: e2fsck -fn 'parts.img?offset={start}'")


def test_an_image_that_does_not_fit_into_memory_is_a_sentence(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*more: Any, **named: Any) -> Any:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("exokernel.images.Disk", refuse)
    sentence = "disk.img with its 4194304 bytes cannot be mapped into memory: Cannot allocate memory."
    assert exo("fs", "ls", "disk.img").sentences == sentence


@pytest.mark.parametrize("name", [b"a/b", b"../", b"..\0", b"\0\0\0"])
def test_a_name_that_leads_out_of_a_folder_is_not_followed(image: Path, here: Path, name: bytes) -> None:
    (here / "QQQ").write_text("outside")
    assert exo("fs", "put", "disk.img", "QQQ", "/docs/").status == 0
    data = image.read_bytes()
    assert data.count(b"QQQ\0")  # in the directory, and in the journal
    image.write_bytes(data.replace(b"QQQ\0", name + b"\0"))
    (here / "QQQ").unlink()
    ended = exo("fs", "get", "-r", "disk.img", "/docs", "out")
    assert "disk.img: " in ended.sentences
    assert sorted(path.name for path in here.iterdir()) == ["disk.img", "file", "out"]


def test_a_directory_in_itself_ends_a_walk(image: Path) -> None:
    judges.debugfs(image, ["link /docs /docs/loop", "set_inode_field /docs/loop mode 040755"], write=True)
    assert "contains itself" in exo("fs", "tree", "disk.img").sentences


def test_devices_stay_in_the_image_and_are_named(image: Path, here: Path) -> None:
    judges.debugfs(image, ["cd /docs", "mknod null c 1 3"], write=True)
    assert "1, 3" in exo("fs", "ls", "-l", "disk.img", "/docs").out
    ended = exo("fs", "get", "-r", "disk.img", "/docs", "out")
    assert ended.status == 1
    assert ended.err == "exo: Devices and sockets stay in the image: /docs/null.\n"
    assert (here / "out" / "readme").read_text() == "contents"
