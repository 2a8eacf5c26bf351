# Two commands do everything: `make run` shows the demonstration, `make test` checks the project.
# Both set up a local .venv with the package, its C extension and what the tests need.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.setup
export EXOKERNEL_CACHE ?= $(CURDIR)/.cache

.PHONY: run test test-long lint bench clean setup

run: setup
	$(BIN)/exo demo paging

test: setup lint
	EXO_TEST_PROFILE=default $(BIN)/pytest -n 2 --dist loadfile

test-long: setup lint
	EXO_TEST_PROFILE=long $(BIN)/pytest -n 2 --dist loadfile -m "slow or not slow"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/exo bench

setup: $(SETUP)

$(SETUP): pyproject.toml $(wildcard exokernel/machine/*.c exokernel/machine/*.h)
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $(SETUP)

clean:
	rm -rf $(VENV) .cache build *.egg-info exokernel/machine/*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis
