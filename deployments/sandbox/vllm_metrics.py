"""`/metrics` of vLLM 0.32: names, types, help texts, labels and buckets as captured.

Standard library only.
"""

import bisect
import gc
import os
import platform
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from deployments.sandbox.vllm_families import HTTP, OLD_NAMES, VLLM
else:
    from vllm_families import HTTP, OLD_NAMES, VLLM

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None  # type: ignore[assignment]

Labels = tuple[tuple[str, str], ...]

_KINDS = {"c": "counter", "g": "gauge", "h": "histogram", "s": "summary"}


def labels(**values: str) -> Labels:
    """Labels in the order Prometheus' client prints them."""
    return tuple(sorted(values.items()))


class Family:
    """One metric with all its label sets."""

    def __init__(self, kind: str, name: str, help_: str, buckets: str) -> None:
        self.kind, self.name, self.help = kind, name, help_
        self.bounds = [float(b) for b in buckets.split()] if kind == "h" else []
        self.values: dict[Labels, float] = {}
        self.counts: dict[Labels, list[int]] = {}
        self.created: dict[Labels, float] = {}

    def touch(self, key: Labels) -> None:
        """Make a label set exist, at zero."""
        if key not in self.values:
            self.values[key] = 0.0
            self.counts[key] = [0] * (len(self.bounds) + 1)
            self.created[key] = time.time()

    def observe(self, key: Labels, value: float, times: int = 1) -> None:
        """One observation of a histogram or summary, `times` over."""
        self.touch(key)
        self.values[key] += value * times
        self.counts[key][bisect.bisect_left(self.bounds, value)] += times

    def lines(self, shown: str = "", *, empty: bool = False) -> Iterable[str]:
        """The family in the text format, under another name, or a histogram without counts."""
        base = shown or self.name
        empty = empty and self.kind == "h"
        name = base + "_total" if self.kind == "c" else base
        yield f"# HELP {name} {self.help}"
        yield f"# TYPE {name} {_KINDS[self.kind]}"
        for key, value in self.values.items():
            if self.kind in "cg":
                yield f"{name}{_show(key)} {value!r}"
                continue
            total = 0
            for bound, count in zip([*self.bounds, float("inf")], self.counts[key], strict=True):
                total += 0 if empty else count
                if self.kind == "h":
                    le = "+Inf" if bound == float("inf") else repr(bound)
                    yield f"{name}_bucket{_show(tuple(sorted((*key, ('le', le)))))} {float(total)}"
            yield f"{name}_count{_show(key)} {float(total)}"
            yield f"{name}_sum{_show(key)} {0.0 if empty else value!r}"
        if self.kind != "g":
            yield f"# HELP {base}_created {self.help}"
            yield f"# TYPE {base}_created gauge"
            for key, at in self.created.items():
                yield f"{base}_created{_show(key)} {at!r}"


def _show(key: Labels) -> str:
    quoted = (v.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for _, v in key)
    return (
        "{" + ",".join(f'{k}="{v}"' for (k, _), v in zip(key, quoted, strict=True)) + "}"
        if key
        else ""
    )


class Metrics:
    """All families of one server. Names are given without the `vllm:` prefix."""

    def __init__(self, model_name: str) -> None:
        self._model = model_name
        self.started = time.time()
        self._vllm: dict[str, Family] = {}
        for kind, name, help_, label, extra in VLLM:
            family = self._vllm[name] = Family(kind, f"vllm:{name}", help_, extra)
            for value in extra.split() if label else ["" * (name != "cache_config_info")]:
                if name != "cache_config_info":
                    family.touch(self._key(name, {label: value} if label else {}))
        self._http = {name: Family(kind, name, help_, b) for kind, name, help_, b in HTTP}
        self.set("engine_sleep_state", 1.0, sleep_state="awake")

    def _key(self, name: str, extra: dict[str, str]) -> Labels:
        base = {} if name == "admission_rejections" else {"engine": "0"}
        return labels(model_name=self._model, **base, **extra)

    def add(self, name: str, value: float = 1.0, **extra: str) -> None:
        """Raise a counter."""
        family, key = self._vllm[name], self._key(name, extra)
        family.touch(key)
        family.values[key] += value

    def set(self, name: str, value: float, **extra: str) -> None:
        """Set a gauge."""
        family, key = self._vllm[name], self._key(name, extra)
        family.touch(key)
        family.values[key] = float(value)

    def get(self, name: str) -> float:
        """The value of a counter or gauge without extra labels."""
        return self._vllm[name].values[self._key(name, {})]

    def observe(self, name: str, value: float, times: int = 1) -> None:
        """Observe into a histogram."""
        self._vllm[name].observe(self._key(name, {}), value, times)

    def cache_config(self, **info: str) -> None:
        """The one info gauge; it has no model_name label."""
        family = self._vllm["cache_config_info"]
        family.touch(labels(engine="0", **info))
        family.values[labels(engine="0", **info)] = 1.0

    def http(
        self, handler: str, method: str, status: int, size_in: int, size_out: int, seconds: float
    ) -> None:
        """One finished request, /health and /metrics excluded by the caller."""
        by = labels(handler=handler)
        self._http["http_requests"].touch(
            key := labels(handler=handler, method=method, status=f"{status // 100}xx")
        )
        self._http["http_requests"].values[key] += 1
        self._http["http_request_size_bytes"].observe(by, size_in)
        self._http["http_response_size_bytes"].observe(by, size_out)
        self._http["http_request_duration_highr_seconds"].observe((), seconds)
        self._http["http_request_duration_seconds"].observe(
            labels(handler=handler, method=method), seconds
        )

    def text(self, *, old: bool = False, without: str = "", empty: bool = False) -> str:
        """The whole page.

        Args:
            old: names of vLLM before 0.10 where they differ.
            without: comma list of families to leave out, by either name.
            empty: every histogram reads zero.
        """
        hidden = {_bare(name.strip()) for name in without.split(",")}
        lines = [*self._process()]
        for name, family in (*self._vllm.items(), *self._http.items()):
            shown = OLD_NAMES.get(name, name) if old else name
            if not {_bare(shown), _bare(name)} & hidden:
                prefix = "vllm:" if name in self._vllm else ""
                lines.extend(family.lines(prefix + shown, empty=empty))
        return "\n".join(lines) + "\n"

    def _process(self) -> Iterable[str]:
        stats = gc.get_stats()
        for name, field, help_ in (
            ("objects_collected", "collected", "Objects collected during gc"),
            ("objects_uncollectable", "uncollectable", "Uncollectable objects found during GC"),
            ("collections", "collections", "Number of times this generation was collected"),
        ):
            yield f"# HELP python_gc_{name}_total {help_}"
            yield f"# TYPE python_gc_{name}_total counter"
            for i, generation in enumerate(stats):
                yield f'python_gc_{name}_total{{generation="{i}"}} {float(generation[field])}'
        v = sys.version_info
        yield "# HELP python_info Python platform information"
        yield "# TYPE python_info gauge"
        yield (
            f'python_info{{implementation="{platform.python_implementation()}",major="{v[0]}",'
            f'minor="{v[1]}",patchlevel="{v[2]}",version="{platform.python_version()}"}} 1.0'
        )
        rows = [
            ("virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", 2.268762112e09),
            ("resident_memory_bytes", "gauge", "Resident memory size in bytes.", _resident()),
            (
                "start_time_seconds",
                "gauge",
                "Start time of the process since unix epoch in seconds.",
                self.started,
            ),
            (
                "cpu_seconds_total",
                "counter",
                "Total user and system CPU time spent in seconds.",
                sum(os.times()[:2]),
            ),
            ("open_fds", "gauge", "Number of open file descriptors.", 34.0),
            ("max_fds", "gauge", "Maximum number of open file descriptors.", 20000.0),
        ]
        for name, kind, help_, number in rows:
            yield f"# HELP process_{name} {help_}"
            yield f"# TYPE process_{name} {kind}"
            yield f"process_{name} {float(number)!r}"


def _bare(name: str) -> str:
    return name.removeprefix("vllm:").removesuffix("_total")


def _resident() -> float:
    if resource is None:
        return 0.0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(used * (1 if sys.platform == "darwin" else 1024))
