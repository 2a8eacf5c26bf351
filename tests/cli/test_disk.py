"""`exo disk`: images with partitions, which `exo fs` and tools of others take for what they are."""

import json
import subprocess
from pathlib import Path

import pytest

from exokernel.abi.flags import Rights
from exokernel.abi.partitions import access_sector, build_access
from exokernel.partitioning import read_table
from tests.cli.commands import Ended, exo
from tests.filesystems import judges

MEBI = 1 << 20


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def image(here: Path) -> Path:
    """An image with two partitions of 8 MiB and what is left."""
    assert ok("disk", "new", "disk.img", "--size", "20M", "--partition", "root:8M", "--partition", "home").out == ""
    return here / "disk.img"


def ok(*words: object) -> Ended:
    """A command that must end well."""
    ended = exo(*words)
    assert ended.status == 0, ended.err
    return ended


def contents(image: Path, label: str) -> bytes:
    """The bytes of a partition."""
    table = read_table(image)
    assert table is not None
    one = table.find(label)
    assert one is not None
    return image.read_bytes()[one.start * 512 : (one.start + one.sectors) * 512]


def test_info_says_what_was_asked_for(image: Path) -> None:
    told = json.loads(ok("disk", "info", "disk.img", "--json").out)
    assert told["bytes"] == 20 * MEBI
    assert [one["label"] for one in told["partitions"]] == ["exokernel access", "root", "home"]
    assert [one["number"] for one in told["partitions"]] == [1, 2, 3]
    root = told["partitions"][1]
    assert (root["bytes"], root["first_sector"] % 2048, root["kind"], root["access"]) == (8 * MEBI, 0, "data", [])
    lines = ok("disk", "info", "disk.img").out.splitlines()
    assert lines[0].startswith("disk.img: 20,971,520 bytes, 40,960 sectors, 3 partitions, disk ")
    assert [line.split()[1] for line in lines[-2:]] == ["root", "home"]


def test_info_names_who_may_use_a_partition(image: Path) -> None:
    table = read_table(image)
    assert table is not None
    root = table.find("root")
    assert root is not None
    place = access_sector(table, root, 2)
    assert place is not None
    with image.open("r+b") as file:
        file.seek(place * 512)
        file.write(build_access(root, 2, int(Rights.READ | Rights.WRITE), (3, 1)))
    told = json.loads(ok("disk", "info", "disk.img", "--json").out)
    assert told["partitions"][1]["access"] == [{"name": [3, 1], "permissions": "READ|WRITE"}]
    assert "3.1 (read|write)" in ok("disk", "info", "disk.img").out


def test_a_table_whose_beginning_is_damaged_is_read_from_its_end(image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(512)
        file.write(bytes(512))
    told = json.loads(ok("disk", "info", "disk.img", "--json").out)
    assert told["damaged"]
    assert len(told["partitions"]) == 3
    assert "The table at the beginning is damaged" in ok("disk", "info", "disk.img").out


def test_others_tools_find_the_partitions(image: Path) -> None:
    done = subprocess.run([judges.tool("sfdisk", "fdisk"), "--json", image], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["partitiontable"]
    assert (found["label"], done.stderr) == ("gpt", "")
    assert [one["name"] for one in found["partitions"]] == ["exokernel access", "root", "home"]


def test_file_systems_in_two_partitions_do_not_touch_each_other(image: Path, here: Path) -> None:
    (here / "file").write_text("contents")
    for place in ("disk.img:root", "disk.img:3"):
        ok("fs", "mkfs", place, "--seed", "1")
    home, table = contents(image, "home"), image.read_bytes()[: 2 * MEBI]
    ok("fs", "put", "disk.img:2", "file", "/in root")
    assert contents(image, "home") == home
    assert image.read_bytes()[: 2 * MEBI] == table
    assert ok("fs", "ls", "disk.img:root").out == "in root\nlost+found\n"
    assert ok("fs", "ls", "disk.img:home").out == "lost+found\n"
    for label in ("root", "home"):
        judges.assert_silent(contents(image, label))
    assert judges.independent_tree(contents(image, "root"))[b"/in root"].contents == b"contents"


def test_a_file_with_a_colon_in_its_name_is_a_file(here: Path) -> None:
    ok("fs", "mkfs", "a:b", "--size", "4M")
    assert ok("fs", "ls", "a:b").out == "lost+found\n"
    (here / "a").write_bytes(bytes(MEBI))
    assert ok("fs", "ls", "a:b").out == "lost+found\n"
    assert exo("fs", "ls", "a:c").sentences == "a has no partitions; make one that has with: exo disk new"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fs", "ls", "disk.img"], "disk.img has partitions; name one: disk.img:2 (root), disk.img:3 (home)."),
        (["fs", "ls", "disk.img:rot"], "disk.img has no partition rot; did you mean disk.img:root?"),
        (["fs", "ls", "disk.img:1"], "disk.img has no partition 1; there are: disk.img:2 (root), disk.img:3 (home)."),
        (["fs", "ls", "disk.img:root"], "There is no file system in disk.img:root; make one with: exo fs"),
        (["fs", "mkfs", "disk.img", "--force"], "disk.img has partitions; name one: disk.img:2 (root), disk.img:3 (home)."),
        (["fs", "mkfs", "disk.img:root", "--size", "4M"], "disk.img:root is there already, with 8388608 bytes, and keeps"),
        (["disk", "new", "disk.img", "--size", "4M"], "disk.img exists already; name another, or remove it."),
        (["disk", "new", "new.img", "--size", "1000"], "An image of 1000 bytes makes no sense; it is a multiple of 512"),
        (["disk", "new", "new.img", "--size", "big"], "'big' is no size for the image"),
        (["disk", "new", "new.img", "--size", "4M", "--partition", "a:0"], "The partition a has no size; write one, such"),
        (["disk", "new", "new.img", "--size", "4M", "--partition", "a:x"], "'x' is no size for the partition a"),
        (["disk", "new", "new.img", "--size", "4M", "--partition", "a:8M"], "The partition table of new.img needs"),
        (["disk", "new", "new.img", "--size", "9M", "--partition", "a", "--partition", "b"], "sizes for all partitions"),
        (["disk", "new", "new.img", "--size", "9M", "--partition", "x" * 37], "cannot have a name as long as"),
        (["disk", "new", "no/new.img", "--size", "9M"], "The disk image no/new.img cannot be written: No such file"),
        (["disk", "info", "nowhere.img"], "There is no image nowhere.img"),
        (["disk", "info", "."], ". is not a disk image, but a directory."),
    ],
)  # fmt: skip
def test_a_wrong_word_is_answered_with_a_sentence(image: Path, here: Path, words: list[str], sentence: str) -> None:
    before = image.read_bytes()
    assert sentence in exo(*words).sentences
    assert image.read_bytes() == before
    assert not (here / "new.img").exists()


def test_a_table_damaged_in_both_places_is_a_sentence_and_nothing_is_changed(image: Path) -> None:
    data = bytearray(image.read_bytes())
    data[520] ^= 1
    data[-500] ^= 1
    image.write_bytes(data)
    for words in (["disk", "info", "disk.img"], ["fs", "ls", "disk.img:root"], ["fs", "mkfs", "disk.img", "--force"]):
        assert "The partition table of disk.img is damaged" in exo(*words).sentences
    assert image.read_bytes() == data


def test_an_image_without_partitions_is_said_to_have_none(here: Path) -> None:
    (here / "bare.img").write_bytes(bytes(MEBI))
    assert ok("disk", "info", "bare.img").out == "bare.img: 1,048,576 bytes, 2,048 sectors, no partition table\n"
