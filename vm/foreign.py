# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Programs of Debian sid: unpacked into the cache with their libraries and their dynamic loader, to be
run here, in guests and in crash kernels; nothing is installed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vm import apt, cache, host
from vm.kernels import DAY

SUITE = "sid"

_LIBRARIES = "usr/lib/x86_64-linux-gnu"
_LOADER = "ld-linux-x86-64.so.2"
#: Where :meth:`Program.files` has libraries and loader, as programs of Debian look for them.
LIBRARIES, LOADER = "lib/x86_64-linux-gnu", f"lib64/{_LOADER}"
# Of the packages that a program depends on, those with libraries, but not Perl's.
_WITH_LIBRARIES = re.compile(r"(?:zlib|lib(?!perl|gdbm|db5|c-gconv))")


@dataclass(frozen=True)
class Program:
    """A program that is not of this machine."""

    #: Of Debian; the program has the same name, or the name of *binary*.
    package: str
    binary: str

    def _tree(self) -> Path:
        trees = cache.root() / self.package
        for tree in sorted(trees.glob("[!.]*")):
            return tree
        repository = apt.Apt(SUITE)
        repository.update(max_age=DAY)
        packages = [
            p
            for p in repository.closure(self.package)
            if _WITH_LIBRARIES.match(p) or p.startswith(f"{self.package}=")
        ]
        (version,) = (p.split("=")[1] for p in packages if p.startswith(f"{self.package}="))
        patterns = [f"./usr/*bin/{self.binary}", f"./{_LIBRARIES}/*.so*"]
        return cache.ensure(
            trees / re.sub(r"[^\w.+~-]", "_", version),
            lambda part: repository.unpack(packages, part, patterns),
        )

    def _loader(self, *options: str) -> list[str]:
        tree = self._tree()
        (program,) = tree.glob(f"usr/*bin/{self.binary}")
        libraries = str(tree / _LIBRARIES)
        return [
            *(str(tree / _LIBRARIES / _LOADER), "--library-path", libraries),
            *(*options, str(program)),
        ]

    def run(self, arguments: Sequence[str], *, cwd: Path | None = None) -> bytes:
        """
        Run it on this machine, and return its output.

        :raises VmError: if it fails
        """
        what = f"{self.binary} {' '.join(arguments)}"
        return host.call([*self._loader(), *arguments], what, cwd=cwd)

    def files(self) -> dict[str, bytes]:
        """Get what it takes to run as ``/bin/BINARY`` elsewhere, by path."""
        *_, program = self._loader()
        # libz.so.1 => /…/libz.so.1 (0x00007f…)
        told = host.call(self._loader("--list"), "listing libraries").decode()
        found = {f"{LIBRARIES}/{m[1]}": m[2] for m in re.finditer(r"(\S+) => (/\S+)", told)}
        found[LOADER] = str(self._tree() / _LIBRARIES / _LOADER)
        found[f"bin/{self.binary}"] = program
        return {name: Path(path).read_bytes() for name, path in found.items()}


#: Writes the cores of crashed kernels. That of Debian 12 has no zstd.
MAKEDUMPFILE = Program("makedumpfile", "makedumpfile")
#: Loads crash kernels.
KEXEC = Program("kexec-tools", "kexec")
