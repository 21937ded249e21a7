"""Bytes that nobody meant are refused like any other bad input, by every RPC, and change nothing."""

import asyncio
import random
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.flows.sitting import Student, good
from tests.flows.test_every_rpc import UNITS, path
from tests.flows.transports import METHODS
from tests.stack import ENGINE, Stack, bearer

SEED = 7
EACH = 40
REFUSED = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "FAILED_PRECONDITION",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "ALREADY_EXISTS",
    "OK",
}
TEXTS = ["", "q1", "B", "a" * 5000, "\x00", "é" * 40, "../..", "' OR 1=1 --", "%00", "999999999999999999", "small"]


def odd_messages(method: MethodDescriptor, chance: random.Random, session: str) -> Iterator[bytes]:
    """Yield random bytes, messages with odd values in every field, and such messages with some bytes changed."""
    for n in range(EACH):
        odd = _filled(GetMessageClass(method.input_type)(), chance, session).SerializeToString()
        match n % 3:
            case 0:
                yield chance.randbytes(chance.randrange(200))
            case 1:
                yield odd
            case _:
                yield bytes(byte ^ (chance.randrange(256) if chance.random() < 0.05 else 0) for byte in odd)


def _filled(message: Message, chance: random.Random, session: str) -> Message:
    for field in message.DESCRIPTOR.fields:
        if field.is_repeated or chance.random() < 0.2:
            continue
        if field.message_type is not None:
            _filled(getattr(message, field.name), chance, session)
        elif field.name == "session_id":
            setattr(message, field.name, chance.choice([session, str(uuid.UUID(int=chance.getrandbits(128))), "x"]))
        elif field.type == FieldDescriptor.TYPE_STRING:
            setattr(message, field.name, chance.choice(TEXTS))
        elif field.type == FieldDescriptor.TYPE_BYTES:
            setattr(message, field.name, chance.randbytes(20))
        elif field.type == FieldDescriptor.TYPE_BOOL:
            setattr(message, field.name, chance.random() < 0.5)
        elif field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            setattr(message, field.name, chance.choice([0.0, -1.0, 1e308, float("nan"), float("inf"), 1.5]))
        else:
            large = 10**14 if field.cpp_type in (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64) else 2**31 - 1
            setattr(message, field.name, chance.choice([0, 1, large]))
    return message


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if not method.client_streaming])
async def test_an_rpc_refuses_what_nobody_meant_and_changes_nobodys_session(
    stack: Stack, small_exam: dict[str, Any], exam_id: str, name: str
) -> None:
    method, chance = METHODS[name], random.Random(f"{SEED} {name}")
    await stack.import_exam(small_exam, exam_id)
    async with Student(stack) as owner, stack.channel(UNITS[method.containing_service.name]) as channel:
        session = (await owner.sit(exam_id))["sessionId"]
        good(await owner.save(session, "q1", choice="B"))
        call = channel.unary_unary(path(method))
        metadata = bearer(stack.token(), uuid.uuid4().hex)
        codes = [await answered(call(odd, metadata=metadata, timeout=10)) for odd in odd_messages(method, chance, session)]
        staff = bearer(stack.token(roles=["admin"]), uuid.uuid4().hex)
        codes += [await answered(call(chance.randbytes(60), metadata=staff, timeout=10)) for _ in range(EACH // 2)]
        after = good(await owner.read(session))

    assert set(codes) <= REFUSED
    assert set(codes) - {"OK"}
    assert (after["status"], [saved["choice"] for saved in after["answers"]]) == ("IN_PROGRESS", ["B"])


@pytest.mark.parametrize("body", [b"", b"\0", b"\0\0\0", b"\0\0\0\0\x09\x0a"], ids=repr)
async def test_a_message_that_never_becomes_whole_is_refused_at_once(stack: Stack, small_exam: dict[str, Any], body: bytes) -> None:
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1", "idempotency-key": uuid.uuid4().hex}
    async with stack.rest(stack.token()) as http:
        async with asyncio.timeout(5):
            reply = await http.post("/finalbell.v1.SessionService/SaveAnswer", content=body, headers=headers)

    said = dict(reply.headers) | dict(line.split(":", 1) for line in reply.content.decode("latin-1").split("\r\n") if ":" in line)
    assert reply.status_code == 200
    code = (
        grpc.StatusCode.INVALID_ARGUMENT if "grpcio" in ENGINE else grpc.StatusCode.INTERNAL
    )  # the native engine's own, without details
    assert next(value for name, value in said.items() if name.endswith("grpc-status")) == str(code.value[0])


async def answered(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as refused:
        return refused.code().name
    return "OK"
