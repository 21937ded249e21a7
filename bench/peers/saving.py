"""What the Python peers do between their framework and the store: SaveAnswer's checks, then the one call to Redis.

It is `servers/session/service.py` without PostgreSQL: a session or paper that Redis does not have is not brought back.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.maint_notifications import MaintNotificationsConfig

from servers import errors
from servers.errors import Refusal
from servers.marking import misfit
from servers.messages import timestamp
from servers.session import rules
from stores.connect import REDIS_TIMEOUT_SECONDS
from stores.live import LiveSessions, Patience, RestoreFailed
from stores.pipeline import Overloaded
from stores.records import Answer, PaperQuestion, Save, Saved, SaveOutcome


class Saving:
    """Saves answers of one student's session, with a copy of each paper in this process."""

    def __init__(self, redis: Redis) -> None:
        self._live = LiveSessions(redis, _no_restore, _no_generation, Patience())
        self._papers: dict[tuple[str, int], dict[str, PaperQuestion]] = {}

    async def save(self, session: UUID, student: str, question_id: str, answer: Answer, client_seq: int | None, key: str) -> Saved:
        """Save an answer, or refuse."""
        facts = await self._live.facts(session)
        if facts is None or facts.student != student:
            raise errors.SessionNotFound
        question = (await self._questions(facts.exam, facts.exam_version)).get(question_id)
        if question is None:
            raise errors.InvalidField([("questionId", "is not a question of this exam")])
        if (wrong := misfit(question, answer)) is not None:
            raise errors.InvalidField([wrong])
        body = rules.body_digest(question_id, answer, client_seq)
        saved = await self._live.save(Save(session, student, question_id, answer, rules.key_digest(key), body, client_seq))
        if saved.outcome in (SaveOutcome.SAVED, SaveOutcome.REPLAYED, SaveOutcome.SUPERSEDED):
            return saved
        raise _refusal(saved)

    async def _questions(self, exam: str, version: int) -> dict[str, PaperQuestion]:
        known = self._papers.get((exam, version))
        if known is not None:
            return known
        paper = await self._live.paper(exam, version)
        if paper is None:
            raise errors.ExamNotFound("There is no such exam.")
        self._papers[exam, version] = {question.id: question for question in paper.questions}
        return self._papers[exam, version]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Saving]:
    """Open Redis with the options of `stores/connect.py`, which opens all stores or none."""
    redis = Redis.from_url(
        url,
        socket_timeout=REDIS_TIMEOUT_SECONDS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        retry=Retry(NoBackoff(), 0),
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
        max_connections=64,
    )
    try:
        yield Saving(redis)
    finally:
        await redis.aclose()


def given_key(header: str, field: str) -> str:
    """Return the idempotency key, from the header or the field; two that differ are an error."""
    keys = {header, field} - {""}
    if len(keys) > 1:
        raise errors.InvalidField([("idempotencyKey", "is sent twice, and differs; send one, as header or as field")])
    key = keys.pop() if keys else ""
    if not 8 <= len(key) <= 64 or not all("!" <= character <= "~" for character in key):
        raise errors.InvalidField([("idempotencyKey", "is needed: 8 to 64 visible ASCII characters, as header Idempotency-Key")])
    return key


def refusal_of(failure: Exception) -> Refusal:
    """Return what a caller may be told of a failure; raises it again when it is none that was expected."""
    match failure:
        case Refusal():
            return failure
        case Overloaded():
            return errors.Overloaded("Too many requests wait; this one was not applied.")
        case RestoreFailed() | RedisError() | OSError():
            return errors.StoreUnavailable("A store does not answer; repeat the call with the same key.")
        case _:
            raise failure


def _refusal(saved: Saved) -> Refusal:
    match saved.outcome:
        case SaveOutcome.ENDED:
            ends_at, server_time = timestamp(saved.ends_ms).ToJsonString(), timestamp(saved.now_ms).ToJsonString()
            return errors.SessionEnded(
                "Time is over; what you saved before is being handed in.", endsAt=ends_at, serverTime=server_time
            )
        case SaveOutcome.SUBMITTED:
            return errors.SessionSubmitted("The session is handed in; its answers can no longer change.")
        case SaveOutcome.PAUSED:
            return errors.SessionPaused("The session is paused; resume it first.")
        case SaveOutcome.REUSED:
            return errors.IdempotencyKeyReused("This key was used for another answer; send a fresh key with every change.")
        case SaveOutcome.FULL:
            return errors.InvalidField([("text", "makes the session's answers longer than 262,144 bytes in all")])
        case _:
            return errors.SessionNotFound()


async def _no_restore(_: UUID) -> bool:
    return False  # what Redis does not have does not exist here


async def _no_generation(_: Redis) -> None:
    raise RestoreFailed
