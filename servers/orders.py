"""In which order a session shows questions and options: what it was shown once it is shown for ever, and anybody can compute it."""

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import TypeVar
from uuid import UUID

from stores.records import Paper

T = TypeVar("T")


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
        return questions_shown(self._shuffled_ids, session, self._version)

    def options(self, session: UUID) -> Mapping[str, Sequence[str]]:
        """Return the option ids of each question with options, as this session shows them."""
        if self._shuffled_options is None:
            return self._options
        seed = f"{session}/{self._version}/".encode()
        return {question: _shuffled(options, seed + encoded) for encoded, question, options in self._shuffled_options}


def questions_shown(questions: Sequence[tuple[bytes, T]], session: UUID, version: int) -> Sequence[T]:
    """Return what stands beside each question's id, in the order in which a session of a shuffled paper shows them."""
    return _shuffled(questions, f"{session}/{version}".encode())


def _shuffled(ids: Sequence[tuple[bytes, T]], seed: bytes) -> Sequence[T]:
    keyed = blake2b(key=blake2b(seed, digest_size=32).digest()).copy
    hashed = {}
    for encoded, one in ids:
        hasher = keyed()
        hasher.update(encoded)
        hashed[hasher.digest()] = one
    return [hashed[digest] for digest in sorted(hashed)]
