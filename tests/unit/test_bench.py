# SPDX-License-Identifier: LGPL-2.1-or-later
"""vm.bench: what it makes of what it measures. How long things take is not tested."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import pytest

from vm.bench import __main__ as bench
from vm.bench import cores, live, measure, table, targets, works
from vm.bench.measure import Run
from vm.bench.targets import Target
from vm.bench.work import Work, Works
from vm.crash import Crash
from vm.errors import VmError


def run(seconds: float, *, first: float = 0.1, kib: int = 1000, last: str = "") -> Run:
    return Run(seconds, first, seconds / 2, kib, lines=3, status=0, last=last, told="")


def work(name: str, *seconds: float, against: str | None = None) -> Work:
    return Work(name, ["true"], against, runs=[run(s) for s in seconds])


def shell(text: str) -> list[str]:
    return ["sh", "-c", text]


# A run


def test_a_run_is_told_in_full() -> None:
    done = measure.run(shell("echo heading; echo row; echo the last; echo why >&2; exit 3"))
    assert (done.lines, done.status, done.last, done.told) == (3, 3, "the last", "why")
    assert 0 < done.first <= done.seconds
    assert done.peak_kib > 0


def test_the_first_row_is_the_second_line() -> None:
    done = measure.run(shell("echo heading; sleep 0.3; echo row; sleep 0.3; echo row"))
    assert 0.3 <= done.first < done.seconds - 0.2


def test_memory_is_that_of_the_command() -> None:
    # Not of what was run before it.
    hungry = measure.run([sys.executable, "-c", "x = b'x' * 400_000_000"])
    small = measure.run(["true"])
    assert hungry.peak_kib * 1024 > 400_000_000 > small.peak_kib * 1024


def test_processor_time_is_that_of_the_command() -> None:
    busy = "import time\nwhile time.process_time() < 0.3: pass"
    assert measure.run([sys.executable, "-c", busy]).cpu >= 0.3
    assert measure.run(["sleep", "0.3"]).cpu < 0.2


def test_a_killed_command_is_no_success() -> None:
    assert measure.run(shell("kill -9 $$")).status == -9


def test_environment_and_output(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w+b") as output:
        measure.run(shell("echo $ONE; pwd"), env={"ONE": "1"}, cwd=str(tmp_path), output=output)
        output.seek(0)
        assert output.read() == f"1\n{tmp_path}\n".encode()


# A work


def test_trouble_is_remembered_and_not_run_again() -> None:
    failing = Work("it", shell("echo no such core >&2; exit 2"))
    failing.warm_up()
    assert failing.trouble == "EXIT STATUS 2: no such core"
    failing.run()
    assert failing.runs == []
    assert failing.median(lambda r: r.seconds) is None


def test_trouble_later_counts_as_well(tmp_path: Path) -> None:
    once = Work("it", shell(f"test ! -e {tmp_path}/x && touch {tmp_path}/x"))
    once.warm_up()
    assert once.trouble == ""
    once.run()
    assert once.trouble == "EXIT STATUS 1"


def test_output_is_judged() -> None:
    def judge(output: IO[bytes]) -> str | None:
        return None if b"good" in output.read() else "DOES NOT COUNT"

    good, bad = (Work("it", ["echo", text], judge=judge) for text in ("good", "evil"))
    for it in (good, bad):
        it.warm_up()
    assert (good.trouble, bad.trouble) == ("", "DOES NOT COUNT")


def test_what_cannot_be_started_is_trouble() -> None:
    it = Work("it", ["/nowhere/crash"])
    it.warm_up()
    assert it.trouble == "cannot be started: No such file or directory"


def test_words_are_resolved_when_run(tmp_path: Path) -> None:
    asked = []

    def core() -> Path:
        asked.append(1)
        return tmp_path

    it = Work("it", ["ls", core])
    assert asked == []
    it.run()
    assert it.trouble == "" and asked == [1]


# Ratios


def test_ratio_is_of_the_same_round() -> None:
    # The machine got slower by half meanwhile: medians of each would say 3 / 4.
    found = Works([work("a", 1, 2, 3, 30, 30), work("b", 2, 4, 6, 10, 60)])
    assert found.ratio("a", "b") == 0.5


def test_no_ratio_without_both() -> None:
    found = Works([work("a", 1), work("b", 2)])
    assert found.ratio("a", "c") is None
    found["b"].trouble = "EXIT STATUS 1"
    assert found.ratio("a", "b") is None


def test_growth_leaves_the_start_out() -> None:
    found = Works(
        [
            work("ELF: start: fds of one process, BTF", 1.0),
            work("ELF: fds, BTF", 3.0),
            work("ELF, twice: start: fds of one process, BTF", 1.5),
            work("ELF, twice: fds, BTF", 6.5),
        ]
    )
    assert targets.growth(found, "fds", "ELF", "ELF, twice") == 2.5


# Targets


@pytest.mark.parametrize(
    ("values", "met"),
    [
        ({"BTF": 0.4, "DWARF": 0.5}, True),
        ({"BTF": 0.4, "DWARF": 0.6}, False),
        ({"BTF": 0.4, "DWARF": None}, True),
        ({"BTF": None}, None),
    ],
)
def test_met_under_all_conditions(values: dict[str, float | None], met: bool | None) -> None:
    assert Target("it", 0.5, values).met is met


def by_name(found: Works) -> dict[str, Target]:
    return {target.name: target for target in targets.targets(found)}


def test_targets_know_the_works() -> None:
    # Each name that a target asks for is one that is measured.
    crash = Crash(("crash",), "9")
    all_of_them = [*works.all_of_them(crash), *live.works()]
    names = [it.name for it in all_of_them]
    assert len(names) == len(set(names))
    assert {it.against for it in all_of_them} - {None} <= set(names)
    assert [it.name for it in all_of_them if it.instructions] == [it.name for it in live.works()]
    for it in all_of_them:
        it.runs = [run(2, last="ratio 2.5"), run(2, last="ratio 2.5")]
        if "start" in it.name:
            it.runs = [run(1), run(1)]
    for target in targets.targets(Works(all_of_them)):
        assert target.values and None not in target.values.values(), target.name


def test_nothing_measured_is_said() -> None:
    rows = list(table.reached(targets.targets(Works([]))))
    assert len(rows) > 10
    assert all(row.endswith("not measured") for row in rows[1:])


def test_peak_is_the_worst_of_all_commands() -> None:
    small, large = work("ELF: fds, BTF", 1), work("ELF: ss -tuxap --json, BTF", 1)
    small.runs = [run(1, kib=100_000)]
    large.runs = [run(1, kib=250_000)]
    target = by_name(Works([small, large]))["ELF: fds and ss, peak memory"]
    assert target.values == {"BTF": 256.0, "DWARF": None}
    assert target.met is False


def test_decoding_is_what_the_script_says() -> None:
    it = Work("kdump: decode: TCP records over reads", [])
    it.runs = [run(9, last=f"40000 records: read 5 us, ratio {r}") for r in (2.5, 9, 2)]
    assert by_name(Works([it]))[f"{it.name}"].values == {"DWARF": 2.5}


# The tables


def lines_of(*found: Work) -> list[str]:
    return list(table.figures(found, Works(found)))


def test_table() -> None:
    ours = Work("ELF: fds, BTF", [], "ELF: crash, foreach files")
    ours.runs = [Run(2.0, 0.5, 1.75, 200_000, 160_013, 0, "", "")]
    failed = work("kdump: fds, BTF")
    failed.trouble = "EXIT STATUS 2: no such core"
    assert lines_of(work("ELF: crash, foreach files", 4.0), ours, failed) == [
        "work                       seconds  first row    CPU  peak MB   lines  ratio",
        "ELF: crash, foreach files     4.00       0.10   2.00        1       3",
        "ELF: fds, BTF                 2.00       0.50   1.75      205  160013  "
        "0.50 of ELF: crash, foreach files",
        "",
        "kdump: fds, BTF            EXIT STATUS 2: no such core",
    ]


def test_table_of_instructions() -> None:
    live_work = Work("live: lsof -nP", [], instructions=True)
    live_work.runs = [Run(1.5404, 0.25, 1.5, 20_000, 40_013, 0, "", "")]
    assert lines_of(work("ELF: fds, BTF", 4.0), live_work)[2:] == [
        "",
        "work            instructions  first row       CPU  peak MB   lines  ratio",
        "live: lsof -nP        1540 M      250 M    1500 M       20   40013",
    ]


def test_table_of_targets() -> None:
    rows = table.reached(
        [
            Target("fds / crash", 0.5, {"BTF": 0.4, "DWARF": 0.456}),
            Target("peak memory", 250, {"BTF": 251.4}, "MB"),
            Target("first row", 1.0, {"BTF": None}, "s"),
        ]
    )
    assert list(rows) == [
        "what it must reach  limit     measured",
        "fds / crash         ≤ 0.50    0.40 BTF  0.46 DWARF  met",
        "peak memory         ≤ 250 MB  251 BTF               NOT MET",
        "first row           ≤ 1.00 s                        not measured",
    ]


# The whole


def run_main(monkeypatch: pytest.MonkeyPatch, found: Sequence[Work], *words: str, to: Path) -> int:
    monkeypatch.setattr(works, "get_crash", lambda: (None, ["no crash to compare with: offline"]))
    monkeypatch.setattr(works, "all_of_them", lambda it: list(found))
    monkeypatch.setattr(sys, "argv", ["bench", "--no-live", "-n", "2", "-o", str(to), *words])
    return bench.main()


def test_main_writes_what_it_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    to = tmp_path / "bench.txt"
    found = [Work("ELF: one", ["true"]), Work("ELF: crash, foreach files", ["true"])]
    assert run_main(monkeypatch, found, to=to) == 0
    text = capsys.readouterr().out
    assert to.read_text() == text
    assert "no crash to compare with: offline\n" in text
    assert "medians of 2 runs" in text
    assert "\nELF: one  " in text


def test_main_fails_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Work("ELF: one", ["true"]), Work("ELF: two", shell("echo why >&2; exit 4"))]
    assert run_main(monkeypatch, found, to=tmp_path / "bench.txt") == 1
    out, err = capsys.readouterr()
    assert "ELF: two  EXIT STATUS 4: why\n" in out
    assert "ELF: two: EXIT STATUS 4: why\n" in err


def test_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [Work("ELF: one", ["true"]), Work("ELF: two", ["/nowhere"])]
    assert run_main(monkeypatch, found, "--only", "one$", to=tmp_path / "bench.txt") == 0
    assert found[1].trouble == ""
    assert "no crash to compare" not in capsys.readouterr().out, "crash is not looked for"
    assert run_main(monkeypatch, found, "--only", "three", to=tmp_path / "bench.txt") == 2
    assert "see --list" in capsys.readouterr().err


def test_list_measures_and_downloads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bench", "--list", "--only", "^(ELF: crash|live: lsof)"])
    assert bench.main() == 0
    names = capsys.readouterr().out.splitlines()
    assert names == ["ELF: crash, foreach files", "ELF: crash, net -s PID", "live: lsof -nP"]
    assert list(tmp_path.iterdir()) == []


def test_a_guest_that_fails_costs_no_other_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise VmError("the guest panicked")

    monkeypatch.setattr(works, "get_crash", lambda: (None, []))
    monkeypatch.setattr(works, "all_of_them", lambda it: [Work("ELF: one", ["true"])])
    monkeypatch.setattr(live, "measure", fail)
    monkeypatch.setattr(sys, "argv", ["bench", "-n", "1", "-o", str(tmp_path / "bench.txt")])
    assert bench.main() == 1
    out = capsys.readouterr().out
    assert "\nELF: one  " in out and "live: lsof -nP" in out
    assert "  NOT MEASURED: the guest panicked\n" in out


@pytest.mark.parametrize("words", [["-n", "0"], ["-n", "x"], ["--only", "("]])
def test_usage(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", *words])
    with pytest.raises(SystemExit) as e:
        bench.main()
    assert e.value.code == 2
    assert ": not a " in capsys.readouterr().err


def test_tables_are_laid_out_as_procfs_has_them(tmp_path: Path) -> None:
    process = tmp_path / "135"
    process.mkdir()
    entries = [
        {"fd": 3, "link": "socket:[21189]", "fdinfo": "pos:\t0\n"},
        {"fd": 40000, "link": "/tmp/\udcff (deleted)", "fdinfo": "pos:\t7\n"},
    ]
    packed = process / "fds.jsonl"
    packed.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    cores.unpack_tables(tmp_path)
    assert (process / "fd" / "3").readlink() == Path("socket:[21189]")
    assert (process / "fd" / "40000").readlink() == Path("/tmp/\udcff (deleted)")
    assert (process / "fdinfo" / "40000").read_text() == "pos:\t7\n"
    assert not packed.exists()
