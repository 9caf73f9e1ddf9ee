"""What the gateway tells Prometheus. Label values are bounded: names that we know, else `other`."""

from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.2, 2, 5, 15, 60, 300, 3600)
OTHER = "other"


class Metrics:
    """Counters of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        """Everything at zero."""
        self.registry = CollectorRegistry()
        self.alerts = Counter(
            "runbooks_alerts_received",
            "Alerts that Alertmanager sent, by what became of them",
            ("stack", "outcome"),
            registry=self.registry,
        )
        self.runs = Counter(
            "runbooks_runs_started",
            "Runs that the gateway started",
            ("procedure", "source"),
            registry=self.registry,
        )
        self.trigger = Histogram(
            "runbooks_trigger_seconds",
            "From the receipt of an alert to its run on the Prefect server",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.approvals = Counter(
            "runbooks_approvals",
            "Answers to plans that wait for a person",
            ("decision",),
            registry=self.registry,
        )
        self.refused = Counter(
            "runbooks_requests_refused",
            "Requests that were not taken, by HTTP status",
            ("status",),
            registry=self.registry,
        )
        self.pending = Gauge(
            "runbooks_inbox_pending", "Alerts that wait to be worked", registry=self.registry
        )

    def page(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self.registry)


def bounded(name: str, known: Collection[str]) -> str:
    """A label value that cannot grow without end."""
    return name if name in known else OTHER
