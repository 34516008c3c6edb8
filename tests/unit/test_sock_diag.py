# SPDX-License-Identifier: LGPL-2.1-or-later
"""Are the replies of sock_diag all there, and do they come back from a file as they were?"""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path

import pytest

from drgn_sockets.check import sock_diag
from drgn_sockets.check.diag import difference
from drgn_sockets.check.sock_diag import Reply, Unanswered

REPLIES = [
    Reply(sock_diag.AF_INET, sock_diag.IPPROTO_MPTCP, bytes(range(72))),
    Reply(sock_diag.AF_INET, sock_diag.IPPROTO_MPTCP, b"odd length"),
    Reply(sock_diag.AF_UNIX, 0, b""),
]
UNANSWERED = [Unanswered(sock_diag.AF_XDP, 0, 2), Unanswered(10, 262, 93)]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "diag"
    sock_diag.save(REPLIES, path, UNANSWERED)
    return path


def test_what_is_saved_is_loaded(saved: Path) -> None:
    assert sock_diag.load(saved) == REPLIES
    assert sock_diag.load_all(saved) == (REPLIES, UNANSWERED)


def test_nothing_is_a_file_too(tmp_path: Path) -> None:
    sock_diag.save([], tmp_path / "diag")
    assert sock_diag.load_all(tmp_path / "diag") == ([], [])


def test_a_file_cut_off_anywhere_is_broken(saved: Path) -> None:
    data = saved.read_bytes()
    for end in range(len(data)):
        saved.write_bytes(data[:end])
        with pytest.raises(ValueError, match=r"^[^\n]+$") as raised:
            sock_diag.load(saved)
        assert str(raised.value).startswith(str(saved))


def test_a_file_that_lacks_a_part_is_broken(saved: Path) -> None:
    data = saved.read_bytes()
    for at in range(0, len(data), 4):
        saved.write_bytes(data[:at] + data[at + 4 :])
        try:
            replies = sock_diag.load(saved)
        except ValueError as error:
            assert "\n" not in str(error)
        else:
            # A part of a payload that is not looked at here.
            assert len(replies) <= len(REPLIES)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (struct.pack("=IHHII", 15, 20, 1, 0, 0), "cannot have 15 bytes"),
        (struct.pack("=IHHII", 0xFFFFFFFF, 20, 1, 0, 0), "cannot have 4294967295 bytes"),
        (struct.pack("=IHHII", 16, 20, 1, 0, 0), "a request of 0 bytes"),
        (struct.pack("=IHHII", 16, 20, 2, 0, 0), "an answer to no request"),
        (struct.pack("=IHHIIII", 24, 20, 1, 0, 0, 2, 6), "answers without an end"),
        (2 * struct.pack("=IHHIIII", 24, 20, 1, 0, 0, 2, 6), "among the answers"),
        (
            struct.pack("=IHHIIII", 24, 20, 1, 0, 0, 2, 6) + struct.pack("=IHHII", 16, 4, 0, 0, 0),
            "of type 4",
        ),
    ],
)
def test_a_broken_message(tmp_path: Path, message: bytes, why: str) -> None:
    path = tmp_path / "diag"
    path.write_bytes(b"drgn-sockets sock_diag 1\n" + message + b"end\n")
    with pytest.raises(ValueError, match=why):
        sock_diag.load(path)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        sock_diag.load(tmp_path / "diag")
    path = tmp_path / "other"
    path.write_bytes(b"\x7fELF")
    with pytest.raises(ValueError, match="not saved replies"):
        sock_diag.load(path)


def test_each_thing_is_asked_once() -> None:
    asked = [(request.family, request.protocol) for request in sock_diag.REQUESTS]
    assert len(asked) == len(set(asked))


def ino(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def test_this_kernel_tells_of_a_socket_of_ours_and_not_of_the_asking_ones() -> None:
    def inodes() -> set[int]:
        replies = [r for r in sock_diag.ask(unanswered=[]) if r.family == sock_diag.AF_UNIX]
        return {struct.unpack_from("=I", reply.message, 4)[0] for reply in replies}

    before = inodes()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert inodes() - before == {ino(ours), ino(theirs)}


def test_nothing_is_left_open() -> None:
    before = open_files()
    list(sock_diag.ask())
    assert open_files() == before


def test_the_answers_end_early_if_nobody_wants_more() -> None:
    ours, theirs = socket.socketpair()
    before = open_files()
    with ours, theirs:
        replies = sock_diag.ask()
        next(replies)
        replies.close()  # type: ignore[attr-defined]
        assert open_files() == before


def test_no_such_namespace(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(sock_diag.ask(str(tmp_path / "ns")))
    assert not (tmp_path / "ns").exists()
    with pytest.raises(OSError):
        list(sock_diag.ask("/dev/null"))


def test_an_interrupted_dump_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    request = sock_diag.REQUESTS[0]
    asker = sock_diag._Asker()
    dumps = [([b"half"], True), ([b"whole"], False)]
    monkeypatch.setattr(asker, "_dump", lambda _: dumps.pop(0))
    try:
        assert asker.answers(request) == [Reply(request.family, request.protocol, b"whole")]
        monkeypatch.setattr(asker, "_dump", lambda _: ([b"half"], True))
        with pytest.raises(OSError, match="interrupted"):
            asker.answers(request)
    finally:
        asker.close()


def test_ages_go_round() -> None:
    # jiffies_to_msecs() of an unsigned int. Jiffies start at -300 s, and the age of what never
    # happened is that of jiffies 0.
    assert difference(10788, 4294946460) == 31624
    assert difference(4294946460, 10788) == -31624
    assert difference(1500, 500) == 1000
    assert difference(500, 1500) == -1000
    # Members of 64 bits do not.
    assert difference(1 << 40, 5) == (1 << 40) - 5
