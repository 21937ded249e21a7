"""Redis's memory for live sessions: each with 60 answers, every key remembered, the save log written and trimmed.

python -m bench.memory [--sessions 20000] [--changes 1]

`--changes` is how often each answer is changed after its first save: the last 64 replaced keys of a session are remembered.
Figures go to bench/results/memory.json.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import uvloop
from redis.asyncio import Redis

from bench.local import PAPER, Stack, stack, until
from bench.losses import nothing_waits
from bench.measure import arguments, keep, table
from bench.sittings import prepare
from servers.session.rules import body_digest, key_digest
from stores import keys
from stores.live import MAX_ANSWER_BYTES, MAX_LOG_ENTRIES
from stores.pipeline import Call, Functions
from stores.records import Answer, AnswerKind

TOGETHER = 2_000
FULL_LOG = 500_000


def answers(change: int) -> Iterator[tuple[str, Answer]]:
    """Give an answer to each of the paper's questions, another one for each change."""
    for question in PAPER["questions"]:
        options = [option["id"] for option in question.get("options", [])]
        match question["type"]:
            case "single_choice":
                yield question["id"], Answer(AnswerKind.CHOICE, options[change % len(options)])
            case "multiple_choice":
                yield question["id"], Answer(AnswerKind.CHOICES, ",".join(sorted(options[change % 2 : change % 2 + 2])))
            case "numeric":
                yield question["id"], Answer(AnswerKind.NUMBER, f"{change}.25")
            case _:
                yield question["id"], Answer(AnswerKind.TEXT, f"A short answer, number {change}")


def save(session: UUID, student: str, question: str, answer: Answer, change: int) -> Call:
    """Return the call that a save makes."""
    number = keys.shard(session)
    places = [keys.session_key(session), keys.log_key(number), keys.generation_key(number), keys.dirty_key(number)]
    digests = key_digest(f"{session}{question}{change}"), body_digest(question, answer, change + 1)
    return "save", places, (student, question, answer.packed(), *digests, change + 1, MAX_ANSWER_BYTES, MAX_LOG_ENTRIES)


async def fill(place: Stack, sessions: Sequence[dict[str, Any]], changes: range) -> None:
    """Save every answer of every session as the service does it, as it is after each of these changes."""
    async with Redis.from_url(place.read()["redis"]) as redis:
        functions, batch, since = Functions(redis, queue="bench"), list[Call](), 0
        for change in changes:
            for session in sessions:
                batch += [save(UUID(session["sessionId"]), session["student"], *one, change) for one in answers(change)]
                if len(batch) >= TOGETHER or session is sessions[-1]:
                    replies = await functions.call_all(batch)
                    if any(not isinstance(reply, list) or reply[0] != b"SAVED" for reply in replies):
                        raise RuntimeError(f"not saved: {replies[0]!r}")
                    since, batch = since + len(batch), []
                if since >= FULL_LOG:  # else sessions would be marked dirty: that is for when PostgreSQL is away
                    await until(lambda: nothing_waits(place, while_saving=0))
                    since = 0
    await until(lambda: nothing_waits(place, while_saving=0))


async def used(place: Stack) -> int:
    async with Redis.from_url(place.read()["redis"]) as redis:
        return int((await redis.info("memory"))["used_memory"])


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--sessions", type=int, default=20_000)
    parser.add_argument("--changes", type=int, default=1)
    given = parser.parse_args()
    rows: list[tuple[str, float]] = []
    with stack() as place, tempfile.TemporaryDirectory() as scratch:
        file, empty = Path(scratch) / "sessions.jsonl", uvloop.run(used(place))
        prepare(place, given.sessions, file)
        with file.open() as lines:
            sessions = [json.loads(line) for line in lines]
        rows.append(("started, no answer", (uvloop.run(used(place)) - empty) / given.sessions))
        for changes in (range(1), range(1, given.changes + 1)):
            uvloop.run(fill(place, sessions, changes))
            said = f"{len(PAPER['questions'])} answers" + (f", each changed {given.changes} times since" if changes.start else "")
            rows.append((said, (uvloop.run(used(place)) - empty) / given.sessions))
    table(f"Redis's bytes a session, {given.sessions:,} sessions", ["state", "bytes"], [(name, f"{b:,.0f}") for name, b in rows])
    keep(given.results, "memory", {"sessions": given.sessions, "bytes": dict(rows)})


if __name__ == "__main__":
    main()
