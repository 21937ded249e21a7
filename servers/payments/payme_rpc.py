"""How Payme's Merchant API is written: JSON-RPC requests, results, and errors with their words. Pure.

Source: the documentation of Payme Business, "Merchant API". ChangePassword is left out: keys
are changed in our settings, as all secrets are.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from servers.payments import rules
from stores.payme_transactions import PaymeTransaction

ACCOUNT_FIELD = "order"
"""The name that the cash desk in Payme's cabinet has to give to its one account field."""

ID = re.compile(r"[0-9A-Za-z]{24}")
MOST_MS = 10**13
"""Times have 13 digits."""

MOST_REASON = 32_767
LONGEST_ECHO = 64

Json = Mapping[str, object]


class Code(IntEnum):
    """Payme's numbers of errors; those of the account, -31050 to -31099, are the shop's to divide."""

    NOT_POST = -32300
    NOT_JSON = -32700
    NOT_A_REQUEST = -32600
    NO_METHOD = -32601
    NOT_ALLOWED = -32504
    SYSTEM = -32400
    WRONG_AMOUNT = -31001
    NO_TRANSACTION = -31003
    CANNOT_CANCEL = -31007  # never answered: what was bought online can always be taken back
    CANNOT_PERFORM = -31008
    NO_ORDER = -31050
    PAID = -31051
    CLOSED = -31052
    BUSY = -31053


WORDS: Mapping[Code, tuple[str, str, str]] = {
    Code.NOT_POST: ("Метод запроса должен быть POST", "So‘rov usuli POST bo‘lishi kerak", "The request method must be POST"),
    Code.NOT_JSON: ("Запрос не является JSON", "So‘rov JSON emas", "The request is not JSON"),
    Code.NOT_A_REQUEST: ("Неверный запрос", "So‘rov noto‘g‘ri", "The request is not valid"),
    Code.NO_METHOD: ("Метод не найден", "Usul topilmadi", "There is no such method"),
    Code.NOT_ALLOWED: ("Недостаточно прав", "Ruxsat yo‘q", "Not allowed"),
    Code.SYSTEM: ("Системная ошибка", "Tizim xatosi", "Something went wrong on our side"),
    Code.WRONG_AMOUNT: ("Неверная сумма", "Summa noto‘g‘ri", "The amount is not the order's"),
    Code.NO_TRANSACTION: ("Транзакция не найдена", "Tranzaksiya topilmadi", "There is no such transaction"),
    Code.CANNOT_CANCEL: ("Невозможно отменить", "Bekor qilib bo‘lmaydi", "The transaction cannot be cancelled"),
    Code.CANNOT_PERFORM: ("Невозможно выполнить операцию", "Amalni bajarib bo‘lmaydi", "This cannot be done now"),
    Code.NO_ORDER: ("Заказ не найден", "Buyurtma topilmadi", "There is no such order"),
    Code.PAID: ("Заказ уже оплачен", "Buyurtma allaqachon to‘langan", "The order is paid already"),
    Code.CLOSED: ("Заказ закрыт, оформите новый", "Buyurtma yopilgan, yangisini bering", "The order is closed; make a new one"),
    Code.BUSY: ("Заказ уже оплачивается", "Buyurtma uchun to‘lov ketmoqda", "The order is being paid already"),
}
"""What the payer reads, in Russian, Uzbek and English."""


class Refused(Exception):
    """An error to answer with; `data` says which field or method it is about."""

    def __init__(self, code: Code, data: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.data = data


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `refused` where it is none, and then only the id, if any, is of use."""

    id: int | str | None = None
    method: str = ""
    params: Json = field(default_factory=dict)
    refused: Refused | None = None


def read(body: bytes) -> Request:
    """Read a request from whatever bytes came; never raises."""
    try:
        found: object = json.loads(body.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError):
        return Request(refused=Refused(Code.NOT_JSON))
    if not isinstance(found, dict):
        return Request(refused=Refused(Code.NOT_A_REQUEST))
    number, method, params = found.get("id"), found.get("method"), found.get("params")
    known = number if (type(number) is int or isinstance(number, str)) and len(str(number)) <= LONGEST_ECHO else None
    if not isinstance(method, str):
        return Request(known, refused=Refused(Code.NOT_A_REQUEST, "method"))
    if not isinstance(params, dict):
        return Request(known, refused=Refused(Code.NOT_A_REQUEST, "params"))
    return Request(known, method, params)


def _no_number(word: str) -> object:
    raise ValueError(word)


def whole_number(params: Json, name: str) -> int:
    """Return a parameter that has to be a whole number; raises Refused."""
    value = params.get(name)
    if type(value) is not int:  # true is an int to isinstance, and 1.0 none to us
        raise Refused(Code.NOT_A_REQUEST, name)
    return value


def moment(params: Json, name: str) -> int:
    """Return a time in milliseconds since 1970; raises Refused."""
    value = whole_number(params, name)
    if not 0 <= value < MOST_MS:
        raise Refused(Code.NOT_A_REQUEST, name)
    return value


def reason(params: Json) -> int:
    """Return why Payme cancels, 1 to 5 or 10. One that we do not know cancels all the same; raises Refused for what is none."""
    value = whole_number(params, "reason")
    if not 1 <= value <= MOST_REASON:
        raise Refused(Code.NOT_A_REQUEST, "reason")
    return value


def transaction_id(params: Json) -> str:
    """Return Payme's id of a transaction, 24 characters; raises Refused."""
    value = params.get("id")
    if not isinstance(value, str) or ID.fullmatch(value) is None:
        raise Refused(Code.NOT_A_REQUEST, "id")
    return value


def order_id(params: Json) -> str:
    """Return our id of the order that an account names; raises Refused."""
    account = params.get("account")
    if not isinstance(account, dict):
        raise Refused(Code.NOT_A_REQUEST, "account")
    value = account.get(ACCOUNT_FIELD)
    order = rules.order_id(value) if isinstance(value, str) else None
    if order is None:
        raise Refused(Code.NO_ORDER, ACCOUNT_FIELD)
    return order


def answer(request: Request, result: Json) -> bytes:
    """Write a result."""
    return json.dumps({"jsonrpc": "2.0", "id": request.id, "result": result}).encode()


def refusal(request: Request, refused: Refused) -> bytes:
    """Write an error, in the three languages that Payme shows to payers."""
    message = dict(zip(("ru", "uz", "en"), WORDS[refused.code], strict=True))
    error = {"code": int(refused.code), "message": message, "data": refused.data}
    return json.dumps({"jsonrpc": "2.0", "id": request.id, "error": error}).encode()


def status(transaction: PaymeTransaction) -> Json:
    """Write a transaction as CheckTransaction answers it."""
    return {
        "create_time": transaction.created_ms,
        "perform_time": transaction.performed_ms,
        "cancel_time": transaction.cancelled_ms,
        "transaction": str(transaction.number),
        "state": int(transaction.state),
        "reason": transaction.reason,
    }


def entry(transaction: PaymeTransaction) -> Json:
    """Write a transaction as GetStatement lists it."""
    begun = {
        "id": transaction.id,
        "time": transaction.time_ms,
        "amount": transaction.amount,
        "account": {ACCOUNT_FIELD: str(transaction.order)},
    }
    return {**begun, **status(transaction), "receivers": None}
