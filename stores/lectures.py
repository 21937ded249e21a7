"""Lectures: what they are, where their media lie, and what opens them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import asyncpg

from stores.catalog import record

LECTURE = """id, title, description, topic, duration_seconds, folder, playlist, captions::text,
  ARRAY(SELECT product_id FROM product_opens o WHERE o.kind = 'LECTURE' AND o.ref = lecture.id ORDER BY product_id) AS products"""


@dataclass(frozen=True, slots=True)
class Captions:
    """One language's captions: a BCP 47 tag, what people are shown, and the file's path in the folder."""

    language: str
    label: str
    file: str


@dataclass(frozen=True, slots=True)
class Lecture:
    """A lecture; `folder` is where its media lie at the origin, `playlist` a path in it."""

    id: str
    title: str
    description: str
    topic: str
    duration_seconds: int
    folder: str
    playlist: str
    captions: tuple[Captions, ...]
    products: tuple[str, ...] = ()
    """Any of them opens it, as `product_opens` says; none: it is open to everybody."""


class SetOutcome(StrEnum):
    """What has become of a lecture that was set."""

    MADE = "MADE"
    CHANGED = "CHANGED"
    SAME = "SAME"


class Lectures:
    """Lectures in PostgreSQL."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def lecture(self, lecture: str) -> Lecture | None:
        """Return a lecture, or None."""
        row = await self._pool.fetchrow(f"SELECT {LECTURE} FROM lecture WHERE id = $1", lecture)  # noqa: S608
        return _lecture(row) if row else None

    async def lectures(self, topic: str, after: str, count: int) -> Sequence[Lecture]:
        """Return up to `count` lectures whose id comes after `after`, by id: of one topic, or of all where it is empty."""
        rows = await self._pool.fetch(
            f"SELECT {LECTURE} FROM lecture WHERE id > $2 AND ($1 = '' OR topic = $1) ORDER BY id LIMIT $3",  # noqa: S608
            *(topic, after, count),
        )
        return [_lecture(row) for row in rows]

    async def set(self, lecture: Lecture, actor: str) -> SetOutcome:
        """Make a lecture, or change it, on record; one that is the same already stays as it is, and no record is made."""
        async with self._pool.acquire() as connection, connection.transaction():
            made = await connection.fetchval(
                """
                INSERT INTO lecture AS l (id, title, description, topic, duration_seconds, folder, playlist, captions)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (id) DO UPDATE
                SET title = $2, description = $3, topic = $4, duration_seconds = $5, folder = $6, playlist = $7, captions = $8,
                  changed_at = now()
                WHERE (l.title, l.description, l.topic, l.duration_seconds, l.folder, l.playlist, l.captions)
                  IS DISTINCT FROM ($2, $3, $4, $5, $6, $7, $8::jsonb)
                RETURNING old.id IS NULL
                """,
                *(lecture.id, lecture.title, lecture.description, lecture.topic, lecture.duration_seconds),
                *(lecture.folder, lecture.playlist, _json(lecture.captions)),
            )
            if made is None:
                return SetOutcome.SAME
            await record(connection, actor, "lecture.set", lecture.id, {"folder": lecture.folder})
        return SetOutcome.MADE if made else SetOutcome.CHANGED

    async def delete(self, lecture: str, actor: str) -> bool:
        """Forget a lecture, on record; False: there is none."""
        async with self._pool.acquire() as connection, connection.transaction():
            gone = await connection.fetchval("DELETE FROM lecture WHERE id = $1 RETURNING true", lecture)
            if gone:
                await record(connection, actor, "lecture.delete", lecture)
        return bool(gone)


def _lecture(row: asyncpg.Record) -> Lecture:
    captions = tuple(Captions(one["language"], one["label"], one["file"]) for one in json.loads(row["captions"]))
    names = ("id", "title", "description", "topic", "duration_seconds", "folder", "playlist")
    return Lecture(**{name: row[name] for name in names}, captions=captions, products=tuple(row["products"]))


def _json(captions: Sequence[Captions]) -> str:
    return json.dumps([{"language": one.language, "label": one.label, "file": one.file} for one in captions])
