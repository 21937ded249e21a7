"""LiveSessions: running sessions in Redis, whose clock is the exam's clock.

Each method is one call of one function in `functions/`. A session that Redis does not know, or knows from an earlier
generation, is restored first (`restore.py`), and the call is made again.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import cast
from uuid import UUID

from redis.asyncio import Redis

from stores import keys
from stores.hashes import (
    STATUS,
    STATUS_LETTER,
    read_fields,
    read_frozen,
    read_log_entry,
    read_state,
    saved_answer,
    session_fields,
    state_fields,
)
from stores.pipeline import Functions
from stores.records import (
    Frozen,
    LogEntry,
    Paper,
    PaperQuestion,
    Save,
    Saved,
    SaveOutcome,
    SessionFacts,
    SessionState,
    SessionStatus,
    SubmitReason,
)

MAX_ANSWER_BYTES = 256 * 1024
"""All answers of a session together, so that its submit always fits one JetStream message."""

KEEP_SCORED_MS = 24 * 3600 * 1000
UNSCORED_AFTER_MS = 5_000
UNSCORED_LONGEST_MS = 300_000
BELL_GRACE_MS = 2_000
FACTS_CACHED = 200_000


class RestoreFailed(Exception):
    """A session could not be restored in time; the caller may try again."""


class LiveSessions:
    """Running sessions. `restore` brings one session back into Redis and returns False when there is no such session."""

    def __init__(self, redis: Redis, restore: Callable[[UUID], Awaitable[bool]], generation: Callable[[], Awaitable[int]]) -> None:
        self._redis = redis
        self._functions = Functions(redis)
        self._restore = restore
        self._generation = generation
        self._facts: OrderedDict[UUID, SessionFacts] = OrderedDict()

    async def prepare(self) -> None:
        """Load the functions, and give this Redis a generation where it has none (an empty one)."""
        await self._functions.load()
        await self._begin_generation()

    async def start(self, facts: SessionFacts, ends_ms: int) -> None:
        """Install a new session; one that is there already stays as it is."""
        arguments = [ends_ms, *session_fields(facts, epoch=0, restored_through=0), "s", "I"]
        for _ in range(2):
            if await self._functions.call("start", _session_keys(facts.session, keys.due_key), *arguments) != b"NO_GENERATION":
                return
            await self._begin_generation()
        raise RestoreFailed

    async def facts(self, session: UUID) -> SessionFacts | None:
        """Return what never changes of a session, from this process's cache where possible; None: no such session."""
        known = self._facts.get(session)
        if known is not None:
            self._facts.move_to_end(session)
            return known
        state = await self.state(session)
        return state.facts if state else None

    async def state(self, session: UUID) -> SessionState | None:
        """Return a session with its answers; None: no such session."""
        reply = await self._call("state", session, _session_keys(session))
        if reply is None:
            return None
        now_ms, fields = int(cast(int, reply[1])), read_fields(reply[2:])
        state = read_state(session, now_ms, fields)
        self._remember(state.facts)
        return state

    async def save(self, save: Save) -> Saved:
        """Save one answer; the outcome says what became of it."""
        number = keys.shard(save.session)
        reply = await self._call(
            "save",
            save.session,
            [keys.session_key(save.session), keys.log_key(number), keys.generation_key(number)],
            save.student,
            save.question,
            save.answer.packed(),
            save.key_digest,
            save.body_digest,
            save.client_seq or 0,
            MAX_ANSWER_BYTES,
        )
        if reply is None or reply[0] == b"UNKNOWN":
            return Saved(SaveOutcome.UNKNOWN, 0, 0, 0, 0)
        outcome = SaveOutcome(cast(bytes, reply[0]).decode())
        version, at_ms, ends_ms, now_ms = (int(cast(int, value)) for value in reply[1:5])
        current = saved_answer(save.question, cast(bytes, reply[5]), b"", b"") if len(reply) > 5 else None
        return Saved(outcome, version, at_ms, ends_ms, now_ms, current)

    async def submit(self, session: UUID, student: str | None, reason: SubmitReason) -> Frozen | None:
        """Hand a session in, once; `student` None is the server. None: no such session, or not that student's.

        The bell on a session that is not over yet (an extension came) gives EARLY.
        """
        reply = await self._call(
            "submit",
            session,
            _session_keys(session, keys.due_key, keys.unscored_key),
            student or "",
            reason,
            BELL_GRACE_MS,
            UNSCORED_AFTER_MS,
        )
        if reply is None or reply[0] == b"UNKNOWN":
            return None
        return read_frozen(session, reply)

    async def retry(self, session: UUID) -> Frozen | None:
        """Return a submitted session that still has no result, and look at it again later; None: it needs nothing."""
        reply = await self._call(
            "retry", session, _session_keys(session, keys.unscored_key), UNSCORED_AFTER_MS, UNSCORED_LONGEST_MS
        )
        if reply is None or reply[0] == b"SCORED":
            return None
        return read_frozen(session, reply)

    async def due(self, grace_ms: int = BELL_GRACE_MS) -> Sequence[UUID]:
        """Return sessions whose time seems to be over, up to 500 a shard; the submit decides."""
        return await self._before_now(keys.due_key, grace_ms)

    async def unscored(self) -> Sequence[UUID]:
        """Return submitted sessions whose result is late, up to 500 a shard."""
        return await self._before_now(keys.unscored_key, 0)

    async def lease(self, work: str, holder: str, ttl_ms: int = 5_000) -> Sequence[int]:
        """Return the shards on which `holder` may do `work` for now. A lease spreads work; nothing relies on it."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for number in range(keys.SHARDS):
                pipeline.set(keys.lease_key(number, work), holder, nx=True, px=ttl_ms)
                pipeline.get(keys.lease_key(number, work))
            replies = await pipeline.execute()
        return [number for number in range(keys.SHARDS) if replies[2 * number + 1] == holder.encode()]

    async def read_logs(self, shards: Sequence[int], count: int) -> Mapping[int, tuple[str, str, Sequence[LogEntry]]]:
        """Return, per shard with unwritten saves, its generation, the id after the last entry read, and the entries."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for number in shards:
                pipeline.get(keys.generation_key(number))
                pipeline.xrange(keys.log_key(number), count=count)
            replies = await pipeline.execute()
        read = {}
        for i, number in enumerate(shards):
            generation, entries = replies[2 * i], replies[2 * i + 1]
            if generation and entries:
                read[number] = (
                    generation.decode(),
                    _after(entries[-1][0].decode()),
                    [read_log_entry(fields) for _, fields in entries],
                )
        return read

    async def trim_logs(self, cuts: Mapping[int, tuple[str, str]]) -> None:
        """Cut each shard's log before the given id, unless the log is of another generation than the one read."""
        calls = [("trim", [keys.log_key(number), keys.generation_key(number)], cut) for number, cut in cuts.items()]
        for reply in await self._functions.call_all(calls):
            if isinstance(reply, Exception):
                raise reply

    async def log_lengths(self) -> int:
        """Return how many accepted saves are not in PostgreSQL yet."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            for number in range(keys.SHARDS):
                pipeline.xlen(keys.log_key(number))
            return sum(await pipeline.execute())

    async def peek(self, session: UUID) -> SessionStatus | None:
        """Return the status of a session that Redis has, without restoring one that it has not."""
        letter = cast("bytes | None", await self._redis.hget(keys.session_key(session), "s"))
        return STATUS[letter.decode()] if letter else None

    async def scored(self, sessions: Sequence[UUID]) -> None:
        """Note that results are in PostgreSQL: the nets forget these sessions, and their hashes go after a day."""
        calls = [
            (
                "scored",
                [keys.session_key(s), keys.unscored_key(keys.shard(s)), keys.due_key(keys.shard(s))],
                [KEEP_SCORED_MS],
            )
            for s in sessions
        ]
        for reply in await self._functions.call_all(calls):
            if isinstance(reply, Exception):
                raise reply

    async def park(self, session: UUID) -> None:
        """Take a session that cannot be scored out of the nets, until an operator has looked at it."""
        number = keys.shard(session)
        async with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.zrem(keys.unscored_key(number), str(session))
            pipeline.zadd(keys.parked_key(number), {str(session): 0})
            await pipeline.execute()

    async def install(self, state: SessionState, token: str) -> bool:
        """Install a restored session if `token` is still its restore token; False: somebody else was quicker."""
        number = keys.shard(state.facts.session)
        places = [
            keys.session_key(state.facts.session),
            keys.generation_key(number),
            keys.token_key(state.facts.session),
            keys.due_key(number),
            keys.unscored_key(number),
        ]
        for _ in range(2):
            reply = await self._functions.call(
                "install",
                places,
                token,
                STATUS_LETTER[state.status],
                state.ends_ms,
                KEEP_SCORED_MS,
                *state_fields(state),
            )
            if reply != b"NO_GENERATION":
                return reply == b"INSTALLED"
            await self._begin_generation()
        return False

    async def leftover(self, session: UUID) -> SessionState | None:
        """Return what Redis still has of a session from whatever generation; only for a restore to merge."""
        fields = cast(dict[bytes, bytes], await self._redis.hgetall(keys.session_key(session)))
        return read_state(session, 0, fields) if fields else None

    async def take_token(self, session: UUID, token: str) -> bool:
        """Take the right to restore a session, for 5 s; False: somebody else has it."""
        return bool(await self._redis.set(keys.token_key(session), token, nx=True, px=5_000))

    async def keep_paper(self, paper: Paper) -> None:
        """Keep a paper's skeleton beside the sessions, so that a new process needs no PostgreSQL to check answers."""
        rows = [f"{q.id}\t{q.type}\t{','.join(q.options)}" for q in paper.questions]
        head = f"{paper.shuffle_questions:d}{paper.shuffle_options:d}"
        await self._redis.set(keys.paper_key(paper.exam, paper.version), "\n".join([head, *rows]))

    async def paper(self, exam: str, version: int) -> Paper | None:
        """Return a paper's skeleton, or None where it was not kept yet."""
        kept = cast("bytes | None", await self._redis.get(keys.paper_key(exam, version)))
        if kept is None:
            return None
        head, *rows = kept.decode().split("\n")
        questions = [row.split("\t") for row in rows]
        return Paper(
            exam,
            version,
            head[0] == "1",
            head[1] == "1",
            tuple(PaperQuestion(q, kind, tuple(options.split(",")) if options else ()) for q, kind, options in questions),
        )

    async def _call(self, act: str, session: UUID, places: Sequence[str], *arguments: str | bytes | int) -> Sequence[object] | None:
        """Call a session's function, restoring the session first where that is what it asks for; None: no such session."""
        for _ in range(3):
            reply = cast(Sequence[object], await self._functions.call(act, places, *arguments))
            if reply[0] != b"RESTORE":
                return reply
            if not await self._restore(session):
                return None
        raise RestoreFailed

    async def _begin_generation(self) -> None:
        generation = await self._generation()
        async with self._redis.pipeline(transaction=False) as pipeline:
            for number in range(keys.SHARDS):
                pipeline.set(keys.generation_key(number), generation, nx=True)
            await pipeline.execute()

    async def _before_now(self, key: Callable[[int], str], grace_ms: int) -> Sequence[UUID]:
        seconds, microseconds = await self._redis.time()
        until = seconds * 1000 + microseconds // 1000 - grace_ms
        async with self._redis.pipeline(transaction=False) as pipeline:
            for number in range(keys.SHARDS):
                pipeline.zrange(key(number), "-inf", f"({until}", byscore=True, offset=0, num=500)
            return [UUID(member.decode()) for members in await pipeline.execute() for member in members]

    def _remember(self, facts: SessionFacts) -> None:
        self._facts[facts.session] = facts
        if len(self._facts) > FACTS_CACHED:
            self._facts.popitem(last=False)


def _session_keys(session: UUID, *others: Callable[[int], str]) -> list[str]:
    number = keys.shard(session)
    return [keys.session_key(session), keys.generation_key(number), *(key(number) for key in others)]


def _after(entry_id: str) -> str:
    """Return the smallest stream id after `entry_id`."""
    milliseconds, sequence = entry_id.split("-")
    return f"{milliseconds}-{int(sequence) + 1}"
