"""Reading trace files."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libos import replay as replay_module
from libos.replay import Trace, TraceError, read_trace, replay_named


def file_with(folder: Path, content: str | bytes) -> Path:
    path = folder / "trace"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_a_trace_says_pages_reads_and_writes(tmp_path: Path) -> None:
    trace = read_trace(file_with(tmp_path, "# exo references 1\n# image 5e88\n1a3 w\n1A4 r\n# half way\n0 w\n"))
    assert list(trace.pages) == [0x1A3, 0x1A4, 0]
    assert list(trace.writes) == [1, 0, 1]
    assert trace.comments == ("image 5e88", "half way")
    assert len(trace) == 3


@pytest.mark.parametrize(
    "content",
    [
        "# exo references 1\r\n1a3 w\r\n1a4 r\r\n",
        "# exo references 1\n1a3 w\n1a4 r",
        "# exo references 1\n\n  1a3 w  \n1a4\tr\n\n",
        "# exo references 1  \n00000000000001a3 w\n1a4 r\n",
    ],
)
def test_line_ends_and_blanks_do_not_matter(tmp_path: Path, content: str) -> None:
    trace = read_trace(file_with(tmp_path, content))
    assert (list(trace.pages), list(trace.writes)) == ([0x1A3, 0x1A4], [1, 0])


def test_plain_numbers_are_reads_in_decimal_or_hexadecimal(tmp_path: Path) -> None:
    trace = read_trace(file_with(tmp_path, "# from a paper\n10\n0x10\n007\n"))
    assert list(trace.pages) == [10, 16, 7]
    assert list(trace.writes) == [0, 0, 0]


@settings(max_examples=80, deadline=None, database=None)
@given(
    references=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.booleans()), min_size=1, max_size=40),
    chunk=st.integers(1, 60),
    comment_at=st.integers(0, 40),
)
def test_what_is_written_is_read_wherever_the_file_is_cut(
    tmp_path_factory: pytest.TempPathFactory, references: list[tuple[int, bool]], chunk: int, comment_at: int
) -> None:
    lines = [f"{page:x} {'w' if write else 'r'}" for page, write in references]
    lines.insert(min(comment_at, len(lines)), "# here")
    path = file_with(tmp_path_factory.mktemp("cut"), "\n".join(["# exo references 1", *lines, ""]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replay_module, "_CHUNK", chunk)
        trace = read_trace(path)
    assert list(trace.pages) == [page for page, _ in references]
    assert [bool(write) for write in trace.writes] == [write for _, write in references]
    assert trace.comments == ("here",)


REFERENCE_ADVICE = "write a hexadecimal page number without 0x and r or w, such as '1a3 w'."
NUMBER_ADVICE = "write one page number a line, decimal or with 0x hexadecimal."


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("# exo references 1\n1a3 w\n1a4 x\n", f"line 3: '1a4 x' is not a reference; {REFERENCE_ADVICE}"),
        ("# exo references 1\n1a3\n", f"line 2: '1a3' is not a reference; {REFERENCE_ADVICE}"),
        ("# exo references 1\n1a3\nw 5 w\n", f"line 2: '1a3' is not a reference; {REFERENCE_ADVICE}"),
        ("# exo references 1\n1a3 w 5 r\n", f"line 2: '1a3 w 5 r' is not a reference; {REFERENCE_ADVICE}"),
        ("# exo references 1\n# c\n\n0x1a3 w\n", f"line 4: '0x1a3 w' is not a reference; {REFERENCE_ADVICE}"),
        ("# exo references 1\n1_0 w\n", f"line 2: '1_0 w' is not a reference; {REFERENCE_ADVICE}"),
        ("# exo references 1\n-1 w\n", f"line 2: '-1 w' is not a reference; {REFERENCE_ADVICE}"),
        (
            "# exo references 1\n12345678123456781 w\n",
            f"line 2: '12345678123456781 w' is not a reference; {REFERENCE_ADVICE}",
        ),
        (b"# exo references 1\n\xff\xfe w\n", f"line 2: '\\xff\\xfe w' is not a reference; {REFERENCE_ADVICE}"),
        (
            "# exo references 2\n1 r\n",
            "line 1: '# exo references 2' is a trace format this version does not know; "
            "record the trace again, or make the line '# exo references 1'.",
        ),
        ("7\neight\n", f"line 2: 'eight' is not a page number; {NUMBER_ADVICE}"),
        ("1.5\n", f"line 1: '1.5' is not a page number; {NUMBER_ADVICE}"),
        ("1a3 w\n", "line 1: '1a3 w' is not a page number; make '# exo references 1' the first line of the file."),
    ],
)
def test_a_malformed_line_is_named_with_what_to_do(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = file_with(tmp_path, content)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert str(caught.value) == f"{path}, {message}"


def test_the_line_number_is_right_far_into_the_file(tmp_path: Path) -> None:
    good = "# exo references 1\n" + "1a3 w\n" * 200_000
    path = file_with(tmp_path, good + "oops\n" + "1 r\n" * 10)
    with pytest.raises(TraceError, match="line 200002: 'oops'"):
        read_trace(path)


@pytest.mark.parametrize("content", ["", "\n", "# exo references 1\n", "# exo references 1\n# only words\n"])
def test_an_empty_trace_is_refused(tmp_path: Path, content: str) -> None:
    path = file_with(tmp_path, content)
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert str(caught.value) == f"{path}: holds no references; record a trace, or write one page number a line."


def test_a_file_that_is_not_there_is_an_error_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"absent: cannot be read \(No such file or directory\); give the name"):
        read_trace(tmp_path / "absent")
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path)


def test_a_trace_read_from_a_file_can_be_replayed(tmp_path: Path) -> None:
    trace = read_trace(file_with(tmp_path, "# exo references 1\n1 w\n2 r\n3 w\n1 r\n"))
    result = replay_named(trace, "fifo", 2)
    assert (result.misses, result.evictions, result.dirty_evictions) == (4, 2, 1)
    assert result.miss_ratio == 1.0


def test_a_trace_whose_parts_differ_in_length_is_not_replayed() -> None:
    with pytest.raises(ValueError, match=r"is (shorter|longer) than"):
        replay_named(Trace([1, 2], bytes(1)), "fifo", 2)
