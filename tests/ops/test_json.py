"""What commands print with --json: the REST contract's fields, and numbers that a script can reckon with."""

import json

from finalbell.v1 import payment_pb2, session_pb2
from google.protobuf.json_format import MessageToDict

from ops.admin import as_json
from servers.messages import timestamp


def test_sums_of_money_are_numbers() -> None:
    reply = payment_pb2.GetPaymentDriftResponse(orders=2**40)
    reply.lines.add(provider="stripe", currency="USD", paid_not_granted=1, paid_not_granted_amount=2**40)

    found = json.loads(as_json(reply))

    assert found["orders"] == 2**40
    assert (found["lines"][0]["paidNotGrantedAmount"], found["lines"][0]["grantedNotPaidAmount"]) == (2**40, 0)


def test_everything_else_is_as_the_contract_has_it() -> None:
    session = session_pb2.Session(session_id="s", started_at=timestamp(1_700_000_000_123), question_order=["q1", "q2"])
    session.option_order["q1"].CopyFrom(session_pb2.OptionOrder(ids=["B", "A"]))

    assert json.loads(as_json(session)) == MessageToDict(session, always_print_fields_with_no_presence=True)
