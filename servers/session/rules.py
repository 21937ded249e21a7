"""Rules of a session: how students are called, and what a save is known by. In which order it shows is in servers/orders.py, when
it ends in servers/deadline.py, which answers fit in servers/marking.py."""

from base64 import b32encode
from hashlib import sha256
from unicodedata import category

from stores.records import Answer

HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
HIDDEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0") | {
    chr(c) for c in range(0xFE00, 0xFE0F)
}
EMOJI_STYLE = "\ufe0f"


def visible(alias: str) -> bool:
    """Whether every character of an alias can be seen on a board, and at least one is no space.

    Controls, direction marks, joiners, unassigned characters and Unicode's other default-ignorable ones would make two
    aliases look alike, or one look empty. A variation selector is fine behind what it varies (an emoji).
    """
    seen = [character for character in alias if not (character == EMOJI_STYLE or character.isspace())]
    hidden = any(category(one) in HIDDEN_CATEGORIES or one in HIDDEN for one in seen)
    return bool(seen) and not hidden


def default_alias(exam: str, student: str) -> str:
    """Return the alias of a student who chose none: the same for all attempts at one exam, and no hint at the id."""
    return f"Student {b32encode(sha256(f'{exam}/{student}'.encode()).digest()).decode()[:4]}"


def key_digest(key: str) -> bytes:
    """Return the 8 bytes that remember an idempotency key; a session has some hundred keys at most."""
    return sha256(key.encode()).digest()[:8]


def body_digest(question: str, answer: Answer, client_seq: int | None) -> bytes:
    """Return the 4-byte fingerprint of a save's canonical fields: the same through REST and gRPC, `clientTs` left out."""
    return sha256(f"{question}\x1f{answer.packed()}\x1f{client_seq or 0}".encode()).digest()[:4]
