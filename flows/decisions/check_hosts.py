"""Is a machine well: CPU, memory, disks, GPUs, driver. Pure; unmeasured is `unknown`, never ok."""

import math
import re
from collections.abc import Iterable, Sequence

from blocks.check_policy import CheckPolicy
from blocks.gpu_host import GpuHostSpec
from blocks.host_reading import DiskReading, GpuReading, HostReading
from flows.decisions.finding import Finding, Status
from flows.decisions.words import span
from flows.decisions.xids import MILD, meaning, remedy

DISK_FULL = 0.97
"""From here on a disk is failing, not only filling: ours, no handbook says."""

_MIN_DRIVER: dict[int, tuple[int, ...]] = {12: (525, 60, 13), 13: (580,)}
"""Oldest Linux driver of each CUDA major release. Source: NVIDIA "CUDA Compatibility", Table 1."""


def judge_host(
    name: str, reading: HostReading, spec: GpuHostSpec, policy: CheckPolicy
) -> list[Finding]:
    """Every finding of one machine; its subject is `host NAME`.

    Args:
        name: the machine, as the stack calls it.
        reading: what was measured.
        spec: what ought to be: its disks, and whether it has GPUs.
        policy: the thresholds.
    """
    subject = f"host {name}"
    disks = {disk.path: disk for disk in reading.disks}
    # Those that must be there, and whatever else a command tells of.
    paths = dict.fromkeys([*spec.disks, *disks])
    wanted = [disks.get(path) or DiskReading(path=path) for path in paths]
    if _blank(reading, wanted):
        parts = ["CPU", "memory", *(f"disk {d.path}" for d in wanted)]
        parts += ["GPUs"] if spec.gpus else []
        why = reading.about() or "; ".join(reading.problems[:2]) or "the reading is empty"
        said = f"not measured: {', '.join(parts)}; {why}"
        return [Finding(check="reading", subject=subject, status="unknown", evidence=said)]
    found = [
        _share(subject, "cpu", reading.cpu_share, policy.cpu, reading.about("cpu")),
        _share(subject, "memory", reading.memory_share, policy.memory, reading.about("memory")),
        *(_disk(subject, disk, policy.disk, reading.about(f"disk {disk.path}")) for disk in wanted),
    ]
    if spec.gpus:
        found += judge_gpus(name, reading, policy)
    return found


def judge_gpus(name: str, reading: HostReading, policy: CheckPolicy) -> list[Finding]:
    """Every finding of one machine's GPUs: memory, temperature, ECC, Xid, and what is unknown."""
    subject = f"host {name}"
    if reading.gpus is None:
        why = reading.about("gpus") or "the reading has no GPUs in it"
        return [
            Finding(
                check="gpus", subject=subject, status="unknown", evidence=f"not measured: {why}"
            )
        ]
    if not reading.gpus:
        return [
            Finding(
                check="gpus",
                subject=subject,
                status="fail",
                value="0 GPUs",
                evidence="the driver answers, and lists none",
                advice="look for NVRM in dmesg; set `gpus: false` for a machine without GPUs",
            )
        ]
    found = [one for gpu in reading.gpus for one in _gpu(subject, gpu, reading, policy)]
    return found + _xids_unknown(subject, reading.gpus, reading.about("xid"), policy)


def driver_problem(driver: str | None, cuda: str | None) -> str:
    """Why a driver does not run CUDA 12 (or 13, where `cuda` says so); empty when it does.

    Args:
        driver: version of the NVIDIA driver, e.g. `550.54.15`; None: not measured.
        cuda: CUDA version that is used or that the driver claims, e.g. `12.4`; None: not
            measured, and the handbooks' 12.x is taken.

    Returns:
        One sentence; it begins with `unknown` when nothing was measured.

    Source: handbook 004 ("CUDA 12.x compatible driver"), 000 section 2.3; NVIDIA "CUDA
    Compatibility": CUDA 12.x needs 525.60.13 or newer, 13.x needs 580 or newer.
    """
    if driver is None:
        return "unknown: the driver's version could not be measured; run nvidia-smi on the host"
    found = _version(driver)
    if found is None:
        return f"unknown: {driver[:40]!r} is no driver version; run nvidia-smi on the host"
    claimed = _version(cuda) if cuda else None
    if cuda and claimed is None:
        return f"unknown: {cuda[:40]!r} is no CUDA version; run nvidia-smi on the host"
    major = max(12, claimed[0] if claimed else 12)
    if claimed and claimed[0] < 12:
        return f"driver {driver} runs CUDA {cuda} at most, and vLLM needs 12.x: {_newer(12)}"
    if major not in _MIN_DRIVER:
        return f"unknown: no minimum driver of CUDA {cuda} is known here; see its release notes"
    if found < _MIN_DRIVER[major]:
        return f"driver {driver} is too old for CUDA {major}.x: {_newer(major)}"
    return ""


def _newer(major: int) -> str:
    oldest = ".".join(map(str, _MIN_DRIVER[major]))
    return f"install {oldest} or newer (handbook 000 installs nvidia-driver-550) and reboot"


def _version(text: str) -> tuple[int, ...] | None:
    found = re.match(r"\s*(\d{1,4}(?:\.\d{1,4}){0,3})(?![\d.])", text)
    return tuple(int(part) for part in found[1].split(".")) if found else None


def _blank(reading: HostReading, disks: Iterable[DiskReading]) -> bool:
    shares = (reading.cpu_share, reading.memory_share, *(d.used_share for d in disks))
    return reading.gpus is None and all(share is None for share in shares)


def _share(subject: str, check: str, share: float | None, limit: float, why: str) -> Finding:
    if share is None:
        said = f"not measured: {why or 'the reading has none'}"
        return Finding(check=check, subject=subject, status="unknown", evidence=said)
    status: Status = "warn" if share >= limit else "ok"
    return Finding(
        check=check, subject=subject, status=status, value=_percent(share), threshold=_below(limit)
    )


def _disk(subject: str, disk: DiskReading, limit: float, why: str) -> Finding:
    check = f"disk {disk.path}"
    if disk.used_share is None:
        return _share(subject, check, None, limit, why)
    full = disk.used_share >= max(limit, DISK_FULL)
    status: Status = "fail" if full else "warn" if disk.used_share >= limit else "ok"
    left = "" if disk.free_gib is None else f", {disk.free_gib:,.1f} GiB left"
    return Finding(
        check=check,
        subject=subject,
        status=status,
        value=_percent(disk.used_share) + left,
        threshold=_below(limit),
        advice="" if status == "ok" else "remove old models, images, logs or backups, or extend it",
    )


def _gpu(
    subject: str, gpu: GpuReading, reading: HostReading, policy: CheckPolicy
) -> Iterable[Finding]:
    if gpu.lost:
        xid = f"; Xid {gpu.xid}: {meaning(gpu.xid)}" if gpu.xid else ""
        yield Finding(
            check=gpu.label,
            subject=subject,
            status="fail",
            value="lost",
            evidence=(gpu.problem or "the driver has lost it") + xid,
            advice="reset it (nvidia-smi -r) or reboot; if it comes back, check power and cooling",
        )
        return
    if (share := gpu.memory_share) is not None:
        yield Finding(
            check=f"{gpu.label} memory",
            subject=subject,
            # A vLLM server takes gpu_memory_utilization (0.92) on purpose: only above is news.
            status="warn" if share >= policy.gpu_memory else "ok",
            value=f"{_percent(share)} of {gpu.memory_total_gib:,.0f} GiB",
            threshold=_below(policy.gpu_memory),
            evidence=_holders(gpu),
        )
    yield from _temperature(subject, gpu, policy)
    if gpu.ecc_uncorrected is not None:
        bad = gpu.ecc_uncorrected > 0
        yield Finding(
            check=f"{gpu.label} ecc",
            subject=subject,
            status="fail" if bad else "ok",
            value=f"{gpu.ecc_uncorrected} uncorrected errors",
            threshold="0",
            evidence="since the driver was loaded",
            advice="reset the GPU; replace it if the count rises again" if bad else "",
        )
    yield from _xid(subject, gpu, policy)
    if missing := _unmeasured(gpu):
        why = gpu.problem or reading.about(gpu.label, "gpus") or "the driver does not tell"
        yield Finding(
            check=gpu.label,
            subject=subject,
            status="unknown",
            evidence=f"not measured: {', '.join(missing)}; {why}",
        )


def _temperature(subject: str, gpu: GpuReading, policy: CheckPolicy) -> Iterable[Finding]:
    if (celsius := gpu.temperature_c) is None:
        return
    warn, fail = policy.gpu_temperature_warn_c, policy.gpu_temperature_fail_c
    status: Status = "fail" if celsius >= fail else "warn" if celsius >= warn else "ok"
    yield Finding(
        check=f"{gpu.label} temperature",
        subject=subject,
        status=status,
        value=f"{math.floor(celsius)} °C",
        threshold=f"< {fail if status == 'fail' else warn:.0f} °C",
        advice="" if status == "ok" else "check fans, air flow and the power limit",
    )


def _xids_unknown(
    subject: str, gpus: Iterable[GpuReading], why: str, policy: CheckPolicy
) -> list[Finding]:
    """One finding for all GPUs of which nobody knows whether the window saw an Xid."""
    there = [gpu for gpu in gpus if not gpu.lost]
    unheard = [gpu.label for gpu in there if gpu.xid is None]
    young = [gpu for gpu in there if _young(gpu, policy)]
    found = Finding(check="xid", subject=subject, status="unknown")
    said, update = [], {}
    if unheard:
        why = why or "the reading does not tell them"
        said.append(f"not measured: Xid errors of {_few(unheard)}; {why}")
    if young:
        begins = span(min(gpu.xid_reaches_s or 0.0 for gpu in young))
        said.append(
            f"none of {_few([gpu.label for gpu in young])} since the kernel's log begins, "
            f"{begins} ago; every boot begins a new one"
        )
        update = {"advice": "look at the boot before: journalctl -k -b -1 -g Xid"}
        if not unheard:
            update |= {"value": "none seen", "threshold": f"none in {policy.window_h:g} h"}
    return [found.model_copy(update={"evidence": "; ".join(said), **update})] if said else []


def _young(gpu: GpuReading, policy: CheckPolicy) -> bool:
    """Whether none was seen by who could not look back far enough."""
    reaches_s = gpu.xid_reaches_s
    return gpu.xid == 0 and reaches_s is not None and reaches_s < policy.window_h * 3600


def _xid(subject: str, gpu: GpuReading, policy: CheckPolicy) -> Iterable[Finding]:
    if gpu.xid is None or _young(gpu, policy):
        return
    past = gpu.xid_age_s is not None and gpu.xid_age_s > policy.window_h * 3600
    bad = gpu.xid > 0 and not past
    status: Status = "ok" if not bad else "warn" if gpu.xid in MILD else "fail"
    when = "when is not known" if gpu.xid_age_s is None else f"{gpu.xid_age_s / 3600:.1f} h ago"
    yield Finding(
        check=f"{gpu.label} xid",
        subject=subject,
        status=status,
        value=f"Xid {gpu.xid}" if gpu.xid else "none seen",
        threshold=f"none in {policy.window_h:g} h",
        evidence=f"{meaning(gpu.xid)}; {when}" if gpu.xid else "",
        advice=remedy(gpu.xid) if bad else "",
    )


def _unmeasured(gpu: GpuReading) -> list[str]:
    """What is judged and was not measured. A GPU without ECC memory has no errors to count."""
    checks = {
        "memory": gpu.memory_share,
        "temperature": gpu.temperature_c,
        "ECC errors": gpu.ecc_uncorrected,
    }
    missing = [name for name, value in checks.items() if value is None]
    if "ecc_uncorrected" in gpu.unsupported and "ECC errors" in missing:
        missing.remove("ECC errors")
    return missing


def _holders(gpu: GpuReading) -> str:
    most = sorted(gpu.processes, key=lambda p: -(p.memory_gib or 0))[:2]
    held = ["" if p.memory_gib is None else f" {p.memory_gib:.0f} GiB" for p in most]
    return ", ".join(
        f"{p.name or 'process'} {p.pid}{size}" for p, size in zip(most, held, strict=True)
    )


def _few(labels: Sequence[str]) -> str:
    return ", ".join(labels[:4]) + (f" and {len(labels) - 4} more" if len(labels) > 4 else "")


def _percent(share: float) -> str:
    # Rounded down: what is below a threshold must not read as if it had reached it.
    return f"{math.floor(share * 1000 + 1e-6) / 10:.1f} %"


def _below(limit: float) -> str:
    return f"< {limit * 100:g} %"
