# SPDX-License-Identifier: LGPL-2.1-or-later
"""
The file descriptors of a process, found as the kernel finds them.

    drgn -k contrib/fd_table.py PID

A descriptor is an index into an array of pointers to struct file, task->files->fdt->fd; an
empty slot is a closed fd. The struct file has the position and the O_* flags: two fds that
point to the same struct file, after dup() or fork(), share them. Close-on-exec belongs to
the fd, as a bit in a bitmap beside the array. The inode has the type of the file. For a
socket, private_data of the struct file leads on (see inode_to_tuple.py).
"""

from __future__ import annotations

import os
import sys

from drgn.helpers.common.format import escape_ascii_string
from drgn.helpers.linux.fs import d_path, decode_file_type
from drgn.helpers.linux.pid import find_task

task = find_task(int(sys.argv[1])) if sys.argv[1:] and sys.argv[1].isdecimal() else None
if task is None or not task or not task.files:
    what = f"no process {sys.argv[1]} with open files" if sys.argv[1:] else "no PID given"
    print(f"{what}; usage: drgn -k contrib/fd_table.py PID", file=sys.stderr)
    sys.exit(2)

fdt = task.files.fdt.read_()
word = 64 if fdt.close_on_exec.type_.type.size == 8 else 32

print("  FD MODE POS        TYPE INODE      STRUCT FILE        NAME")
for fd in range(fdt.max_fds):
    file = fdt.fd[fd].read_()
    if not file:
        continue
    flags = file.f_flags.value_()
    mode = "p" if flags & os.O_PATH else "rwu-"[flags & os.O_ACCMODE]
    if fdt.close_on_exec[fd // word].value_() >> fd % word & 1:
        mode += "c"
    inode = file.f_inode
    # Sockets, pipes and their like have no path: drgn names their kind of file system.
    name = escape_ascii_string(d_path(file.f_path), escape_backslash=True)
    print(
        f"{fd:4} {mode:4} {file.f_pos.value_():<10} {decode_file_type(inode.i_mode):4} "
        f"{inode.i_ino.value_():<10} {file.value_():#x} {name}"
    )
