# SPDX-License-Identifier: LGPL-2.1-or-later
# What a newcomer and CI run. Everything needed is installed or built by these targets:
# Python packages in .venv, system packages through apt, kernels and guests in the cache
# (vm/README.md says where).

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The kernel of "make test", and those that "make test-all" adds: all others that vm/kernels.py
# lists, whose guest takes longest first. Which test is asked on which kernel: tests/README.md.
KERNEL ?= 6.12
OTHERS ?= $(filter-out $(KERNEL),$(shell $(PYTHON) -m vm.kernels))
# Those whose guests have a vmlinux (600 MB); the others take types from their own BTF.
DWARF ?= 6.1
# What "make fuzz" and "make torture" try follows from it.
SEED ?= 1
GUESTS := $(KERNEL:%=test-guest-%) $(OTHERS:%=test-guest-%)

# Compiling every module in every process would take longer than some tests.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: all demo test test-all test-wide test-unit test-recorded test-recorded-one \
  test-recorded-others test-guest $(GUESTS) test-vm torture \
  torture-one torture-others faults lint docs docs-parity fuzz bench clean

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

# What a newcomer runs: one kernel, live and recorded. Some minutes on two processors, and a
# quarter of an hour where nothing is fetched and made yet. Two pieces at a time, the longest
# first: guests are slow, and take a processor each.
PIECES := +@$(MAKE) --no-print-directory -j2 --output-sync=target

test: $(VENV)/.installed
	$(PIECES) test-guest-$(KERNEL) test-recorded-one test-unit torture-one

# What CI runs besides: all other kernels, formats and guests. No test is in both.
test-all: $(VENV)/.installed
	$(PIECES) $(OTHERS:%=test-guest-%) test-recorded-others test-vm torture-others

# What does not fit into an hour; it writes docs/wide.md. PARTS="fuzz" runs one of its parts.
test-wide: $(VENV)/.installed
	$(BIN)/python -m tests.wide $(PARTS)

# Without a kernel.
test-unit: $(VENV)/.installed
	$(BIN)/python -m pytest -q tests/unit

# Cores of real guests, made once and cached, against what the guest said of itself. Of these,
# some kernels, formats, files or tests, within seconds:
#   make test-recorded K=6.12 T=tests/recorded/test_fds.py
#   make test-recorded K=6.12-kdump T="tests/recorded/test_ss.py -k queues"
T ?= tests/recorded
test-recorded: $(VENV)/.installed
	@$(BIN)/python -m pytest -q $(if $(K),--kernel $(K)) $(T)

test-recorded-one: $(VENV)/.installed
	$(BIN)/python -m pytest -q --kernel $(KERNEL) tests/recorded

test-recorded-others: $(VENV)/.installed
	$(BIN)/python -m pytest -q --not-kernel $(KERNEL) tests/recorded

# Inside real guests, on their live kernel.
test-guest: $(GUESTS)

$(GUESTS): test-guest-%: $(VENV)/.installed
	$(BIN)/python -m vm test --kernel $* $(if $(filter $*,$(DWARF)),,--no-debug-info) \
	  --workload standard -q tests/guest

# Guests from outside: over QMP, and how they end.
test-vm: $(VENV)/.installed
	$(BIN)/python -m pytest -q tests/vm

# Commands on damaged memory and damaged files (tests/torture/README.md): N pairs of a fault and
# a command, which follow from SEED.
N ?= 1000
torture: $(VENV)/.installed
	$(BIN)/python -m tests.torture --seed $(SEED) -n $(N)

torture-one: $(VENV)/.installed
	$(BIN)/python -m tests.torture --quick --seed one -n 200

torture-others: $(VENV)/.installed
	$(BIN)/python -m tests.torture --seed others -n 1000

# Does a test notice if a line is wrong? Some 50 lines, each broken in a copy of the tree
# (tests/faults/README.md): 2 minutes.
faults: $(VENV)/.installed
	$(BIN)/python -m tests.faults

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy drgn_sockets vm tests contrib docs
	$(BIN)/lint-imports --no-cache

# The manual, as docs/_build/html/index.html; a warning is an error.
docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -E -q -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# What the last test runs compared, as docs/parity.md.
docs-parity: $(VENV)/.installed
	$(BIN)/python -m tests.tables

# Damaged BTF, 120,000 times: some minutes. SEED=N for others than last time.
fuzz: $(VENV)/.installed
	$(BIN)/python -m tests.fuzz --seed $(SEED)

bench: $(VENV)/.installed
	$(BIN)/python -m vm.bench

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache docs/_build docs/commands
