"""SaveAnswer as a plain servicer of `grpc.aio`: generated base class, no layer of finalbell's around it.

python -m bench.peers.grpcio_peer --listen 127.0.0.1:6001 --redis URL --jwks FILE --issuer I --audience A --function save_DIGEST
"""

import asyncio
import signal
from uuid import UUID

import grpc.aio
import protovalidate
import uvloop
from finalbell.v1 import session_pb2 as pb
from finalbell.v1.session_pb2_grpc import SessionServiceServicer, add_SessionServiceServicer_to_server
from grpc_status import rpc_status

from bench.peers.options import Options, options
from bench.peers.saving import Saving, connected, given_key, refusal_of
from servers import errors
from servers.auth import Tokens
from servers.messages import answer_of, timestamp
from servers.session.messages import saved_message

Context = grpc.aio.ServicerContext[pb.SaveAnswerRequest, pb.SaveAnswerResponse]


class SessionPeer(SessionServiceServicer):
    """SaveAnswer; the other RPCs are UNIMPLEMENTED."""

    def __init__(self, tokens: Tokens, saving: Saving) -> None:
        self._tokens = tokens
        self._saving = saving

    async def SaveAnswer(self, request: pb.SaveAnswerRequest, context: Context) -> pb.SaveAnswerResponse:
        try:
            return await self._save(request, context)
        except Exception as failure:
            status = rpc_status.to_status(errors.status(refusal_of(failure)))
        await context.abort_with_status(status)
        raise AssertionError("abort raises")

    async def _save(self, request: pb.SaveAnswerRequest, context: Context) -> pb.SaveAnswerResponse:
        sent = dict(context.invocation_metadata() or ())
        caller = self._tokens.caller(str(sent.get("authorization", "")))
        violations = protovalidate.collect_violations(request)
        if violations:
            raise errors.InvalidField([("", violation.proto.message) for violation in violations])
        key = given_key(str(sent.get("idempotency-key", "")), request.idempotency_key)
        sequence = request.client_seq if request.HasField("client_seq") else None
        saved = await self._saving.save(
            UUID(request.session_id), caller.student, request.question_id, answer_of(request), sequence, key
        )
        ends_at = timestamp(saved.ends_ms)
        if saved.current is not None:
            return pb.SaveAnswerResponse(
                superseded=True, version=saved.version, ends_at=ends_at, current=saved_message(saved.current)
            )
        return pb.SaveAnswerResponse(saved=True, saved_at=timestamp(saved.at_ms), version=saved.version, ends_at=ends_at)


async def serve(given: Options) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with connected(given.redis) as saving:
        server = grpc.aio.server()
        tokens = Tokens(given.jwks, given.issuer, given.audience)
        peer = SessionPeer(tokens, saving)  # type: ignore[abstract]  # the stubs say so; the generated methods refuse
        add_SessionServiceServicer_to_server(peer, server)
        server.add_insecure_port(f"{given.host}:{given.port}")
        await server.start()
        print("ready", flush=True)
        await stop.wait()
        await server.stop(1)


if __name__ == "__main__":
    uvloop.run(serve(options(__doc__)))
