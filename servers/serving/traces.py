"""Traces across gRPC and JetStream, where the extra `otel` is installed and `FINALBELL_OTLP` says where they go.

Elsewhere nothing is imported, and a call pays one comparison. Written by hand on OpenTelemetry's API: its gRPC
instrumentation does not see `abort_with_status`, with which every refusal here leaves, nor JetStream.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from grpc import StatusCode

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

Headers = Mapping[str, str]
SERVERS_FAULT = frozenset(
    {StatusCode.UNKNOWN, StatusCode.DEADLINE_EXCEEDED, StatusCode.INTERNAL, StatusCode.UNAVAILABLE, StatusCode.DATA_LOSS}
)
"""The codes that make a server's span an error, by OpenTelemetry's conventions; other refusals are the caller's."""

NOTHING: AbstractContextManager[Any] = nullcontext()
_provider: TracerProvider | None = None
_tracer: Tracer | None = None


def start(endpoint: str, service: str) -> None:
    """Send traces to an OTLP collector, http(s)://host:port over gRPC; an empty endpoint leaves them off."""
    global _provider, _tracer  # one process, one tracer
    if not endpoint:
        return
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    _provider = TracerProvider(resource=Resource.create({"service.name": f"finalbell-{service}"}), shutdown_on_exit=False)
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    _tracer = _provider.get_tracer("finalbell")


def stop() -> None:
    """Send what has not been sent."""
    if _provider is not None:
        _provider.shutdown()


def called(service: str, method: str, sent: Headers) -> AbstractContextManager[Any]:
    """Span a call that is being answered, below its caller's span."""
    if _tracer is None:
        return NOTHING
    attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
    return _span(_tracer, f"{service}/{method}", "SERVER", sent, attributes)


def answered(code: StatusCode, reason: str) -> None:
    """Note on the call's span how it was answered."""
    if _tracer is None:
        return
    from opentelemetry.trace import Status, get_current_span
    from opentelemetry.trace import StatusCode as SpanStatus

    span = get_current_span()
    span.set_attribute("rpc.grpc.status_code", code.value[0])
    if reason:
        span.set_attribute("finalbell.reason", reason)
    if code in SERVERS_FAULT:
        span.set_status(Status(SpanStatus.ERROR, reason))


def carried() -> dict[str, str]:
    """Return the headers by which a message carries the current span; none where there are no traces."""
    headers: dict[str, str] = {}
    if _tracer is not None:
        from opentelemetry.propagate import inject

        inject(headers)
    return headers


def worked(name: str, messages: Sequence[Headers | None]) -> AbstractContextManager[Any]:
    """Span work on a batch of messages, linked to each of their senders' spans."""
    if _tracer is None:
        return NOTHING
    from opentelemetry.propagate import extract
    from opentelemetry.trace import Link, get_current_span

    contexts = [get_current_span(extract(headers)).get_span_context() for headers in messages if headers]
    links = [Link(context) for context in contexts if context.is_valid]
    return _tracer.start_as_current_span(name, links=links)


def delivered(name: str, headers: Headers | None) -> AbstractContextManager[Any]:
    """Span work on one message, below its sender's span."""
    if _tracer is None:
        return NOTHING
    return _span(_tracer, name, "CONSUMER", headers or {}, {"messaging.system": "nats"})


@contextmanager
def _span(tracer: Tracer, name: str, kind: str, headers: Headers, attributes: Mapping[str, str]) -> Iterator[Span]:
    from opentelemetry.propagate import extract
    from opentelemetry.trace import SpanKind

    below = extract(dict(headers))
    with tracer.start_as_current_span(
        name, context=below, kind=SpanKind[kind], attributes=attributes, record_exception=False, set_status_on_exception=False
    ) as span:
        yield span
