# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a file's own headers say of it, read before drgn opens the file."""

from __future__ import annotations

import os
import re
import stat
import struct
from collections.abc import Callable, Iterator
from io import FileIO
from typing import NamedTuple

from drgn import Architecture, FaultError, Platform

from drgn_sockets.errors import UserError
from drgn_sockets.target import flattened, kdump_file
from drgn_sockets.target.elf import MAGIC as ELF_MAGIC
from drgn_sockets.target.flattened import Flattened
from drgn_sockets.target.kdump_file import BadHeaderError, KdumpHeader, KdumpPages

#: Memory, as far as it is there: an address and bytes.
Chunk = tuple[int, bytes]
Reader = Callable[[int, int], bytes]

# More than the largest magic number below, at its offset.
_MAGIC_SIZE = 1024
_CHUNK = 1 << 20

_DUMP = "virsh dump --memory-only or QEMU's dump-guest-memory makes a core of a running guest"
#: What people take for cores: where and by which bytes it is known, what it is, what to do.
_FOREIGN = (
    (0, b"\x1f\x8b", "compressed with gzip", "unpack it first, with gunzip"),
    (0, b"\xfd7zXZ\0", "compressed with xz", "unpack it first, with unxz"),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", "unpack it first, with unzstd"),
    (0, b"BZh", "compressed with bzip2", "unpack it first, with bunzip2"),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", "unpack it first, with unlz4"),
    (0, b"\x89LZO\0", "compressed with lzop", "unpack it first, with lzop -d"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it first, with unzip"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first, with 7z x"),
    (257, b"ustar", "a tar archive", "unpack it first, with tar -x"),
    (0, b"LibvirtQemud", "the state of a guest, by virsh save", f"virsh restore it; {_DUMP}"),
    (0, b"QEVM", "a QEMU migration stream", f"load it into QEMU with -incoming; {_DUMP}"),
    (0, b"QFI\xfb", "a disk image (qcow2)", f"load a snapshot in it with -loadvm; {_DUMP}"),
    (
        0,
        b"\x7fVirtualBox SavedState",
        "a saved state of VirtualBox",
        "VBoxManage debugvm NAME dumpvmcore makes a core of a running guest",
    ),
    (0, b"\xd0\xbe\xd0\xbe", "a suspended guest of VMware", "vmss2core makes a core of it"),
    (0, b"\xd0\xbe\xd2\xbe", "a suspended guest of VMware", "vmss2core makes a core of it"),
    (0, b"\xd1\xba\xd1\xba", "a suspended guest of VMware", "vmss2core makes a core of it"),
    (0, b"\xd2\xbe\xd2\xbe", "a suspended guest of VMware", "vmss2core makes a core of it"),
    (0, b"\xd3\xbe\xd3\xbe", "a suspended guest of VMware", "vmss2core makes a core of it"),
    (0, b"XenSavedDomain", "a saved domain of Xen", "xl dump-core makes a core of a running one"),
    (0, b"LinuxGuestRecord", "a saved domain of Xen", "xl dump-core makes a core of a running one"),
    (0, b"PAGEDU", "a crash dump of Windows", "drgn-sockets reads Linux"),
    (0, b"DISKDUMP", "a dump of diskdump, which kdump replaced", "crash opens it"),
    (0, b"\xed\x23\x8f\x61\x73\x01\x19\xa8", "a dump of LKCD", "crash opens it"),
    (0, b"EMiL", "a memory image of LiME", "convert it to an ELF core"),
    (0, b"AVML", "a memory image of AVML", "convert it to an ELF core"),
    (0x202, b"HdrS", "a kernel's boot image", "-c takes a dump of its memory"),
)

# Elf64_Ehdr behind e_ident, Elf64_Phdr.
_EHDR = "HHIQQQIHHHHHH"
_PHDR = "IIQQQQQQ"
_ET_CORE = 4
_ELF_TYPES = {
    1: "an object file or a kernel module",
    2: "an executable, such as a vmlinux",
    3: "an executable or a library, such as a vmlinux",
}
_PT_LOAD = 1
_PT_NOTE = 4
# More program headers than e_phnum holds: sh_info of the first section has their number.
_PN_XNUM = 0xFFFF
_MAX_HEADERS = 1 << 22
_MAX_NOTES = 1 << 24
# e_flags: makedumpfile ran out of space.
_ELF_INCOMPLETE = 0x1
_NT_PRPSINFO, _NT_TASKSTRUCT, _NT_AUXV = 3, 4, 6
_PR_FNAME = slice(40, 56)

_EM_NAMES = {
    **{3: "i386", 8: "MIPS", 20: "PowerPC", 21: "PowerPC", 22: "s390", 40: "ARM", 62: "x86-64"},
    **{183: "arm64", 243: "RISC-V", 258: "LoongArch"},
}
#: ``uname -m``, as kernels print it.
_MACHINES = {
    "x86_64": Architecture.X86_64,
    "aarch64": Architecture.AARCH64,
    "ppc64le": Architecture.PPC64,
    "riscv64": Architecture.RISCV64,
}
#: What only kernels of one architecture have in VMCOREINFO (arch_crash_save_vmcoreinfo()).
_MARKS = {
    rb"^SYMBOL\((?:init_top_pgt|init_level4_pgt)\)=": Architecture.X86_64,
    rb"^NUMBER\(kimage_voffset\)=": Architecture.AARCH64,
}


class Segment(NamedTuple):
    """A program header of an ELF core."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    file_size: int
    memory_size: int
    align: int


class CoreFile:
    """
    A core dump.

    :raises UserError: if the file is none, or one that cannot be read here
    :raises OSError: if the file cannot be read
    """

    def __init__(self, path: str) -> None:
        self.path = path
        _check_kind(path)
        handle = FileIO(path)
        self._file = flattened.opened(handle)
        #: VMCOREINFO in the file's headers.
        self.vmcoreinfo: bytes | None = None
        #: The architecture that a kdump file tells in one way or another. drgn finds out that of
        #: an ELF file.
        self.architecture: Architecture | None = None
        #: What is missing of the file, in words; ``None`` if it is whole.
        self.missing: str | None = None
        #: Reads pages instead of libkdumpfile.
        self.pages: KdumpPages | None = None
        self._segments: list[Segment] = []
        self._header: KdumpHeader | None = None
        magic = self._file.read(0, _MAGIC_SIZE)
        if magic.startswith(kdump_file.SIGNATURE):
            self._read_kdump()
        elif magic.startswith(ELF_MAGIC):
            self._read_elf()
        else:
            raise UserError(self._not_a_core(magic))
        if isinstance(self._file, Flattened) and not self._file.is_whole:
            self.missing = f"{self._file.file_size:,} bytes, and the end is not there"

    def platform(self) -> Platform | None:
        """What drgn has to be told; ``None`` if it finds out itself."""
        return Platform(self.architecture) if self.architecture is not None else None

    @property
    def is_kdump(self) -> bool:
        """Whether it is kdump-compressed."""
        return self._header is not None

    @property
    def has_holes(self) -> bool:
        """Whether a segment of ELF is longer in memory than in the file."""
        return any(s.file_size < s.memory_size for s in self._segments)

    @property
    def is_flattened(self) -> bool:
        """Whether it is in makedumpfile's flattened format."""
        return isinstance(self._file, Flattened)

    @property
    def page_size(self) -> int:
        """Size of pages in a kdump file."""
        return self._header.block_size if self._header is not None else 4096

    def cut_short(self) -> str:
        """What is missing, as the beginning of a message."""
        return f"{self.path} is cut short: {self.missing}"

    def _not_a_core(self, magic: bytes) -> str:
        for offset, known, what, advice in _FOREIGN:
            if magic.startswith(known, offset):
                return f"{self.path} is {what}, not a core dump: {advice}"
        if not magic:
            if isinstance(self._file, Flattened):
                return self._headers_cut()
            return f"{self.path} is empty"
        return f"{self.path} is not a core dump; -c takes an ELF or kdump vmcore"

    def _headers_cut(self) -> str:
        size = f"{self._file.file_size:,} bytes"
        return f"{self.path} ({size}) is cut short or damaged: its headers are not whole"

    def _wrong_machine(self, machine: str, bits: int, order: str) -> UserError:
        kind = f"{bits}-bit {'little' if order == '<' else 'big'}-endian"
        return UserError(
            f"{self.path} is a core of a {kind} machine ({machine}): drgn-sockets reads 64-bit "
            "little-endian kernels"
        )

    def _read_kdump(self) -> None:
        try:
            header = kdump_file.read_header(self._file)
            if header.bits != 64 or header.order != "<":
                raise self._wrong_machine(header.machine or "unknown", header.bits, header.order)
            if header.split:
                raise UserError(
                    f"{self.path} is a part of a dump, made by makedumpfile --split: join the "
                    "parts with makedumpfile --reassemble PART1 PART2 ... CORE"
                )
            self._header = header
            self.vmcoreinfo = kdump_file.vmcoreinfo(self._file, header)
            self.architecture = _architecture(header, self.vmcoreinfo or b"")
            if isinstance(self._file, Flattened):
                if not self._file.overlaps and not header.needs_libkdumpfile:
                    self.pages = KdumpPages(self._file, header)
            else:
                self._note_missing(*kdump_file.expected_size(self._file, header))
                # libkdumpfile wants the page tables, which may be in the missing part.
                own = self.missing is not None or self._has_large_blocks(header)
                if own and not header.needs_libkdumpfile:
                    self.pages = KdumpPages(self._file, header)
            if self.pages is None and self._has_large_blocks(header):
                raise UserError(
                    f"{self.path} has blocks of {header.block_size} bytes, which are larger than "
                    "the kernel's pages, as QEMU writes it of an arm64 guest: drgn-sockets reads "
                    "such a file only if it is compressed with zlib (kdump-zlib)"
                )
        except BadHeaderError:
            raise UserError(self._headers_cut()) from None
        if header.is_incomplete and self.missing is None:
            self.missing = "makedumpfile, which wrote it, ran out of space"

    def _has_large_blocks(self, header: KdumpHeader) -> bool:
        """
        Whether blocks are larger than the kernel's pages.

        QEMU's are of 64 KiB for an arm64 guest, whatever its kernel uses. libkdumpfile then takes
        the number of a page for that of a block.
        """
        size = re.search(rb"^PAGESIZE=([0-9]+)$", self.vmcoreinfo or b"", re.MULTILINE)
        return size is not None and int(size[1]) < header.block_size

    def _note_missing(self, expected: int, is_all: bool = True) -> None:
        size = self._file.size()
        if size < expected:
            self.missing = f"{size:,} of {'' if is_all else 'more than '}{expected:,} bytes"

    def _read_elf(self) -> None:
        size = 16 + struct.calcsize("<" + _EHDR)
        head = self._file.read(0, size)
        if len(head) < size or head[4] not in (1, 2) or head[5] not in (1, 2):
            raise UserError(self._headers_cut())
        order = "<" if head[5] == 1 else ">"
        bits = 32 * head[4]
        kind, machine = struct.unpack_from(order + "HH", head, 16)
        if kind != _ET_CORE:
            what = _ELF_TYPES.get(kind)
            if what is None:
                raise UserError(self._headers_cut())
            raise UserError(
                f"{self.path} is {what}, not a core dump: if it is of the kernel, give it with -s, "
                "and a core with -c"
            )
        if (bits, order) != (64, "<"):
            raise self._wrong_machine(_EM_NAMES.get(machine, f"machine {machine}"), bits, order)
        values = struct.unpack_from("<" + _EHDR, head, 16)
        at, sections_at, flags, _, entry, count = values[4:10]
        if count == _PN_XNUM and sections_at:
            # Elf64_Shdr.sh_info
            (count,) = struct.unpack("<I", self._file.read(sections_at + 44, 4) or bytes(4))
        if entry != struct.calcsize("<" + _PHDR) or not 0 < count <= _MAX_HEADERS:
            raise UserError(self._headers_cut())
        table = self._file.read(at, count * entry)
        if len(table) < count * entry:
            raise UserError(self._headers_cut())
        segments = [Segment(*values) for values in struct.iter_unpack("<" + _PHDR, table)]
        self._segments = [s for s in segments if s.type == _PT_LOAD]
        self._read_elf_notes([s for s in segments if s.type == _PT_NOTE])
        self._note_missing(max((s.offset + s.file_size for s in segments), default=0))
        if flags & _ELF_INCOMPLETE and self.missing is None:
            self.missing = "makedumpfile, which wrote it, ran out of space"

    def _read_elf_notes(self, segments: list[Segment]) -> None:
        process: bytes | None = None
        is_process = False
        for segment in segments:
            data = self._file.read(segment.offset, min(segment.file_size, _MAX_NOTES))
            for name, kind, contents in kdump_file.elf_notes(data, "<"):
                if name == b"VMCOREINFO":
                    self.vmcoreinfo = contents
                elif name == b"CORE" and kind == _NT_TASKSTRUCT:
                    # /proc/kcore
                    return
                elif name == b"CORE" and kind in (_NT_PRPSINFO, _NT_AUXV):
                    is_process = True
                    if kind == _NT_PRPSINFO:
                        process = contents[_PR_FNAME].split(b"\0")[0]
        if is_process and self.vmcoreinfo is None:
            comm = f" ({os.fsdecode(process)})" if process else ""
            raise UserError(
                f"{self.path} is a core of a process{comm}, not of a kernel: drgn -c opens it"
            )
        if not self._segments:
            raise UserError(f"{self.path} is a core without memory in it")

    def chunks(self, read: Reader | None = None) -> Iterator[Chunk]:
        """
        Physical memory, from the highest address to the lowest, in pieces of up to 1 MiB.

        :param read: Reads physical memory of a kdump file whose pages Python cannot decompress.
        """
        if self._header is None:
            yield from self._elf_chunks()
            return
        pages = self.pages or KdumpPages(self._file, self._header)
        for address, size in pages.runs(_CHUNK):
            try:
                yield address, (read or pages.read)(address, size)
            except FaultError:
                pass

    @property
    def needs_libkdumpfile(self) -> bool:
        """Whether Python cannot decompress the pages."""
        return self._header is not None and self._header.needs_libkdumpfile

    def _elf_chunks(self) -> Iterator[Chunk]:
        # Segments of a damaged file may be many and huge, and all the same.
        left = 2 * self._file.size()
        for segment in sorted(self._segments, key=lambda s: s.paddr, reverse=True):
            end = min(segment.file_size, self._file.size() - segment.offset)
            while end > 0 and left > 0:
                start = (end - 1) // _CHUNK * _CHUNK
                data = self._file.read(segment.offset + start, end - start)
                yield segment.paddr + start, data
                left -= end - start
                end = start


def _check_kind(path: str) -> None:
    """
    Refuse what has no contents to read in any order.

    :raises UserError: saying what it is
    """
    mode = os.stat(path).st_mode  # noqa: PTH116 (pathlib takes 4 ms to import)
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return
    if stat.S_ISDIR(mode):
        raise UserError(f"{path} is a directory, not a core")
    if stat.S_ISFIFO(mode):
        raise UserError(
            f"{path} is a pipe, and a core is not read in order: write it to a file first"
        )
    kind = "a character device" if stat.S_ISCHR(mode) else "a socket"
    more = "; --qemu takes a QMP socket" if stat.S_ISSOCK(mode) else ""
    raise UserError(f"{path} is {kind}, not a core{more}")


def _architecture(header: KdumpHeader, vmcoreinfo: bytes) -> Architecture | None:
    """
    Find out the architecture of a kdump-compressed dump.

    libkdumpfile takes it from ``struct new_utsname`` in the header, if that has a sysname, a
    release and a version. QEMU fills in the machine only.
    """
    return architecture_of(vmcoreinfo) or _MACHINES.get(header.machine)


def architecture_of(vmcoreinfo: bytes) -> Architecture | None:
    """The architecture of the kernel that wrote VMCOREINFO; ``None`` if that does not tell."""
    for mark, architecture in _MARKS.items():
        if re.search(mark, vmcoreinfo, re.MULTILINE):
            return architecture
    return None
