# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Debian packages of any release, from the mirror this machine uses.

Each release has a private apt directory: a bookworm machine can fetch from sid, and an Ubuntu
machine from Debian, and the host's own apt is not touched. apt checks the signatures against
Debian's keyring.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from vm import cache, host
from vm.errors import GoneError, VmError

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

# Releases that are fixed by a security archive of their own.
WITH_SECURITY = ("bullseye", "bookworm")


def mirrors() -> tuple[str, str]:
    """
    Get the URIs of Debian's archive and its security archive, as apt here has them.

    :raises VmError: if apt here knows no Debian archive and none was given in
        ``DRGN_SOCKETS_MIRROR``
    """
    main: str | None = os.environ.get("DRGN_SOCKETS_MIRROR")
    security: str | None = None
    if main is None:
        fields = "$(REPO_URI) $(CODENAME) $(ORIGIN) $(LABEL)"
        argv = [host.program("apt-get"), "indextargets", "--format", fields]
        out = host.call([*argv, "Created-By: Packages"], "asking apt for its mirror").decode()
        for line in out.splitlines():
            uri, codename, origin, label = line.split(" ", 3)
            if origin != "Debian":
                continue
            if label == "Debian-Security":
                security = security or uri
            elif label == "Debian" and not codename.endswith("-backports"):
                main = main or uri
    if main is None:
        raise VmError(
            "apt knows no Debian mirror here: run `apt-get update`, "
            "or set DRGN_SOCKETS_MIRROR to the URI of one"
        )
    # A mirror with both archives has them side by side.
    return main, security or main.rstrip("/") + "-security/"


def sources(release: str) -> list[str]:
    """Get the ``sources.list`` lines for a Debian release."""
    if not KEYRING.exists():
        host.install("debian-archive-keyring")
    main, security = mirrors()
    lines = [f"deb [signed-by={KEYRING}] {main} {release} main"]
    if release in WITH_SECURITY:
        lines.append(f"deb [signed-by={KEYRING}] {security} {release}-security main")
    return lines


class Apt:
    """The private apt of one Debian release and architecture."""

    def __init__(self, release: str, architecture: str = "amd64") -> None:
        self.release = release
        self.architecture = architecture
        name = release if architecture == "amd64" else f"{release}-{architecture}"
        self.dir = cache.root() / "apt" / name
        self.updated = self.dir / "updated"

    def _options(self) -> list[str]:
        options = {
            "Dir::State": self.dir / "state",
            "Dir::State::status": self.dir / "status",
            "Dir::Cache": self.dir / "cache",
            "Dir::Etc::SourceList": self.dir / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::Etc::Preferences": "/dev/null",
            "Dir::Etc::PreferencesParts": "/dev/null",
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "Acquire::Languages": "none",
            # As root, apt downloads as the user _apt, who cannot enter root's cache directory.
            "APT::Sandbox::User": "root",
        }
        return [word for k, v in options.items() for word in ("-o", f"{k}={v}")]

    def update(self, max_age: float = 0) -> None:
        """
        Fetch the package lists, unless those here are younger than *max_age* seconds.

        :raises VmError: if the mirror cannot be reached or a signature is not good
        """
        with cache.locked(self.dir):
            try:
                if time.time() - self.updated.stat().st_mtime < max_age:
                    return
            except FileNotFoundError:
                pass
            for d in ("state/lists/partial", "cache/archives/partial"):
                (self.dir / d).mkdir(parents=True, exist_ok=True)
            (self.dir / "status").touch()
            (self.dir / "sources.list").write_text("\n".join(sources(self.release)) + "\n")
            cache.note(f"updating the package lists of Debian {self.release}")
            argv = [host.program("apt-get"), *self._options(), "-qq"]
            # Without Error-Mode, apt reports success if it cannot reach a mirror.
            argv += ["-o", "APT::Update::Error-Mode=any", "update"]
            host.call(argv, f"apt-get update ({self.release})")
            self.updated.touch()

    def names(self, prefix: str) -> list[str]:
        """List the packages whose names start with *prefix*."""
        argv = [host.program("apt-cache"), *self._options(), "pkgnames", prefix]
        return host.call(argv, "apt-cache pkgnames").decode().split()

    def version(self, package: str) -> str:
        """Get the newest version of a package."""
        argv = [host.program("apt-cache"), *self._options(), "--no-all-versions", "show", package]
        for line in host.call(argv, f"apt-cache show {package}").decode().splitlines():
            if line.startswith("Version: "):
                return line.split()[1]
        raise VmError(f"apt knows no version of {package}")

    def closure(self, *packages: str) -> list[str]:
        """
        Get the newest versions of packages and their dependencies, as ``NAME=VERSION``.

        :param packages: names, or patterns of apt such as ``?essential``
        """
        argv = [host.program("apt-get"), *self._options(), "--simulate"]
        # For this apt nothing is installed, so it would install all dependencies.
        argv += ["--no-install-recommends", "install", *packages]
        return installs(host.call(argv, f"resolving {' '.join(packages)}").decode())

    def unpack(
        self, packages: Sequence[str], into: Path, patterns: Sequence[str] | None = None
    ) -> None:
        """
        Download packages (``NAME`` or ``NAME=VERSION``) and unpack them into a directory.

        :param patterns: unpack only the members that match one of these tar wildcards
        :raises GoneError: if the mirror lists a package that it does not have
        :raises VmError: if one cannot be had, or its checksum is not what was signed
        """
        into.mkdir(parents=True, exist_ok=True)
        debs = into / ".debs"
        debs.mkdir()
        few = len(packages) <= 5
        what = " ".join(packages) if few else f"{len(packages)} packages"
        cache.note(f"downloading {what}")
        argv = [host.program("apt-get"), *self._options(), "-qq", "download", *packages]
        try:
            host.call(argv, f"downloading {what}", cwd=debs)
        except VmError as e:
            raise (GoneError(str(e)) if "404 " in str(e) else e) from None
        for deb in sorted(debs.glob("*.deb")):
            if few:
                cache.note(f"unpacking {deb.name}")
            _unpack(deb, into, patterns)
            deb.unlink()
        debs.rmdir()


def installs(simulated: str) -> list[str]:
    """Read ``NAME=VERSION`` of what ``apt-get --simulate install`` would install."""
    found = re.finditer(r"^Inst (\S+) (?:\[\S+\] )?\((\S+) ", simulated, re.MULTILINE)
    return [f"{m[1]}={m[2]}" for m in found]


def _unpack(deb: Path, into: Path, patterns: Sequence[str] | None) -> None:
    argv = [host.program("tar"), "-x", "--no-same-owner", "--keep-directory-symlink"]
    argv += ["-C", str(into)]
    if patterns is not None:
        argv += ["--wildcards", *patterns]
    with subprocess.Popen(
        [host.program("dpkg-deb"), "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE
    ) as p:
        r = subprocess.run(argv, stdin=p.stdout, stderr=subprocess.PIPE)
    told = r.stderr.decode(errors="replace").strip()
    # It is no error if a pattern matches nothing: kernel series have different modules.
    missed = [line for line in told.splitlines() if ": Not found in archive" in line]
    if "No space left" in told:
        raise VmError(f"no space left to unpack {deb.name}: free some, or set XDG_CACHE_HOME")
    if p.returncode != 0 or (r.returncode != 0 and not missed):
        raise VmError(f"cannot unpack {deb.name}: {(told.splitlines() or ['damaged'])[-1]}")
