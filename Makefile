# SPDX-License-Identifier: LGPL-2.1-or-later
# What a newcomer and CI run. Everything needed is installed or built by these targets:
# Python packages in .venv, system packages through apt, kernels and guests in the cache
# (vm/README.md says where).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
KERNELS ?= 7.2 6.1 5.10 6.12
# Those whose guests have a vmlinux (600 MB); the others take types from their own BTF.
DWARF ?= 6.1
GUESTS := $(KERNELS:%=test-guest-%)

# Compiling every module in every process would take longer than some tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: all demo test test-unit test-recorded test-guest test-vm faults lint docs fuzz bench clean

all: test lint

PIP := $(BIN)/pip install --quiet --disable-pip-version-check
SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)

# What it takes to use it; Debian has venv in a package of its own.
$(VENV)/.usable: pyproject.toml
	@$(PYTHON) -m venv $(VENV) || \
	  { $(SUDO) apt-get -o DPkg::Lock::Timeout=600 install --yes python3-venv && $(PYTHON) -m venv --clear $(VENV); } || \
	  { echo "cannot make a virtual environment: apt install python3-venv" >&2; exit 2; }
	$(PIP) --editable .
	@touch $@

# What it takes to test it.
$(VENV)/.installed: $(VENV)/.usable
	$(PIP) --editable '.[dev]'
	@touch $@

# What it takes to build the manual.
$(VENV)/.docs: $(VENV)/.usable
	$(PIP) --editable '.[docs]'
	@touch $@

# A tour, on a core that comes with the package: no root, no kernel, no network but for pip.
demo: $(VENV)/.usable
	@$(BIN)/drgn-sockets demo

# Two at a time, the longest first: it is two processors that guests are slow on.
test: $(VENV)/.installed
	@$(MAKE) --no-print-directory -j2 --output-sync=target \
	  test-recorded $(GUESTS) test-vm test-unit

# Pure Python: seconds.
test-unit: $(VENV)/.installed
	$(BIN)/python -m pytest -q tests/unit

# Cores of real guests, made once and cached, against what the guest said of itself.
test-recorded: $(VENV)/.installed
	$(BIN)/python -m pytest -q tests/recorded

# Inside real guests, on their live kernel. Tests of us rather than of a kernel, marked
# "ours", are for one of them (tests/guest/conftest.py).
test-guest: $(GUESTS)

$(GUESTS): test-guest-%: $(VENV)/.installed
	$(BIN)/python -m vm test --kernel $* $(if $(filter $*,$(DWARF)),,--no-debug-info) \
	  --workload standard -q tests/guest

# Guests from outside: over QMP, and how they end.
test-vm: $(VENV)/.installed
	$(BIN)/python -m pytest -q tests/vm

# Does a test notice if a line is wrong? Some 50 lines, each broken in a copy of the tree
# (tests/faults/README.md): 7 minutes.
faults: $(VENV)/.installed
	$(BIN)/python -m tests.faults

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy drgn_sockets vm tests contrib docs

# The manual, as docs/_build/html/index.html; a warning is an error.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -E -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# Damaged BTF, 120,000 times: some minutes. SEED=N for others than last time.
SEED ?= 1
fuzz: $(VENV)/.installed
	$(BIN)/python -m tests.fuzz --seed $(SEED)

bench: $(VENV)/.installed
	$(BIN)/python -m vm.bench

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache docs/_build docs/commands
