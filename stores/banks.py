"""Banks: collections of practice questions. Content reads them through a view that leaves out what has not opened, and the keys
of what an exam asks that does not show them yet."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from stores.catalog import QuestionText, question_text, record
from stores.exam_records import BankFile, answer_json, options_json, rubric_json

BANK_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('bank/' || $1, 0))"


@dataclass(frozen=True, slots=True)
class Bank:
    """A bank: how many questions it has of each topic, and the products that open it, none where it is open to everybody."""

    id: str
    title: str
    version: int
    question_count: int
    topics: Mapping[str, int]
    products: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PlacedQuestion:
    """A practice question, and where it stands in its bank."""

    place: int
    text: QuestionText


@dataclass(frozen=True, slots=True)
class Practice:
    """A practice question with its key, as JSON, and its explanation; `answer` None: an exam asks it that does not show it yet."""

    text: QuestionText
    answer: str | None
    explanation: str


@dataclass(frozen=True, slots=True)
class Unopened:
    """A question of a file that an exam asks which has not opened."""

    question: str
    exam: str
    opens_at: datetime


@dataclass(frozen=True, slots=True)
class KeptBank:
    """The bank as it is now, and whether the import changed it; or the questions that nobody may read yet: nothing was kept."""

    bank: Bank | None
    changed: bool = False
    unopened: Sequence[Unopened] = ()


BANKS = """
  SELECT b.id, b.title, b.version, b.question_count, b.topics::text,
    ARRAY(SELECT product_id FROM product_opens o WHERE o.kind = 'BANK' AND o.ref = b.id ORDER BY product_id) AS products
  FROM bank b
"""
TEXT = "id, type, stem, passage, topic, points, options::text, rubric::text"


class _Refused(Exception):
    """Ends a transaction of which nothing may stay."""

    def __init__(self, unopened: Sequence[Unopened]) -> None:
        self.unopened = unopened


class Banks:
    """Practice questions in PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def all(self) -> Sequence[Bank]:
        """Return every bank, by id."""
        return [_bank(row) for row in await self._pool.fetch(f"{BANKS} ORDER BY b.id")]

    async def questions(self, bank: str, topic: str, after: int, count: int) -> Sequence[PlacedQuestion]:
        """Return up to `count` questions of a bank that stand after a place, of one topic or, '', of all, in order."""
        rows = await self._pool.fetch(
            f"""
            SELECT position, {TEXT} FROM practice_question
            WHERE bank_id = $1 AND position > $3 AND ($2 = '' OR topic = $2) ORDER BY position LIMIT $4
            """,  # noqa: S608
            *(bank, topic, after, count),
        )
        return [PlacedQuestion(row["position"], question_text(row)) for row in rows]

    async def practice(self, bank: str, question: str) -> Practice | None:
        """Return a question with its key; None: there is none, or it has not opened."""
        row = await self._pool.fetchrow(
            f"SELECT {TEXT}, answer::text, explanation FROM practice_question WHERE bank_id = $1 AND id = $2",  # noqa: S608
            *(bank, question),
        )
        return Practice(question_text(row), row["answer"], row["explanation"] or "") if row else None

    async def keep(self, file: BankFile, sha256: str, actor: str) -> KeptBank:
        """Keep a bank as a file has it: all of it or nothing; the same file again changes nothing."""
        try:
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(BANK_LOCK, file.id)
                changed = await _write(connection, file, sha256)
                if changed:
                    await record(connection, actor, "bank.import", file.id, {"questions": len(file.questions)})
                return KeptBank(_bank(await connection.fetchrow(f"{BANKS} WHERE b.id = $1", file.id)), changed)
        except _Refused as refused:
            return KeptBank(None, unopened=refused.unopened)

    async def remove(self, bank: str, actor: str) -> bool:
        """Remove a bank with its questions, on record; False: there is none."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(BANK_LOCK, bank)
            gone = await connection.fetchval("DELETE FROM bank WHERE id = $1 RETURNING true", bank)
            if gone:
                await record(connection, actor, "bank.delete", bank)
            return bool(gone)


async def _write(connection: asyncpg.Connection, file: BankFile, sha256: str) -> bool:
    """Write what a file says; False: it is so already. Raises _Refused where an exam asks a question that has not opened."""
    new = await connection.fetchval(
        """
        INSERT INTO bank AS b (id, title, version, sha256, question_count, topics, source) VALUES ($1, $2, 1, $3, $4, $5, $6)
        ON CONFLICT (id) DO UPDATE
        SET title = $2, version = b.version + 1, sha256 = $3, question_count = $4, topics = $5, source = $6
        WHERE b.sha256 <> $3 RETURNING true
        """,
        *(file.id, file.title, sha256, len(file.questions), json.dumps(Counter(q.topic for q in file.questions)), file.source),
    )
    if not new:
        return False
    await connection.execute("DELETE FROM bank_question WHERE bank_id = $1", file.id)
    await connection.executemany(
        """
        INSERT INTO bank_question
          (bank_id, id, position, type, stem, passage, options, topic, points, rubric, answer, explanation)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        """,
        [
            (
                *(file.id, q.id, place, q.type, q.stem, q.passage, options_json(q), q.topic, q.points, rubric_json(q)),
                *(answer_json(q.answer), q.explanation),
            )
            for place, q in enumerate(file.questions, 1)
        ],
    )
    rows = await connection.fetch("SELECT id, exam_id, opens_at FROM unopened_question WHERE bank_id = $1 ORDER BY 1, 2", file.id)
    if rows:
        raise _Refused([Unopened(row["id"], row["exam_id"], row["opens_at"]) for row in rows])
    return True


def _bank(row: asyncpg.Record) -> Bank:
    topics = dict(sorted(json.loads(row["topics"]).items()))
    return Bank(row["id"], row["title"], row["version"], row["question_count"], topics, tuple(row["products"]))
