"""Submitting as most backends do it: score, insert and rank in the request, one by one. FastAPI on uvicorn, one process.

python -m bench.peers.naive_submits --listen 127.0.0.1:6003 --redis URL --jwks FILE --issuer I --audience A --postgres URL

It checks tokens, grades by the same rules, commits each result by itself, and answers with score and rank. What it leaves out:
no event and no receipt, no copy that outlives PostgreSQL being away, no net; a crash between its steps loses what comes after.
"""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, TypedDict
from uuid import UUID

import asyncpg
import uvicorn
from fastapi import Depends, FastAPI, Header, Request
from fastapi.responses import JSONResponse
from redis.asyncio import Redis

from bench.peers.fastapi_peer import Server, refused
from servers import errors
from servers.auth import Caller, Tokens
from servers.scoring.rules import Grader
from stores import keys
from stores.answer_keys import AnswerKeys
from stores.hashes import ANSWER_HEAD
from stores.records import answers_sha256, encode_answers

BOARD = "naive:{exam}"
KEEP = """
  INSERT INTO result (session_id, exam_id, exam_version, student_id, score, max_score, status, key_version, answers, answers_sha256,
                      points)
  VALUES ($1, $2, $3, $4, $5, $6, 'SCORED', $7, $8, $9, $10) ON CONFLICT DO NOTHING
"""
MARK = "UPDATE exam_session SET status = 'SCORED', submitted_at = now(), submit_reason = 'CLICK' WHERE id = $1"
STAND = """
  INSERT INTO standing (exam_id, student_id, score, order_key, session_id, version) VALUES ($1, $2, $3::int, $3::int::bigint, $4, 1)
  ON CONFLICT (exam_id, student_id) DO UPDATE SET score = greatest(standing.score, excluded.score)
"""


class State(TypedDict):
    """What the application holds while it runs."""

    postgres: asyncpg.Pool
    redis: Redis
    graders: dict[tuple[str, int], Grader]


def make_app(postgres: str, redis: str, tokens: Tokens) -> FastAPI:
    """Return the application."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[State]:
        async with asyncpg.create_pool(postgres, min_size=4, max_size=20) as pool, Redis.from_url(redis) as client:
            yield {"postgres": pool, "redis": client, "graders": {}}

    async def caller(authorization: Annotated[str, Header()] = "") -> Caller:
        return tokens.caller(authorization)

    app = FastAPI(lifespan=lifespan)

    @app.post("/api/v1/sessions/{session_id}/submit")
    async def submit(session_id: UUID, request: Request, who: Annotated[Caller, Depends(caller)]) -> JSONResponse:
        return JSONResponse(await _submitted(request.state, session_id, who.student))

    app.add_exception_handler(errors.Refusal, refused)
    return app


async def _submitted(state: object, session: UUID, student: str) -> dict[str, object]:
    """Do everything that a submit needs, before it is answered."""
    postgres, redis = state.postgres, state.redis  # type: ignore[attr-defined]
    fields = await redis.hgetall(keys.session_key(session))
    if not fields or fields[b"u"].decode() != student:
        raise errors.SessionNotFound
    exam, version = fields[b"x"].decode(), int(fields[b"p"])
    answers = {q[2:].decode(): a[ANSWER_HEAD.size :].decode() for q, a in fields.items() if q.startswith(b"a:")}
    grader = await _grader(state, exam, version)
    grades, encoded = grader.grade(answers), encode_answers(answers)
    async with postgres.acquire() as connection, connection.transaction():
        points = [one.points for one in grades.graded]
        key_version, text = grader.keys.key_version, encoded.decode()
        kept = (session, exam, version, student, grades.score, grades.max_score, key_version, text, answers_sha256(encoded), points)
        await connection.execute(KEEP, *kept)
        await connection.execute(MARK, session)
        await connection.execute(STAND, exam, student, grades.score, session)
    await redis.hset(keys.session_key(session), "s", "D")
    board = BOARD.format(exam=exam)
    await redis.zadd(board, {student: grades.score})
    rank = 1 + await redis.zcount(board, f"({grades.score}", "+inf")
    return {"status": "SCORED", "score": grades.score, "maxScore": grades.max_score, "rank": rank}


async def _grader(state: object, exam: str, version: int) -> Grader:
    graders, postgres = state.graders, state.postgres  # type: ignore[attr-defined]
    if (exam, version) not in graders:
        store = AnswerKeys(postgres)
        found = await store.read(exam, version, (await store.newest([(exam, version)]))[exam, version])
        if found is None:
            raise errors.ExamNotFound("There is no such exam.")
        graders[exam, version] = Grader(found)
    grader: Grader = graders[exam, version]
    return grader


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("listen", "redis", "jwks", "issuer", "audience", "postgres"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args()
    host, port = given.listen.rsplit(":", 1)
    app = make_app(given.postgres, given.redis, Tokens(Path(given.jwks), given.issuer, given.audience))
    about = {"loop": "uvloop", "http": "httptools", "access_log": False, "log_level": "warning"}
    Server(uvicorn.Config(app, host=host, port=int(port), **about)).run()  # type: ignore[arg-type]
