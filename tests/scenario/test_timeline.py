"""The timeline of a run is a Chrome trace that a viewer can make sense of."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from exokernel.abi.downcalls import TABLE
from exokernel.abi.upcalls import Upcall
from exokernel.results import Results
from exokernel.scenario import ProgramSpec, Scenario

Event = dict[str, Any]


def traced(directory: Path, *programs: ProgramSpec, **how: Any) -> tuple[Results, list[Event]]:
    results = Scenario(programs, trace=directory / "trace", **how).run()
    return results, json.loads((directory / "trace").read_text())["traceEvents"]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, list[Event]]:
    walk = ("--pattern", "zipf", "--pages", "40", "--steps", "300")
    return traced(
        tmp_path_factory.mktemp("trace"),
        ProgramSpec("pagewalk", "native+clock", walk, 9),
        ProgramSpec("pagewalk", "python+clock", walk, 9),
        ProgramSpec("forkdemo", "native+fifo", ("6", "2")),
        ProgramSpec("pingpong", arguments=("20",)),
        memory=1 << 20,
        global_policy="oldest",
    )


def test_the_file_begins_with_the_hashes_of_the_images(tmp_path: Path) -> None:
    results, _ = traced(tmp_path, ProgramSpec("hello"))
    with (tmp_path / "trace").open() as file:
        first = file.readline()
    header = json.loads(first.removesuffix(',"traceEvents":[\n') + "}")
    assert header["otherData"]["images"] == results.images
    assert len(results.images) == 3
    assert all(len(digest) == 64 for digest in results.images.values())


def test_every_event_is_one_the_format_knows(crowd: tuple[Results, list[Event]]) -> None:
    keys = {
        "M": {"ph", "pid", "tid", "name", "args"},
        "X": {"ph", "pid", "tid", "ts", "dur", "name", "cat"},
        "b": {"ph", "pid", "tid", "ts", "name", "cat", "id"},
        "e": {"ph", "pid", "tid", "ts", "name", "cat", "id"},
        "C": {"ph", "pid", "ts", "name", "args"},
    }
    results, events = crowd
    for event in events:
        assert set(event) == keys[event["ph"]]
        assert 0 <= event.get("ts", 0) <= results.cycles / 1000
        assert event.get("dur", 0) >= 0
    downcalls, upcalls = {row.name for row in TABLE.values()}, {upcall.name.lower() for upcall in Upcall}
    assert {event["name"] for event in events if event["ph"] == "X"} <= downcalls
    assert {event["name"] for event in events if event["ph"] in "be"} <= upcalls


def test_every_track_has_a_name_before_anything_happens_on_it(crowd: tuple[Results, list[Event]]) -> None:
    results, events = crowd
    names: dict[int, str] = {}
    for event in events:
        if event["ph"] == "M":
            assert event["tid"] not in names
            names[event["tid"]] = event["args"]["name"]
        elif "tid" in event:
            assert event["tid"] in names
    assert set(names) >= {program.environment for program in results.programs}
    for program in results.programs:
        title = program.name.removesuffix(" (child)")
        assert names[program.environment].endswith(f"{title} (environment {program.environment})")
    titles = sorted(name.partition(" (")[0] for name in names.values())
    assert titles == [
        "child of child of forkdemo", "child of forkdemo", "child of pingpong", "forkdemo", "init", "pagewalk",
        "pagewalk", "pingpong",
    ]  # fmt: skip


def test_slices_of_a_track_nest(crowd: tuple[Results, list[Event]]) -> None:
    tracks = defaultdict(list)
    for event in crowd[1]:
        if event["ph"] == "X":
            begin = round(event["ts"] * 1000)
            tracks[event["pid"], event["tid"]].append((begin, -(begin + round(event["dur"] * 1000))))
    assert tracks
    for slices in tracks.values():
        open_until: list[int] = []
        for begin, negative_end in sorted(slices):
            while open_until and open_until[-1] <= begin:
                open_until.pop()
            assert not open_until or -negative_end <= open_until[-1]
            open_until.append(-negative_end)


def test_every_upcall_that_begins_ends(crowd: tuple[Results, list[Event]]) -> None:
    running: dict[tuple[int, str], int] = defaultdict(int)
    last: dict[tuple[int, str], float] = {}
    for event in crowd[1]:
        if event["ph"] in "be":
            key = event["id"], event["name"]
            running[key] += 1 if event["ph"] == "b" else -1
            assert running[key] >= 0
            assert event["ts"] >= last.get(key, 0)
            last[key] = event["ts"]
    assert running
    assert not any(running.values())


def test_slices_and_counters_agree_with_the_table(crowd: tuple[Results, list[Event]]) -> None:
    results, events = crowd
    for program in results.programs:
        own = [event for event in events if event.get("tid") == program.environment]
        assert sum(event["ph"] == "b" for event in own) == program.upcalls
        assert sum(event["ph"] == "X" for event in own) == program.downcalls
        held = [
            event["args"]["frames"]
            for event in events
            if event["ph"] == "C" and event["name"].endswith(f"(environment {program.environment})")
        ]
        assert held[-1] == 0
        assert max(held) <= program.frames_held


@pytest.mark.parametrize("libos", ["native+clock", "python+clock"])
def test_the_trace_of_a_program_that_dies_is_complete(tmp_path: Path, libos: str) -> None:
    (tmp_path / "mine.c").write_text("int main(void) { return *(volatile int *)0; }\n")
    results, events = traced(tmp_path, ProgramSpec(str(tmp_path / "mine.c"), libos))
    assert results.exit_status == 139
    assert sum(event["ph"] == "b" for event in events) == sum(event["ph"] == "e" for event in events) > 0


def test_the_trace_of_a_run_that_is_stopped_is_complete(tmp_path: Path) -> None:
    _, events = traced(tmp_path, ProgramSpec("hello"), stop_on="upcall")
    assert sum(event["ph"] == "b" for event in events) == sum(event["ph"] == "e" for event in events) == 1


THREADS = (
    ProgramSpec("pmatmul", "native+clock", ("20", "1", "4", "2"), 12),
    ProgramSpec("pquicksort", "python+clock", ("600", "1", "3", "2"), 12),
    ProgramSpec("roundtrips", "python+clock", ("3",)),
)


@pytest.fixture(scope="module")
def threads(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, list[Event]]:
    return traced(tmp_path_factory.mktemp("threads"), *THREADS, cpus=2, quantum=5_000)


def test_on_several_processors_it_says_on_which_and_changes_nothing(threads: tuple[Results, list[Event]]) -> None:
    results, events = threads
    assert results.exit_status == 0
    assert {event["pid"] for event in events if event["ph"] == "X"} == {1, 2}
    test_slices_of_a_track_nest(threads)
    test_every_upcall_that_begins_ends(threads)
    untraced = Scenario(THREADS, cpus=2, quantum=5_000).run()
    assert untraced.cycles == results.cycles
    assert [program.cycles for program in untraced.programs] == [program.cycles for program in results.programs]
