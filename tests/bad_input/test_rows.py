"""Every row of bad input, over every way in: the right code, reason and field, no word of the inside, and nothing changed."""

import json
import re
import uuid
from collections.abc import Mapping
from typing import Any

import pytest
from finalbell.v1 import policy_pb2
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from tests.bad_input.money import BUYING, SELLING, WEBHOOKS
from tests.bad_input.requests import REQUESTS, Request
from tests.bad_input.rows import LATE, ROWS, Row
from tests.bad_input.world import World, changed
from tests.flows.test_every_rpc import UNITS
from tests.flows.test_reasons import HTTP, leaks
from tests.flows.transports import METHODS, TRANSPORTS, Native, Reply, Rest, transport
from tests.stack import eventually

KEYED = {name for name, method in METHODS.items() if method.GetOptions().Extensions[policy_pb2.policy].key}


def named(world: World, value: Any) -> Any:
    """Put the world's ids in the place of their names."""
    text = json.dumps(value)
    return json.loads(re.sub(r"\$([\w-]+)", lambda found: world.names[found[1]], text))


def message(row: Row, fields: Mapping[str, Any]) -> Message | None:
    """Return the row's message; None where no message can hold it."""
    try:
        return json_format.ParseDict(fields, GetMessageClass(METHODS[row.method].input_type)())
    except json_format.ParseError:
        return None


async def answers(world: World, row: Row) -> dict[str, Reply]:
    """Send a row over every way in, or over its only one."""
    fields, token, replies = named(world, dict(row.fields)), world.tokens[row.who], {}
    key = row.key if row.key is not None else uuid.uuid4().hex if row.method in KEYED else None
    request = message(row, fields)
    for way in TRANSPORTS:
        async with transport(way, world.stack, token) as way_in:
            if row.way not in (None, way):
                continue
            if isinstance(way_in, Rest):
                replies[way] = await way_in.send(row.method, fields, key=key or None, headers=row.headers)
            elif request is not None:
                replies[way] = await way_in.call(row.method, request, key=key or None, headers=row.headers)
    if request is not None and row.way in (None, "service"):
        async with world.stack.channel(UNITS[METHODS[row.method].containing_service.name]) as channel:
            native = Native(channel, token)
            replies["service"] = await native.call(row.method, request, key=key or None, headers=row.headers)
    return replies


def check(row: Row, replies: Mapping[str, Reply]) -> None:
    """Hold every reply against the row."""
    for way, reply in replies.items():
        assert (way, reply.code, reply.reason) == (way, row.code, row.reason)
        assert not leaks(reply), reply.raw
        if row.names:
            assert (way, reply.fields) == (way, [row.names])
    if "rest" in replies and (row.status or row.code != "OK"):
        assert replies["rest"].http == (row.status or HTTP[row.code])


@pytest.mark.parametrize("row", [*ROWS, *BUYING, *SELLING], ids=lambda row: row.what)
async def test_a_row_is_answered_as_it_should_be_over_every_way_in_and_changes_nothing(world: World, row: Row) -> None:
    before = world.held.digest()

    replies = await answers(world, row)

    assert changed(before, world.held.digest()) == set()
    assert replies
    check(row, replies)


@pytest.mark.parametrize("row", LATE, ids=lambda row: str(row.way))
async def test_a_submit_after_the_end_is_refused_and_rings_the_bell_for_its_own_session_only(world: World, row: Row) -> None:
    before = world.held.digest()

    replies = await answers(world, row)

    session = uuid.UUID(world.names[f"ended-{row.way}"])
    shard = f"{{{session.int % 64:02d}}}"
    own = {"public.exam_session", f"redis due:{shard}", f"redis unscored:{shard}", f"redis s:{shard}:{session}"}

    async def marked() -> bool:
        return "public.exam_session" in changed(before, world.held.digest())

    await eventually(marked)  # PostgreSQL is told a second later, where no score has told it
    assert changed(before, world.held.digest()) == own
    assert set(replies) == {row.way}
    check(row, replies)


@pytest.mark.parametrize("request_", [*REQUESTS, *WEBHOOKS], ids=lambda request: request.what)
async def test_a_request_that_no_client_would_send_is_refused_and_changes_nothing(world: World, request_: Request) -> None:
    path = re.sub(r"\$([\w-]+)", lambda found: world.names[found[1]], request_.path)
    body = request_.body
    if body is not None:
        body = re.sub(rb"\$([\w-]+)", lambda found: world.names[found[1].decode()].encode(), body)
    before = world.held.digest()

    async with world.stack.rest(world.tokens[request_.who] if request_.who else None) as http:
        reply = await http.request(request_.verb, path, content=body, headers=request_.headers)

    assert changed(before, world.held.digest()) == set()
    info = [one for one in reply.json().get("details", []) if one["@type"].endswith("ErrorInfo")]
    assert (reply.status_code, info[0]["reason"] if info else "") == (request_.status, request_.reason)
