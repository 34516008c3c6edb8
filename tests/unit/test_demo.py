# SPDX-License-Identifier: LGPL-2.1-or-later
"""The demo that comes with the package: does it run anywhere, and show what is so?"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from drgn_sockets import demo
from drgn_sockets.cli import main
from drgn_sockets.views.procfs import FILES

ROOT = Path(__file__).resolve().parents[2]


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    # Nothing of this machine: no home, no PATH to find a tool on, no place to download from.
    env = {"PYTHONPATH": str(ROOT), "HOME": "/nonexistent", "PATH": "", "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        [sys.executable, "-m", "drgn_sockets", "demo", *argv],
        cwd="/",
        env=env,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        check=False,
        timeout=60,
        **options,
    )


@pytest.fixture(scope="module")
def oracle() -> Iterator[Path]:
    with demo.unpacked_oracle() as directory:
        yield directory


def accounts(oracle: Path) -> dict[str, Any]:
    return {p.stem: json.loads(p.read_text()) for p in (oracle / "account").glob("*.json")}


def test_its_size() -> None:
    assert demo.CORE.stat().st_size + demo.ORACLE.stat().st_size <= 5 << 20


def test_tour(oracle: Path) -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[:3]
    release = json.loads((oracle / "manifest.json").read_text())["kernel"]
    assert f"core of Linux {release} " in first[0] and "distilled" in " ".join(first)
    assert done.stderr.count("\n") == 1
    # What the workloads say of themselves.
    said = accounts(oracle)
    echo = said["tcp_echo"]["connections"][0]
    fork = said["unix_fork"]["connections"][0]
    steps = re.findall(r"^\$ drgn-sockets demo (.*)$", done.stdout, re.MULTILINE)
    assert steps[0] == f"fds {echo['server']['pid']}"
    assert re.search(r"tcp ESTAB 127.0.0.1:22222 -> 127.0.0.1:\d+$", done.stdout, re.MULTILINE)
    server = fork["server"]
    assert re.search(rf"^peer .*pid={server['pid']},fd={server['fd']}\)", done.stdout, re.MULTILINE)
    assert done.stdout.count(" UNCONN never bound") >= 7
    assert done.stdout.splitlines()[-1].endswith("; 0 mismatches")
    # Each step is a command that prints just that.
    for words in steps[:-1]:
        alone = run(*words.split())
        assert alone.returncode == 0
        assert f"$ drgn-sockets demo {words}\n{alone.stdout}\n" in done.stdout


def test_commands() -> None:
    done = run("check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("; 0 mismatches")
    rows = [json.loads(line) for line in run("ss", "-tl", "--json").stdout.splitlines()]
    assert {row["state"] for row in rows} == {"LISTEN"} and len(rows) > 3


@pytest.mark.parametrize("whose", ["memory", "procfs"])
def test_an_account_that_fails_is_no_agreement(
    whose: str,
    oracle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = tmp_path / "proc" / "net"
    saved.mkdir(parents=True)
    for name in ("tcp", "udp"):
        shutil.copy(oracle / "net" / name, saved)
    if whose == "memory":

        def fail(at: object, net: int) -> Iterator[bytes]:
            raise ValueError("made to fail")
            yield b""

        monkeypatch.setattr(FILES["udp"], "lines", fail)
    else:
        text = (saved / "udp").read_bytes()
        (saved / "udp").write_bytes(text[: len(text) // 2].rstrip())
    status = main(["demo", "check", "--procfs", str(saved.parent)])
    out, err = capsys.readouterr()
    assert status == 1 and "net/udp" in err, err
    assert re.search(r"^net/tcp +\d+ rows compared$", out, re.MULTILINE)
    assert not re.search(r"^net/udp ", out, re.MULTILINE)


@pytest.mark.parametrize("words", [["ss", "-a"], ["fds"], ["fds", "--all"]])
def test_nothing_is_lost(words: list[str]) -> None:
    done = run(*words)
    # The line on where types are from is the only one.
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr


@pytest.mark.parametrize("words", [["nonsense"], ["demo"], ["fds", "999999"], ["-c", "x", "ss"]])
def test_bad_words(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == "" and "Traceback" not in done.stderr
    assert "drgn-sockets" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="we are nobody in particular already")
def test_nobody_may_run_it() -> None:
    # The checkout and pytest's directories may be root's alone.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        shutil.copytree(ROOT / "drgn_sockets", Path(place) / "drgn_sockets")
        code = (
            f"import contextlib, io, os, sys; sys.path[:0] = [{place!r}]\n"
            "import drgn_sockets.cli as c\n"
            # Python itself may be root's, and what the tour imports comes as it goes.
            "with contextlib.redirect_stdout(io.StringIO()): c.main(['demo'])\n"
            "os.setgid(65534); os.setuid(65534); sys.exit(c.main(['demo']))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd="/", env={}, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("; 0 mismatches")
