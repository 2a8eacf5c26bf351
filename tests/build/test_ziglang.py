"""The compiler that comes from PyPI makes every guest when the computer has no other."""

import importlib.util
from pathlib import Path

import pytest

from exokernel.build import (
    BuildError,
    applications,
    build_application,
    build_everything,
    find_compiler,
    native_parts,
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="the package ziglang is not installed"),
]


@pytest.fixture(autouse=True)
def no_other_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "no programs here"))
    monkeypatch.delenv("CC", raising=False)


def test_ziglang_is_found_when_there_is_no_other_compiler() -> None:
    assert "ziglang" in find_compiler().compile


def test_ziglang_builds_everything_that_comes_with_the_package() -> None:
    images = build_everything().values()
    assert len({image.read_bytes() for image in images}) == len(applications()) + len(native_parts()) + 2


def test_ziglang_makes_the_same_bytes_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_application(source).read_bytes()
    monkeypatch.setenv("EXOKERNEL_CACHE", str(tmp_path / "another store"))
    assert build_application(source).read_bytes() == first


def test_a_function_nobody_has_is_named_with_ziglang_too(source: Path) -> None:
    source.write_text("void launch(void);\nint main(void) { launch(); return 0; }\n")
    with pytest.raises(BuildError, match=r"^mine\.c uses launch, not declared in libos\.h"):
        build_application(source)
