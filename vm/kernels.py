# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernels to boot: Debian's, found at run time and cached, or an engineer's own build."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import os
import re
import shutil
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vm import apt, arch, cache, host
from vm.errors import GoneError, VmError


@dataclasses.dataclass(frozen=True)
class Series:
    """A kernel series, and where Debian keeps it."""

    name: str
    #: Debian release, by code name.
    suite: str
    #: Package with vmlinuz; its group 1 is the kernel's release. A package counts only
    #: if its ``debug`` exists, since a mirror keeps signed leftovers of older ones.
    image: str
    #: Package with the vmlinux; ``None`` where Debian has none.
    debug: str | None = "linux-image-{}-dbg"
    #: Package with the modules, if it is another one.
    modules: str | None = None
    architecture: arch.Architecture = arch.AMD64


# To add a series, add a line, from the oldest to the newest. The Makefile and tests go by this.
SERIES = (
    Series("5.10", "bullseye", r"linux-image-(5\.10\..*-cloud-amd64)-unsigned"),
    Series("6.1", "bookworm", r"linux-image-(6\.1\..*-cloud-amd64)-unsigned"),
    Series("6.12", "bookworm", r"linux-image-(6\.12\..*-cloud-amd64)-unsigned"),
    Series("6.18", "trixie-backports", r"linux-image-(6\.18\..*-cloud-amd64)", debug=None),
    Series(
        "7.2",
        "sid",
        r"linux-binary-unsigned-(7\.2\..*-cloud-amd64)",
        modules="linux-modules-{}",
    ),
    *(
        Series(name, "bookworm", rf"linux-image-({pattern})-unsigned", architecture=arch.ARM64)
        for name, pattern in (
            ("arm64-6.1", r"6\.1\..*-cloud-arm64"),
            ("arm64-6.12", r"6\.12\..*-cloud-arm64"),
            # Pages of 16 KiB. There is no such kernel for clouds.
            ("arm64-6.12-16k", r"6\.12\..*-arm64-16k"),
        )
    ),
)

DEFAULT = "6.1"

# Modules with types of sockets and files. The DWARF of all modules would be 1.2 GB.
DEBUG_MODULES = (
    *(f"net/{d}" for d in ("802", "8021q", "atm", "bluetooth", "can", "core", "ipv4", "ipv6")),
    *(f"net/{d}" for d in ("kcm", "key", "l2tp", "llc", "mptcp", "netlink", "packet", "phonet")),
    *(f"net/{d}" for d in ("qrtr", "rds", "sctp", "smc", "tipc", "tls", "unix", "vmw_vsock")),
    *(f"net/{d}" for d in ("x25", "xdp", "xfrm")),
    *(f"drivers/net/{m}" for m in ("dummy", "macvlan", "macvtap", "tap", "tun", "veth")),
    *("drivers/virtio", "drivers/vhost", "drivers/block/virtio_blk"),
    *("drivers/char/virtio_console", "drivers/firmware/qemu_fw_cfg", "fs/fuse"),
)

DAY = 24 * 3600


def version_key(release: str) -> tuple[int, ...]:
    """
    Get a sort key under which a later kernel release is greater.

    >>> version_key("6.1.0-9-cloud-amd64") < version_key("6.1.0-56-cloud-amd64")
    True
    """
    return tuple(int(n) for n in re.findall(r"\d+", release.split("-cloud")[0]))


@dataclasses.dataclass(frozen=True)
class Kernel:
    """
    A kernel on this machine.

    :attr:`vmlinux` and the disk images are large: they are fetched or made when first asked for.
    """

    #: Name of the series, or ``custom``.
    name: str
    #: ``uname -r``
    release: str
    #: Differs for each kernel; the names of its cache entries start with it.
    id: str
    vmlinuz: Path
    #: ``.../lib/modules/RELEASE``, or ``None`` for a kernel without modules.
    modules: Path | None
    #: An engineer's own vmlinux.
    own_vmlinux: Path | None = None
    #: The Debian package of the debug info: suite, name, version.
    package: tuple[str, str, str] | None = None
    architecture: arch.Architecture = arch.AMD64

    @property
    def has_debug(self) -> bool:
        """Whether there is, or can be fetched, a vmlinux with DWARF."""
        return self.own_vmlinux is not None or self.package is not None

    @property
    def vmlinux(self) -> Path:
        """
        The vmlinux with DWARF; a Debian one is downloaded (300 MB) when first asked for.

        :raises VmError: if there is none
        """
        if self.own_vmlinux is not None:
            return self.own_vmlinux
        return self.debug / "boot" / f"vmlinux-{self.release}"

    @property
    def lists_variables(self) -> bool:
        """
        Whether its kallsyms has variables (CONFIG_KALLSYMS_ALL).

        A kernel whose configuration is not there is taken to: an own build, and those of Debian 14,
        whose packages of the kernel and of its modules have none.
        """
        config = self.vmlinuz.with_name("config")
        return not config.exists() or b"\nCONFIG_KALLSYMS_ALL=y\n" in config.read_bytes()

    @property
    def debug(self) -> Path:
        """A directory laid out as ``/usr/lib/debug`` (Debian kernels only)."""
        if self.package is None:
            raise VmError(f"no vmlinux for {self.release}: give one with --vmlinux")
        name = self.package[1]

        def make(part: Path) -> None:
            cache.need_space(part.parent, 3 << 30, f"the debug info of {self.release}")
            modules = f"lib/modules/{self.release}/kernel"
            # One is a link to the other; which one depends on the series.
            want = [f"boot/vmlinux-{self.release}", modules[:-6] + "vmlinux"]
            want.append(f"boot/System.map-{self.release}")
            for m in DEBUG_MODULES:
                want += [f"{modules}/{m}/*", f"{modules}/{m}.ko"]
            tree = part / "tree"
            self._unpack_debug(tree, want)
            for d in ("boot", "lib"):
                (tree / "usr/lib/debug" / d).rename(part / d)
            shutil.rmtree(tree)
            if not (part / "boot" / f"vmlinux-{self.release}").is_file():
                raise VmError(f"{name} has no vmlinux: has its layout changed?")

        return cache.ensure(cache.root() / "kernels" / f"{self.id}-debug", make)

    @property
    def system_map(self) -> Path | None:
        """
        The System.map, from the package of the vmlinux. The package of the kernel has only a note.

        ``None`` for an own kernel, and if Debian has none.
        """
        if self.package is None:
            return None
        name = f"System.map-{self.release}"
        path = self.debug / "boot" / name
        if path.exists():
            return path

        def make(part: Path) -> None:
            tree = part.with_name(part.name + ".tree")
            cache.remove(tree)
            try:
                self._unpack_debug(tree, [f"boot/{name}"])
                found = tree / "usr/lib/debug/boot" / name
                # Asked for once, even if there is none.
                found.rename(part) if found.exists() else part.touch()
            finally:
                cache.remove(tree)

        # This cache entry was made before System.map was unpacked as well.
        path = cache.ensure(cache.root() / "kernels" / f"{self.id}-System.map", make)
        return path if path.stat().st_size else None

    def _unpack_debug(self, tree: Path, want: Sequence[str]) -> None:
        """Download the package of the debug info, and unpack some of its /usr/lib/debug."""
        assert self.package is not None
        suite, name, version = self.package
        repository = apt.Apt(suite, self.architecture.name)
        repository.update(max_age=DAY)
        try:
            repository.unpack([f"{name}={version}"], tree, [f"./usr/lib/debug/{w}" for w in want])
        except VmError as e:
            raise VmError(f"{e}; if the mirror has moved on, try --refresh") from e

    @property
    def modules_image(self) -> Path | None:
        """An ext4 image to mount on ``/lib/modules``."""
        if self.modules is None:
            return None
        source = self.modules

        def make(part: Path) -> None:
            tree = part.with_name(part.name + ".tree")
            cache.remove(tree)
            try:
                _link_tree(source, tree / self.release)
                make_image(part, tree)
            finally:
                cache.remove(tree)

        return cache.ensure(self._image("modules"), make)

    @property
    def debug_image(self) -> Path:
        """An ext4 image with the vmlinux, to mount on ``/usr/lib/debug``."""
        vmlinux = self.vmlinux

        def make(part: Path) -> None:
            if self.own_vmlinux is None:
                make_image(part, self.debug)
                return
            tree = part.with_name(part.name + ".tree")
            cache.remove(tree)
            try:
                (tree / "boot").mkdir(parents=True)
                _link_or_copy(str(vmlinux), str(tree / "boot" / f"vmlinux-{self.release}"))
                make_image(part, tree)
            finally:
                cache.remove(tree)

        image = self._image("debug")
        if self.own_vmlinux is not None:
            # Each build leaves an image as large as its vmlinux: keep a few.
            stale = sorted(image.parent.glob("custom-*-debug.img"), key=lambda p: p.stat().st_mtime)
            for p in stale[:-4]:
                cache.remove(p)
        return cache.ensure(image, make)

    def _image(self, what: str) -> Path:
        return cache.root() / "kernels" / f"{self.id}-{what}.img"


def make_image(image: Path, tree: Path, extra: int = 0) -> None:
    """
    Make a sparse ext4 image of a directory.

    :param extra: bytes to leave free in it
    """
    size = sum(p.lstat().st_size + 4096 for p in tree.rglob("*"))
    size = (size * 11 // 10 + extra + (32 << 20)) & ~0xFFFFF
    cache.need_space(image.parent, size - extra, image.name)
    with image.open("wb") as f:
        f.truncate(size)
    argv = [host.program("mke2fs"), "-q", "-F", "-t", "ext4", "-O", "^has_journal,^resize_inode"]
    argv += ["-m", "0", "-E", "root_owner=0:0", "-d", str(tree), str(image)]
    host.call(argv, f"making {image.name}")


def _link_or_copy(source: str, to: str) -> None:
    try:
        os.link(source, to)
    except OSError:
        shutil.copyfile(source, to)


def _link_tree(source: Path, to: Path) -> None:
    """Copy a modules directory without its links to a build tree."""
    to.parent.mkdir(parents=True, exist_ok=True)

    def ignore(d: str, names: list[str]) -> list[str]:
        return [n for n in names if n in ("build", "source")]

    # depmod rewrites modules.*, so these must not be hard links into the cache.
    shutil.copytree(source, to, ignore=ignore, symlinks=True, copy_function=_link_or_copy)


def series(name: str) -> Series:
    """
    Look up a series by its name.

    :raises VmError: if there is none of that name; the message has the names
    """
    for s in SERIES:
        if s.name == name:
            return s
    known = ", ".join(s.name for s in SERIES)
    raise VmError(
        f"unknown kernel series {name!r}: known are {known}; "
        "for your own build use --vmlinuz, --vmlinux and --modules"
    )


def _state(s: Series) -> Path:
    return cache.root() / "kernels" / f"series-{s.name}.json"


def _read_state(s: Series) -> dict[str, Any] | None:
    try:
        state = json.loads(_state(s).read_text())
    except (FileNotFoundError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def _dir(state: dict[str, Any]) -> Path:
    # A package can be rebuilt with the same release; then its version differs.
    version = re.sub(r"[^\w.+~-]", "_", state["version"])
    return cache.root() / "kernels" / f"{state['release']}_{version}"


def _resolve(s: Series, refresh: bool) -> list[dict[str, Any]]:
    """Find the kernels of a series that the mirror lists, the newest first."""
    repository = apt.Apt(s.suite, s.architecture.name)
    repository.update(max_age=0 if refresh else DAY)
    names = set(repository.names("linux-"))
    found = [m for m in (re.fullmatch(s.image, n) for n in names) if m]
    if s.debug is not None:
        found = [m for m in found if s.debug.format(m[1]) in names]
    if not found:
        raise VmError(f"the mirror has no kernel {s.name} in Debian {s.suite}")
    found.sort(key=lambda m: version_key(m[1]), reverse=True)
    return [
        {
            "time": time.time(),
            "suite": s.suite,
            "architecture": s.architecture.name,
            "release": m[1],
            "version": repository.version(m[0]),
            "packages": [m[0]] + ([s.modules.format(m[1])] if s.modules else []),
            "debug": s.debug.format(m[1]) if s.debug is not None else None,
        }
        for m in found
    ]


def _fetch(state: dict[str, Any]) -> Path:
    """Download and unpack a kernel and its modules (not its debug info)."""

    def make(part: Path) -> None:
        cache.need_space(part.parent, 1 << 30, f"kernel {state['release']}")
        tree = part / "tree"
        apt.Apt(state["suite"], state.get("architecture", "amd64")).unpack(
            [f"{p}={state['version']}" for p in state["packages"]],
            tree,
            ["./boot/*", "./lib/modules/*", "./usr/lib/modules/*"],
        )
        usr = tree / "usr/lib/modules"
        (part / "lib").mkdir()
        (usr if usr.exists() else tree / "lib/modules").rename(part / "lib/modules")
        # /boot/vmlinuz-RELEASE; in the split packages /usr/lib/modules/RELEASE/vmlinuz.unsigned.
        # System.map is only a note here, which says where the real one is.
        for p in [*tree.glob("boot/[!S]*"), *part.glob("lib/modules/*/vmlinuz*")]:
            p.rename(part / re.split(r"[-.]", p.name)[0])
        shutil.rmtree(tree)
        host.call(
            [host.program("depmod"), "-b", str(part), state["release"]], "depmod for the kernel"
        )

    return cache.ensure(_dir(state), make)


def _fetch_newest(states: list[dict[str, Any]]) -> dict[str, Any]:
    """Fetch the first one that exists: mirrors list packages that they have deleted."""
    for state in states[:-1]:
        try:
            _fetch(state)
            return state
        except GoneError:
            cache.note(f"{state['release']} is listed, but not there: trying an older one")
    _fetch(states[-1])
    return states[-1]


def get(name: str = DEFAULT, *, refresh: bool = False) -> Kernel:
    """
    Get Debian's newest cloud kernel of a series.

    The mirror is asked at most once a day. If it does not answer, the cached kernel of the series
    is used.

    :param refresh: ask the mirror now
    :raises VmError: if the series is unknown, or no kernel of it can be had
    """
    s = series(name)
    state = _read_state(s)
    if state is None or refresh or not _fresh(state):
        with cache.locked(_state(s)):
            state = _read_state(s)
            if (
                state is not None and not refresh and _fresh(state)
            ):  # another process has just resolved it
                return _debian(name, state)
            old = state if state is not None and _dir(state).exists() else None
            try:
                state = _fetch_newest(_resolve(s, refresh))
            except VmError as e:
                if old is None:
                    raise
                cache.note(f"{e}")
                cache.note(f"using the cached {old['release']}")
                # So that not each command waits for the mirror, the next try is in an hour.
                state = {**old, "time": time.time() - DAY + 3600}
            part = _state(s).with_suffix(".part")
            part.write_text(json.dumps(state, indent=1) + "\n")
            part.rename(_state(s))
    return _debian(name, state)


# A kernel's package, but not a metapackage: group 1 is its release.
_PACKAGE = re.compile(r"linux-(?:image|binary|modules)(?:-unsigned)?-(\d.*?)(?:-unsigned)?=(.*)")


def package(name: str, *, refresh: bool = False) -> Kernel:
    """
    Get the kernel of a Debian package, whichever it is, without debug info.

    :param name: ``PACKAGE`` or ``PACKAGE/SUITE``: a kernel's, such as
        ``linux-image-6.1.0-57-rt-amd64``, or one that depends on it (``linux-image-rt-amd64``);
        the suite is that of :data:`DEFAULT` if there is none
    :raises VmError: if it cannot be had, or is no kernel
    """
    word, _, suite = name.partition("/")
    suite = suite or series(DEFAULT).suite
    repository = apt.Apt(suite)
    repository.update(max_age=0 if refresh else DAY)
    found = [m for m in map(_PACKAGE.fullmatch, repository.closure(word)) if m]
    if not found:
        raise VmError(f"{word} of Debian {suite} brings no kernel")
    release, version = found[0].groups()
    state = {
        "suite": suite,
        "release": release,
        "version": version,
        "packages": [m[0].partition("=")[0] for m in found if m[1] == release],
        "debug": None,
    }
    _fetch(state)
    return _debian("custom", state)


def _fresh(state: dict[str, Any]) -> bool:
    return time.time() - state["time"] <= DAY and _dir(state).exists()


def _debian(name: str, state: dict[str, Any]) -> Kernel:
    tree = _dir(state)
    return Kernel(
        name=name,
        release=state["release"],
        id=tree.name,
        vmlinuz=tree / "vmlinuz",
        modules=tree / "lib/modules" / state["release"],
        package=(state["suite"], state["debug"], state["version"]) if state["debug"] else None,
        architecture=arch.get(state.get("architecture", "amd64")),
    )


def own(
    *,
    vmlinuz: Path | None = None,
    vmlinux: Path | None = None,
    modules: Path | None = None,
    base: str | None = None,
    refresh: bool = False,
) -> Kernel:
    """
    Get a kernel of which any part can be an engineer's own build.

    Parts that are not given come from Debian's *base* if there is no *vmlinuz*, and are
    left out otherwise: a kernel without *modules* needs virtio (pci, blk, console) and
    ext4 built in, and one without *vmlinux* has no DWARF in the guest.

    :param modules: ``.../lib/modules/RELEASE``, or what ``INSTALL_MOD_PATH`` was
    :raises VmError: if a part is missing, is not what it should be, or does not fit
    """
    if vmlinuz is None:
        k = get(base or DEFAULT, refresh=refresh)
        if vmlinux is None and modules is None:
            return k
    else:
        if base is not None:
            raise VmError("give --kernel or --vmlinuz, not both")
        k = Kernel("custom", image_release(vmlinuz), "custom", vmlinuz.absolute(), None)
    if vmlinux is not None:
        vmlinux = vmlinux.absolute()
        built = vmlinux_release(vmlinux)
        if built != k.release:
            raise VmError(f"{vmlinux} is of {built}, but the kernel is {k.release}")
    directory = k.modules if modules is None else modules_dir(modules, k.release)
    # The name tells builds apart: a rebuilt file has another time or size.
    stamp = hashlib.sha256(k.id.encode())
    for p in (vmlinuz, vmlinux, directory and directory / "modules.dep"):
        if p is not None:
            st = p.stat()
            stamp.update(f"{p.absolute()} {st.st_size} {st.st_mtime_ns}\n".encode())
    return dataclasses.replace(
        k,
        name="custom",
        id=f"custom-{k.release}-{stamp.hexdigest()[:12]}",
        modules=directory,
        own_vmlinux=vmlinux,
        package=k.package if vmlinux is None else None,
    )


def image_release(vmlinuz: Path) -> str:
    """
    Read the release of a bzImage from its header.

    :raises VmError: if it is no bzImage
    """
    try:
        with vmlinuz.open("rb") as f:
            head = f.read(0x10000)
    except OSError as e:
        raise VmError(f"{vmlinuz}: {e.strerror}") from e
    # Documentation/arch/x86/boot.rst: "HdrS" at 0x202, kernel_version at 0x20e.
    if head[0x202:0x206] != b"HdrS":
        hint = ": for a vmlinux use --vmlinux" if head[:4] == b"\x7fELF" else ""
        raise VmError(f"{vmlinuz} is not an x86 kernel image (bzImage){hint}")
    (offset,) = struct.unpack_from("<H", head, 0x20E)
    words = head[offset + 0x200 :].split(b"\0")[0].split()
    if not words:
        raise VmError(f"{vmlinuz} does not say which release it is")
    return words[0].decode(errors="replace")


def vmlinux_release(vmlinux: Path) -> str:
    """
    Read the release of a vmlinux from its banner.

    :raises VmError: if it is no vmlinux
    """
    try:
        with vmlinux.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as m:
            if m[:4] != b"\x7fELF":
                raise VmError(f"{vmlinux} is not a vmlinux (an ELF file)")
            at = 0
            while (at := m.find(b"Linux version ", at)) >= 0:
                at += len(b"Linux version ")
                word = m[at : at + 128].split(b" ")[0]
                # The banner itself, and not its format string "Linux version %s".
                if word[:1].isdigit():
                    return word.decode(errors="replace")
    except (OSError, ValueError) as e:
        raise VmError(f"{vmlinux}: {e}") from e
    raise VmError(f"{vmlinux} has no kernel banner: is it a vmlinux?")


def modules_dir(path: Path, release: str) -> Path:
    """
    Find the modules of a release in or at *path*, with their dependencies listed.

    :raises VmError: if they are not there
    """
    path = path.absolute()
    for d in (path, path / release, path / "lib/modules" / release):
        if d.name == release and d.is_dir():
            break
    else:
        raise VmError(
            f"{path} has no modules of {release}: give .../lib/modules/{release}, "
            "or the INSTALL_MOD_PATH they were installed to"
        )
    if not (d / "modules.dep").exists():
        base = d.parent.parent.parent
        if d.parent != base / "lib/modules":
            raise VmError(f"{d} has no modules.dep: run depmod")
        host.call([host.program("depmod"), "-b", str(base), release], "depmod")
    return d


def known() -> list[dict[str, Any]]:
    """List the series, and what of each is cached (never asks the mirror)."""
    rows = []
    for s in SERIES:
        state = _read_state(s)
        tree = _dir(state) if state else None
        here = tree is not None and tree.exists()
        rows.append(
            {
                "series": s.name,
                "suite": s.suite,
                "release": state["release"] if state and here else None,
                "vmlinuz": str(tree / "vmlinuz") if tree and here else None,
                "debug": bool(tree and tree.with_name(tree.name + "-debug").exists()),
            }
        )
    return rows


if __name__ == "__main__":
    # For the Makefile; before there is a virtual environment.
    print(*(s.name for s in reversed(SERIES) if s.architecture is arch.AMD64))
