# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that panic, kernels of any package, and the table of cores that were tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.wide import dumps
from vm import apt, kernels, panic
from vm.errors import VmError


def test_what_the_crash_kernel_runs() -> None:
    assert panic.command("copy") == "cp /proc/vmcore /root/core"
    for how, options in (("elf", "-E -d 31"), ("-c -d 1", "-c -d 1"), ("", "")):
        words = panic.command(how).split()
        assert words[:3] == ["makedumpfile", "--message-level", "4"]
        assert words[3:] == [*options.split(), "/proc/vmcore", "/root/core"]
    # It is a line of a script.
    assert panic.command("-l '; reboot'").split(" /proc")[0].endswith("-l '; reboot'")


@pytest.mark.parametrize(
    ("packages", "release", "fetched"),
    [
        (
            ["linux-base=4.9", "linux-image-6.1.0-56-rt-amd64=6.1.192-2", "linux-image-rt-amd64=6"],
            "6.1.0-56-rt-amd64",
            ["linux-image-6.1.0-56-rt-amd64"],
        ),
        (
            ["linux-image-6.1.0-57-amd64-unsigned=6.1.192-3"],
            "6.1.0-57-amd64",
            ["linux-image-6.1.0-57-amd64-unsigned"],
        ),
        (
            [
                "linux-modules-7.2.13+deb14-amd64=7.2.13-1",
                "linux-binary-unsigned-7.2.13+deb14-amd64=7.2.13-1",
            ],
            "7.2.13+deb14-amd64",
            ["linux-modules-7.2.13+deb14-amd64", "linux-binary-unsigned-7.2.13+deb14-amd64"],
        ),
    ],
)  # fmt: skip
def test_kernel_of_a_package(
    monkeypatch: pytest.MonkeyPatch, packages: list[str], release: str, fetched: list[str]
) -> None:
    asked: dict[str, Any] = {}
    monkeypatch.setattr(apt.Apt, "update", lambda self, max_age=0: None)
    monkeypatch.setattr(apt.Apt, "closure", lambda self, name: packages)
    monkeypatch.setattr(kernels, "_fetch", asked.update)
    found = kernels.package("linux-image-rt-amd64/trixie")
    assert (found.release, found.has_debug) == (release, False)
    assert (asked["suite"], asked["packages"]) == ("trixie", fetched)
    monkeypatch.setattr(apt.Apt, "closure", lambda self, name: ["bash=5.2"])
    with pytest.raises(VmError, match="bash of Debian bookworm brings no kernel"):
        kernels.package("bash")


def test_rows_that_were_measured_stay(tmp_path: Path) -> None:
    situation = dumps.SITUATIONS[-1]
    key = (situation.group, situation.name)
    row = {"opens": "**no**: a \\| b", "seconds": "3", "measured": "abc, today"}
    text = dumps.render({key: row})
    again = dumps.known(text)
    assert {k: v for k, v in again[key].items() if v} == row
    assert len(again) == len(dumps.SITUATIONS)
    assert {r["opens"] for k, r in again.items() if k != key} == {"not measured"}
    assert dumps.render(again) == text
