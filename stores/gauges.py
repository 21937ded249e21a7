"""What every queue, cache and pool of this process shows of itself: read when Prometheus asks, so it costs a call nothing."""

from collections.abc import Callable, Sized

from prometheus_client import Counter, Gauge, Histogram

WAITING = Gauge("finalbell_queue_waiting", "Items that wait for the next batch", ["queue"])
FULL = Counter("finalbell_queue_refused_total", "Items refused since the queue was full", ["queue"])
BATCH = Histogram("finalbell_batch_size", "Items per batch", ["queue"], buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512))
CACHED = Gauge("finalbell_cache_entries", "Entries of a cache", ["cache"])
POOL = Gauge("finalbell_postgres_connections", "Connections to PostgreSQL, by state: used or idle", ["state"])
POOL_MAX = Gauge("finalbell_postgres_connections_max", "The most connections to PostgreSQL that this process opens")


def cached(name: str, cache: Sized) -> None:
    """Show how large a cache is; of several with one name, the newest."""
    CACHED.labels(name).set_function(lambda: len(cache))


def pooled(size: Callable[[], int], idle: Callable[[], int], most: int) -> None:
    """Show how a pool is used."""
    POOL.labels("used").set_function(lambda: size() - idle())
    POOL.labels("idle").set_function(idle)
    POOL_MAX.set(most)
