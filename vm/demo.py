# SPDX-License-Identifier: LGPL-2.1-or-later
"""``make demo``: the main job on a real kernel, every line of it real."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from vm import dump, kernels
from vm.errors import VmError


def _show(title: str, core: list[str], words: list[str]) -> int:
    print(f"\n# {title}\n$ drgn-sockets -c core.elf {shlex.join(words)}", flush=True)
    return subprocess.run([sys.executable, "-m", "drgn_sockets", *core, *words]).returncode


def main() -> int:
    """
    Boot a kernel, run workloads in it, dump it, and look.

    :return: Exit status
    """
    try:
        kernel = kernels.get()
        print(
            f"A guest with Linux {kernel.release} runs a TCP echo server and client, a unix\n"
            "server that forks for each connection, and others; then it is stopped and dumped.\n"
            "(The first time this fetches a kernel and builds the guest: some minutes. After\n"
            "that the core is kept.)",
            flush=True,
        )
        with tempfile.TemporaryDirectory(prefix="drgn-sockets-demo-") as directory:
            return _tour(Path(directory), kernel)
    except VmError as e:
        print(f"vm: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _tour(directory: Path, kernel: kernels.Kernel) -> int:
    recorded = dump.cached(kernel.name)
    assert recorded.elf is not None and recorded.oracle is not None
    account = recorded.oracle / "account"
    echo = json.loads((account / "tcp_echo.json").read_text())["connections"][0]
    fork = json.loads((account / "unix_fork.json").read_text())["connections"][0]
    client = f"{echo['client']['pid']}:{echo['client']['fd']}"
    nameless = f"{fork['client']['pid']}:{fork['client']['fd']}"
    # Paths are long; the commands name them as one would.
    core = directory / "core.elf"
    core.symlink_to(recorded.elf)
    os.chdir(Path(__file__).parent.parent)
    target = ["-c", str(core), "-s", str(recorded.vmlinux)]
    saved = directory / "proc"
    saved.symlink_to(recorded.oracle)
    steps = (
        (
            "Which connection is each fd of the echo server?",
            ["fds", str(echo["server"]["pid"])],
        ),
        (
            "A client's unix socket has no name. Who has the other end, and who else this one?",
            ["peer", nameless],
        ),
        ("Everything about the echo connection", ["tcp", client]),
        (
            "Is all that true? Kernel memory against what procfs said",
            ["check", "--procfs", str(saved)],
        ),
    )
    return max(_show(title, target, words) for title, words in steps)


if __name__ == "__main__":
    sys.exit(main())
