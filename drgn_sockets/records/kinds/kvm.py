# SPDX-License-Identifier: LGPL-2.1-or-later
"""Virtual machines and their processors: virt/kvm/kvm_main.c."""

from __future__ import annotations

from operator import attrgetter

from drgn_sockets.kernel.structs import Int, Struct
from drgn_sockets.records.fd import FileRecord
from drgn_sockets.records.kinds.base import Field, Kind


class Vm(Struct):
    """``struct kvm``."""

    C_TYPE = "struct kvm"

    vcpus = Int("created_vcpus", help="processors that were made")
    pid = Int("userspace_pid", help="process that made it, in the initial PID namespace")


class Vcpu(Struct):
    """``struct kvm_vcpu``."""

    C_TYPE = "struct kvm_vcpu"

    id = Int("vcpu_id", help="number of the processor, as user space gave it")
    kvm = Int("kvm", help="struct kvm *")


class KvmVm(Kind):
    """A virtual machine."""

    name = "kvm_vm"
    fops = ("kvm_vm_fops",)
    fields = (
        Field("vcpus", "processors of a virtual machine", attrgetter("vcpus")),
        Field("pid", "process that made a virtual machine", attrgetter("pid")),
    )

    def read(self, file: FileRecord) -> Vm:
        return Vm.layout(file.prog).read(file.private_data)


class KvmVcpu(Kind):
    """A processor of a virtual machine."""

    name = "kvm_vcpu"
    fops = ("kvm_vcpu_fops",)
    fields = (Field("id", "number of a processor of a virtual machine", attrgetter("id")),)

    def read(self, file: FileRecord) -> Vcpu:
        return Vcpu.layout(file.prog).read(file.private_data)
