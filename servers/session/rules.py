"""Rules of a session: in which order it shows. Ids are arguments; when it ends is in servers/deadline.py, which answers fit in
servers/marking.py."""

from base64 import b32encode
from collections.abc import Mapping, Sequence
from hashlib import blake2b, sha256
from unicodedata import category
from uuid import UUID

from stores.records import Answer, Paper

HIDDEN_CATEGORIES = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
HIDDEN = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0") | {
    chr(c) for c in range(0xFE00, 0xFE0F)
}
EMOJI_STYLE = "\ufe0f"


class Orders:
    """In which order sessions show the questions of one paper, and their options: a pure function of session and paper.

    Ids are sorted by a keyed hash, so that every order is equally likely and any language can compute it again: BLAKE2b-512 of
    the id, whose key is BLAKE2b-256 of `session/version` for questions, of `session/version/question` for a question's options.
    A paper that is not shuffled is shown as it was imported. What does not depend on the session is done once, here: a start
    of 60 questions sorts more than 200 hashes.
    """

    def __init__(self, paper: Paper) -> None:
        self._version = paper.version
        self._ids = [question.id for question in paper.questions]
        self._options = {question.id: question.options for question in paper.questions if question.options}
        self._shuffled_ids = [(one.encode(), one) for one in self._ids] if paper.shuffle_questions else None
        self._shuffled_options = (
            [(one.encode(), one, [(option.encode(), option) for option in options]) for one, options in self._options.items()]
            if paper.shuffle_options
            else None
        )

    def questions(self, session: UUID) -> Sequence[str]:
        """Return the question ids as this session shows them."""
        if self._shuffled_ids is None:
            return self._ids
        return _shuffled(self._shuffled_ids, f"{session}/{self._version}".encode())

    def options(self, session: UUID) -> Mapping[str, Sequence[str]]:
        """Return the option ids of each question with options, as this session shows them."""
        if self._shuffled_options is None:
            return self._options
        seed = f"{session}/{self._version}/".encode()
        return {question: _shuffled(options, seed + encoded) for encoded, question, options in self._shuffled_options}


def _shuffled(ids: Sequence[tuple[bytes, str]], seed: bytes) -> Sequence[str]:
    keyed = blake2b(key=blake2b(seed, digest_size=32).digest()).copy
    hashed = {}
    for encoded, one in ids:
        hasher = keyed()
        hasher.update(encoded)
        hashed[hasher.digest()] = one
    return [hashed[digest] for digest in sorted(hashed)]


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
