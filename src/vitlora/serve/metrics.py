"""What is counted for Prometheus, in a registry of its own: two services in one process share nothing."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32)


class Metrics:
    """Counters and histograms of one service.

    Args:
        waiting: Squares that wait for the model.
        at_work: Requests at work.
    """

    def __init__(self, waiting: Callable[[], float], at_work: Callable[[], float]) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "vitlora_requests", "Requests by route and status", ("route", "status"), registry=registry
        )
        self.seconds = Histogram(
            "vitlora_request_seconds",
            "Seconds from a request's head to its answer",
            ("route",),
            buckets=SECONDS,
            registry=registry,
        )
        self.pictures = Counter(
            "vitlora_pictures", "Pictures by model and what came of them", ("model", "outcome"), registry=registry
        )
        self.batches = Histogram(
            "vitlora_batch_squares", "Squares scored at once", ("model",), buckets=SIZES, registry=registry
        )
        self.decode = Histogram(
            "vitlora_decode_seconds",
            "Seconds to decode a picture, waiting for a decoder left out",
            buckets=SECONDS,
            registry=registry,
        )
        self.score = Histogram(
            "vitlora_score_seconds", "Seconds to score a batch", ("model",), buckets=SECONDS, registry=registry
        )
        Gauge("vitlora_waiting_squares", "Squares that wait for the model", registry=registry).set_function(waiting)
        Gauge("vitlora_requests_at_work", "Requests at work", registry=registry).set_function(at_work)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self.registry)
