"""Programs with threads and programs that talk to each other give what they give alone, on any number of processors."""

import pytest

from exokernel.results import Results
from exokernel.scenario import ProgramSpec, Scenario
from tests.apps.oracles import expected_output

LIBRARIES = ["native+clock", "native+mru", "python+clock", "python+fifo"]
PROGRAMS = {
    "pquicksort": lambda processors: ("4000", "3", "5", str(processors)),
    "pmatmul": lambda processors: ("24", "2", "5", str(processors)),
}


def run(app: str, arguments: tuple[str, ...], libos: str, frames: int = 0, **how: int) -> Results:
    return Scenario((ProgramSpec(app, libos, arguments, frames),), **how).run()


@pytest.mark.parametrize("app", PROGRAMS)
@pytest.mark.parametrize("libos", LIBRARIES)
@pytest.mark.parametrize(("cpus", "quantum"), [(1, 3_000), (2, 7_000), (4, 20_000)])
def test_threads_give_what_one_gives(app: str, libos: str, cpus: int, quantum: int) -> None:
    arguments = PROGRAMS[app](cpus)
    results = run(app, arguments, libos, cpus=cpus, quantum=quantum)
    program = results.programs[0]
    assert program.output == expected_output((app, *arguments)), program.death
    assert program.exit_status == 0


@pytest.mark.parametrize("app", PROGRAMS)
@pytest.mark.parametrize("libos", LIBRARIES)
@pytest.mark.parametrize("cpus", [1, 3])
def test_threads_lose_nothing_while_their_pages_come_and_go(app: str, libos: str, cpus: int) -> None:
    arguments = PROGRAMS[app](cpus)
    results = run(app, arguments, libos, 10, cpus=cpus, quantum=6_000, seed=cpus)
    program = results.programs[0]
    assert program.output == expected_output((app, *arguments)), program.death
    assert program.evictions > 0


def test_threads_on_processors_take_less_time() -> None:
    one, four = (run("pmatmul", ("90", "1", "4", str(cpus)), "native+clock", cpus=cpus).cycles for cpus in (1, 4))
    assert four < 0.6 * one


@pytest.mark.parametrize("libos", LIBRARIES)
@pytest.mark.parametrize("cpus", [1, 2])
def test_a_producer_and_a_consumer_see_the_same_bytes(libos: str, cpus: int) -> None:
    results = run("prodcons", ("12", "5"), libos, cpus=cpus)
    output = b"".join(program.output for program in results.programs)
    assert sorted(output.splitlines()) == sorted(expected_output(("prodcons", "12", "5")).splitlines())
    assert results.exit_status == 0


@pytest.mark.parametrize("policy", ["oldest", "proportional", "seize-oldest"])
@pytest.mark.parametrize("cpus", [1, 3])
def test_programs_with_threads_in_too_little_memory_get_along(policy: str, cpus: int) -> None:
    programs = (
        ProgramSpec("pquicksort", "native+clock", ("40000", "1", "6", str(cpus))),
        ProgramSpec("pquicksort", "native+mru", ("40000", "2", "6", str(cpus))),
    )
    results = Scenario(programs, memory=1 << 20, global_policy=policy, cpus=cpus, quantum=20_000).run()
    for program, spec in zip(results.programs, programs, strict=True):
        assert program.output == expected_output((spec.app, *spec.arguments)), program.output[-200:]
    assert sum(program.evictions + program.taken for program in results.programs) > 100
