# Everything runs from a checkout with Python 3.11 or later and make; the first target to need it makes .venv.
#
#   make test              the tests, with the examples in the docstrings and the README
#   make demo              one model, the diagnostics and their figures, into runs/demo
#   make PYTHON=python3.12 .venv/stamp      another interpreter
#   make test WORKERS=8 PYTEST_FLAGS='-k nuts -x'
#   make tutorials SMOKE=1 the tutorials at tiny size

PYTHON ?= $(shell command -v python3.11 || command -v python3)
WORKERS ?= 2
PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt

SOURCES := $(wildcard src tests models tutorials benchmarks tools conftest.py)
EXAMPLES := src docs $(wildcard README.md)
TUTORIALS := $(sort $(wildcard tutorials/0*.py))
BENCHMARKS := $(filter-out benchmarks/demo.py,$(sort $(wildcard benchmarks/*.py)))

# Data that some tests and benchmarks use where it is to be had; they skip, saying so, where it is not.
ifneq ($(wildcard ../shared/posteriordb/posterior_database),)
export POSTERIORDB ?= $(abspath ../shared/posteriordb/posterior_database)
endif
ifneq ($(wildcard ../shared/data),)
export PHLOGISTON_DATA ?= $(abspath ../shared/data)
endif

.PHONY: demo test slow lint format types tutorials bench readme constructs clean
.DEFAULT_GOAL := test

# The stamp is newer than both files once everything in them is installed.
.venv/stamp: pyproject.toml constraints.txt
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[dev,models]'
	touch $@

.venv/bench-stamp: .venv/stamp
	$(PIP) --editable '.[bench]'
	touch $@

demo: .venv/stamp
	$(PY) benchmarks/demo.py --out runs/demo

# conftest.py keeps each worker to one thread, so that WORKERS is the number of busy cores.
test: .venv/stamp
	$(PY) -m pytest -n $(WORKERS) --dist loadgroup --doctest-modules --doctest-glob='*.md' \
		tests $(EXAMPLES) $(PYTEST_FLAGS)

slow: .venv/stamp
	$(PY) -m pytest -n $(WORKERS) --dist worksteal -m slow tests $(PYTEST_FLAGS)

lint: .venv/stamp
	$(PY) -m ruff check $(SOURCES)
	$(PY) -m ruff format --check $(SOURCES)

format: .venv/stamp
	$(PY) -m ruff check --fix $(SOURCES)
	$(PY) -m ruff format $(SOURCES)

types: .venv/stamp
	$(PY) -m mypy

tutorials: .venv/stamp
	@set -e; for tutorial in $(TUTORIALS); do \
		echo "== $$tutorial"; MPLBACKEND=Agg $(PY) $$tutorial; \
	done

# Speeds are measured in one process on an otherwise idle machine (pytest's 5: no test is marked bench).
bench: .venv/bench-stamp
	@set -e; for benchmark in $(BENCHMARKS); do echo "== $$benchmark"; $(PY) $$benchmark; done
	$(PY) -m pytest -m bench tests $(PYTEST_FLAGS) || test $$? -eq 5

readme: .venv/stamp
	$(PY) tools/readme.py

constructs: .venv/stamp
	$(PY) tools/constructs.py

clean:
	rm -rf runs build dist .cache .mypy_cache .pytest_cache .ruff_cache
	find src tests models tutorials benchmarks tools -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
