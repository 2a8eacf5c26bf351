"""How long a search goes on: bounded in `make test`, further in `make test-long` (EXO_TEST_PROFILE=long)."""

import os
from collections.abc import Callable
from typing import Any

import pytest

LONG = os.environ.get("EXO_TEST_PROFILE") == "long"


def only_long(test: Callable[..., Any]) -> Callable[..., Any]:
    """A test for `make test-long` alone, that may take two hours."""
    skipped = pytest.mark.skipif(not LONG, reason="part of make test-long")(test)
    return pytest.mark.slow(pytest.mark.timeout(7200)(skipped))  # type: ignore[no-any-return]
