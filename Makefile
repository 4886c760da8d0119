# Every target works from a fresh clone with Python >= 3.11, its venv module and make.
# Variables: PYTHON (the interpreter), PYTEST_ARGS (two processes by default),
# BENCH_ARGS, SPHINX_ARGS.

PYTHON ?= python3
PYTEST_ARGS ?= --numprocesses 2

VENV := .venv
BIN := $(VENV)/bin
PINS := .ci/constraints.txt
LOWER := .venv-lower-bounds
LOWER_PINS ?= .ci/lower-bounds.txt
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint $(PINS) --build-constraint $(PINS)

# one thread: small networks are slower, and less repeatable, with more
export OMP_NUM_THREADS := 1

PYTEST = SCIPY_ARRAY_API=1 $(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: all bench check clean demo docs doctest league test test-lower-bounds \
	test-slow
.DELETE_ON_ERROR:

all: check test test-slow docs demo

demo: $(VENV)/demo.stamp
	MPLBACKEND=Agg $(BIN)/python examples/plot_first_fit.py

# BENCH_ARGS=--quick for a look, BENCH_ARGS='--section memory' for a part
bench: $(VENV)/bench.stamp
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

# takes about an hour on two cores; BENCH_ARGS=--quick for a look,
# BENCH_ARGS='--models default' to repeat a part
league: $(VENV)/league.stamp
	$(BIN)/python -m benchmarks.league $(BENCH_ARGS)

test: $(VENV)/test.stamp
	$(PYTEST)

# part of 'make test', too
doctest: $(VENV)/test.stamp
	$(PYTEST) sklpos

# The oldest versions that pyproject.toml allows, in an environment of their own.
# PyPI's torch for Linux brings CUDA (6 GB): LOWER_PINS=... for another list.
test-lower-bounds: $(LOWER)/test.stamp
	SCIPY_ARRAY_API=1 $(LOWER)/bin/python -m pytest $(PYTEST_ARGS)

# pytest ends with 5 where it finds no test
test-slow: $(VENV)/slow.stamp
	@$(PYTEST) -m slow --collect-only --quiet > $(VENV)/slow.txt; found=$$?; \
	if [ $$found -eq 5 ]; then echo "there are no slow tests"; \
	elif [ $$found -ne 0 ]; then cat $(VENV)/slow.txt; exit $$found; \
	else $(PYTEST) -m slow; fi

# runs the examples that have changed since the last time; a warning is an error
docs: $(VENV)/docs.stamp
	$(BIN)/python -m sphinx -W --keep-going $(SPHINX_ARGS) docs docs/_build/html

check: $(VENV)/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) $(LOWER) build dist .pytest_cache .ruff_cache
	rm -rf docs/_build docs/auto_examples docs/reference/generated
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made anew when the pins change, and completed when
# pyproject.toml does; a stamp is written only after its installation succeeded.

$(VENV)/base.stamp: $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade \
		--constraint $(PINS) pip
	@touch $@

$(VENV)/bench.stamp: $(VENV)/base.stamp pyproject.toml
	$(INSTALL) --editable . --group bench
	@touch $@

$(VENV)/league.stamp: $(VENV)/base.stamp pyproject.toml
	$(INSTALL) --editable . --group league
	@touch $@

$(VENV)/demo.stamp: $(VENV)/base.stamp pyproject.toml
	$(INSTALL) --editable ".[examples]"
	@touch $@

$(VENV)/docs.stamp: $(VENV)/base.stamp pyproject.toml
	$(INSTALL) --editable ".[examples]" --group docs
	@touch $@

$(VENV)/test.stamp: $(VENV)/base.stamp pyproject.toml
	$(INSTALL) --editable ".[examples,onnx]" \
		--group test --group deploy --group typing --group packaging
	@touch $@

$(VENV)/slow.stamp: $(VENV)/test.stamp
	$(INSTALL) --group distributed --group ecosystem --group bench --group league
	@touch $@

$(LOWER)/test.stamp: $(LOWER_PINS) pyproject.toml
	$(PYTHON) -m venv --clear $(LOWER)
	$(LOWER)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(LOWER)/bin/python -m pip install --quiet --constraint $(LOWER_PINS) \
		--editable ".[examples]" --group test
	@touch $@

$(VENV)/lint.stamp: $(VENV)/base.stamp pyproject.toml
	$(INSTALL) --group lint
	@touch $@
