"""AnswerKeys: the schema `keys`, which only scoring may read."""

from collections.abc import Mapping, Sequence

import asyncpg

from stores.records import Key, KeySet, Marking


class AnswerKeys:
    """Answer keys and explanations in PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def newest(self, papers: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        """Return the newest key version of each (exam, version); one without keys is missing."""
        rows = await self._pool.fetch(
            """
            SELECT k.exam_id, k.exam_version, max(k.key_version) AS key_version
            FROM exam_key k JOIN unnest($1::text[], $2::int[]) AS p (exam_id, exam_version) USING (exam_id, exam_version)
            GROUP BY 1, 2
            """,
            [exam for exam, _ in papers],
            [version for _, version in papers],
        )
        return {(row["exam_id"], row["exam_version"]): row["key_version"] for row in rows}

    async def papers(self, exam: str, key_version: int) -> Sequence[tuple[str, int, int]]:
        """Return every version of an exam's paper with the newest version of its keys, as of `key_version` of the exam."""
        rows = await self._pool.fetch(
            """
            SELECT exam_id, exam_version, max(key_version) AS key_version FROM exam_key
            WHERE exam_id = $1 AND key_version <= $2 GROUP BY 1, 2 ORDER BY 2
            """,
            *(exam, key_version),
        )
        return [(row["exam_id"], row["exam_version"], row["key_version"]) for row in rows]

    async def read(self, exam: str, exam_version: int, key_version: int) -> KeySet | None:
        """Return a whole key set, or None unless every question of the paper has a key (else all would score 0)."""
        rows = await self._pool.fetch(
            """
            SELECT q.id, q.type, q.topic, q.points, a.answer::text, k.mark_correct, k.mark_wrong, k.mark_blank, k.mark_multiple
            FROM exam_key k
            JOIN question q USING (exam_id, exam_version)
            LEFT JOIN keys.answer_key a
              ON (a.exam_id, a.exam_version, a.key_version, a.question_id) = (k.exam_id, k.exam_version, k.key_version, q.id)
            WHERE (k.exam_id, k.exam_version, k.key_version) = ($1, $2, $3)
            ORDER BY q.position
            """,
            exam,
            exam_version,
            key_version,
        )
        if not rows or any(row["answer"] is None for row in rows):
            return None
        first = rows[0]
        marking = Marking(first["mark_correct"], first["mark_wrong"], first["mark_blank"], first["mark_multiple"] == "PARTIAL")
        keys = tuple(Key(row["id"], row["type"], row["topic"], row["points"], row["answer"]) for row in rows)
        return KeySet(exam, exam_version, key_version, marking, keys)

    async def explanations(self, exam: str, exam_version: int, key_version: int) -> Mapping[str, str]:
        """Return the worked solutions by question; the caller checks their release."""
        rows = await self._pool.fetch(
            """
            SELECT question_id, body FROM keys.explanation
            WHERE (exam_id, exam_version, key_version) = ($1, $2, $3)
            """,
            exam,
            exam_version,
            key_version,
        )
        return {row["question_id"]: row["body"] for row in rows}
