# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guest's root: a small Debian with drgn, pytest, and the tools to compare with."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import sys
from pathlib import Path

from vm import apt, cache, host
from vm.errors import VmError

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


def pip() -> list[str]:
    """Get the command of a pip."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    host.install("python3-pip")
    return ["/usr/bin/python3", "-m", "pip"]


def key() -> str:
    """Get a hash of everything that the root is built from."""
    inputs = repr((SUITE, PYTHON, PACKAGES, WHEELS, FREE, CUSTOMIZE))
    return hashlib.sha256(inputs.encode()).hexdigest()[:12]


def _remove(tree: Path) -> None:
    """Remove a tree of which root may own parts; file systems mounted in it are left alone."""
    if tree.exists():
        argv = ["rm", "-rf", "--one-file-system", str(tree)]
        host.call(host.as_root(argv), f"removing {tree}")


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
        cache.note("fetching wheels for the guest: " + " ".join(WHEELS))
        argv = [*pip(), "install", "--quiet", "--no-compile", "--target", str(wheels)]
        argv += ["--only-binary", ":all:", "--python-version", PYTHON, "--implementation", "cp"]
        for glibc in ("2_17", "2_28", "2_34"):
            argv += ["--platform", f"manylinux_{glibc}_x86_64"]
        host.call([*argv, "--platform", "manylinux2014_x86_64", *WHEELS], "pip install")
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


def get() -> Path:
    """Get the image of the guest's root; it is built when first asked for."""
    image = cache.root() / "roots" / f"{SUITE}-{key()}.img"
    if not image.exists():
        cache.ensure(image, _make)
        cache.prune(image, "*.img")
    return image
