# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``make fuzz``: BTF and System.maps that are damaged in every way, and what becomes of them.

A core's BTF is untrusted bytes. Whatever they are, they work, or are an error of one line: no
other exception, no crash, and no wait. drgn evaluates types when they are looked at, so they are
looked at here. The same seed makes the same inputs.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from drgn import Architecture, Platform, Program, TypeKind, offsetof, sizeof

from drgn_sockets.errors import UserError
from drgn_sockets.target.btf import Btf, BtfError, BtfKind
from drgn_sockets.target.btf_types import NAME, BtfTypes
from drgn_sockets.target.symbols import read_map

from .seeds import Seed, seeds

COUNT = 120_000
# For one input. What is slow has found something as well.
_SECONDS = 5
_MEMORY = 4 << 30
_BATCH = 500
#: What any 32-bit word may be made.
_ABSURD = (0, 1, 2, 3, 7, 0xFF, 0xFFFF, 0xFFFFFF, 1 << 24, 0x7FFFFFFF, 1 << 31, (1 << 32) - 1)

Mutation = Callable[[random.Random, bytearray], None]


def _flip(rng: random.Random, data: bytearray) -> None:
    data[rng.randrange(len(data))] = rng.randrange(256)


def _set_word(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(max(1, len(data) // 4)) * 4
    data[at : at + 4] = struct.pack("<I", rng.choice(_ABSURD))


def _nudge(rng: random.Random, data: bytearray) -> None:
    # Mostly another ID, offset or count that is there.
    at = rng.randrange(max(1, len(data) // 4 - 1)) * 4
    (value,) = struct.unpack_from("<I", data.ljust(at + 4, b"\0"), at)
    data[at : at + 4] = struct.pack("<I", value + rng.randint(-8, 8) & 0xFFFFFFFF)


def _copy_word(rng: random.Random, data: bytearray) -> None:
    a, b = (rng.randrange(max(1, len(data) // 4)) * 4 for _ in range(2))
    data[a : a + 4] = data[b : b + 4]


def _info(rng: random.Random, data: bytearray) -> None:
    """Another kind, or another number of what follows."""
    at = rng.randrange(6, max(7, len(data) // 4)) * 4
    vlen = rng.choice((0, 0, 1, 2, rng.randrange(64), 0xFFFF, 0xFFFFFF))
    info = rng.getrandbits(1) << 31 | rng.randrange(24) << 24 | vlen
    data[at : at + 4] = struct.pack("<I", info)


def _header(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(0, 32, 4)
    data[at : at + 4] = struct.pack("<I", rng.choice((*_ABSURD, len(data), rng.randrange(256))))


def _cut(rng: random.Random, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def _take_out(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 4, 12, rng.randrange(1, 64)))]


def _double(rng: random.Random, data: bytearray) -> None:
    at = rng.randrange(len(data))
    data[at:at] = data[at : at + rng.choice((4, 12, 24, rng.randrange(1, 256)))]


_MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _set_word, _set_word, _nudge, _nudge, _nudge, _copy_word, _copy_word, _info, _info),
    *(_header, _cut, _take_out, _double),
)


def mutate(rng: random.Random, data: bytes) -> bytes:
    """*data* with a few things wrong."""
    broken = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5, 9))):
        if broken:
            rng.choice(_MUTATIONS)(rng, broken)
    return bytes(broken)


def use(data: bytes, base: bytes | None = None) -> None:
    """
    Ask of BTF all that can be asked.

    :raises BtfError: if it does not hold together
    """
    prog = Program(Platform(Architecture.X86_64))
    below = Btf(base) if base is not None else None
    btf = Btf(data, below)
    types = BtfTypes(prog, btf, BtfTypes(prog, below) if below is not None else None)
    prog.register_type_finder(NAME, types.find_type, enable_index=0)
    prog.register_object_finder(NAME, types.find_object, enable_index=0)
    last = min(btf.end_id, btf.start_id + 400)
    for type_id in range(last):
        with allowed():
            look_at(types.type(type_id))
    for type_id in range(btf.start_id, last):
        with allowed():
            name = btf.name(type_id)
            if name is not None:
                for kind in ("struct", "union", "enum", ""):
                    with allowed():
                        look_at(prog.type(f"{kind} {name}"))
                with allowed():
                    prog[name]
            for enumerator, _ in btf.enumerators(type_id) if btf.kind(type_id) in ENUMS else ():
                prog.constant(enumerator)
    with allowed():
        btf.section(".data..percpu")


ENUMS = (BtfKind.ENUM, BtfKind.ENUM64)


@contextlib.contextmanager
def allowed() -> Iterator[None]:
    """What a type that is damaged may come to, one at a time."""
    try:
        yield
    except (BtfError, LookupError):
        pass
    except SyntaxError:
        # drgn's, on a name that is none.
        pass


def look_at(type_: Any) -> None:
    """What drgn evaluates late."""
    str(type_)
    type_.type_name()
    with contextlib.suppress(TypeError):
        # Of incomplete types and functions.
        sizeof(type_)
    for member in getattr(type_, "members", None) or ():
        str(member.type)
        _ = member.bit_field_size
        if member.name:
            type_.member(member.name)
            if type_.kind != TypeKind.TYPEDEF:
                with contextlib.suppress(ValueError):
                    # Of bit-fields.
                    offsetof(type_, member.name)
        inner = getattr(member.type, "members", None)
        for below in inner or ():
            str(below.type)
    for parameter in getattr(type_, "parameters", None) or ():
        str(parameter.type)


def try_one(data: bytes, base: bytes | None) -> None:
    """See what becomes of an input; what is not allowed is an exception."""
    try:
        use(data, base)
    except BtfError as e:
        assert str(e).isprintable(), f"not one line: {str(e)!r}"


def map_of_symbols(rng: random.Random) -> bytes:
    """A System.map, mostly."""
    lines = [f"{0xFFFFFFFF81000000 + 16 * i:016x} T f{i}\n".encode() for i in range(1100)]
    data = bytearray(b"".join(lines))
    for _ in range(rng.choice((1, 3, 20))):
        rng.choice((_flip, _cut, _take_out, _double))(rng, data)
        if not data:
            break
    return bytes(data)


def try_map(data: bytes, path: Path) -> None:
    """See what becomes of a System.map."""
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        for symbol in read_map(str(path)):
            assert symbol.name and 0 <= symbol.address < 1 << 64


def batch(seed: int, number: int, corpus: Sequence[Seed], here: Path) -> None:
    """Try some inputs, each kept in a file until the next; a process of its own for this."""
    # By default this ends the process, in C code as well.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    rng = random.Random(f"{seed} {number}")
    current = here / f"{number}.bin"
    with current.open("wb", buffering=0) as kept:
        for i in range(_BATCH):
            is_map = not i % 100
            data, base = (map_of_symbols(rng), None) if is_map else rng.choice(corpus)
            if not is_map:
                data = mutate(rng, data)
            kept.seek(0)
            kept.truncate()
            kept.write(data)
            signal.alarm(_SECONDS)
            if is_map:
                try_map(data, here / f"{number}.map")
            else:
                try_one(data, base)
    signal.alarm(0)
    current.unlink()


def run(seed: int, count: int, jobs: int, here: Path) -> tuple[int, int | None]:
    """
    Try *count* inputs.

    :return: How many were tried, and the number of the batch that found something, if one did
    """
    corpus = seeds()
    fork = multiprocessing.get_context("fork")
    batches = iter(range((count + _BATCH - 1) // _BATCH))
    running: dict[int, Any] = {}
    done = 0
    while True:
        while len(running) < jobs and (number := next(batches, None)) is not None:
            running[number] = fork.Process(target=batch, args=(seed, number, corpus, here))
            running[number].start()
        if not running:
            return done, None
        multiprocessing.connection.wait([process.sentinel for process in running.values()])
        for number, process in list(running.items()):
            if process.exitcode is None:
                continue
            del running[number]
            if process.exitcode:
                for other in running.values():
                    other.terminate()
                why = f"signal {-process.exitcode}" if process.exitcode < 0 else "the above"
                print(f"fuzz: batch {number} ended by {why}", file=sys.stderr)
                return done, number
            done += _BATCH


def main() -> int:
    """Try as many inputs as asked for; print how many, and how long it took."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="what is tried follows from it (1)")
    parser.add_argument("-n", "--count", type=int, default=COUNT, help=f"inputs ({COUNT})")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "input", nargs="?", type=Path, help="instead: try this one, which was found before"
    )
    args = parser.parse_args()
    # Cores that are too old to be a seed are no news.
    logging.getLogger("drgn").setLevel(logging.ERROR)
    if args.input is not None:
        try_one(args.input.read_bytes(), None)
        return 0
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        done, found = run(args.seed, args.count, args.jobs, Path(directory))
        seconds = time.monotonic() - start
        print(f"fuzz: {done} inputs, seed {args.seed}, {seconds:.0f} s", end="")
        if found is None:
            print(": nothing found")
            return 0
        kept = Path(f"fuzz-{args.seed}-{found}.bin").absolute()
        shutil.copyfile(Path(directory) / f"{found}.bin", kept)
    print(f": found one, kept in {kept}; python -m tests.fuzz {kept} tries it again")
    return 1


if __name__ == "__main__":
    sys.exit(main())
