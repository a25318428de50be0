"""What a server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from hrformer.serve.batcher import Batcher

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        labels, registry = ["model"], self._registry
        self._requests = Counter(
            "hrformer_requests",
            "Requests by status; 499 where the client left.",
            [*labels, "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "hrformer_request_seconds", "Time of a request.", labels, buckets=SECONDS, registry=registry
        )
        self._pictures = Counter("hrformer_pictures", "Pictures answered.", labels, registry=registry)
        self._batch = Histogram(
            "hrformer_batch_size", "Network inputs in a batch.", labels, buckets=SIZES, registry=registry
        )
        self._network = Histogram(
            "hrformer_network_seconds", "Time of a batch in the network.", labels, buckets=SECONDS, registry=registry
        )
        self._waiting = Gauge("hrformer_waiting", "Network inputs in the queues.", registry=registry)

    def watch(self, batcher: Batcher) -> None:
        """Show how much waits for a batcher."""
        self._waiting.set_function(lambda: batcher.waiting)

    def request(self, model: str, status: int, seconds: float) -> None:
        """Count a request that has ended."""
        self._requests.labels(model, str(status)).inc()
        self._seconds.labels(model).observe(seconds)

    def pictures(self, model: str, number: int) -> None:
        """Count pictures that have been answered."""
        self._pictures.labels(model).inc(number)

    def batch(self, model: str, size: int, seconds: float) -> None:
        """Count a batch."""
        self._batch.labels(model).observe(size)
        self._network.labels(model).observe(seconds)

    def page(self) -> tuple[bytes, str]:
        """All of it in Prometheus' text format, and that format's content type."""
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
