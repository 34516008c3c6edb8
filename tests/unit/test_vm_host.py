# SPDX-License-Identifier: LGPL-2.1-or-later
"""vm: the parts that need no guest."""

from __future__ import annotations

import io
import json
import lzma
import os
import platform
import random
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import Any

import pytest

from vm import __main__ as cli
from vm import agent, apt, arch, cache, dump, host, initramfs, kernels, project, qemu
from vm.errors import GoneError, VmError
from vm.qemu import Console


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "drgn-sockets"


# The cache


def test_cache_follows_xdg(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache.root() == own_cache
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        assert cache.root() == Path.home() / ".cache" / "drgn-sockets"


def test_ensure_makes_once(tmp_path: Path) -> None:
    calls = []

    def make(part: Path) -> None:
        calls.append(part)
        part.write_text("whole")

    for _ in range(2):
        assert cache.ensure(tmp_path / "entry", make).read_text() == "whole"
    assert len(calls) == 1


def test_what_failed_half_way_is_not_there(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        part.mkdir()
        (part / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.ensure(tmp_path / "entry", fail)
    assert [p.name for p in tmp_path.glob("*") if not p.name.startswith(".")] == []
    assert not list(tmp_path.rglob("half"))


def test_the_rest_of_a_killed_process_is_not_used(tmp_path: Path) -> None:
    (tmp_path / ".entry.part").mkdir()
    (tmp_path / ".entry.part" / "half").write_text("half")

    def make(part: Path) -> None:
        part.mkdir()
        (part / "new").write_text("new")

    assert [p.name for p in cache.ensure(tmp_path / "entry", make).iterdir()] == ["new"]


def test_no_space_is_said_before_the_work(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(VmError, match="MiB free"):
        cache.need_space(tmp_path / "not" / "there", free * 2, "the dump")


# Packages of the host


@pytest.fixture
def apt_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """
    An ``apt-get`` that fails while ``held`` is there, as apt does while another has its lock, and
    fails if two of them run at a time.
    """
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "apt-get").write_text(
        "#!/bin/sh\n"
        f'cd {tmp_path}; echo "$@" >> calls\n'
        "if [ -e held ]; then rm held\n"
        "  echo 'W: a warning' >&2\n"
        "  echo 'E: Could not get lock /var/lib/apt/lists/lock. It is held by 1.' >&2; exit 100\n"
        "fi\n"
        "case $* in *no-such-package*) echo 'E: Unable to locate package' >&2; exit 100;; esac\n"
        "mkdir busy || { echo 'E: two at a time' >&2; exit 100; }\n"
        "sleep 0.2; rmdir busy\n"
    )
    (bin_ / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    monkeypatch.setattr(host, "as_root", list)
    return tmp_path


def test_installing_waits_for_whoever_has_the_lock(apt_get: Path) -> None:
    (apt_get / "held").touch()
    host.install("p")
    calls = (apt_get / "calls").read_text().splitlines()
    assert len(calls) == 2 and all(line.endswith(" install p") for line in calls)
    assert all("DPkg::Lock::Timeout=" in line for line in calls)


def test_a_lock_that_is_held_for_ever(apt_get: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "LOCK_SECONDS", 0)
    script = apt_get / "bin" / "apt-get"
    script.write_text(script.read_text().replace("rm held", ":"))
    (apt_get / "held").touch()
    with pytest.raises(VmError, match=r"cannot install p: `apt-get .* install p`: E: Could not"):
        host.install("p")


def test_what_cannot_be_installed_is_said_in_apts_words(apt_get: Path) -> None:
    with pytest.raises(VmError, match=r"install no-such-package`: E: Unable to locate package$"):
        host.install("no-such-package")
    words = [line.split()[-1] for line in (apt_get / "calls").read_text().splitlines()]
    assert words == ["no-such-package", "update", "no-such-package"]


def test_two_of_us_install_one_after_the_other(apt_get: Path) -> None:
    script = "from vm import host; host.as_root = list; host.install('p')"
    both = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stderr=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
        )
        for _ in range(2)
    ]
    assert [p.communicate()[1] for p in both if p.wait() != 0] == []


def test_a_program_is_not_used_while_another_process_installs_it(apt_get: Path) -> None:
    (apt_get / "bin" / "half").write_text("")
    (apt_get / "bin" / "half").chmod(0o755)
    with cache.locked(cache.root() / "apt" / "install"):
        waits = threading.Thread(target=host.program, args=["half"])
        waits.start()
        waits.join(0.2)
        assert waits.is_alive()
    waits.join(10)
    assert not waits.is_alive()


def test_another_checkout_keeps_its_entry(tmp_path: Path) -> None:
    names = [f"6.1-standard@{n}" for n in range(4)]
    for age, name in enumerate(names):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    others = ["6.12-standard@0", ".6.1-standard@3.lock"]
    for name in others:
        (tmp_path / name).touch()
    # The one that was asked for stays, however old it is, and the newest of the others.
    cache.prune(tmp_path / names[3], "6.1-standard@*")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([names[0], names[3], *others])


# QEMU


def test_icount_is_one_thread_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "call", lambda *args: b"QEMU emulator version 9.0.0")
    argv = qemu._processors("tcg", "qemu", icount=True)
    assert argv[argv.index("-accel") + 1] == "tcg,thread=single"
    assert argv[argv.index("-icount") + 1] == "shift=0,sleep=off"
    # All others are as they were.
    for accel in ("tcg", "kvm"):
        assert "-icount" not in qemu._processors(accel, "qemu")
    assert "tcg,thread=multi" in qemu._processors("tcg", "qemu")


def test_another_architecture_has_no_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(qemu, "kvm_works", lambda *args: True)
    assert qemu.choose_accel("auto", arch.AMD64, Path(), Path()) == "kvm"
    assert qemu.choose_accel("auto", arch.ARM64, Path(), Path()) == "tcg"
    assert set(qemu.MACHINES) == set(arch.ALL)


def test_each_architecture_has_an_apt_of_its_own() -> None:
    one, other = apt.Apt("bookworm"), apt.Apt("bookworm", "arm64")
    assert one.dir != other.dir
    assert "APT::Architecture=arm64" in other._options()
    assert "APT::Architectures=arm64" in other._options()


@pytest.mark.parametrize(("cpus", "accel"), [(2, "tcg"), (1, "kvm")])
def test_icount_takes_one_processor_and_tcg(cpus: int, accel: str) -> None:
    with pytest.raises(VmError, match="one processor"):
        qemu.Qemu(kernel=Path(), initramfs=Path(), cpus=cpus, accel=accel, icount=True)


# Kernels


def test_releases_sort_by_number() -> None:
    names = ["6.1.0-9-cloud-amd64", "6.1.0-56-cloud-amd64", "6.1.0-10-cloud-amd64"]
    assert [n.split("-")[1] for n in sorted(names, key=kernels.version_key)] == ["9", "10", "56"]
    deb12 = ["6.12.9+deb12-cloud-amd64", "6.12.117+deb12-cloud-amd64"]
    assert max(deb12, key=kernels.version_key) == deb12[1]


def test_an_unknown_series_names_the_known() -> None:
    with pytest.raises(VmError, match=r"known are .*6\.1, 6\.12"):
        kernels.get("5.99")


def test_the_newest_that_is_really_there(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(state: dict[str, Any]) -> Path:
        if state["release"] != "2":
            raise GoneError("404")
        return Path()

    monkeypatch.setattr(kernels, "_fetch", fetch)
    states = [{"release": r} for r in "321"]
    assert kernels._fetch_newest(states) == {"release": "2"}
    with pytest.raises(GoneError):
        kernels._fetch_newest(states[2:])


@pytest.fixture
def cached_kernel(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A kernel in the cache, resolved long ago."""
    state = {
        "time": 0,
        "suite": "bookworm",
        "release": "6.1.0-1-cloud-amd64",
        "version": "6.1.1-1",
        "packages": ["p"],
        "debug": "d",
    }
    (own_cache / "kernels" / "6.1.0-1-cloud-amd64_6.1.1-1").mkdir(parents=True)
    (own_cache / "kernels" / "series-6.1.json").write_text(json.dumps(state))
    return state


def test_no_mirror_means_the_cached_one(
    cached_kernel: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def resolve(*args: Any) -> Any:
        asked.append(args)
        raise VmError("no network")

    monkeypatch.setattr(kernels, "_resolve", resolve)
    for _ in range(2):
        assert kernels.get("6.1").release == cached_kernel["release"]
    assert len(asked) == 1, "an unreachable mirror is not asked at each command"
    with pytest.raises(VmError, match="no network"):
        kernels.get("6.12")


def test_a_damaged_state_is_resolved_anew(
    own_cache: Path, cached_kernel: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_cache / "kernels" / "series-6.1.json").write_text("{")
    monkeypatch.setattr(kernels, "_resolve", lambda *args: [cached_kernel])
    assert kernels.get("6.1").release == cached_kernel["release"]


def bzimage(path: Path, release: str) -> Path:
    data = bytearray(0x1000)
    data[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", data, 0x20E, 0x400)
    banner = f"{release} (someone@somewhere) #1 SMP\0".encode()
    data[0x600 : 0x600 + len(banner)] = banner
    path.write_bytes(data)
    return path


def test_an_own_kernel(tmp_path: Path) -> None:
    vmlinuz = bzimage(tmp_path / "bzImage", "6.9.0-mine+")
    vmlinux = tmp_path / "vmlinux"
    vmlinux.write_bytes(b"\x7fELF..Linux version %s (%s)..Linux version 6.9.0-mine+ (me)")
    k = kernels.own(vmlinuz=vmlinuz, vmlinux=vmlinux)
    assert (k.release, k.vmlinux, k.modules) == ("6.9.0-mine+", vmlinux, None)
    assert k.modules_image is None
    rebuilt = bzimage(vmlinuz, "6.9.0-mine+")
    os.utime(rebuilt, (1, 1))
    assert kernels.own(vmlinuz=rebuilt, vmlinux=vmlinux).id != k.id
    assert not kernels.own(vmlinuz=vmlinuz).has_debug


def test_an_own_kernel_whose_parts_do_not_fit(tmp_path: Path) -> None:
    vmlinuz = bzimage(tmp_path / "bzImage", "6.9.0")
    text = tmp_path / "text"
    text.write_text("hello")
    vmlinux = tmp_path / "vmlinux"
    vmlinux.write_bytes(b"\x7fELF..Linux version 6.8.0 (me)")
    for wrong, said in (
        ({"vmlinuz": text}, "not an x86 kernel image"),
        ({"vmlinuz": vmlinux}, "use --vmlinux"),
        ({"vmlinuz": tmp_path / "nothing"}, "No such file"),
        ({"vmlinuz": vmlinuz, "vmlinux": text}, "not a vmlinux"),
        ({"vmlinuz": vmlinuz, "vmlinux": vmlinux}, r"6\.8\.0, but the kernel is 6\.9\.0"),
        ({"vmlinuz": vmlinuz, "modules": tmp_path}, "has no modules of 6.9.0"),
        ({"vmlinuz": vmlinuz, "base": "6.1"}, "not both"),
    ):
        with pytest.raises(VmError, match=said):
            kernels.own(**wrong)


# The initramfs


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text(
        "kernel/drivers/virtio/virtio-pci.ko: kernel/legacy.ko kernel/virtio.ko kernel/ring.ko\n"
        "kernel/block/virtio_blk.ko.xz: kernel/virtio.ko kernel/ring.ko\n"
        "kernel/ring.ko:\n"
    )
    names = [m.name for m in initramfs.needed(tmp_path, ("virtio_pci", "virtio_blk", "ext4"))]
    assert names == ["ring.ko", "virtio.ko", "legacy.ko", "virtio-pci.ko", "virtio_blk.ko.xz"]


def test_compressed_modules_are_unpacked(tmp_path: Path) -> None:
    (tmp_path / "m.ko.xz").write_bytes(lzma.compress(b"module"))
    assert initramfs.unpacked(tmp_path / "m.ko.xz") == b"module"


@pytest.mark.skipif(shutil.which("cpio") is None, reason="needs cpio")
def test_cpio_is_as_cpio_reads_it(tmp_path: Path) -> None:
    archive = initramfs.cpio(
        [
            ("d", stat.S_IFDIR | 0o755, b""),
            ("d/f", stat.S_IFREG | 0o644, b"odd"),
            ("d/l", stat.S_IFLNK | 0o777, b"f"),
        ]
    )
    subprocess.run(["cpio", "-id", "--quiet"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "d/l").read_bytes() == b"odd"
    assert (tmp_path / "d/l").readlink() == Path("f")


# The wire


def test_frames_in_any_pieces() -> None:
    rng = random.Random(1)
    sent = [(rng.randrange(10), rng.randbytes(rng.randrange(300))) for _ in range(200)]
    stream = b"".join(agent.frame(kind, payload) for kind, payload in sent)
    frames, got = agent.Frames(), []
    while stream:
        n = rng.randrange(1, 400)
        got += frames.feed(stream[:n])
        stream = stream[n:]
    assert got == sent


def test_console_finds_a_panic_and_keeps_escapes_from_the_terminal() -> None:
    r, w = os.pipe()
    console = Console(r)
    os.write(w, b"\x1bc\x1b[2JLinux version 6.1\r\nevil \x1b]0;title\x07\r\nKernel panic - not sy")
    os.write(w, b"ncing: Attempted to kill init!\r\nend")
    os.close(w)
    assert console.closed.wait(10)
    os.close(r)
    assert console.said_linux.is_set()
    assert console.panic == "Attempted to kill init!"
    assert "\x1b" not in console.tail() and "\x07" not in console.tail()
    assert console.tail(1) == "end"


# The project's tree


def test_the_project_is_as_good_as_installed() -> None:
    files = project.installed(
        '[project]\nname = "drgn-sockets"\nversion = "1.2"\n'
        '[project.scripts]\nds = "drgn_sockets.cli:main"\n'
        '[project.entry-points."drgn.plugins"]\ndrgn_sockets = "drgn_sockets.plugin"\n'
    )
    points = files["src/drgn_sockets-1.2.dist-info/entry_points.txt"]
    assert "[drgn.plugins]\ndrgn_sockets = drgn_sockets.plugin\n" in points
    assert "[console_scripts]\nds = drgn_sockets.cli:main\n" in points
    assert "from drgn_sockets.cli import main" in files["usr/local/bin/ds"]


def test_the_packed_project_holds_this_file() -> None:
    with tarfile.open(fileobj=io.BytesIO(project.pack())) as tar:
        names = tar.getnames()
        assert "src/tests/unit/" + Path(__file__).name in names
        assert not [n for n in names if "__pycache__" in n or "/." in n]
        assert {m.uid for m in tar.getmembers()} == {0}


# The command line


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["run"], "say what to run"),
        (["dump"], "-o FILE"),
        (["dump", "-o", "f", "--also", "elf:g"], "there is a core in that format"),
        (["dump", "-o", "f", "--also", "zip:g"], "FORMAT:FILE"),
        (["dump", "--cached", "-o", "f"], "goes without -o"),
        (["--kernel", "5.99", "run", "true"], "unknown kernel series"),
        (["run", "--kernel", "5.99", "true"], "unknown kernel series"),
    ],
)
def test_bad_usage_is_one_line(argv: list[str], said: str) -> None:
    with pytest.raises(VmError, match=said) as e:
        cli.main(argv)
    assert e.value.status == 2
    assert "\n" not in str(e.value)


def test_options_before_and_after_the_command() -> None:
    p = cli.parser()
    for argv in (["--cpus", "7", "run", "true"], ["run", "--cpus", "7", "true"]):
        assert p.parse_args(argv).cpus == 7
    assert p.parse_args(["run", "grep", "--cpus", "x"]).argv == ["grep", "--cpus", "x"]


def test_sizes() -> None:
    assert dump.memory_bytes("1G") == dump.memory_bytes("1024") == dump.memory_bytes("1024M")
    with pytest.raises(VmError):
        dump.memory_bytes("lots")


def test_list_never_asks_the_mirror(
    cached_kernel: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["list", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["release"] for r in rows if r["series"] == "6.1"] == [cached_kernel["release"]]
