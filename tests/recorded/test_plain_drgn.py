# SPDX-License-Identifier: LGPL-2.1-or-later
"""The plugin in drgn itself: its own helpers, on a core alone, without debugging symbols."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drgn_sockets.target.btf_types import NAME
from drgn_sockets.target.own_types import OwnTypes

from .conftest import BOTH, opened
from .machine import ROOT, Core

DRGN = Path(sys.executable).with_name("drgn")

# Each line is a question to drgn's helpers; the answers are printed as JSON.
SCRIPT = """
import json, os
from drgn.helpers.linux import *
from drgn.helpers.linux.module import for_each_module
from drgn.helpers.linux.slab import for_each_slab_cache, slab_object_info

def text(name):
    return os.fsdecode(name.string_())

prog.load_debug_info(main=True)
answers = {
    "tasks": {t.pid.value_(): text(t.comm) for t in for_each_task()},
    "files": {
        t.pid.value_(): {fd: os.fsdecode(d_path(f.f_path)) for fd, f in for_each_file(t)}
        for t in for_each_task()
    },
    "namespaces": sorted(net.ns.inum.value_() for net in for_each_net()),
    "idle": text(prog["init_task"].comm),
    "modules": sorted(text(module.name) for module in for_each_module()),
    "mounts": sorted(
        os.fsdecode(mount_dst(m)) for m in for_each_mount(find_task(1).nsproxy.mnt_ns)
    ),
    "release": text(prog["init_uts_ns"].name.release),
    "cpus": [per_cpu(prog["runqueues"], cpu).cpu.value_() for cpu in for_each_online_cpu()],
    "idle tasks": [text(idle_task(cpu).comm) for cpu in for_each_possible_cpu()],
    "init": [text(find_task(1).comm), find_pid(1).numbers[0].nr.value_()],
    "zombies": sorted(t.pid.value_() for t in for_each_task() if task_state_to_char(t) == "Z"),
    "caches": sorted(text(s.name) for s in for_each_slab_cache()),
    "cache of a task": text(slab_object_info(find_task(1)).slab_cache.name),
    "cgroup": os.fsdecode(cgroup_path(find_task(1).cgroups.dfl_cgrp)),
    "users": sorted({u.uid.val.value_() for u in for_each_user()}),
    "pages": totalram_pages(),
    "filesystems": sorted({text(sb.s_type.name) for sb in list_for_each_entry(
        "struct super_block", prog["super_blocks"].address_of_(), "s_list")}),
    "disks": sorted(os.fsdecode(disk_name(d)) for d in for_each_disk()),
    "version": any(b"Linux version" in record.text for record in get_printk_records()),
    "constants": [prog["TCP_LISTEN"].value_(), prog["PIDTYPE_PID"].value_()],
    "symbol": prog.symbol(prog.symbol("tcp_prot").address).name,
    "function": prog["tcp_v4_rcv"].type_.type.type_name(),
}
print(json.dumps(answers))
"""


def ask(core: Core, *options: str, tmp_path: Path, **env: str) -> dict[str, Any]:
    """Answers of drgn."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    argv = [str(DRGN), "-q", "--main-symbols", "-c", str(core.path), *options, str(script)]
    done = subprocess.run(
        argv, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **env}, timeout=120
    )
    # Types stand in for debugging symbols, so their lack is no error.
    assert (done.returncode, done.stderr) == (0, "")
    answers: dict[str, Any] = json.loads(done.stdout)
    return answers


def system_map(core: Core) -> dict[str, str]:
    return {"DRGN_SOCKETS_SYSTEM_MAP": core.system_map[1]} if core.system_map else {}


def test_helpers_of_drgn(kernel: str, tmp_path: Path) -> None:
    core = opened(kernel, "elf", "btf")
    answers = ask(core, tmp_path=tmp_path, **system_map(core))
    if kernel in BOTH:
        dwarf = opened(kernel, "elf", "dwarf")
        assert ask(core, "-s", str(dwarf.vmlinux), tmp_path=tmp_path) == answers
    processes = [p for p in core.oracle.glob("[0-9]*") if (p / "fd").is_dir()]
    compared = 0
    for process in processes:
        pid = process.name
        status = (process / "stat").read_bytes()
        comm = status[status.index(b"(") + 1 : status.rindex(b")")]
        if any((process / "fd").iterdir()):
            # Of kernel threads procfs says more.
            assert answers["tasks"][pid] == os.fsdecode(comm)
        for fd in (process / "fd").glob("[0-9]*"):
            name = os.readlink(fd)  # noqa: PTH115
            if name.startswith("/tmp/drgn-sockets/") and not name.endswith(" (deleted)"):
                assert answers["files"][pid][fd.name] == name
                compared += 1
    assert compared > 50
    modules = (core.oracle / "modules").read_text().splitlines()
    assert answers["modules"] == sorted(line.split()[0] for line in modules)
    assert set(map(int, core.manifest["netns"])) <= set(answers["namespaces"])
    assert answers["release"] == core.manifest["kernel"]
    assert (answers["idle"], answers["init"]) == ("swapper/0", ["python3", 1])
    assert answers["idle tasks"] == [f"swapper/{cpu}" for cpu in answers["cpus"]]
    assert answers["cpus"] == list(range(len(answers["cpus"])))
    assert answers["cache of a task"] == "task_struct"
    assert answers["version"] and answers["constants"] == [10, 0]
    assert (answers["symbol"], answers["function"]) == ("tcp_prot", "int")


def run(core: Core, expression: str, **env: str) -> subprocess.CompletedProcess[str]:
    argv = [str(DRGN), "--main-symbols", "-c", str(core.path), "-e", expression]
    return subprocess.run(argv, capture_output=True, text=True, env={**os.environ, **env})


def test_a_kernel_that_wants_a_system_map(old: Core) -> None:
    done = run(old, "print(prog['init_task'].comm)")
    assert done.returncode != 0
    (line,) = (line for line in done.stderr.splitlines() if "drgn_sockets" in line)
    assert "$DRGN_SOCKETS_SYSTEM_MAP" in line


def test_a_system_map_in_the_environment_of_a_kernel_that_wants_none(one: Core, old: Core) -> None:
    (_, path) = old.system_map
    done = run(one, "print(prog['init_task'].comm.string_())", DRGN_SOCKETS_SYSTEM_MAP=path)
    assert done.stdout == "b'swapper/0'\n"


def test_what_is_turned_off_is_off(one: Core) -> None:
    assert run(one, "print(prog['init_task'].comm.string_())").stdout == "b'swapper/0'\n"
    done = run(one, "print(prog['init_task'].comm)", DRGN_DISABLE_PLUGINS="drgn_sockets")
    assert done.returncode != 0 and done.stdout == ""


@pytest.mark.kernels("6.1")
def test_out_of_the_way_of_dwarf() -> None:
    """What DWARF lacks is lacking, but for types of modules, and nothing is loaded for it."""
    prog = opened("6.1", "elf", "dwarf").prog
    finders = (
        (prog.enabled_type_finders, "dwarf"),
        (prog.enabled_object_finders, "dwarf"),
        (prog.enabled_symbol_finders, "elf"),
    )
    for enabled, theirs in finders:
        names = enabled()
        assert names.index(NAME) > names.index(theirs)
    with pytest.raises(LookupError):
        prog.type("struct no_such_struct")
    # The vmlinux alone has DWARF here; this is of a module.
    assert prog.type("struct vsock_sock").has_member("local_addr")
    with pytest.raises(LookupError, match=r"could not find 'no_such_variable'$"):
        prog["no_such_variable"]
    assert not OwnTypes.of(prog)._types
