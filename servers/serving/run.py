"""Runs services and workers in one process: start, health, drain."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass

import structlog
from finalbell.v1 import policy_pb2  # noqa: F401  # the options' extension, before any descriptor is read
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health, health_pb2
from prometheus_client import start_http_server

from servers.auth import Tokens
from servers.engine import make_engine
from servers.serving import traces
from servers.serving.rates import Rates
from servers.serving.rest import RestFront, RestMethod
from servers.serving.wrap import InFlight, methods
from servers.settings import Settings

MAX_MESSAGE_BYTES = 64 * 1024
log = structlog.get_logger()

Worker = Callable[[asyncio.Event], Coroutine[None, None, None]]
"""Runs until the event is set; an exception ends the process, and the supervisor starts it again."""

ROUND_SECONDS = 180.0
"""A worker's round that takes longer hangs somewhere, perhaps on a connection that a dead server left: it is given up and begun
again. By then the stream has given a scoring worker's messages to another one."""


@dataclass(frozen=True, slots=True)
class Hosted:
    """What this process hosts.

    `drains` are awaited at the end, when no call runs any more; `reflected` are the services that reflection tells of,
    in development: one process tells of all of them, since the gateway routes reflection to it.
    """

    services: Sequence[tuple[ServiceDescriptor, object]] = ()
    workers: Sequence[Worker] = ()
    drains: Sequence[Callable[[], Awaitable[None]]] = ()
    max_message_bytes: int = MAX_MESSAGE_BYTES
    reflected: Sequence[str] = ()
    rest: Sequence[RestMethod] = ()
    """Methods of these services that are served as REST too, past the gateway's transcoder."""

    name: str = ""
    """The units' names, for traces."""


async def serve(settings: Settings, hosted: Hosted) -> None:
    """Serve until SIGTERM or SIGINT, then finish what runs.

    The order of the end: health says NOT_SERVING, and for a moment calls are still taken, until balancers have heard of it;
    then no new call, running calls finish, workers stop, what services still owe (a publish after a flip) is done. Health and
    metrics are there for workers too.
    """
    in_flight, stop = InFlight(), asyncio.Event()
    traces.start(settings.otlp, hosted.name)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tokens = Tokens(settings.jwks, settings.issuer, settings.audience)
    engine = make_engine(settings.engine, hosted.max_message_bytes)
    rates = Rates(settings.student_calls_per_second, settings.student_calls_at_once)
    wrapped = [method for served in hosted.services for method in methods(*served, tokens, rates, in_flight)]
    engine.add(wrapped)
    answering = {method.path: method.answer for method in wrapped}
    rest = RestFront([(method, answering[method.path]) for method in hosted.rest], lambda: not stop.is_set())
    checks = health.aio.HealthServicer()
    engine.add_health(checks)
    names = [service.full_name for service, _ in hosted.services]
    if settings.environment == "development" and hosted.reflected:
        engine.add_reflection(hosted.reflected)
    host, port = settings.metrics.rsplit(":", 1)
    metrics, _ = start_http_server(int(port), host)
    for address in filter(None, (settings.listen, settings.listen_alone)):
        engine.listen(address)
    if hosted.rest and settings.rest:
        await rest.listen(settings.rest)
    await engine.start()
    async with asyncio.TaskGroup() as group:
        for worker in hosted.workers:
            group.create_task(worker(stop))
        for name in ("", *names):
            await checks.set(name, health_pb2.HealthCheckResponse.SERVING)
        log.info("serving", listen=settings.listen, services=names)
        await stop.wait()
        log.info("draining")
        await checks.enter_graceful_shutdown()
        if hosted.services:
            await asyncio.sleep(settings.leave_seconds)
        await asyncio.gather(engine.stop(settings.drain_seconds), rest.stop(settings.drain_seconds))
        await in_flight.finished()
    for drain in hosted.drains:
        await drain()
    traces.stop()
    metrics.shutdown()
    log.info("stopped")


async def sleep_until(stop: asyncio.Event, seconds: float) -> None:
    """Sleep, but wake at once when it is time to stop."""
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return
