# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``make bench``: how long whole commands take on a full machine's core, and beside what.

The core has 20,000 TCP pairs, 20,000 unix pairs and a forked child that shares them all:
80,000 sockets, 160,000 file descriptors. It is made once and cached. Commands are run in
turn, several times each, and each figure is a median; what counts is the ratio to a baseline
of the same call, since machines differ and drift.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vm import cache, dump, kernels
from vm.errors import VmError

PAIRS = 20000

# The least that any tool must do: one read for each structure. The addresses of the sockets
# come from the hash table, so even that is a walk.
FLOOR = """
from drgn.helpers.linux.fs import for_each_file
from drgn.helpers.linux.pid import for_each_task
n = size = 0
seen = set()
length = prog.type("struct file").size
for task in for_each_task(prog):
    for _, file in for_each_file(task):
        if file.value_() not in seen:
            seen.add(file.value_())
            size += len(prog.read(file.value_(), length))
print(len(seen), size)
"""

# The plain way: reference objects and their members, as scripts for drgn mostly do it.
PLAIN = """
import ipaddress, struct
from drgn import cast
from drgn.helpers.linux.net import sk_nulls_for_each
from drgn.helpers.linux.tcp import sk_tcpstate
hashinfo = prog["init_net"].ipv4.tcp_death_row.hashinfo
for i in range(hashinfo.ehash_mask.value_() + 1):
    for sk in sk_nulls_for_each(hashinfo.ehash[i].chain):
        common = sk.__sk_common
        tp = cast("struct tcp_sock *", sk)
        local = ipaddress.IPv4Address(struct.pack("=I", common.skc_rcv_saddr.value_()))
        remote = ipaddress.IPv4Address(struct.pack("=I", common.skc_daddr.value_()))
        print(sk_tcpstate(sk).format_(type_name=False), f"{local}:{common.skc_num.value_()}",
              f"{remote}:{common.skc_dport.value_()}", tp.snd_cwnd.value_(), tp.srtt_us.value_())
"""


@dataclass
class Work:
    """A command to measure."""

    name: str
    argv: list[str]
    #: Name of the work that its time is divided by.
    against: str | None = None
    seconds: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    peak_kib: list[int] = field(default_factory=list)
    lines: int = 0
    status: int = 0

    def run(self) -> None:
        """Run it once, as a whole process."""
        start = time.monotonic()
        read, write = os.pipe()
        pid = os.posix_spawnp(
            self.argv[0],
            self.argv,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, write, 1),
                (os.POSIX_SPAWN_CLOSE, read),
                # It says each time where types are from.
                (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
            ],
        )
        os.close(write)
        lines, first = 0, 0.0
        with os.fdopen(read, "rb", buffering=0) as out:
            while chunk := out.read(1 << 16):
                # The first line is that of the headings: what is waited for is a row.
                lines += chunk.count(b"\n")
                if not first and lines > 1:
                    first = time.monotonic() - start
        _, status, usage = os.wait4(pid, 0)
        self.seconds.append(time.monotonic() - start)
        self.first.append(first or self.seconds[-1])
        self.peak_kib.append(usage.ru_maxrss)
        self.lines = lines
        self.status = os.waitstatus_to_exitcode(status)


def core(pairs: int) -> tuple[Path, Path, Path]:
    """
    Get the bench's cores, made when first asked for.

    :return: ELF core, kdump core, vmlinux
    """
    kernel = kernels.get("6.1")
    source = (Path(__file__).parent.parent / "workloads" / "bench.py").read_bytes()
    key = hashlib.sha256(f"{kernel.id} {pairs}".encode() + source).hexdigest()[:12]
    where = cache.root() / "bench" / f"{kernel.id}-{pairs}@{key}"

    def make(part: Path) -> None:
        part.mkdir(parents=True)
        cache.note(f"making the core with {8 * pairs} file descriptors: some minutes, once")
        dump.dump(
            {"elf": part / "core.elf", "kdump": part / "core.kdump"},
            kernel=kernel,
            workloads=[f"bench:{pairs}"],
            memory="1G" if pairs <= PAIRS else "3G",
        )

    cache.ensure(where, make)
    return where / "core.elf", where / "core.kdump", kernel.vmlinux


def works(elf: Path, kdump: Path, vmlinux: Path, small: Path, scripts: Path) -> list[Work]:
    """
    What is measured.

    :param small: ELF core of a 6.12 machine with little on it, for the time to start
    """
    drgn = [str(Path(sys.executable).with_name("drgn")), "--main-symbols", "-s", str(vmlinux)]
    (scripts / "floor.py").write_text(FLOOR)
    (scripts / "plain.py").write_text(PLAIN)
    found: list[Work] = []
    for form, path in (("ELF", elf), ("kdump", kdump)):

        def ours(*words: str, path: Path = path) -> list[str]:
            return command(path, "-s", str(vmlinux), *words)

        def btf(*words: str, path: Path = path) -> list[str]:
            return command(path, "--types=btf", *words)

        floor = f"{form}: floor, a read for each struct file"
        plain = f"{form}: plain drgn, 40,000 TCP, 5 columns"
        found += [
            Work(floor, [*drgn, "-c", str(path), str(scripts / "floor.py")]),
            Work(plain, [*drgn, "-c", str(path), str(scripts / "plain.py")]),
            Work(f"{form}: fds", ours("fds"), floor),
            Work(f"{form}: fds --json", ours("fds", "--json"), floor),
            Work(f"{form}: ss -tuxap", ours("ss", "-tuxap"), plain),
            Work(f"{form}: ss -tuxap --json", ours("ss", "-tuxap", "--json"), plain),
            Work(f"{form}: ss -teom", ours("ss", "-teom"), plain),
            Work(f"{form}: BTF, fds", btf("fds"), f"{form}: fds"),
            Work(f"{form}: BTF, ss -tuxap", btf("ss", "-tuxap"), f"{form}: ss -tuxap"),
        ]
        crash = shutil.which("crash")
        if crash:
            commands = scripts / "crash-files"
            commands.write_text("foreach files\nquit\n")
            base = f"{form}: crash foreach files"
            found.append(Work(base, [crash, "-s", "-i", str(commands), str(vmlinux), str(path)]))
            found.append(Work(f"{form}: fds", ours("fds"), base))
    found.append(Work("6.12 ELF, small: BTF, fds", command(small, "--types=btf", "fds")))
    return found


def command(core: Path, *words: str) -> list[str]:
    """A command line of ours."""
    return [sys.executable, "-m", "drgn_sockets", "-c", str(core), *words]


def table(found: Sequence[Work]) -> str:
    """The figures as text."""
    by_name = {work.name: work for work in found}
    width = max(len(work.name) for work in found)
    lines = [
        f"{'work':{width}}  {'seconds':>8}  {'first row':>9}  {'peak MB':>7}  {'lines':>7}  ratio"
    ]
    for work in found:
        ratio = ""
        if work.against is not None:
            pairs = zip(work.seconds, by_name[work.against].seconds)
            ratio = f"{statistics.median(a / b for a, b in pairs):.2f} of {work.against}"
        lines.append(
            f"{work.name:{width}}  {statistics.median(work.seconds):8.2f}  "
            f"{statistics.median(work.first):9.2f}  "
            f"{statistics.median(work.peak_kib) / 1000:7.0f}  {work.lines:7}  {ratio}"
            + (f"  exit status {work.status}" if work.status else "")
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, print, and write the table to a file."""
    parser = argparse.ArgumentParser(prog="python -m vm.bench", description=__doc__)
    parser.add_argument("-n", "--runs", type=int, default=3, help="of each command (default 3)")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="TCP pairs (default 20000)")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("bench.txt"), help="file for the table as well"
    )
    args = parser.parse_args()
    try:
        elf, kdump, vmlinux = core(args.pairs)
        scripts = cache.root() / "bench" / "scripts"
        scripts.mkdir(parents=True, exist_ok=True)
        small = dump.cached(kernel="6.12", formats=("elf", "kdump")).elf
        assert small is not None
        found = works(elf, kdump, vmlinux, small, scripts)
    except VmError as e:
        print(f"vm: {e}", file=sys.stderr)
        return 2
    for work in found:
        # Once unmeasured: caches of the file system warm up.
        work.run()
        work.seconds.clear()
        work.first.clear()
        work.peak_kib.clear()
    for _ in range(args.runs):
        for work in found:
            work.run()
    text = table(found)
    sys.stdout.write(text)
    part = args.output.with_name(args.output.name + ".part")
    part.write_text(text)
    part.replace(args.output)
    return max(work.status != 0 for work in found)


if __name__ == "__main__":
    sys.exit(main())
