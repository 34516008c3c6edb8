# SPDX-License-Identifier: LGPL-2.1-or-later
"""The initramfs: busybox, the virtio modules, and a script that finds the disks."""

from __future__ import annotations

import hashlib
import io
import lzma
import stat
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from vm import apt, cache, host, rootfs
from vm.arch import AMD64, Architecture
from vm.errors import VmError
from vm.kernels import DAY, Kernel

# Modules to insert where they are not built in; qemu_fw_cfg tells QEMU where VMCOREINFO is.
# ext4 asks for the checksum by name, so that nothing lists the module as a dependency.
MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic", "ext4", "qemu_fw_cfg"),
)

APPLETS = (
    "cat cp echo hostname insmod ip ln mkdir mount poweroff sh sleep switch_root tar ulimit umount"
)

# What the init of any initramfs starts with.
PRELUDE = r"""#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for m in /modules/*; do
	[ -e "$m" ] && insmod "$m"
done

give_up() {
	echo "drgn-sockets: $*"
	poweroff -f
}

# Disks are known by their serial: their number, and so their order, differs between guests.
disk() {
	for b in /sys/block/vd*; do
		[ -e "$b/serial" ] && [ "$(cat $b/serial)" = "$1" ] && echo "/dev/${b##*/}" && return
	done
	return 1
}
"""

INIT = (
    PRELUDE
    + r"""
for i in 1 2 3 4 5 6 7 8 9 10; do
	root=$(disk root) && break
	sleep 0.2
done
[ "$root" ] || give_up "no root disk: this kernel needs CONFIG_VIRTIO_PCI and" \
	"CONFIG_VIRTIO_BLK built in, or --modules"
mount -t ext4 "$root" /root || give_up "cannot mount the root disk: CONFIG_EXT4_FS is needed"
if d=$(disk modules); then mount -t ext4 -o ro $d /root/lib/modules; fi
if d=$(disk debug); then mount -t ext4 -o ro $d /root/usr/lib/debug; fi
tar -x -f $(disk project) -C /root || give_up "cannot unpack the project"

mount -t tmpfs -o mode=755 run /root/run
mount -t tmpfs -o mode=1777 tmp /root/tmp
mkdir -p /dev/pts /dev/shm /dev/mqueue /root/run/lock
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t debugfs debugfs /sys/kernel/debug

hostname drgn-sockets
ip link set lo up
# Real socket addresses in /proc/net/*, for root, instead of hashed ones.
echo 1 > /proc/sys/kernel/kptr_restrict
echo 1048576 > /proc/sys/fs/nr_open
echo 4194304 > /proc/sys/fs/file-max
ulimit -n 1048576
# From here on, errors only; a panic turns all messages on by itself.
echo "4 4 1 7" > /proc/sys/kernel/printk

for d in proc sys dev; do mount -o move /$d /root/$d; done
exec switch_root /root /usr/bin/python3 -E -s -B /src/vm/agent.py
"""
)


def cpio(entries: list[tuple[str, int, bytes]]) -> bytes:
    """
    Pack (name, mode, content) entries as a newc cpio archive, all owned by root.
    """
    out = io.BytesIO()

    def pad() -> None:
        out.write(b"\0" * (-out.tell() % 4))

    for ino, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        links = 2 if stat.S_ISDIR(mode) else 1
        path = name.encode() + b"\0"
        fields = (ino, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(path), 0)
        out.write(b"070701" + b"".join(b"%08X" % f for f in fields) + path)
        pad()
        out.write(data)
        pad()
    return out.getvalue()


def needed(modules: Path, names: tuple[str, ...] = MODULES) -> list[Path]:
    """
    List the modules to insert, each after those it depends on.

    Names that modules.dep does not have are taken to be built in.
    """
    dep: dict[str, list[str]] = {}
    path: dict[str, str] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        module, _, rest = line.partition(":")
        dep[module] = rest.split()
        path[module.rsplit("/", 1)[-1].split(".")[0].replace("-", "_")] = module
    order: list[str] = []
    for name in names:
        if name in path:
            # modules.dep lists all dependencies, direct or not, the deepest last.
            order += [*reversed(dep[path[name]]), path[name]]
    return [modules / m for m in dict.fromkeys(order)]


def unpacked(module: Path) -> bytes:
    """Read a module, whatever it is compressed with: busybox's insmod takes plain ones."""
    data = module.read_bytes()
    if module.suffix == ".xz":
        return lzma.decompress(data)
    if module.suffix == ".gz":
        return zlib.decompress(data, 31)
    if module.suffix == ".zst":
        return subprocess.run(
            [host.program("zstd"), "-dc"], input=data, stdout=subprocess.PIPE, check=True
        ).stdout
    return data


def pack(
    tree: Path | None,
    busybox: bytes,
    init: str = INIT,
    more: Mapping[str, bytes] | None = None,
    *,
    modules: tuple[str, ...] = MODULES,
) -> bytes:
    """
    Build the initramfs for a kernel with these modules.

    :param modules: which of the tree to insert
    :param more: programs to put into it, by path
    """
    directory, script, link = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFLNK | 0o777
    entries = [
        (d, directory, b"") for d in ("bin", "dev", "modules", "proc", "root", "sys", "sbin", "usr")
    ]
    entries.append(("bin/busybox", script, busybox))
    entries += [(f"bin/{a}", link, b"busybox") for a in APPLETS.split()]
    entries.append(("init", script, init.encode()))
    more = more or {}
    parents = {str(p) for name in more for p in PurePosixPath(name).parents} - {".", "bin"}
    entries += [(d, directory, b"") for d in sorted(parents)]
    entries += [(name, script, data) for name, data in more.items()]
    for i, m in enumerate(needed(tree, modules) if tree else []):
        entries.append((f"modules/{i:02}-{m.name.split('.')[0]}.ko", script, unpacked(m)))
    return cpio(entries)


def _busybox(architecture: Architecture) -> Path:
    """Get a busybox: the one of this machine, or Debian's static one for another architecture."""
    if architecture.here:
        return Path(host.program("busybox"))

    def make(part: Path) -> None:
        repository = apt.Apt(rootfs.SUITE, architecture.name)
        repository.update(max_age=DAY)
        tree = part.with_name(part.name + ".tree")
        cache.remove(tree)
        try:
            repository.unpack(["busybox-static"], tree, ["./bin/busybox", "./usr/bin/busybox"])
            next(tree.glob("**/bin/busybox")).rename(part)
        finally:
            cache.remove(tree)

    return cache.ensure(cache.root() / "kernels" / f"busybox-{architecture.name}", make)


def static_busybox(architecture: Architecture = AMD64) -> bytes:
    """
    Read a static busybox: the one of this machine, or Debian's for another architecture.

    :raises VmError: if it needs libraries
    """
    busybox = _busybox(architecture).read_bytes()
    if b"/ld-linux" in busybox[:4096]:
        raise VmError("busybox here is not static: install the package busybox-static")
    return busybox


def get(kernel: Kernel) -> Path:
    """Get the initramfs of a kernel, made when first asked for."""
    busybox = static_busybox(kernel.architecture)
    key = hashlib.sha256(busybox + INIT.encode() + repr((MODULES, APPLETS)).encode())
    name = f"{kernel.id}-{key.hexdigest()[:12]}.cpio"

    def make(part: Path) -> None:
        part.write_bytes(pack(kernel.modules, busybox))

    return cache.ensure(cache.root() / "kernels" / name, make)
