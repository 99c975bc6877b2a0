"""What a tool server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from agentrl.serve.local import LocalHost

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class RequestMetrics:
    """What any server counts, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._refused = Counter(
            "agentrl_refused", "Requests that were not answered, by reason.", ["kind"], registry=self.registry
        )

    def refused(self, kind: str) -> None:
        """A request was answered with an error."""
        self._refused.labels(kind).inc()

    def page(self) -> bytes:
        """All of it, in Prometheus's text form."""
        return generate_latest(self.registry)


class Metrics(RequestMetrics):
    """What the server of a host counts."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = Counter(
            "agentrl_calls", "Calls that were answered.", ["tool", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "agentrl_call_seconds", "Time in the tool.", ["tool"], buckets=SECONDS, registry=self.registry
        )
        self._queued = Histogram(
            "agentrl_queue_seconds", "Time in the queue.", buckets=SECONDS, registry=self.registry
        )

    def watch(self, host: LocalHost) -> None:
        """Show a host's state as it is when asked."""
        for name, text, value in (
            ("agentrl_sessions", "Open sessions.", lambda: host.sessions),
            ("agentrl_calls_running", "Calls that run.", lambda: host.admission.running),
            ("agentrl_calls_waiting", "Calls in the queue.", lambda: host.admission.waiting),
            ("agentrl_calls_limit", "Calls that may run at once.", lambda: host.admission.capacity.limit),
        ):
            Gauge(name, text, registry=self.registry).set_function(value)

    def answered(self, tool: str, status: str, seconds: float, queue_seconds: float) -> None:
        """A call was answered."""
        label = "unknown" if status == "unknown" else tool  # a model may make up any number of names
        self._calls.labels(label, status).inc()
        self._seconds.labels(label).observe(seconds)
        self._queued.observe(queue_seconds)


class FrontMetrics(RequestMetrics):
    """What a front counts of its workers."""

    def __init__(self) -> None:
        super().__init__()
        self._replaced = Counter(
            "agentrl_workers_replaced", "Workers that ended and were replaced.", registry=self.registry
        )

    def watch_workers(self, count: Callable[[], int]) -> None:
        """Show how many workers live when asked."""
        Gauge("agentrl_workers", "Workers that live.", registry=self.registry).set_function(count)

    def replaced(self) -> None:
        """A worker ended; another one will take its place."""
        self._replaced.inc()


def merged(pages: Mapping[str, bytes]) -> bytes:
    """Several pages as one, each sample labelled with the ``worker`` whose page it is on.

    Args:
        pages: in Prometheus's text form, by the worker's name.
    """
    families: dict[str, Metric] = {}
    for worker, page in pages.items():
        for found in text_string_to_metric_families(page.decode()):
            family = families.setdefault(found.name, Metric(found.name, found.documentation, found.type))
            for sample in found.samples:
                family.add_sample(sample.name, sample.labels | {"worker": worker}, sample.value)
    registry = CollectorRegistry()
    registry.register(_Families(list(families.values())))
    return generate_latest(registry)


class _Families(Collector):
    """Metrics that were counted elsewhere."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
