# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The guest's root: a small Debian with drgn, pytest, and the tools to compare with.

The root of another architecture is made without running any of its programs. It has what
workloads and the oracle need, and no drgn, of which there are no packages for all architectures.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vm import apt, arch, cache, host
from vm.arch import Architecture
from vm.errors import VmError
from vm.kernels import DAY

SUITE = "bookworm"
PYTHON = "3.11"

PACKAGES = (
    "python3",
    # The oracles: ss, lsof, netstat, and lsfd (in util-linux-extra in Debian 12).
    *("iproute2", "lsof", "net-tools", "util-linux", "util-linux-extra", "procps"),
    # kmod has modprobe; less is for people in `vm shell`.
    *("kmod", "less"),
)

# Wheels: the newest versions when the root was built.
WHEELS = ("drgn>=0.3.0", "tabulate>=0.9", "pyroute2>=0.9", "wcwidth>=0.2", "pytest>=7")

# Room for what a guest writes; the image is sparse.
FREE = 2 << 30

# Run by mmdebstrap with the new root as $1, at the end.
CUSTOMIZE = r"""
set -e
site=$1/usr/local/lib/python{python}/dist-packages
mkdir -p "$site" "$1/usr/local/bin" "$1/src" "$1/usr/lib/debug" "$1/usr/lib/modules"
cp -r --no-preserve=ownership {wheels}/. "$site"
for s in "$site"/bin/*; do
	sed '1s|^#!.*|#!/usr/bin/python3|' "$s" > "$1/usr/local/bin/${{s##*/}}"
	chmod 755 "$1/usr/local/bin/${{s##*/}}"
done
rm -rf "$site/bin"
echo /src > "$site/drgn-sockets.pth"
chroot "$1" python3 -m compileall -q /usr/local/lib/python{python}/dist-packages
echo drgn-sockets > "$1/etc/hostname"
printf '127.0.0.1 localhost drgn-sockets\n::1 localhost\n' > "$1/etc/hosts"
: > "$1/etc/resolv.conf"
rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*
# mmdebstrap has /proc, /sys and /dev mounted in $1: a bind mount shows the directories below.
bare=$(mktemp -d)
mount --bind "$1" "$bare"
trap 'umount "$bare" && rmdir "$bare"' EXIT
size=$(( $(du -sm --apparent-size "$bare" | cut -f1) * 5 / 4 ))
truncate -s $(( size + {free} ))M {image}
mke2fs -q -F -t ext4 -O ^has_journal,^resize_inode -m 0 -d "$bare" {image}
"""


# What the root of another architecture has, in which no package's script ran.
OTHER_WHEELS = tuple(w for w in WHEELS if not w.startswith("drgn"))
SITE = f"usr/local/lib/python{PYTHON}/dist-packages"
LINKS = ("bin", "lib", "sbin")
DIRECTORIES = (
    *("dev", "etc", "proc", "root", "run", "src", "sys", "tmp", "usr/bin", "usr/lib/debug"),
    *("usr/lib/modules", "usr/local/bin", "usr/sbin", "var/tmp"),
    SITE,
)
FILES = {
    "etc/hostname": "drgn-sockets\n",
    "etc/hosts": "127.0.0.1 localhost drgn-sockets\n::1 localhost\n",
    "etc/resolv.conf": "",
    f"{SITE}/drgn-sockets.pth": "/src\n",
}


def pip() -> list[str]:
    """Get the command of a pip."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    host.install("python3-pip")
    return ["/usr/bin/python3", "-m", "pip"]


def key(architecture: Architecture = arch.AMD64) -> str:
    """Get a hash of everything that the root is built from."""
    if architecture is arch.AMD64:
        inputs = repr((SUITE, PYTHON, PACKAGES, WHEELS, FREE, CUSTOMIZE))
    else:
        packages = (SUITE, PYTHON, PACKAGES, OTHER_WHEELS, FREE)
        inputs = repr((architecture.name, *packages, LINKS, DIRECTORIES, FILES))
    return hashlib.sha256(inputs.encode()).hexdigest()[:12]


def _remove(tree: Path) -> None:
    """Remove a tree of which root may own parts; file systems mounted in it are left alone."""
    if tree.exists():
        argv = ["rm", "-rf", "--one-file-system", str(tree)]
        host.call(host.as_root(argv), f"removing {tree}")


def _fetch(to: Path, wheels: Sequence[str], architecture: Architecture) -> None:
    """Download wheels for the guest, and unpack them into a directory."""
    cache.note("fetching wheels for the guest: " + " ".join(wheels))
    argv = [*pip(), "install", "--quiet", "--no-compile", "--target", str(to)]
    argv += ["--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp"]
    for glibc in ("_2_17", "_2_28", "_2_34", "2014"):
        argv += ["--platform", f"manylinux{glibc}_{architecture.machine}"]
    host.call([*argv, *wheels], "pip install")


def _make(part: Path) -> None:
    cache.need_space(part.parent, 2 << 30, "the guest's root")
    for program in ("mmdebstrap", "mke2fs"):
        host.program(program)
    work = part.with_name(part.name + ".work")
    _remove(work)  # left by a process that was killed
    wheels = work / "wheels"
    tmp = work / "tmp"
    try:
        tmp.mkdir(parents=True)
        _fetch(wheels, WHEELS, arch.AMD64)
        # We make the file, so that it belongs to us and not to root, who runs mke2fs.
        part.touch()
        hook = CUSTOMIZE.format(
            python=PYTHON,
            wheels=shlex.quote(str(wheels)),
            image=shlex.quote(str(part)),
            free=FREE >> 20,
        )
        cache.note(f"building the guest's root (Debian {SUITE}), once")
        argv = ["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", "--format=null"]
        argv += ["--architectures=amd64", "--include=" + ",".join(PACKAGES)]
        argv += ['--aptopt=Acquire::Languages "none"', f"--keyring={apt.KEYRING}"]
        # apt's own user cannot enter root's cache directory.
        argv.append('--aptopt=APT::Sandbox::User "root"')
        for d in ("doc", "info", "locale", "man"):
            argv.append(f"--dpkgopt=path-exclude=/usr/share/{d}/*")
        argv += ["--customize-hook=" + hook, SUITE, "/dev/null", *apt.sources(SUITE)]
        path = "PATH=" + os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"
        # mmdebstrap makes its tree there as well, so that nothing is left if we are interrupted.
        host.call(host.as_root(["env", path, f"TMPDIR={tmp}", *argv]), "building the guest's root")
        if part.stat().st_size == 0:
            raise VmError("building the guest's root made no image")
    finally:
        _remove(work)


def _make_unpacked(part: Path, architecture: Architecture) -> None:
    """Make a root of packages that are unpacked only: none of their programs runs here."""
    cache.need_space(part.parent, 2 << 30, "the guest's root")
    work = part.with_name(part.name + ".work")
    _remove(work)
    tree = work / "tree"
    try:
        for d in DIRECTORIES:
            (tree / d).mkdir(parents=True, exist_ok=True)
        for name in LINKS:
            (tree / name).symlink_to(f"usr/{name}")
        repository = apt.Apt(SUITE, architecture.name)
        repository.update(max_age=DAY)
        cache.note(f"building the guest's root (Debian {SUITE} for {architecture.name}), once")
        repository.unpack(repository.closure("?essential", *PACKAGES), tree)
        for d in ("doc", "info", "locale", "man"):
            cache.remove(tree / "usr/share" / d)
        for name in ("passwd", "group"):
            shutil.copy(tree / f"usr/share/base-passwd/{name}.master", tree / "etc" / name)
        for path, text in FILES.items():
            (tree / path).write_text(text)
        _fetch(tree / SITE, OTHER_WHEELS, architecture)
        if f"{sys.version_info[0]}.{sys.version_info[1]}" == PYTHON:
            # Else each process compiles all that it imports, as the packages' scripts did not run.
            argv = [sys.executable, "-m", "compileall", "-q", "-s", str(tree), "-p", "/"]
            argv += [str(tree / f"usr/lib/python{PYTHON}"), str(tree / SITE)]
            # Python's own tests have files that cannot be compiled.
            host.call(["sh", "-c", f"{shlex.join(argv)} || :"], "compileall")
        host.call(host.as_root(["chown", "-R", "-h", "0:0", str(tree)]), "giving files to root")
        used = sum(p.lstat().st_blocks * 512 for p in tree.rglob("*"))
        with part.open("wb") as f:
            f.truncate(used * 5 // 4 + FREE)
        argv = [host.program("mke2fs"), "-q", "-F", "-t", "ext4", "-m", "0"]
        argv += ["-O", "^has_journal,^resize_inode", "-d", str(tree), str(part)]
        host.call(host.as_root(argv), "making the image of the guest's root")
    finally:
        _remove(work)


def get(architecture: Architecture = arch.AMD64) -> Path:
    """Get the image of the guest's root; it is built when first asked for."""
    roots = cache.root() / "roots"
    name = f"{SUITE}-{key(architecture)}.img"
    if architecture is arch.AMD64:
        image, make = roots / name, _make
    else:
        image = roots / architecture.name / name
        make = functools.partial(_make_unpacked, architecture=architecture)
    if not image.exists():
        cache.ensure(image, make)
        cache.prune(image, "*.img")
    return image
