"""`exo`: the command line.  What takes time to import is imported by the command that needs it."""

import errno
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from exokernel.command_line import AsJson, Progress, Seed, fail, print_json, sentences
from exokernel.disk_commands import disk as disk_app
from exokernel.fs_commands import fs
from exokernel.names import UnknownName, size_in_bytes

if TYPE_CHECKING:
    from exokernel.scenario import Scenario

app = typer.Typer(
    name="exo",
    help="An exokernel with library operating systems: run programs, see who decided what, write your own pager.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@app.command(epilog="What follows -- are the program's own arguments; those that name files are attached to it, read-only.")
def run(
    context: typer.Context,
    application: Annotated[str, typer.Argument(help="A program by name or path; see `exo list`.", metavar="[APP]")] = "",
    arguments: Annotated[list[str] | None, typer.Argument(help="The program's own arguments.", metavar="-- ARGS")] = None,
    libos: Annotated[str, typer.Option(help="Its library OS by name or path; see `exo list`.")] = "native+clock",
    frames: Annotated[int, typer.Option(help="Frames its pager keeps resident; 0: as many as the kernel gives.")] = 0,
    memory: Annotated[str, typer.Option(help="Physical memory of the machine.")] = "16M",
    disk: Annotated[Path | None, typer.Option(help="A disk image file, before the disk in memory.")] = None,
    disk_size: Annotated[str, typer.Option(help="Size of the disk in memory.")] = "1G",
    disk_model: Annotated[str, typer.Option(help="What kind of disk it is; see `exo list`.")] = "ssd",
    disk_policy: Annotated[str, typer.Option(help="Which disk request is next; see `exo list`.")] = "fcfs",
    file_system: Annotated[
        str, typer.Option("--fs", help="The file system of the programs, NAME or NAME:PARTITION; see `exo list`.")
    ] = "",
    put: Annotated[
        list[str] | None, typer.Option(help="A host file that is in the file system at first: HOSTFILE:/PATH.")
    ] = None,
    power_cut: Annotated[int, typer.Option(help="Cut the power at this cycle; the disk keeps what a disk keeps.")] = 0,
    global_policy: Annotated[str, typer.Option(help="Whom the kernel asks when no frame is free.")] = "largest",
    cpus: Annotated[int, typer.Option(help="How many processors the machine has.")] = 1,
    cpu_policy: Annotated[str, typer.Option(help="Who runs next; see `exo list`.")] = "round-robin",
    quantum: Annotated[int, typer.Option(help="Cycles of a slice; 0: 100,000.")] = 0,
    env: Annotated[
        list[str] | None, typer.Option(help='Another program beside it: "wordfreq --libos clock --frames 64 -- FILE".')
    ] = None,
    scenario: Annotated[
        Path | None, typer.Option(help="A scenario file in TOML that says all this; options beside it come first.")
    ] = None,
    seed: Seed = 0,
    trace: Annotated[Path | None, typer.Option(help="Write a timeline for ui.perfetto.dev.")] = None,
    record_references: Annotated[Path | None, typer.Option(help="Write the page references, for `exo replay`.")] = None,
    stop_on: Annotated[str, typer.Option(help="`death` or `upcall`: show the machine at that moment.")] = "",
    as_json: AsJson = False,
) -> None:
    """Run programs side by side and show what each did."""
    from exokernel.scenario import ProgramSpec, Scenario, ScenarioError, parse_program, read_scenario

    given = {
        {"file_system": "fs"}.get(name, name)
        for name in context.params
        if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"
    }
    of_programs = given & {"application", "arguments", "libos", "frames", "env"}
    try:
        machine: dict[str, Any] = {
            "memory": size_in_bytes(memory, "memory"),
            "disk_size": size_in_bytes(disk_size, "disk"),
            "disk": disk,
            "disk_model": disk_model,
            "disk_policy": disk_policy,
            "power_cut": power_cut,
            "fs": file_system,
            "put": tuple(put or ()),
            "global_policy": global_policy,
            "cpus": cpus,
            "cpu_policy": cpu_policy,
            "quantum": quantum,
            "seed": seed,
            "trace": trace,
            "record_references": record_references,
            "stop_on": stop_on,
        }
        if scenario is not None:
            if of_programs:
                raise ScenarioError(f"The programs are those of {scenario}; write others into it, or leave out --scenario.")
            scene = replace(read_scenario(scenario), **{name: machine[name] for name in machine if name in given})
        else:
            programs = [parse_program(text) for text in env or []]
            if application:
                programs.insert(0, ProgramSpec(application, libos, tuple(arguments or ()), frames))
            elif programs and of_programs > {"env"}:
                raise ScenarioError(
                    "--libos and --frames are options of APP; a program of --env has its own in the quotes."
                )
            scene = Scenario(tuple(programs), **machine)
    except (ScenarioError, UnknownName, ValueError) as error:
        fail(error)
    raise SystemExit(_run(scene, as_json))


def _run(scene: "Scenario", as_json: bool) -> int:
    from exokernel.observe.report import table
    from exokernel.session import Session

    progress = Progress()
    lines = _Lines(len(scene.programs) > 1)
    when = "before the run began"

    def console(name: str, text: bytes) -> None:
        progress.clear()
        if not as_json:
            lines.write(name, text)

    with sentences():
        try:
            with Session(scene, console, progress, stop_at_interrupt=True) as session:
                when = "twice; the run was given up where it stood"
                results = session.run()
                progress.clear()
                lines.flush()
                for text in session.deaths.values():
                    typer.echo(text, err=True)
                if session.explanation:
                    typer.echo(session.explanation, err=as_json)
        except KeyboardInterrupt:
            fail(f"Interrupted {when}.", 130)
        finally:
            progress.clear()
    if as_json:
        print_json(results.as_json())
    else:
        table(results)
    return 130 if results.outcome == "interrupted" else min(results.exit_status, 255)


class _Lines:
    """Console output: as it is for one program; for several, whole lines with the program's name before each."""

    def __init__(self, named: bool) -> None:
        self._named = named
        self._waiting: dict[str, bytes] = {}

    def write(self, name: str, text: bytes) -> None:
        if not self._named:
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()
            return
        *whole, rest = (self._waiting.get(name, b"") + text).split(b"\n")
        self._waiting[name] = rest
        for line in whole:
            sys.stdout.buffer.write(f"{name}: ".encode() + line + b"\n")
        sys.stdout.buffer.flush()

    def flush(self) -> None:
        """What is left without an end of line."""
        for name, rest in self._waiting.items():
            if rest:
                sys.stdout.buffer.write(f"{name}: ".encode() + rest + b"\n")
        sys.stdout.buffer.flush()


@app.command(name="list")
def list_(as_json: AsJson = False) -> None:
    """List the programs, library OSes and policies, a line each."""
    from exokernel.libraries import application_names, library_names
    from exokernel.machine.models import DRIVES
    from exokernel.observe.report import listing
    from exokernel.policy.disk import DISK_POLICIES
    from exokernel.policy.memory import MEMORY_POLICIES
    from exokernel.policy.processor import CPU_POLICIES
    from libos.filesystems.names import summaries
    from libos.replacement import STRATEGIES
    from libos.scheduling import SCHEDULERS

    groups = {
        "programs": {one.name: one.summary for one in application_names()},
        "library OSes": {one.name: one.summary for one in library_names()},
        "thread schedulers of library OSes in Python": {name: one.summary for name, one in SCHEDULERS.items()},
        "global memory policies": {name: policy.summary for name, policy in MEMORY_POLICIES.items()},
        "global CPU policies": {name: policy.summary for name, policy in CPU_POLICIES.items()},
        "global disk policies": {name: policy.summary for name, policy in DISK_POLICIES.items()},
        "file systems": summaries(),
        "disk models": {name: drive.summary for name, drive in DRIVES.items()},
        "replacement policies for `exo replay`": {name: strategy.summary for name, strategy in STRATEGIES.items()},
    }
    if as_json:
        print_json(groups)
    else:
        listing(groups)


@app.command()
def build(
    source: Annotated[Path, typer.Argument(help="A C file: a program, or a pager if it defines pager_victim.")],
) -> None:
    """Compile a C program or a pager, and say where the image is."""
    from exokernel.build import guests

    try:
        pager = b"pager_victim" in source.read_bytes()
    except OSError as error:
        fail(f"{source} cannot be read: {error.strerror}.")
    with sentences():
        typer.echo(guests.build_pager(source) if pager else guests.build_application(source))


@app.command()
def downcalls(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option(help="The reference manual as Markdown.")] = False,
    header: Annotated[bool, typer.Option(help="The C header.")] = False,
) -> None:
    """Show the table of down-calls and up-calls."""
    from exokernel.abi.header import c_header
    from exokernel.abi.reference import as_data, as_markdown

    if as_json:
        print_json(as_data())
    elif header:
        typer.echo(c_header(), nl=False)
    elif markdown:
        typer.echo(as_markdown(), nl=False)
    else:
        from exokernel.observe.report import downcall_table

        downcall_table()


@app.command()
def replay(
    trace: Annotated[
        Path, typer.Argument(help="A file of page references, from `exo run --record-references` or plain numbers.")
    ],
    policy: Annotated[
        list[str] | None, typer.Option(help="A replacement policy; repeatable; all of them by default.")
    ] = None,
    frames: Annotated[int, typer.Option(help="How many pages may be resident.", min=1)] = 64,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Count the misses of pagers on a recorded reference trace."""
    from exokernel.observe.report import replay_table
    from libos.replacement import STRATEGIES, strategy_named
    from libos.replacement import UnknownName as UnknownStrategy
    from libos.replay import TraceError, read_trace, replay_named

    try:
        names = [strategy_named(name).name for name in policy or STRATEGIES]
        references = read_trace(trace)
        results = {name: replay_named(references, name, frames, seed) for name in names}
    except (TraceError, UnknownStrategy) as error:
        fail(error)
    if as_json:
        print_json({name: asdict(result) for name, result in results.items()})
    else:
        replay_table(results, frames)


@app.command()
def bench(as_json: AsJson = False) -> None:
    """Measure speed beside plain Unicorn and plain Python."""
    from exokernel.bench import run_all
    from exokernel.build import guests
    from exokernel.observe.report import bench_table

    with sentences():
        guests.build_native_base()
        results = run_all()
    if as_json:
        print_json(results)
    else:
        bench_table(results)


demo = typer.Typer(help="Demonstrations: what is better decided by programs.", no_args_is_help=True)
app.add_typer(demo, name="demo")
app.add_typer(fs, name="fs")
app.add_typer(disk_app, name="disk")


@demo.command()
def paging(
    seed: Seed = 1,
    picture: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("paging.png"),
    as_json: AsJson = False,
) -> None:
    """Show page replacement by programs and by the kernel."""
    from exokernel.demos import paging as demonstration
    from exokernel.observe.output import check_writable

    with sentences():
        check_writable(picture)
        demonstration.show(seed, picture, as_json)


def _list_of_numbers(option: str, text: str) -> tuple[int, ...]:
    """`2,4,8`."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        fail(f"{option} is one whole number or several with commas between, such as 2,4,8, not {text!r}.")


@demo.command()
def convoy(
    threads: Annotated[str, typer.Option(help="How many threads share the lock; a list, each is tried.")] = "2,4,8",
    cpus: Annotated[str, typer.Option(help="How many processors; a list.")] = "1,2,4",
    section: Annotated[str, typer.Option(help="Cycles in the critical section; a list.")] = "200,2000",
    quantum: Annotated[str, typer.Option(help="Cycles of a slice; a list.")] = "5000,20000",
    outside: Annotated[int, typer.Option(help="Cycles a thread computes between two sections, on average.")] = 4_000,
    sections: Annotated[int, typer.Option(help="Critical sections of all threads together.")] = 360,
    seed: Seed = 1,
    picture: Annotated[Path, typer.Option(help="Where the picture goes.")] = Path("convoy.png"),
    as_json: AsJson = False,
) -> None:
    """Show threads behind a spinlock, asked to let go or forced."""
    from exokernel.demos import convoy as demonstration
    from exokernel.observe.output import check_writable

    sweep = demonstration.Sweep(
        _list_of_numbers("--threads", threads),
        _list_of_numbers("--cpus", cpus),
        _list_of_numbers("--section", section),
        _list_of_numbers("--quantum", quantum),
        outside,
        sections,
        seed,
    )
    with sentences():
        sweep.check()
        check_writable(picture)
        demonstration.show(sweep, picture, as_json)


@demo.command()
def registers(
    seed: Seed = 1,
    quantum: Annotated[int, typer.Option(help="Cycles of a slice.", min=2_000)] = 5_000,
    as_json: AsJson = False,
) -> None:
    """Show what a switch costs whoever saves only what it needs."""
    from exokernel.demos import registers as demonstration

    with sentences():
        demonstration.show(seed, quantum, as_json)


@demo.command()
def shares(
    seed: Seed = 1,
    cpus: Annotated[str, typer.Option(help="How many processors; a list.")] = "1,2",
    as_json: AsJson = False,
) -> None:
    """Show three programs that share the time by tickets, 3:2:1."""
    from exokernel.demos import shares as demonstration

    with sentences():
        demonstration.show(seed, _list_of_numbers("--cpus", cpus), as_json)


@demo.command()
def mix(
    jobs: Annotated[int, typer.Option(help="How many jobs there are.")] = 35,
    depth: Annotated[str, typer.Option(help="How many run at a time, one or more numbers.")] = "1,2,5,10,20",
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Run a mix of jobs, so many at a time, two ways."""
    from exokernel.demos import mix as demonstration

    with sentences():
        raise SystemExit(demonstration.show(jobs, _list_of_numbers("--depth", depth), seed, as_json))


@demo.command()
def database(
    transactions: Annotated[int, typer.Option(help="How many transactions are measured.", min=10)] = 150,
    cuts: Annotated[int, typer.Option(help="How many power cuts each way goes through on each disk.", min=0)] = 6,
    disk_model: Annotated[
        list[str] | None, typer.Option(help="What kind of disk; repeatable; all of them by default; see `exo list`.")
    ] = None,
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Show a database on sectors of its own and over ext3."""
    from exokernel.demos import database as demonstration
    from exokernel.machine.models import DRIVES

    with sentences():
        raise SystemExit(demonstration.show(transactions, cuts, disk_model or list(DRIVES), seed, as_json))


def main() -> None:
    """The entry of the command `exo`."""
    try:
        app()
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EIO):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno == errno.EPIPE:
            raise SystemExit(141) from None
        fail(f"The output cannot be written: {error.strerror}.")


__all__ = ["app", "main"]
