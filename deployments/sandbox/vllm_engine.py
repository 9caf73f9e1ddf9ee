"""The stand-in's engine: a queue, a batch of at most max_num_seqs, a KV cache, and its deaths.

Standard library only.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from deployments.sandbox import vllm_errors as errors
    from deployments.sandbox import vllm_memory as memory
    from deployments.sandbox import vllm_text as text
else:
    import vllm_errors as errors
    import vllm_memory as memory
    import vllm_text as text

if TYPE_CHECKING:
    from deployments.sandbox.vllm_metrics import Metrics
    from deployments.sandbox.vllm_settings import Settings, Source

_SLICE_S = 0.05


class EngineDead(Exception):
    """The engine core is gone; every request in flight fails with it."""


@dataclass(eq=False)
class Job:
    """One sequence on its way through the engine."""

    prompt_tokens: int
    max_tokens: int
    ignore_eos: bool = False
    arrived: float = field(default_factory=time.monotonic)
    produced: int = 0
    finish: str = "abort"
    admitted: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def tokens(self) -> int:
        """KV cache positions in use."""
        return self.prompt_tokens + self.produced


class Engine:
    """Schedules jobs; invariant: at most max_num_seqs run, and never more than the cache holds."""

    def __init__(
        self,
        source: Source,
        metrics: Metrics,
        budget: memory.Budget,
        wanted: memory.Wanted,
        on_death: Callable[[int], None],
    ) -> None:
        self._source, self._metrics, self._budget, self._wanted = source, metrics, budget, wanted
        self._on_death = on_death
        self._running: set[Job] = set()
        self._waiting: deque[Job] = deque()
        self._requests = 0
        self.dead = False

    @property
    def in_flight(self) -> int:
        """Jobs that run or wait."""
        return len(self._running) + len(self._waiting)

    def refresh(self) -> None:
        """Bring the gauges up to date."""
        m = self._metrics
        m.set("num_requests_running", len(self._running))
        m.set("num_requests_waiting", len(self._waiting))
        m.set("num_requests_waiting_by_reason", len(self._waiting), reason="capacity")
        used = sum(self._blocks(j.tokens) for j in self._running)
        m.set("kv_cache_usage_perc", min(1.0, used / max(1, self._budget.blocks)))

    def _blocks(self, tokens: int) -> int:
        size = self._source.current().kv_block_tokens
        return -(-tokens // size)

    def _admit(self) -> None:
        """Move jobs from the queue into the batch, in order, while they fit."""
        if self._source.current().frozen:
            return
        held = sum(self._blocks(j.prompt_tokens + j.max_tokens) for j in self._running)
        while self._waiting and len(self._running) < self._wanted.max_num_seqs:
            job = self._waiting[0]
            held += self._blocks(job.prompt_tokens + job.max_tokens)
            if self._running and held > self._budget.blocks:
                break
            self._running.add(self._waiting.popleft())
            job.admitted.set()

    async def report(self, every_s: float) -> None:
        """VLLM's periodic throughput line, while there is traffic."""
        before = (0.0, 0.0)
        while True:
            await asyncio.sleep(every_s)
            now = self._metrics.get("prompt_tokens"), self._metrics.get("generation_tokens")
            if now != before or self.in_flight:
                self.refresh()
                used = 100 * self._metrics.get("kv_cache_usage_perc")
                text.api(
                    "loggers.py:257",
                    f"Engine 000: Avg prompt throughput: {(now[0] - before[0]) / every_s:.1f} "
                    f"tokens/s, Avg generation throughput: {(now[1] - before[1]) / every_s:.1f} "
                    f"tokens/s, Running: {len(self._running)} reqs, Waiting: "
                    f"{len(self._waiting)} reqs, GPU KV cache usage: {used:.1f}%, "
                    "Prefix cache hit rate: 0.0%",
                )
            before = now

    async def generate(self, job: Job) -> AsyncGenerator[int, None]:
        """Run a job; yields how many tokens came since the last yield."""
        if self.dead:
            raise EngineDead
        self._requests += 1
        number = self._requests
        self._waiting.append(job)
        try:
            while not job.admitted.is_set():
                self._admit()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_SLICE_S):
                        await job.admitted.wait()
                if self.dead:
                    raise EngineDead
            started = time.monotonic()
            await self._pause(0)
            self._strike(number)
            async for count in self._decode(job, started):
                yield count
        except EngineDead:
            job.finish = "error"
            raise
        finally:
            self._leave(job)

    async def _decode(self, job: Job, started: float) -> AsyncGenerator[int, None]:
        s, m = self._source.current(), self._metrics
        await self._pause(s.ttft_s + job.prompt_tokens / s.prefill_tokens_per_s)
        want = job.max_tokens if job.ignore_eos else min(job.max_tokens, s.answer_tokens)
        first = last = time.monotonic()
        m.add("prompt_tokens", job.prompt_tokens)
        m.add("prompt_tokens_by_source", job.prompt_tokens, source="local_compute")
        m.add("prefix_cache_queries", job.prompt_tokens)
        m.observe("time_to_first_token_seconds", first - job.arrived)
        m.observe("iteration_tokens_total", job.prompt_tokens + 1)
        while job.produced < want:
            step = 1
            if job.produced:
                speed = self._speed()
                step = max(1, min(want - job.produced, int(speed * _SLICE_S)))
                await self._pause(step / speed)
                now = time.monotonic()
                m.observe("inter_token_latency_seconds", (now - last) / step, step)
                m.observe("iteration_tokens_total", 1, step)
                last = now
            job.produced += step
            m.add("generation_tokens", step)
            yield step
        job.finish = "length" if want == job.max_tokens else "stop"
        self._measure(job, started, first, last)

    def _speed(self) -> float:
        """Tokens per second of one sequence, in the crowd that runs now."""
        s = self._source.current()
        crowd = max(0, len(self._running) - s.latency_free_seqs) if s.latency_free_seqs else 0
        return max(0.1, s.tokens_per_s / (1 + crowd * s.latency_slowdown))

    def _measure(self, job: Job, started: float, first: float, last: float) -> None:
        m = self._metrics
        for name, value in (
            ("request_prompt_tokens", job.prompt_tokens),
            ("request_prefill_kv_computed_tokens", job.prompt_tokens),
            ("request_generation_tokens", job.produced),
            ("request_max_num_generation_tokens", job.produced),
            ("request_params_n", 1),
            ("request_params_max_tokens", job.max_tokens),
            ("request_num_preemptions", 0),
            ("e2e_request_latency_seconds", time.monotonic() - job.arrived),
            ("request_queue_time_seconds", started - job.arrived),
            ("request_inference_time_seconds", last - started),
            ("request_prefill_time_seconds", first - started),
            ("request_decode_time_seconds", last - first),
            ("request_time_per_output_token_seconds", (last - first) / max(1, job.produced - 1)),
        ):
            m.observe(name, float(value))

    def _leave(self, job: Job) -> None:
        self._running.discard(job)
        with contextlib.suppress(ValueError):
            self._waiting.remove(job)
        self._metrics.add("request_success", finished_reason=job.finish)
        self._admit()

    async def _pause(self, seconds: float) -> None:
        """Compute for so long; a frozen engine never gets on, a dead one raises."""
        left = seconds
        while True:
            if self.dead:
                raise EngineDead
            if self._source.current().frozen:
                await asyncio.sleep(_SLICE_S)
                continue
            if left <= 0:
                return
            begun = time.monotonic()
            await asyncio.sleep(min(left, 2 * _SLICE_S))
            left -= time.monotonic() - begun

    def _strike(self, number: int) -> None:
        """Let the faults that hit this request happen."""
        s = self._source.current()
        code = 0 if s.exit_zero else 1
        if s.host_oom_after and number >= s.host_oom_after:
            host_oom()
        burst = bool(s.runtime_oom_after) and number >= s.runtime_oom_after
        sequences = self._wanted.max_num_seqs if burst else len(self._running)
        spike = memory.spike_gib(s, sequences)
        if spike and memory.overflows(s, self._budget, sequences):
            left = max(0.03, self._budget.outside - self._budget.graphs)
            self._die(f"torch.OutOfMemoryError: {errors.cuda_oom(s, spike, left)}", code)
        if self._wanted.fp8 and s.fp8_unstable_after and number >= s.fp8_unstable_after:
            self._die(errors.ILLEGAL_ACCESS, code)
        if s.crash_after and number >= s.crash_after:
            self._die(None, s.crash_exit_code)

    def _die(self, error: str | None, code: int) -> None:
        self.dead = True
        text.engine_died(error)
        self._on_death(code)
        raise EngineDead


def start_fault(s: Settings, w: memory.Wanted, b: memory.Budget) -> str:
    """The first thing that stops this configuration from starting; empty when none does."""
    if w.fp8 and s.fp8_unsupported and b.failure not in ("memory_held", "weights"):
        return "fp8_unsupported"
    return b.failure


def _memory_limit() -> int:
    """The container's memory limit in bytes; 0 when there is none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as f:
            limit = int(f.read())
            if limit < 1 << 45:
                return limit
    return 0


def host_oom() -> None:
    """Die as the kernel's OOM killer would have it: SIGKILL, no word in the log.

    PID 1 of a container cannot kill itself; there the memory limit is really exceeded, so that
    Docker reports OOMKilled.
    """
    marker = os.environ.get("SANDBOX_OOM_MARKER")
    if marker:
        with contextlib.suppress(OSError), open(marker, "w", encoding="ascii") as f:
            f.write("oom")
    if os.getpid() != 1:
        os.kill(os.getpid(), signal.SIGKILL)
    hoard: list[bytes] = []
    limit = _memory_limit()
    while len(hoard) << 22 < 2 * limit:
        hoard.append(os.urandom(1 << 12) * 1024)
    os._exit(137)
