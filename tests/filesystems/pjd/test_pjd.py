"""Every claim of the table holds on every file system; the numbers of claims and assertions are printed group by group."""

import pytest

from tests.filesystems.pjd.script import Case, Script, cases
from tests.filesystems.pjd.tables import TABLES
from tests.filesystems.stages import InMemory, OnDisk, Session, Stage

STAGES: list[Stage] = [
    InMemory(),
    OnDisk(size=8 << 20, block_size=4096, inodes=2048),
    OnDisk(size=8 << 20, block_size=1024, inode_size=128, inodes=2048),
]


async def play(session: Session, chosen: list[Case]) -> tuple[int, list[str]]:
    """Play cases one after the other; gives the assertions that held and what did not."""
    passed, failures = 0, []
    for number, case in enumerate(chosen):
        script = Script(session, b"/case-%d" % number)
        try:
            await script.play(case)
        except AssertionError as failure:
            failures.append(f"{case.claim}: {failure}")
        passed += script.assertions
    return passed, failures


@pytest.mark.parametrize("stage", STAGES, ids=str)
@pytest.mark.parametrize("group", TABLES)
def test_the_rules_of_posix_hold(group: str, stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = list(cases(TABLES[group]))
    passed, failures = stage.run(lambda session: play(session, chosen))
    with capsys.disabled():
        print(f"\n{group} on {stage}: {len(chosen) - len(failures)} of {len(chosen)} cases, {passed} assertions", end="")
    assert not failures, "\n".join(failures)
    assert passed >= len(chosen)


def test_the_table_can_fail() -> None:
    wrong = [Case("a directory is a file", ("mkdir d", "stat d kind = FILE")), Case("rmdir removes", ("rmdir d",))]
    _, failures = InMemory().run(lambda session: play(session, wrong))
    assert len(failures) == 2
    assert "DIRECTORY" in failures[0]
    assert "ENOENT" in failures[1]
