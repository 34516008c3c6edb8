# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Tests of the running kernel. They make sockets, change sysctls, and read all of memory, so
they run in a guest only: ``make test-guest``, or ``python -m vm test … tests/guest``.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drgn import Program

from drgn_sockets.target import add_target_arguments, open_target

from . import truth

ACCOUNTS = Path("/run/drgn-sockets/workloads")
#: A guest is slow. What needs a live kernel, but whichever it is, is marked ``ours``, and asked on
#: this one, or those that the mark names; what needs none is in tests/recorded.
OURS = "6.12"
_WHY = "NOTHING IS TESTED: these tests are for a guest; make test-guest runs them in one"


def pytest_configure(config: pytest.Config) -> None:
    if "DRGN_SOCKETS_VM" not in os.environ and os.environ.get("CI"):
        raise pytest.UsageError(_WHY)
    config.addinivalue_line(
        "markers", f"ours(*kernels): of us, not of a kernel; on these only, {OURS} if none is named"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    kernel = os.environ.get("DRGN_SOCKETS_VM")
    here = Path(__file__).parent
    for item in items:
        if here not in item.path.parents:
            continue
        if kernel is None:
            item.add_marker(pytest.mark.skip(reason=_WHY))
        elif kernel != "custom" and (mark := item.get_closest_marker("ours")):
            where = mark.args or (OURS,)
            if kernel not in where:
                reason = f"of us: asked on {' and '.join(where)}"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def prog() -> Program:
    """The running kernel."""
    parser = argparse.ArgumentParser()
    add_target_arguments(parser)
    opened = open_target(parser.parse_args([]))
    # As cli.main() does: there is much that is no garbage, and forks would copy it.
    gc.collect()
    gc.freeze()
    return opened


@pytest.fixture(scope="session")
def accounts() -> dict[str, Any]:
    """What the workloads say of themselves, by name."""
    found = {p.stem: json.loads(p.read_text()) for p in sorted(ACCOUNTS.glob("*.json"))}
    assert found, "no workload runs: start the guest with --workload standard"
    return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[truth.Scene]:
    """A process with one of each, which says what it has."""
    with truth.scene(tmp_path_factory.mktemp("scene")) as made:
        yield made


@pytest.fixture
def kptr_restrict() -> Iterator[Path]:
    """The sysctl, put back afterwards."""
    path = Path("/proc/sys/kernel/kptr_restrict")
    before = path.read_text()
    yield path
    path.write_text(before)
