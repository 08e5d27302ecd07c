# make demo    the main job on real photos              make lint        ruff, check and format
# make test    all tests; ARGS="-k ring -x" to choose,  make type        mypy --strict
#              JOBS=0 in one process, as pdb needs it
# make all     test, lint, type and demo                make bench-core  the measures, against torch's DataLoader
# make test-frameworks   the tests beside PyTorch: installs it, in an environment of its own
# make clean   remove what is made here; the virtual environments stay (rm -r .venv*)
#
# Each verb first makes its virtual environment and installs what it needs, where that was not done yet or
# pyproject.toml has changed. PYTHON=python3.13 uses an environment of its own.

DEFAULT_PYTHON := $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
PYTHON ?= $(DEFAULT_PYTHON)
SUFFIX := $(if $(filter $(DEFAULT_PYTHON),$(PYTHON)),,-$(subst /,-,$(PYTHON:/%=%)))
VENV := .venv$(SUFFIX)
BENCH := .venv-bench$(SUFFIX)
FRAMEWORKS := .venv-frameworks$(SUFFIX)
ARGS ?=
JOBS ?= 2

.NOTPARALLEL: # two verbs must not install into one environment at a time
.PHONY: all demo test test-frameworks lint type bench-core clean

all: test lint type demo

demo: $(VENV)/.installed-demo
	$(VENV)/bin/python examples/photos.py $(ARGS)

test: $(VENV)/.installed-test
	@$(VENV)/bin/python -m compileall -q mploader tests  # workers import them; the environment may forbid Python to keep that
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal $(ARGS)

test-frameworks: $(FRAMEWORKS)/.installed-frameworks
	$(FRAMEWORKS)/bin/python -m pytest tests/frameworks tests/fidelity $(ARGS)

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

type: $(VENV)/.installed-test $(VENV)/.installed-dev
	$(VENV)/bin/mypy

bench-core: $(BENCH)/.installed-bench
	$(BENCH)/bin/python benchmarks/core.py $(ARGS)

clean:
	rm -rf build dist *.egg-info .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find mploader tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} +

# An environment that somebody else made is used as it is: no stamp in it means only that something may be missing.
# One that lost its interpreter is made anew, and then its stamps say nothing any more.
again = $(shell test -x $(1)/bin/python || echo FORCE)
STAMPS := $(addprefix $(VENV)/.installed-,demo test dev) $(BENCH)/.installed-bench $(FRAMEWORKS)/.installed-frameworks
$(STAMPS): pyproject.toml
	@echo "installing mploader[$(patsubst .installed-%,%,$(@F))] into $(@D)"
	@$(@D)/bin/python -m pip --version >/dev/null 2>&1 || $(@D)/bin/python -m ensurepip --default-pip
	@$(@D)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[$(patsubst .installed-%,%,$(@F))]'
	@touch $@

$(filter $(VENV)/%,$(STAMPS)): $(call again,$(VENV)) | $(VENV)/bin/python
$(filter $(BENCH)/%,$(STAMPS)): $(call again,$(BENCH)) | $(BENCH)/bin/python
$(filter $(FRAMEWORKS)/%,$(STAMPS)): $(call again,$(FRAMEWORKS)) | $(FRAMEWORKS)/bin/python

FORCE:

$(VENV)/bin/python $(BENCH)/bin/python $(FRAMEWORKS)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mploader needs Python 3.11, this is " + sys.version)'
	@$(PYTHON) -m venv --clear $(@D:/bin=) || { rm -rf $(@D:/bin=); exit 1; }
