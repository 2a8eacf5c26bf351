"""Programs over a file system in one run: what they print, and what the judges find on the image afterwards."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from exokernel.names import UnknownName
from exokernel.partitioning import create_image
from exokernel.results import Results
from exokernel.scenario import ProgramSpec, Scenario, ScenarioError
from libos.image import LoadError
from tests.apps.oracles import expected_output
from tests.filesystems import judges

LIBRARIES = ["native+clock", "python+clock"]
MIB = 1 << 20


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the host: files of many sizes, directories, links of both kinds, several permissions."""
    root = tmp_path_factory.mktemp("host") / "tree"
    (root / "below" / "deeper").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o711)
    words = b"the quick brown fox jumps over the lazy dog; The DOG sleeps.\n"
    for index, size in enumerate((0, 1, 1023, 1024, 1025, 4096, 13000, 70000)):
        (root / "below" / f"file{size}").write_bytes((words * (size // 60 + 1))[index : index + size].ljust(size, b"."))
    (root / "corpus").write_bytes(words * 1500)
    (root / "program").write_bytes(b"#!")
    (root / "program").chmod(0o4755)
    (root / "below" / "file13000").chmod(0o600)
    os.link(root / "corpus", root / "below" / "deeper" / "corpus again")
    (root / "link").symlink_to("below/file1")
    (root / "far").symlink_to("x" * 300)
    return root


@pytest.fixture
def image(tree: Path, tmp_path: Path) -> Path:
    """An ext3 with the folder in `/tree`."""
    path = tmp_path / "disk.img"
    path.write_bytes(judges.make_ext3(16 * MIB, source=tree.parent))
    return path


def run(image: Path | None, *programs: ProgramSpec, fs: str = "ext3", **how: object) -> Results:
    return Scenario(programs, disk=image, fs=fs, disk_size=256 * MIB, **how).run()  # type: ignore[arg-type]


def below(seen: Mapping[bytes, judges.Seen], directory: bytes) -> dict[bytes, judges.Seen]:
    """What is in a directory of an image, by the path within; how many directories one has in it is left out."""
    return {
        path.removeprefix(directory): replace(it, links=0 if it.kind == 0o040000 else it.links)
        for path, it in seen.items()
        if path == directory or path.startswith(directory + b"/")
    }


@pytest.mark.parametrize("libos", LIBRARIES)
@pytest.mark.parametrize("frames", [0, 12])
def test_a_program_reads_a_mapped_file_of_ext3_as_it_reads_the_host_s(
    tree: Path, image: Path, libos: str, frames: int
) -> None:
    before = image.read_bytes()
    results = run(image, ProgramSpec("wordfreq", libos, ("/tree/corpus",), frames))
    assert results.programs[0].output == expected_output(["wordfreq", str(tree / "corpus")])
    assert (results.programs[0].evictions > 0) == (frames > 0)
    assert results.outcome == "every environment has ended"
    judges.assert_silent(image)
    assert below(judges.independent_tree(image), b"/tree") == below(judges.independent_tree(before), b"/tree")


@pytest.mark.parametrize("libos", LIBRARIES)
def test_a_tree_is_copied_with_its_links_and_permissions(tree: Path, image: Path, libos: str) -> None:
    results = run(image, ProgramSpec("copytree", libos, ("/tree", "/tree/copy")))
    assert results.programs[0].output == expected_output(["copytree", str(tree)])
    assert results.programs[0].exit_status == 0
    judges.assert_silent(image)
    seen = judges.independent_tree(image)
    copy = below(seen, b"/tree/copy")
    original = {path: it for path, it in below(seen, b"/tree").items() if not path.startswith(b"/copy")}
    assert {path: replace(it, uid=0, gid=0) for path, it in original.items()} == copy
    assert copy[b"/corpus"].links == 2
    assert copy[b"/program"].mode == 0o4755


def test_programs_of_both_kinds_and_in_python_share_the_file_system(tree: Path, image: Path) -> None:
    results = run(
        image,
        ProgramSpec("copytree", "native+clock", ("/tree", "/one")),
        ProgramSpec("copytree", "python+clock", ("/tree", "/two"), name="second"),
        ProgramSpec("wordfreq", "native+fifo", ("/tree/below/file70000",)),
        ProgramSpec("listing", "python+clock", ("/tree", "/list")),
        cpus=2,
    )
    assert [program.exit_status for program in results.programs] == [0] * 5
    assert results.programs[0].output == results.programs[1].output == expected_output(["copytree", str(tree)])
    assert results.programs[2].output == expected_output(["wordfreq", str(tree / "below" / "file70000")])
    judges.assert_silent(image)
    seen = judges.independent_tree(image)
    assert below(seen, b"/one") == below(seen, b"/two")
    lines = seen[b"/list"].contents.decode().splitlines()
    assert len(lines) == len(below(seen, b"/tree"))
    assert f"-4755 {2:9} /tree/program" in lines
    assert f"l0777 {11:9} /tree/link -> below/file1" in lines


@pytest.mark.parametrize(("memory", "pages"), [(1, 120), (2, 360)])
@pytest.mark.parametrize("policy", ["largest", "proportional"])
def test_in_a_small_memory_the_server_gives_frames_back(
    tree: Path, image: Path, memory: int, pages: int, policy: str
) -> None:
    walk = ("pagewalk", "--pattern", "loop", "--pages", str(pages), "--steps", str(8 * pages), "--write", "100")
    results = run(
        image,
        ProgramSpec("copytree", "native+clock", ("/tree", "/copy")),
        ProgramSpec(walk[0], "native+clock", walk[1:]),
        memory=memory * MIB,
        global_policy=policy,
    )
    assert [program.exit_status for program in results.programs] == [0, 0, 0]
    assert (results.programs[2].name, results.programs[2].taken) == ("files", 0)
    assert results.programs[1].output == expected_output(walk)
    assert results.programs[0].output == expected_output(["copytree", str(tree)])
    judges.assert_silent(image)
    seen = judges.independent_tree(image)
    assert {path: it.contents for path, it in below(seen, b"/copy").items()} == {
        path: it.contents for path, it in below(seen, b"/tree").items()
    }


@pytest.mark.parametrize("cut", [4_000_000, 9_000_000, 14_000_000])
def test_after_a_power_cut_the_next_run_mounts_and_leaves_a_clean_image(image: Path, cut: int) -> None:
    results = run(image, ProgramSpec("copytree", "native+clock", ("/tree", "/copy")), power_cut=cut)
    assert "power" in results.outcome
    assert not judges.check(image).silent
    results = run(image, ProgramSpec("copytree", "native+clock", ("/tree", "/another")))
    assert results.programs[0].exit_status == 0
    judges.assert_silent(image)
    seen = judges.independent_tree(image)
    assert below(seen, b"/another")[b"/corpus"].contents == seen[b"/tree/corpus"].contents


@pytest.mark.parametrize("libos", LIBRARIES)
def test_what_a_program_has_open_at_its_end_is_closed_before_the_file_system_is_unmounted(
    image: Path, tmp_path: Path, libos: str
) -> None:
    source = tmp_path / "leaves.c"
    source.write_text("""
        #include <libos.h>
        int main(void) {
            static char text[5000];
            long file = os_open("/gone", OS_OPEN_WRITE | OS_OPEN_CREATE, 0600);
            return os_write_file(file, text, sizeof text) == sizeof text && os_remove("/gone") == 0 ? 0 : 1;
        }""")
    before = judges.dumpe2fs(image)
    results = run(image, ProgramSpec(str(source), libos))
    assert results.programs[0].exit_status == 0
    judges.assert_silent(image)
    assert judges.dumpe2fs(image)["Free blocks"] == before["Free blocks"]


@pytest.mark.parametrize("name", ["2", "work"])
def test_a_partition_is_chosen_by_number_or_label(tree: Path, tmp_path: Path, name: str) -> None:
    disk, contents = tmp_path / "disk.img", judges.make_ext3(12 * MIB, source=tree.parent)
    table = create_image(disk, 20 * MIB, [("work", 12 * MIB), ("other", 0)], seed=1)
    work = table.partitions[1]
    with disk.open("r+b") as file:
        file.seek(work.start * 512)
        file.write(contents)
    results = run(disk, ProgramSpec("copytree", "native+clock", ("/tree", "/copy")), fs=f"ext3:{name}")
    assert results.programs[0].output == expected_output(["copytree", str(tree)])
    after = disk.read_bytes()
    begin, end = work.start * 512, (work.start + work.sectors) * 512
    judges.assert_silent(after[begin:end])
    assert b"/copy/corpus" in judges.independent_tree(after[begin:end])
    assert not any(after[table.partitions[2].start * 512 : -33 * 512])


def test_host_files_are_put_into_a_file_system_in_memory(tree: Path) -> None:
    results = run(
        None,
        ProgramSpec("wordfreq", "native+clock", ("/a/b/text",)),
        ProgramSpec("wordfreq", "python+clock", ("/a/b/text",), name="second"),
        fs="memory",
        put=(f"{tree / 'corpus'}:/a/b/text",),
    )
    expected = expected_output(["wordfreq", str(tree / "corpus")])
    assert [program.output for program in results.programs] == [expected, expected, b""]


def test_a_host_file_comes_before_one_of_the_file_system(tree: Path, tmp_path: Path) -> None:
    host = tmp_path / "text"
    host.write_bytes(b"host host")
    put = (f"{tree / 'corpus'}:{host}",)
    results = run(None, ProgramSpec("wordfreq", "native+clock", (str(host),)), fs="memory", put=put)
    assert results.programs[0].output == b"2 host\n"


def test_the_same_run_gives_the_same_image_and_the_same_time(tree: Path, tmp_path: Path) -> None:
    ends = []
    for name in ("one", "two"):
        path = tmp_path / name
        path.write_bytes(judges.make_ext3(8 * MIB, source=tree.parent))
        results = run(path, ProgramSpec("copytree", "native+clock", ("/tree", "/copy")))
        ends.append((path.read_bytes(), results.cycles))
    assert ends[0] == ends[1]


def test_a_program_without_a_file_system_is_told_so(tree: Path) -> None:
    results = Scenario((ProgramSpec("copytree", "native+clock", ("/a", "/b")),)).run()
    assert results.programs[0].exit_status == 1
    assert b"there is no file system; name one with --fs" in results.programs[0].output


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"fs": "ext3"}, "lies on a disk"),
        ({"fs": "memory:2"}, "lies on no disk"),
        ({"put": ("a:/b",)}, "no file system to put files into"),
        ({"fs": "memory", "put": ("nothing",)}, "names no file and place"),
        ({"fs": "memory", "put": ("/no/such/file:/b",)}, "cannot be read"),
        ({"fs": "memory", "put": ("/etc/hostname:b",)}, "names no file and place"),
        ({"fs": "ext3", "disk": Path("x"), "global_policy": "seize-oldest"}, "would take frames"),
    ],
)
def test_what_makes_no_sense_is_said(how: dict[str, object], sentence: str) -> None:
    with pytest.raises(ScenarioError, match=sentence):
        Scenario((ProgramSpec("hello"),), **how).run()  # type: ignore[arg-type]


def test_unknown_names_get_the_near_one() -> None:
    with pytest.raises(UnknownName, match="ext3"):
        Scenario((ProgramSpec("hello"),), fs="ext4").check()


def test_what_cannot_be_mounted_is_said(tmp_path: Path, image: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(MIB))
    with pytest.raises(LoadError, match=r"ext3 on .*empty cannot be mounted: "):
        run(empty, ProgramSpec("hello"))
    with pytest.raises(ScenarioError, match="no partitions"):
        run(image, ProgramSpec("hello"), fs="ext3:7")
