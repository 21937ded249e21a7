"""A submit is one trace, from the session service through JetStream to the scoring worker, where somebody collects traces."""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import pytest
from finalbell.v1 import session_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.faults.harm import another, ended, nobody_pulls, stopped
from tests.flows.sitting import Student, good
from tests.flows.transports import Native
from tests.stack import Stack, eventually, free_port

Span = tuple[str, Any]
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans as a collector does, and keeps them by who sent them."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    async def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            name = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
            self.spans += [(name, span) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
async def collector() -> AsyncIterator[tuple[Collector, str]]:
    server, collecting, address = grpc.aio.server(), Collector(), f"127.0.0.1:{free_port()}"
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collecting, server)
    server.add_insecure_port(address)
    await server.start()
    yield collecting, f"http://{address}"
    await server.stop(None)


async def test_a_submit_is_one_trace_through_both_services(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, collector: tuple[Collector, str]
) -> None:
    collecting, otlp = collector
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as student:
        session = (await student.sit(exam_id))["sessionId"]
        good(await student.save(session, "q1", choice="B"))
        async with AsyncExitStack() as harm:
            harm.enter_context(stopped(stack, "scoring-worker"))
            await nobody_pulls(stack)  # before the other worker pulls
            address, serving = harm.enter_context(another(stack, "session", OTLP=otlp, PUBLISH_WAIT_MS="5000"))
            _, working = harm.enter_context(another(stack, "scoring-worker", OTLP=otlp))
            async with grpc.aio.insecure_channel(address) as channel:
                await asyncio.wait_for(channel.channel_ready(), 20)
                caller, headers = Native(channel, student.token), {"traceparent": f"00-{TRACE}-{PARENT}-01"}
                submit = session_pb2.SubmitSessionRequest(session_id=session)
                assert (await caller.call("SubmitSession", submit, key=uuid.uuid4().hex, headers=headers)).ok
                save = session_pb2.SaveAnswerRequest(session_id=session, question_id="q1", choice="C")
                refused = await caller.call("SaveAnswer", save, key=uuid.uuid4().hex, headers=headers)
            await student.outcome(session)
            for process in (serving, working):
                process.send_signal(signal.SIGTERM)  # what is left is sent at the end
                await asyncio.to_thread(ended, process, 20)

    async def whole() -> dict[str, Span] | None:
        found = {span.name: (name, span) for name, span in collecting.spans if span.trace_id.hex() == TRACE}
        return found if len(found) == 3 else None

    spans = await eventually(whole)
    (who, submitted), (grader, graded) = spans["SessionService/SubmitSession"], spans["grade"]
    assert (who, grader) == ("finalbell-session", "finalbell-scoring-worker")
    assert submitted.parent_span_id.hex() == PARENT
    assert graded.parent_span_id == submitted.span_id
    late = {one.key: one.value for one in spans["SessionService/SaveAnswer"][1].attributes}
    assert refused.reason == late["finalbell.reason"].string_value == "SESSION_SUBMITTED"
    batches = [span for name, span in collecting.spans if span.name == "score"]
    assert [link.span_id for span in batches for link in span.links] == [submitted.span_id]
