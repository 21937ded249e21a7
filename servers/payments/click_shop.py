"""How Click's SHOP API is written: forms, their signatures, amounts in soums, replies. Pure.

Source: Click's documentation, "Click-API". A signature is MD5 with the secret inside: Click offers no better one.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from enum import IntEnum
from urllib.parse import parse_qsl

from servers.payments import rules

TASHKENT = timezone(timedelta(hours=5))
"""Click writes local times; Uzbekistan has no summer time."""

SIGNED = ("click_trans_id", "service_id", "merchant_trans_id", "amount", "action", "sign_time")
FIELDS = (*SIGNED, "click_paydoc_id", "error", "sign_string")
MOST_FIELDS = 50
NUMBER = re.compile(r"[0-9]{1,18}")
SIGNED_NUMBER = re.compile(r"-?[0-9]{1,9}")
SOUMS = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,6}))?")
TIME = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")


class Code(IntEnum):
    """Click's numbers of what a call came to."""

    OK = 0
    FORGED = -1
    WRONG_AMOUNT = -2
    NO_ACTION = -3
    ALREADY_PAID = -4
    NO_ORDER = -5
    NO_TRANSACTION = -6
    NOT_UPDATED = -7
    BAD_REQUEST = -8
    CANCELLED = -9


NOTES: Mapping[Code, str] = {
    Code.OK: "Success",
    Code.FORGED: "SIGN CHECK FAILED!",
    Code.WRONG_AMOUNT: "Incorrect parameter amount",
    Code.NO_ACTION: "Action not found",
    Code.ALREADY_PAID: "Already paid",
    Code.NO_ORDER: "User does not exist",
    Code.NO_TRANSACTION: "Transaction does not exist",
    Code.NOT_UPDATED: "Failed to update user",
    Code.BAD_REQUEST: "Error in request from click",
    Code.CANCELLED: "Transaction cancelled",
}


class Action(IntEnum):
    """The two calls."""

    PREPARE = 0
    COMPLETE = 1


@dataclass(frozen=True, slots=True)
class Form:
    """A call as it came: `sent` are its fields, which is what is signed. Nothing in it is believed before `signed` says so."""

    sent: Mapping[str, str]
    trans: int
    paydoc: int
    error: int

    @property
    def action(self) -> Action | None:
        """Which call it is; None for one that there is not."""
        return {"0": Action.PREPARE, "1": Action.COMPLETE}.get(self.sent["action"])

    @property
    def order(self) -> str | None:
        """Our id of the order that is paid; None for what cannot be one."""
        return rules.order_id(self.sent["merchant_trans_id"])

    @property
    def prepared(self) -> int | None:
        """Our number of the payment, in Complete."""
        named = self.sent.get("merchant_prepare_id", "")
        return int(named) if NUMBER.fullmatch(named) else None

    @property
    def amount(self) -> int | None:
        """The amount in tiyin; None for what is no amount."""
        return tiyin(self.sent["amount"])


def read(body: bytes) -> Form | None:
    """Read a form from whatever bytes came; None: it is none, a field is missing, malformed, or there twice. Never raises."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS)
    except ValueError:
        return None
    sent = dict(pairs)
    if len(sent) != len(pairs) or not sent.keys() >= set(FIELDS):
        return None
    if sent["action"] == "1" and "merchant_prepare_id" not in sent:
        return None
    numbers = (NUMBER.fullmatch(sent["click_trans_id"]), NUMBER.fullmatch(sent["click_paydoc_id"]))
    if not all(numbers) or SIGNED_NUMBER.fullmatch(sent["error"]) is None:
        return None
    return Form(sent, int(sent["click_trans_id"]), int(sent["click_paydoc_id"]), int(sent["error"]))


def signature(sent: Mapping[str, str], secret: str) -> str:
    """Return what Click signs a call with; `merchant_prepare_id` is part of Complete only.

    Nothing stands between the parts, so that digits could wander from one to the next and the signature stay: number and amount
    are compared with what we know, and not only with each other.
    """
    prepared = sent.get("merchant_prepare_id", "") if sent["action"] == "1" else ""
    parts = [sent["click_trans_id"], sent["service_id"], secret, sent["merchant_trans_id"], prepared]
    parts += [sent["amount"], sent["action"], sent["sign_time"]]
    return hashlib.md5("".join(parts).encode()).hexdigest()  # noqa: S324


def signed(form: Form, secret: str) -> bool:
    """Return whether whoever sent a form knows the secret."""
    return hmac.compare_digest(form.sent["sign_string"].lower().encode(), signature(form.sent, secret).encode())


def fresh(form: Form, now_ms: int, oldest_seconds: int) -> bool:
    """Return whether a form was signed about now: its time has no zone, and counts as Tashkent's, to the second."""
    written = form.sent["sign_time"]
    if TIME.fullmatch(written) is None:
        return False
    try:
        at = datetime.strptime(written, "%Y-%m-%d %H:%M:%S").replace(tzinfo=TASHKENT)
    except ValueError:
        return False
    return abs(at.timestamp() - now_ms / 1000) <= oldest_seconds


def tiyin(soums: str) -> int | None:
    """Return an amount in tiyin, of which a soum has 100; None for what is no amount, or has parts of a tiyin."""
    found = SOUMS.fullmatch(soums)
    if found is None:
        return None
    part = (found[2] or "").ljust(2, "0")
    return int(found[1]) * 100 + int(part[:2]) if not part[2:].strip("0") else None


def soums(amount: int) -> str:
    """Return an amount of tiyin as Click writes it: 1000.00."""
    return f"{amount // 100}.{amount % 100:02}"


def reply(form: Form | None, code: Code, number: int | None = None) -> bytes:
    """Write an answer; `number` is our name of the payment."""
    said: dict[str, object] = {"error": int(code), "error_note": NOTES[code]}
    if form is not None:
        ours = "merchant_confirm_id" if form.action is Action.COMPLETE else "merchant_prepare_id"
        said = {"click_trans_id": form.trans, "merchant_trans_id": form.sent["merchant_trans_id"], ours: number, **said}
    return json.dumps(said).encode()
