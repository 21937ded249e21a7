"""What this process keeps of content. All of it is bounded, and answers while PostgreSQL is away."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from finalbell.v1 import content_pb2 as pb
from google.api.httpbody_pb2 import HttpBody

from servers.content.replies import Encoded, encoded
from servers.messages import paper_message, question_message
from stores.banks import Bank, Banks, PlacedQuestion, Practice
from stores.catalog import Catalog, QuestionText, Sat, SealedPaper, Seat
from stores.lectures import Lecture, Lectures
from stores.records import Exam
from stores.shelf import FOR_EVER, Absence, Kept, Shelf, Terms, Value

DAY = 86_400.0
PATIENCE = 0.25
"""A reader that may have something stale waits no longer for something fresh."""

POLICIES = Terms(fresh_seconds=1.0, stale_seconds=DAY, patience_seconds=PATIENCE)
SEATS = Terms(fresh_seconds=0.0, stale_seconds=DAY, patience_seconds=PATIENCE)
"""A second attempt may have another paper: asked each time."""

SATS = Terms(fresh_seconds=30.0, stale_seconds=DAY, patience_seconds=PATIENCE)
PRACTICE = Terms(fresh_seconds=5.0, stale_seconds=DAY, patience_seconds=PATIENCE)
"""For so long a practice question is still read that somebody has just put into an exam which opens later."""

TEXTS = Terms(fresh_seconds=FOR_EVER, stale_seconds=FOR_EVER)
"""Versions never change."""

MIB = 1 << 20
STUDENTS = 200_000
OCTETS = "application/octet-stream"
SEALED_UNCHANGED = HttpBody(content_type=OCTETS).SerializeToString()

Chunk = Sequence[tuple[int, bytes]]
"""Practice questions: where each stands, and as a piece of a ListQuestionsResponse."""


class Shelves:
    """Exams, papers, explanations, practice questions, lectures."""

    def __init__(self, catalog: Catalog, banks: Banks, lectures: Lectures) -> None:
        self._catalog = catalog
        self._bank_store = banks
        self._lecture_store = lectures
        absence = Absence()

        def shelf(name: str, terms: Terms, most: int, weigh: Callable[[Any], int] = lambda _: 1) -> Shelf[Any, Any]:
            return Shelf(f"content {name}", terms, most=most, weigh=weigh, absence=absence)

        self._exams: Shelf[str, Exam] = shelf("exams", POLICIES, 10_000)
        self._lists: Shelf[tuple[str, int], Sequence[Exam]] = shelf("exam lists", POLICIES, 100_000, _count)
        self._ended: Shelf[str, bool] = shelf("ends", POLICIES, 10_000)
        self._seats: Shelf[tuple[str, str], Seat] = shelf("seats", SEATS, STUDENTS)
        self._sats: Shelf[tuple[str, str], Sat] = shelf("results", SATS, STUDENTS)
        self._papers: Shelf[tuple[str, int], Encoded] = shelf("papers", TEXTS, 64 * MIB, _bytes)
        self._sealed: Shelf[tuple[str, int], Encoded] = shelf("sealed papers", TEXTS, 64 * MIB, _bytes)
        self._texts: Shelf[tuple[str, int, int], Mapping[str, str]] = shelf("explanations", TEXTS, 32 * MIB, _texts)
        self._banks: Shelf[str, Mapping[str, Bank]] = shelf("banks", POLICIES, 1)
        self._chunks: Shelf[tuple[str, int, str, int, int], Chunk] = shelf("questions", PRACTICE, 64 * MIB, _pieces)
        self._lectures: Shelf[str, Lecture] = shelf("lectures", POLICIES, 10_000)
        self._lecture_lists: Shelf[tuple[str, str, int], Sequence[Lecture]] = shelf("lecture lists", POLICIES, 100_000, _count)
        self._practices: Shelf[tuple[str, int, str], Practice] = shelf("solutions", PRACTICE, 32 * MIB, _size)

    async def exam(self, exam: str) -> Kept[Exam] | None:
        """Return an exam; None: there is none."""
        return await self._exams.get(exam, lambda: self._catalog.exam(exam, fresh=True))

    async def exams(self, after: str, count: int) -> Kept[Sequence[Exam]]:
        """Return up to `count` exams whose id comes after `after`, by id."""
        return _there(await self._lists.get((after, count), lambda: self._catalog.exams(after, count)))

    async def ended(self, exam: str) -> Kept[bool]:
        """Return whether an exam is closed, and its last session over."""
        return _there(await self._ended.get(exam, lambda: self._catalog.ended(exam, fresh=True)))

    async def seat(self, exam: str, student: str) -> Kept[Seat] | None:
        """Return the student's newest session of an exam; None: they have none."""
        return await self._seats.get((exam, student), lambda: self._catalog.seat(exam, student))

    async def sat(self, exam: str, student: str) -> Kept[Sat] | None:
        """Return what the student's newest result of an exam is of; None: they have none."""
        return await self._sats.get((exam, student), lambda: self._catalog.sat(exam, student))

    async def paper(self, exam: str, version: int) -> Kept[Encoded]:
        """Return the reply with a version's paper, which is encoded once."""

        async def read() -> Encoded:
            paper = paper_message(exam, version, await self._catalog.questions(exam, version))
            return encoded(pb.GetPaperResponse(paper=paper))

        return _there(await self._papers.get((exam, version), read))

    async def sealed(self, exam: str, version: int) -> Kept[Encoded] | None:
        """Return the reply with a sealed paper; None: there is none."""

        async def read() -> Encoded | None:
            found: SealedPaper | None = await self._catalog.sealed(exam, version)
            return encoded(HttpBody(content_type=OCTETS, data=found.body)) if found else None

        return await self._sealed.get((exam, version), read)

    async def explanations(self, exam: str, sat: Sat) -> Kept[Mapping[str, str]] | None:
        """Return the explanations of a paper by question; None: they are not released."""
        versions = (sat.exam_version, sat.key_version)
        return await self._texts.get((exam, *versions), lambda: self._catalog.released_explanations(exam, *versions))

    async def banks(self) -> Kept[Mapping[str, Bank]]:
        """Return every bank, in the order of their ids."""

        async def read() -> Mapping[str, Bank]:
            return {bank.id: bank for bank in await self._bank_store.all()}

        return _there(await self._banks.get("", read))

    async def questions(self, bank: Bank, topic: str, after: int, count: int) -> Kept[Chunk]:
        """Return up to `count` questions of a bank that stand after a place."""

        async def read() -> Chunk:
            return [_piece(bank.id, one) for one in await self._bank_store.questions(bank.id, topic, after, count)]

        return _there(await self._chunks.get((bank.id, bank.version, topic, after, count), read))

    async def practice(self, bank: Bank, question: str) -> Kept[Practice] | None:
        """Return a practice question, with its key where that may be shown; None: there is none, or an exam asks it which has not
        opened."""
        key = (bank.id, bank.version, question)
        return await self._practices.get(key, lambda: self._bank_store.practice(bank.id, question))

    async def lecture(self, lecture: str) -> Kept[Lecture] | None:
        """Return a lecture; None: there is none."""
        return await self._lectures.get(lecture, lambda: self._lecture_store.lecture(lecture))

    async def lectures(self, topic: str, after: str, count: int) -> Kept[Sequence[Lecture]]:
        """Return up to `count` lectures whose id comes after `after`, by id: of one topic, or of all where it is empty."""
        return _there(
            await self._lecture_lists.get((topic, after, count), lambda: self._lecture_store.lectures(topic, after, count))
        )


def _there(kept: Kept[Value] | None) -> Kept[Value]:
    if kept is None:
        raise AssertionError("this read always finds something")
    return kept


def _piece(bank: str, one: PlacedQuestion) -> tuple[int, bytes]:
    """Encode a question so that the pieces of a page only have to be put one after the other."""
    question = pb.BankQuestion(bank_id=bank, question=question_message(one.text))
    return one.place, pb.ListQuestionsResponse(questions=[question]).SerializeToString(deterministic=True)


def _bytes(reply: Encoded) -> int:
    return 200 + len(reply.message)


def _texts(texts: Mapping[str, str]) -> int:
    return 100 + sum(100 + 2 * len(text) for text in texts.values())


def _pieces(chunk: Chunk) -> int:
    return 100 + sum(100 + len(piece) for _, piece in chunk)


def _count(found: Sequence[object]) -> int:
    return 1 + len(found)


def _size(practice: Practice) -> int:
    text: QuestionText = practice.text
    parts = (text.stem, text.passage, practice.answer or "", practice.explanation, *(option for _, option in text.options))
    return 500 + sum(2 * len(part) for part in parts)
