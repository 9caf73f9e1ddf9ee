"""A machine through Prometheus: what to ask node_exporter and dcgm-exporter, and what it means.

Pure: the questions are PromQL, the answers samples. "No series" and NaN are never a number.
Source: node_exporter's metrics; dcgm-exporter `default-counters.csv`, DCGM field identifiers;
handbook 002, "Resource Metrics".
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from blocks.host_reading import DiskReading, GpuReading, HostReading
from blocks.metric_values import Sample
from blocks.promql import quoted, selector

GIB = 1024**3
_DCGM_BLANK = 0x7FFFFFF0
"""From here on DCGM's numbers mean "not measured" (dcgm_fields.h: DCGM_INT32_BLANK and up)."""


Answers = Mapping[str, Sequence[Sample] | str]
"""By question: the series, or why there are none."""

_GPU_QUESTIONS = {
    "fb_used": "DCGM_FI_DEV_FB_USED",
    "fb_free": "DCGM_FI_DEV_FB_FREE",
    "fb_reserved": "DCGM_FI_DEV_FB_RESERVED",
    "utilization": "DCGM_FI_DEV_GPU_UTIL",
    "temperature": "DCGM_FI_DEV_GPU_TEMP",
    "power": "DCGM_FI_DEV_POWER_USAGE",
    "ecc": "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL",
    "xid": "DCGM_FI_DEV_XID_ERRORS",
    "handbook_used": "nvidia_ml_py_memory_used_bytes",
    "handbook_utilization": "nvidia_ml_py_gpu_utilization",
}


def questions(
    labels: Mapping[str, str],
    gpu_labels: Mapping[str, str],
    disks: Sequence[str],
    window: str,
    gpus: bool = True,
) -> dict[str, str]:
    """PromQL by name.

    Args:
        labels: of the machine's node_exporter.
        gpu_labels: of its dcgm-exporter; empty: the same.
        disks: mount points, as node_exporter names them.
        window: range of the CPU's rate, e.g. `5m`.
        gpus: whether to ask for GPUs.

    Raises:
        ValueError: a label's name is none.
    """
    node, idle = selector(labels), selector(labels, 'mode=~"idle|iowait"')
    seconds = "node_cpu_seconds_total"
    asked = {
        # Per machine, so that labels that match two of them are noticed.
        "cpu": f"1 - sum by (instance) (rate({seconds}{idle}[{window}]))"
        f" / sum by (instance) (rate({seconds}{node}[{window}]))",
        "memory": f"1 - node_memory_MemAvailable_bytes{node} / node_memory_MemTotal_bytes{node}",
    }
    if disks:
        mounts = "mountpoint=~" + quoted("|".join(map(_literally, disks)))
        for what in ("size", "free", "avail"):
            asked[f"disk_{what}"] = f"node_filesystem_{what}_bytes{selector(labels, mounts)}"
    if gpus:
        gpu = selector(gpu_labels or labels)
        asked |= {name: f"{metric}{gpu}" for name, metric in _GPU_QUESTIONS.items()}
    return asked


def folded(answers: Answers, disks: Sequence[str], gpus: bool = True) -> HostReading:
    """The answers as one reading; what has no answer is None, and a problem says why."""
    problems: list[str] = []
    cards = _gpus(answers, problems) if gpus else None
    driver = _label(answers.get("fb_used", ()), "DCGM_FI_DRIVER_VERSION")
    return HostReading(
        cpu_share=_share("cpu", answers.get("cpu", ()), problems),
        memory_share=_share("memory", answers.get("memory", ()), problems),
        disks=tuple(_disk(path, answers, problems) for path in dict.fromkeys(disks)),
        gpus=cards,
        driver_version=driver or None,
        problems=tuple(problems),
    )


def _share(what: str, answer: Sequence[Sample] | str, problems: list[str]) -> float | None:
    if isinstance(answer, str):
        problems.append(f"{what}: {answer}")
    elif not answer:
        problems.append(f"{what}: no series of node_exporter has these labels now; is it down?")
    elif len(answer) > 1:
        problems.append(f"{what}: the labels match {len(answer)} machines; add instance or job")
    elif not math.isfinite(answer[0].value):
        problems.append(f"{what}: Prometheus has no number ({answer[0].value})")
    else:
        return min(1.0, max(0.0, answer[0].value))
    return None


def _disk(path: str, answers: Answers, problems: list[str]) -> DiskReading:
    found: dict[str, float] = {}
    for what, worst in (("size", max), ("free", min), ("avail", min)):
        answer = answers.get(f"disk_{what}", ())
        if isinstance(answer, str):
            problems.append(f"disk {path}: {answer}")
            return DiskReading(path=path)
        values = [s.value for s in answer if s.labels.get("mountpoint") == path]
        if values := [v for v in values if math.isfinite(v) and v >= 0]:
            found[what] = worst(values)
    if len(found) < 3 or not found["size"]:
        problems.append(f"disk {path}: node_exporter has no such mount point; `df` names them")
        return DiskReading(path=path)
    used = max(0.0, found["size"] - found["free"])
    reachable = used + found["avail"]  # without what is reserved for root, as df counts
    return DiskReading(
        path=path,
        used_share=used / reachable if reachable else None,
        free_gib=round(found["avail"] / GIB, 3),
    )


class _Card:
    """The numbers of one GPU, from as many series as there are."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self.labels = labels
        self.parts: dict[str, dict[str, float]] = {}

    def add(self, name: str, sample: Sample) -> None:
        # A MIG slice has memory of its own; several pods on one GPU are the same number again.
        instance = sample.labels.get("GPU_I_ID", "")
        values = self.parts.setdefault(name, {})
        values[instance] = max(sample.value, values.get(instance, 0.0))

    def sum(self, name: str) -> float | None:
        values = self.parts.get(name)
        return sum(values.values()) if values else None

    def most(self, name: str) -> float | None:
        values = self.parts.get(name)
        return max(values.values()) if values else None

    def reading(self) -> GpuReading:
        used, free = self.sum("fb_used"), self.sum("fb_free")
        total = None
        if used is not None and free is not None:
            total = used + free + (self.sum("fb_reserved") or 0.0)
        plain = self.most("handbook_used")
        busy = _first(self.most("utilization"), self.most("handbook_utilization"))
        return GpuReading(
            index=_index(self.labels),
            name=self.labels.get("modelName", self.labels.get("name", "")),
            uuid=_uuid(self.labels),
            bus_id=self.labels.get("pci_bus_id", ""),
            memory_used_gib=_first(_scaled(used, 1024), _scaled(plain, GIB)),
            memory_total_gib=_scaled(total, 1024),
            utilization=None if busy is None else min(1.0, busy / 100),
            temperature_c=self.most("temperature"),
            power_w=self.most("power"),
            ecc_uncorrected=_whole(self.most("ecc")),
            xid=_whole(self.most("xid")),
        )


def _gpus(answers: Answers, problems: list[str]) -> tuple[GpuReading, ...] | None:
    cards: dict[str, _Card] = {}
    for name in _GPU_QUESTIONS:
        answer = answers.get(name, ())
        if isinstance(answer, str):
            problems.append(f"gpus: {answer}")
            return None
        for sample in answer:
            identity = _uuid(sample.labels) or str(_index(sample.labels))
            if math.isfinite(sample.value) and 0 <= sample.value < _blank(name):
                cards.setdefault(identity, _Card(sample.labels)).add(name, sample)
    if not cards:
        problems.append("gpus: no series of dcgm-exporter has these labels now; is it down?")
        return None
    readings = sorted((c.reading() for c in cards.values()), key=lambda g: (g.index or 0, g.uuid))
    missing: list[tuple[str, str, Callable[[GpuReading], object]]] = [
        ("gpus", "DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", lambda g: g.ecc_uncorrected),
        ("xid", "DCGM_FI_DEV_XID_ERRORS", lambda g: g.xid),
        ("gpus", "DCGM_FI_DEV_FB_USED and _FREE", lambda g: g.memory_share),
        ("gpus", "DCGM_FI_DEV_GPU_TEMP", lambda g: g.temperature_c),
    ]
    for about, metric, value in missing:
        if any(value(g) is None for g in readings):
            problems.append(
                f"{about}: {metric} is not exported for every GPU; list it in dcgm-exporter's "
                "counters file (-f)"
            )
    return tuple(readings)


def _blank(name: str) -> float:
    return math.inf if name == "handbook_used" else _DCGM_BLANK


def _uuid(labels: Mapping[str, str]) -> str:
    return labels.get("UUID") or labels.get("uuid") or ""


def _index(labels: Mapping[str, str]) -> int | None:
    for name in ("gpu", "index", "minor_number"):
        if labels.get(name, "").isdecimal():
            return int(labels[name])
    return None


def _label(answer: Sequence[Sample] | str, name: str) -> str:
    samples: Iterable[Sample] = () if isinstance(answer, str) else answer
    return next((s.labels[name] for s in samples if s.labels.get(name)), "")


def _first(*values: float | None) -> float | None:
    return next((v for v in values if v is not None), None)


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else round(value / unit, 3)


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def _literally(text: str) -> str:
    """As a regular expression (RE2), which does not take every escape that Python makes."""
    return re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", text)
