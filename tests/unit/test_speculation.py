# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Lines of ``/proc/PID/status`` about mitigations, by architecture: what ``ssbd_prctl_get()`` of
arch/arm64/kernel/proton-pack.c returns, as ``task_seccomp()`` of fs/proc/array.c words it.
"""

from __future__ import annotations

import pytest
from drgn import Architecture, Platform

from drgn_sockets.kernel.speculation import indirect_branch, store_bypass

from .fake_kernel import FakeKernel

UNAFFECTED, MITIGATED, VULNERABLE = range(3)
DYNAMIC, ENABLED, DISABLED = range(3)
OFF, AUTO = range(2)
# PFA_SPEC_SSB_DISABLE, PFA_SPEC_SSB_FORCE_DISABLE, PFA_SPEC_SSB_NOEXEC
DISABLE, FORCE, NOEXEC = 1 << 3, 1 << 4, 1 << 7


def arm64(state: int | None = None, policy: int = DYNAMIC, mitigations: int = AUTO) -> FakeKernel:
    k = FakeKernel(Platform(Architecture.AARCH64))
    if state is not None:
        for name, value in (
            ("spectre_v4_state", state),
            ("__spectre_v4_policy", policy),
            ("cpu_mitigations", mitigations),
        ):
            k.symbol(name, k.new(k.s32, value), 4)
    return k


@pytest.mark.parametrize(
    "kernel, flags, text",
    [
        ((UNAFFECTED,), 0, "not vulnerable"),
        ((VULNERABLE,), 0, "vulnerable"),
        ((MITIGATED,), 0, "thread vulnerable"),
        ((MITIGATED,), DISABLE, "thread mitigated"),
        ((MITIGATED,), DISABLE | FORCE, "thread force mitigated"),
        ((MITIGATED,), NOEXEC, "vulnerable"),
        ((MITIGATED, ENABLED), 0, "not vulnerable"),
        ((MITIGATED, DISABLED), DISABLE, "vulnerable"),
        ((MITIGATED, DYNAMIC, OFF), 0, "vulnerable"),
    ],
)
def test_store_bypass_of_arm64(kernel: tuple[int, ...], flags: int, text: str) -> None:
    assert store_bypass(arm64(*kernel).prog, flags) == text


def test_what_is_not_found_is_not_guessed() -> None:
    # A kernel without CONFIG_KALLSYMS_ALL has no variables in its kallsyms.
    with pytest.raises(LookupError, match="spectre_v4_state"):
        store_bypass(arm64().prog, 0)


@pytest.mark.parametrize(
    "architecture, texts",
    [
        # arch_prctl_spec_ctrl_get() says ENODEV on arm64, and EINVAL where it is the weak one.
        (Architecture.AARCH64, "unknown"),
        (Architecture.S390X, "unsupported"),
        (Architecture.RISCV64, "unsupported"),
    ],
)
def test_indirect_branch(architecture: Architecture, texts: str) -> None:
    k = FakeKernel(Platform(architecture))
    assert indirect_branch(k.prog, 0) == texts
    if architecture is not Architecture.AARCH64:
        assert store_bypass(k.prog, 0) == "unknown"
