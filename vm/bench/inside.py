# SPDX-License-Identifier: LGPL-2.1-or-later
"""
``python3 -m vm.bench.inside RUNS`` in a guest: measures the commands on standard input.

The input is JSON, ``[[NAME, [WORD, ...]], ...]``, and so is the output, ``{NAME: [RUN, ...]}``. The
first run of each command warms up. Progress goes to standard error.
"""

from __future__ import annotations

import dataclasses
import json
import sys

from vm.bench import measure


def main() -> int:
    """Run all commands in turn, several times."""
    works = json.load(sys.stdin)
    runs: dict[str, list[dict[str, object]]] = {name: [] for name, _ in works}
    for i in range(1 + int(sys.argv[1])):
        for name, argv in works:
            print(measure.progress(i, int(sys.argv[1]), name), end="", file=sys.stderr, flush=True)
            runs[name].append(dataclasses.asdict(measure.run(argv)))
    json.dump(runs, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
