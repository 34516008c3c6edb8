# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The Pythons of other Debian releases, each in a root of its own, with the packages of a choice.

    python -m vm.pythons 3.14 -m drgn_sockets demo check
    python -m vm.pythons --oldest 3.9 -m pytest -q tests/unit
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vm import apt, cache, host
from vm.errors import VmError
from vm.project import ROOT, dependencies, installed
from vm.rootfs import pip

#: The Debian release of each Python.
RELEASES = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie", "3.14": "sid"}

#: What tests need beside the dependencies of the package.
TESTING = ("hypothesis>=6", "pytest>=7")
# What these need before Python 3.11: pip asks the Python that it runs on whether it is needed.
_BACKPORTS = ("exceptiongroup", "tomli", "typing-extensions")

# Package lists of a release may be this old, s.
_MAX_AGE = 7 * 24 * 3600

# The shell and its tools, for tests that start some; /etc/services; wheels of drgn need libstdc++.
_TOOLS = ("dash", "coreutils", "libstdc++6", "netbase")
# Dependencies that only installing needs, and that are large.
_LEFT_OUT = re.compile(r"(debconf|dpkg|libdb5\S*|perl\S*|tzdata)=")

# $1 is the root, $2 the packages and where they belong, $4 the tree; the rest is the command. The
# mounts end with it.
_ENTER = """
root=$1 site=$2 at=$3 tree=$4
shift 4
mount --bind "$root" "$root" && mount --rbind /dev "$root/dev" && mount -t proc proc "$root/proc" &&
  mount -t tmpfs tmpfs "$root/tmp" && mount --bind "$site" "$root/$at" &&
  mount --bind "$tree" "$root/src" && exec chroot "$root" /usr/bin/env -i \
  PATH=/usr/bin:/bin HOME=/tmp LANG=C.UTF-8 /bin/sh -c 'cd /src && exec "$@"' sh "$@"
"""


def _site(python: str) -> str:
    return f"usr/local/lib/python{python}/dist-packages"


def root(python: str) -> Path:
    """
    Get a root with a Python, made when first asked for.

    :param python: one of :data:`RELEASES`
    """
    release = RELEASES[python]
    inputs = repr((release, python, _TOOLS, _LEFT_OUT.pattern, _site(python)))
    digest = hashlib.sha256(inputs.encode()).hexdigest()[:12]
    where = cache.root() / "pythons" / f"{python}-{digest}"

    def make(part: Path) -> None:
        source = apt.Apt(release)
        source.update(_MAX_AGE)
        wanted = dict.fromkeys(
            package
            for name in (f"python{python}", *_TOOLS)
            for package in source.closure(name)
            if not _LEFT_OUT.match(package)
        )
        source.unpack(list(wanted), part)
        # Releases from bookworm on have these links from a package's script.
        for name in ("bin", "sbin", "lib", "lib64"):
            if not (part / name).exists():
                (part / name).symlink_to(f"usr/{name}")
        if not (part / "usr/bin/sh").exists() and not (part / "bin/sh").exists():
            (part / "bin/sh").symlink_to("dash")
        for name in ("dev", "proc", "tmp", "src", _site(python)):
            (part / name).mkdir(exist_ok=True, parents=True)

    if not where.exists():
        cache.ensure(where, make)
        cache.prune(where, f"{python}-*")
    return where


def packages(python: str, into: Path, *, oldest: bool) -> None:
    """
    Install what the package depends on, and what its tests need.

    :param oldest: the oldest versions that the package allows, not the newest
    :raises VmError: if one has no wheel for this Python
    """
    wanted = dependencies((ROOT / "pyproject.toml").read_text())
    if oldest:
        wanted = [text.replace(">=", "==") for text in wanted]
    of = ["--only-binary", ":all:", "--python-version", python, "--implementation", "cp"]
    for glibc in ("2_17", "2_28", "2_31"):
        of += ["--platform", f"manylinux_{glibc}_x86_64"]
    of += ["--platform", "manylinux2014_x86_64"]
    quiet = ["--quiet", "--disable-pip-version-check"]
    with tempfile.TemporaryDirectory() as wheels:
        # Only "download" takes no versions that want a newer Python than this one.
        argv = [*pip(), "download", *quiet, *of, "--dest", wheels, *wanted, *TESTING]
        if python == "3.9":
            argv += _BACKPORTS
        host.call(argv, "pip download")
        files = map(str, Path(wheels).iterdir())
        argv = [*pip(), "install", *quiet, *of, "--no-deps", "--target", str(into), *files]
        host.call(argv, "pip install")
    # The tree works as if it were installed.
    (into / "drgn-sockets.pth").write_text("/src\n")
    for name, text in installed((ROOT / "pyproject.toml").read_text()).items():
        if name.startswith("src/"):
            path = into / name.removeprefix("src/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


class Place:
    """A Python with packages, and a copy of the project's tree. Use it with ``with``."""

    def __init__(self, python: str, *, oldest: bool) -> None:
        self.python = python
        self._root = root(python)
        self._work = tempfile.TemporaryDirectory(prefix="drgn-sockets-python-")
        try:
            work = Path(self._work.name)
            self._site, self._tree = work / "site", work / "tree"
            packages(python, self._site, oldest=oldest)
            self._tree.mkdir()
            _copy(self._tree)
        except BaseException:
            self._work.cleanup()
            raise

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *exc: object) -> None:
        self._work.cleanup()

    def argv(self, *words: str) -> list[str]:
        """The command that runs this Python with *words*."""
        enter = ["unshare", "--mount", "sh", "-c", _ENTER, "enter"]
        where = [str(self._root), str(self._site), _site(self.python), str(self._tree)]
        return host.as_root([*enter, *where, f"/usr/bin/python{self.python}", *words])

    @functools.cached_property
    def drgn(self) -> str:
        """The version of drgn."""
        (info,) = self._site.glob("drgn-*.dist-info")
        return info.name.split("-")[1].removesuffix(".dist")


def _copy(to: Path) -> None:
    # What git ignores (the virtual environment, caches) is of no use there.
    argv = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = host.call(argv, "listing the tree", cwd=ROOT).decode().split("\0")
    for name in names:
        source = ROOT / name
        if name and source.is_file():
            target = to / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a Python."""
    parser = argparse.ArgumentParser(prog="python -m vm.pythons", description=__doc__)
    parser.add_argument("--oldest", action="store_true", help="of each package the oldest version")
    parser.add_argument("python", choices=RELEASES)
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="…", help="its arguments")
    args = parser.parse_args(argv)
    try:
        with Place(args.python, oldest=args.oldest) as place:
            return subprocess.run(place.argv(*args.words), check=False).returncode
    except VmError as e:
        print(f"vm: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
