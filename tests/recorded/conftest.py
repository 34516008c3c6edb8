# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Recorded machines: a core, and what procfs, ss, lsof, lsfd and the workloads said of the
same moment. What is expected always comes from these, never from our own output.

Which kernels and formats a question is asked on is decided here, in :data:`COVER`. The option
``--kernel`` runs the part of the tests that needs the recordings of some kernels only.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests import tables
from vm import dump
from vm.arch import AMD64
from vm.errors import VmError
from vm.kernels import SERIES

from .machine import FILES, Core
from .patient import Patient

# A shell has what runs in the background ignore SIGINT, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

#: Kernels with types from DWARF and from BTF. DWARF is a download of 300 MB.
BOTH = ("5.10", "6.1")
#: Each kernel that vm knows, and where its types come from in most tests; test_btf.py shows that it
#: is all the same.
KERNELS = {s.name: "dwarf" if s.name == "6.1" else "btf" for s in SERIES if s.architecture is AMD64}
#: Kernels of machines of another architecture, likewise. They are asked only where ``--kernel``
#: names them: what may differ there is pages, page tables, and numbers of the architecture.
FOREIGN = {s.name: "btf" for s in SERIES if s.architecture is not AMD64}
ALL = {**KERNELS, **FOREIGN}
FORMATS = tuple(FILES)
#: What is ours, and the same on all kernels, is asked on this one; ``make test`` records it alone.
ONE = "6.12"

#: By fixture, the cores that a question is asked on. A question is asked on the kernel and format
#: that can answer it differently:
COVER: dict[str, list[str]] = {
    # What depends on the kernel's structures, on each kernel; two of these cores are in other
    # formats, and test_agree.py shows that formats differ in nothing.
    "core": [
        f"{kernel}-{ {'5.10': 'distilled', '7.2': 'kdump'}.get(kernel, 'elf') }" for kernel in ALL
    ],
    # The same, for what wants more than a distilled core has, or reads one core in all its pieces.
    "elf": [f"{kernel}-elf" for kernel in ALL],
    # Formats: one core in ELF and in another format. test_distill.py has the distilled ones of
    # other kernels.
    "both": [f"{kernel}-{format_}" for kernel in (ONE, *FOREIGN) for format_ in FORMATS[1:]],
    # Sources of types: the same core with types from DWARF and from BTF. pahole of 5.10 is an old
    # one.
    "twins": [f"{kernel}-elf" for kernel in BOTH],
    # What damage does: our readers and walks bear it, whichever kernel it is.
    "sample": [f"{ONE}-elf"],
}
#: Kernels that a fixture needs which is not in COVER.
NEEDS = {"one": (ONE,), "old": ("5.10",), "strangers": BOTH}

_recorded: dict[str, dump.Recorded | str] = {}
_cores: dict[tuple[str, str, str], Core] = {}
#: Kernels whose recordings the running test may use.
_allowed: frozenset[str] = frozenset(ALL)


def recorded(kernel: str) -> dump.Recorded:
    """The recording of *kernel*, made if the cache has none."""
    assert kernel in _allowed, f"say that this test needs {kernel}: pytest.mark.kernels({kernel!r})"
    if kernel not in _recorded:
        try:
            _recorded[kernel] = dump.cached(
                kernel=kernel, workloads="standard", formats=("elf", "kdump")
            )
        except VmError as e:
            _recorded[kernel] = str(e)
    found = _recorded[kernel]
    if isinstance(found, str):
        text = f"NOTHING IS TESTED on {kernel}: no recorded machine, and none can be made: {found}"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    return found


def opened(kernel: str, format_: str, types: str | None = None) -> Core:
    """The core of *kernel* in *format_*, opened once for all tests."""
    key = (kernel, format_, types or ALL[kernel])
    if key not in _cores:
        _cores[key] = Core(recorded(kernel), *key[1:])
    return _cores[key]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options that choose kernels."""
    group = parser.getgroup("recorded machines")
    group.addoption(
        "--kernel",
        metavar="K[-FORMAT],...",
        help="only tests that need no other recordings than those of these kernels "
        f"({', '.join(ALL)}); with a format ({', '.join(FORMATS)}), on that one",
    )
    group.addoption(
        "--not-kernel",
        metavar="K,...",
        help="only those that --kernel would leave out",
    )


def parted(core: str) -> tuple[str, str]:
    """
    Part the name of a core into kernel and format.

    >>> parted("arm64-6.12-kdump")
    ('arm64-6.12', 'kdump')
    """
    kernel, _, format_ = core.rpartition("-")
    return kernel, format_


def _chosen(config: pytest.Config, option: str) -> dict[str, str | None] | None:
    """Kernels of an option, each with a format if it has one."""
    text = config.getoption(option)
    if text is None:
        return None
    found = {}
    for word in text.split(","):
        kernel, format_ = (word, None) if word in ALL else parted(word)
        if kernel not in ALL or (format_ is not None and format_ not in FORMATS):
            raise pytest.UsageError(
                f"{option} {word}: known are {', '.join(ALL)}; formats {', '.join(FORMATS)}"
            )
        found[kernel] = format_
    return found


def pytest_configure(config: pytest.Config) -> None:
    """Markers; and whether the options are good."""
    config.addinivalue_line(
        "markers", "kernels(*names): recordings that a test needs, whatever its fixtures"
    )
    for option in ("--kernel", "--not-kernel"):
        _chosen(config, option)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Ask on the cores that :data:`COVER` has."""
    formats = _chosen(metafunc.config, "--kernel") or {}
    for name, cores in COVER.items():
        if name not in metafunc.fixturenames:
            continue
        if name in ("core", "elf"):
            # A distilled core has less.
            instead = {k: f for k, f in formats.items() if name == "core" or f != "distilled"}
            cores = [
                f"{kernel}-{instead.get(kernel) or format_}"
                for kernel, format_ in map(parted, cores)
            ]
        metafunc.parametrize(name, cores, indirect=True, scope="session")


def kernels_of(item: pytest.Item) -> frozenset[str]:
    """Kernels whose recordings a test needs; of one that needs none :data:`ONE`."""
    found = {kernel for mark in item.iter_markers("kernels") for kernel in mark.args}
    for name, kernels in NEEDS.items():
        if name in getattr(item, "fixturenames", ()):
            found.update(kernels)
    callspec = getattr(item, "callspec", None)
    for name, value in callspec.params.items() if callspec is not None else ():
        if name in COVER or name == "kernel":
            found.add(value if value in ALL else parted(value)[0])
    return frozenset(found or {ONE})


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose tests by the kernels that they need."""
    wanted, unwanted = (_chosen(config, option) for option in ("--kernel", "--not-kernel"))
    kept: list[pytest.Item] = []
    left_out: list[pytest.Item] = []
    for item in items:
        kernels = kernels_of(item)
        is_in = kernels <= (KERNELS if wanted is None else wanted).keys()
        is_out = unwanted is not None and kernels <= unwanted.keys()
        (kept if is_in and not is_out else left_out).append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = kept


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hold a test to the kernels by which it is chosen."""
    global _allowed
    _allowed = kernels_of(item)


@pytest.fixture(params=list(ALL))
def kernel(request: pytest.FixtureRequest) -> str:
    """Name of each kernel."""
    return str(request.param)


@pytest.fixture(scope="session")
def core(request: pytest.FixtureRequest) -> Core:
    """A core of each kernel."""
    return opened(*parted(request.param))


@pytest.fixture(scope="session")
def elf(request: pytest.FixtureRequest) -> Core:
    """A core of each kernel, with all of its memory."""
    return opened(*parted(request.param))


@pytest.fixture(scope="session")
def both(request: pytest.FixtureRequest) -> tuple[Core, Core]:
    """A core in ELF and in another format."""
    kernel, format_ = parted(request.param)
    return opened(kernel, "elf"), opened(kernel, format_)


@pytest.fixture(scope="session")
def twins(request: pytest.FixtureRequest) -> tuple[Core, Core]:
    """The same core with types from DWARF and from BTF."""
    kernel, format_ = parted(request.param)
    return opened(kernel, format_, "dwarf"), opened(kernel, format_, "btf")


@pytest.fixture(scope="session")
def sample(request: pytest.FixtureRequest) -> Core:
    """A core to be damaged."""
    return opened(*parted(request.param))


@pytest.fixture(scope="session")
def patient(sample: Core, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Patient]:
    """A copy of it that can be damaged, and is sound again after each test."""
    made = Patient(sample, tmp_path_factory.mktemp(f"patient-{sample.kernel}"))
    yield made
    # A gigabyte: pytest keeps directories of three runs.
    made.path.unlink()


@pytest.fixture(scope="session")
def one() -> Core:
    """A core, for what is ours: the same on all kernels."""
    return opened(ONE, "elf")


@pytest.fixture(scope="session")
def old() -> Core:
    """A core that does not tell where its kernel's kallsyms is."""
    return opened("5.10", "elf", "btf")


@pytest.fixture(scope="session")
def strangers() -> Iterator[tuple[Core, Core]]:
    """Cores of two kernels that have a vmlinux."""
    one, other = BOTH
    yield opened(one, "elf"), opened(other, "elf")


def pytest_sessionfinish(exitstatus: int) -> None:
    """Leave what was compared for the docs."""
    if exitstatus == pytest.ExitCode.OK:
        tables.save()
