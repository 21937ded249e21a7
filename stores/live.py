"""LiveSessions: running sessions in Redis, whose clock is the exam's clock.

Each method is one call of one function in `functions/`. A session that Redis does not know, or knows from an earlier
generation, is restored first (`restore.py`), and the call is made again.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from redis.asyncio import Redis

from stores import gauges, keys
from stores.generation import began_ms
from stores.hashes import (
    STATUS,
    STATUS_LETTER,
    new_state,
    pause_field,
    read_fields,
    read_frozen,
    read_log_entry,
    read_state,
    saved_answer,
    session_fields,
    state_fields,
)
from stores.pipeline import Call, Functions, ask_all, checked
from stores.records import (
    Deadline,
    Frozen,
    LogEntry,
    MoveOutcome,
    NotFlipped,
    Paper,
    PaperQuestion,
    Save,
    Saved,
    SavedAnswer,
    SaveOutcome,
    SessionFacts,
    SessionRow,
    SessionState,
    SessionStatus,
    SubmitReason,
)

MAX_ANSWER_BYTES = 256 * 1024
"""All answers of a session together, so that its submit always fits one JetStream message."""

KEEP_SCORED_MS = 24 * 3600 * 1000
UNSCORED_AFTER_MS = 5_000
UNSCORED_LONGEST_MS = 300_000
LONGEST_IN_TURN_MS = 60_000
UNSCORED_RETRIES = 100
"""About eight hours; then it is an operator's."""

MAX_LOG_ENTRIES = 50_000
"""Of a shard's save log."""

TOKEN_MS = 5_000
FLIGHT_MS = 500
"""A generation's age from which on sessions may be restored. A submit whose flip went with the memory before it may still be on
its way to where a restore looks (publish wait, then a row): a session restored earlier would be revived under it."""

SAVE_OUTCOMES = {outcome.encode(): outcome for outcome in SaveOutcome}
RESTORE_TRIES = 40
BELL_GRACE_MS = 2_000
LOOKED_AT = 100
NO_GENERATION = -2
FACTS_CACHED = 200_000


class RestoreFailed(Exception):
    """A session could not be restored in time; the caller may try again."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How the bell judges an outage: a silence of so long is one, and it holds for so long after it."""

    outage_ms: int = 5_000
    hold_ms: int = 120_000


@dataclass(frozen=True, slots=True)
class ShardLog:
    """What was read of a shard's save log: in which generation, the id after the last entry, the entries."""

    generation: str
    after: str
    entries: Sequence[LogEntry]


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is not in PostgreSQL yet: log entries, sessions to be read whole, the oldest entry's age."""

    entries: int
    dirty: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Glance:
    """Whose a session is, and how far it is."""

    student: str
    status: SessionStatus
    submitted_ms: int | None


@dataclass(frozen=True, slots=True)
class Restored:
    """A session as it has to be from now on; `parked`: submitted, and waits for an operator."""

    state: SessionState
    parked: bool = False


class LiveSessions:
    """Running sessions. `restore` brings one session back into Redis and returns False when there is no such session;
    `begin_generation` gives shards a generation that have none."""

    def __init__(
        self,
        redis: Redis,
        restore: Callable[[UUID], Awaitable[bool]],
        begin_generation: Callable[[Redis], Awaitable[None]],
        patience: Patience,
    ) -> None:
        self._redis = redis
        self._functions = Functions(redis, queue="sessions")
        self._restore = restore
        self._begin_generation = begin_generation
        self._patience = patience
        self._facts: OrderedDict[UUID, SessionFacts] = OrderedDict()
        gauges.cached("session facts", self._facts)

    async def prepare(self) -> None:
        """Load the functions, and give this Redis a generation where it has none (an empty one)."""
        await self._functions.load()
        await self._begin_generation(self._redis)

    async def start(self, facts: SessionFacts, deadline: Deadline) -> SessionState | None:
        """Install a new session, and return it as it is now: one that is there already stays as it is, since somebody else has
        come to it first. None: no such session."""
        fields = session_fields(facts, epoch=0, restored_through=0)
        reply = await self._call(
            "start",
            facts.session,
            _session_keys(facts.session, keys.due_key),
            *(deadline.ends_ms, *fields, "s", "I", "f", deadline.version),
        )
        if reply is None or reply[0] == b"EXISTS":
            return await self.state(facts.session)
        self._remember(facts)
        return new_state(facts, deadline, int(cast(int, reply[1])))

    async def move(self, ends: Mapping[UUID, Deadline]) -> Mapping[UUID, MoveOutcome]:
        """Tell sessions when they end by newer facts, and return what became of each."""
        calls = [
            (
                "move",
                [*_session_keys(session, keys.due_key), keys.token_key(session)],
                (end.version, end.ends_ms, pause_field(end)),
            )
            for session, end in ends.items()
        ]
        replies = await self._all(calls)
        return {session: MoveOutcome(cast(bytes, reply).decode()) for session, reply in zip(ends, replies, strict=True)}

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
            [keys.session_key(save.session), keys.log_key(number), keys.generation_key(number), keys.dirty_key(number)],
            save.student,
            save.question,
            save.answer.packed(),
            save.key_digest,
            save.body_digest,
            save.client_seq or 0,
            MAX_ANSWER_BYTES,
            MAX_LOG_ENTRIES,
        )
        if reply is None or reply[0] == b"UNKNOWN":
            return Saved(SaveOutcome.UNKNOWN, 0, 0, 0, 0)
        outcome, version, at_ms, ends_ms, now_ms = cast(tuple[bytes, int, int, int, int], reply[:5])
        current = saved_answer(save.question, cast(bytes, reply[5]), b"", b"") if len(reply) > 5 else None
        return Saved(SAVE_OUTCOMES[outcome], version, at_ms, ends_ms, now_ms, current)

    async def submit(
        self, session: UUID, student: str | None, reason: SubmitReason, grace_ms: int = BELL_GRACE_MS, waited_ms: int = 0
    ) -> Frozen | NotFlipped | None:
        """Hand a session in, once; `student` None is the server. None: no such session, or not that student's.

        A click that arrived after the end, `waited_ms` ago, gives ENDED; the bell gives EARLY on a session that is not over by
        more than the grace (an extension came), and HELD after an outage.
        """
        reply = await self._call(
            "submit",
            session,
            _session_keys(session, keys.due_key, keys.unscored_key, keys.hold_key, keys.beat_key),
            student or "",
            reason,
            grace_ms,
            UNSCORED_AFTER_MS,
            self._patience.outage_ms,
            waited_ms,
        )
        if reply is None or reply[0] == b"UNKNOWN":
            return None
        return read_frozen(session, reply)

    async def retry(self, session: UUID) -> Frozen | None:
        """Return a submitted session that still has no result, and look at it again later; None: it needs nothing.

        The outcome EXHAUSTED says that it was taken up so often that an operator should look at it.
        """
        reply = await self._call(
            "retry",
            session,
            _session_keys(session, keys.unscored_key),
            UNSCORED_AFTER_MS,
            UNSCORED_LONGEST_MS,
            UNSCORED_RETRIES,
        )
        found = None if reply is None or reply[0] == b"SCORED" else read_frozen(session, reply)
        return found if isinstance(found, Frozen) else None

    async def beat(self) -> None:
        """Note that students are being served; the bell holds when nobody did so for a while."""
        calls = [
            ("beat", [keys.beat_key(number), keys.hold_key(number)], (self._patience.outage_ms, self._patience.hold_ms))
            for number in range(keys.SHARDS)
        ]
        await self._all(calls)

    async def holds(self) -> bool:
        """Return whether the bell holds for anybody: a session in progress that began before an outage's end. Of each shard those
        are looked at whose time is over first. A new stack begins with a hold, and nobody whom it is for."""
        holds = await ask_all(self._redis, [("GET", keys.hold_key(number)) for number in range(keys.SHARDS)])
        held = [(number, int(hold.partition(b",")[2])) for number, hold in enumerate(holds) if hold]
        running = await ask_all(self._redis, [("ZRANGE", keys.due_key(number), 0, LOOKED_AT - 1) for number, _ in held])
        return any(
            UUID(member.decode()).int >> 80 < outage_end_ms  # a session's id says when it began
            for (_, outage_end_ms), members in zip(held, running, strict=True)
            for member in members
        )

    async def due(self, grace_ms: int = BELL_GRACE_MS) -> Sequence[UUID]:
        """Return sessions whose time seems to be over, up to 500 a shard; the submit decides."""
        return await self._before_now(keys.due_key, grace_ms)

    async def unscored(self, oldest_ms: int | None) -> Sequence[UUID]:
        """Return submitted sessions whose result is late, up to 500 a shard.

        `oldest_ms` is since when the oldest submit waits in the stream (None: none does). What was handed in after it waits
        its turn behind it, and is late only after a minute: looking after a long backlog would only make it longer.
        """
        waited_ms = 0 if oldest_ms is None else await self.now_ms() - oldest_ms
        return await self._before_now(keys.unscored_key, min(max(0, waited_ms - UNSCORED_AFTER_MS), LONGEST_IN_TURN_MS))

    async def lease(self, work: str, holder: str, ttl_ms: int = 5_000) -> Sequence[int]:
        """Return the shards on which `holder` may do `work` for now. A lease spreads work; nothing relies on it."""
        leases = [keys.lease_key(number, work) for number in range(keys.SHARDS)]
        commands = [part for lease in leases for part in (("SET", lease, holder, "NX", "PX", ttl_ms), ("GET", lease))]
        holders = (await ask_all(self._redis, commands))[1::2]
        return [number for number, one in enumerate(holders) if one == holder.encode()]

    async def read_logs(self, shards: Sequence[int], count: int) -> Mapping[int, ShardLog]:
        """Return what the shards' logs hold, up to `count` entries each; shards with nothing to write are left out."""
        reading = [
            part
            for number in shards
            for part in (("GET", keys.generation_key(number)), ("XRANGE", keys.log_key(number), "-", "+", "COUNT", count))
        ]
        replies, read = await ask_all(self._redis, reading), {}
        for i, number in enumerate(shards):
            generation, entries = replies[2 * i], replies[2 * i + 1]
            if generation and entries:
                after = _after(entries[-1][0].decode())
                read[number] = ShardLog(generation.decode(), after, [read_log_entry(_fields(flat)) for _, flat in entries])
        return read

    async def trim_logs(self, cuts: Mapping[int, ShardLog]) -> None:
        """Cut off what was read from each shard's log, unless the log is of another generation by now."""
        calls = [
            ("trim", [keys.log_key(number), keys.generation_key(number)], (cut.generation, cut.after))
            for number, cut in cuts.items()
        ]
        await self._all(calls)

    async def dirty(self, shards: Sequence[int]) -> Sequence[int]:
        """Return which shards have sessions that the log had no room for."""
        counts = await ask_all(self._redis, [("ZCARD", keys.dirty_key(number)) for number in shards])
        return [number for number, count in zip(shards, counts, strict=True) if count]

    async def read_dirty(self, number: int, count: int) -> tuple[str, Sequence[tuple[UUID, int, Sequence[SavedAnswer]]]]:
        """Return a shard's generation, and up to `count` sessions that the log had no room for: each with its version and
        all its answers. Those that wait longest come first."""
        generation, members = await ask_all(
            self._redis, [("GET", keys.generation_key(number)), ("ZRANGE", keys.dirty_key(number), 0, count - 1)]
        )
        sessions = [UUID(member.decode()) for member in members]
        hashes = await self._hashes(sessions)
        found = [
            (session, int(fields[b"v"]), read_state(session, 0, fields).answers) if fields else (session, 2**53, ())
            for session, fields in zip(sessions, hashes, strict=True)
        ]
        return (generation or b"").decode(), found

    async def clean(self, number: int, generation: str, versions: Mapping[UUID, int]) -> None:
        """Note which versions of dirty sessions are in PostgreSQL; a session that has changed since stays dirty."""
        pairs = [part for session, version in versions.items() for part in (str(session), version)]
        await self._all([("clean", [keys.dirty_key(number), keys.generation_key(number)], (generation, *pairs))])

    async def backlog(self) -> Backlog:
        """Return how much is not in PostgreSQL yet, and since when."""
        reading: list[tuple[str | int, ...]] = [("TIME",)]
        for log, dirty in ((keys.log_key(number), keys.dirty_key(number)) for number in range(keys.SHARDS)):
            reading += [("XLEN", log), ("ZCARD", dirty), ("XRANGE", log, "-", "+", "COUNT", 1)]
        (seconds, _), *replies = await ask_all(self._redis, reading)
        oldest = [int(entries[0][0].split(b"-")[0]) for entries in replies[2::3] if entries]
        waits = max(0.0, int(seconds) - min(oldest) / 1000) if oldest else 0.0
        return Backlog(sum(replies[0::3]), sum(replies[1::3]), waits)

    async def waiting(self) -> tuple[int, int]:
        """Return how many submitted sessions have no result yet, and how many wait for an operator."""
        replies = await ask_all(
            self._redis, [("ZCARD", key(n)) for n in range(keys.SHARDS) for key in (keys.unscored_key, keys.parked_key)]
        )
        return sum(replies[0::2]), sum(replies[1::2])

    async def now_ms(self) -> int:
        """Return the clock that decides."""
        seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def peek(self, session: UUID) -> SessionStatus | None:
        """Return the status of a session that Redis has, without restoring one that it has not."""
        letter = cast("bytes | None", await self._redis.hget(keys.session_key(session), "s"))
        return STATUS[letter.decode()] if letter else None

    async def glance(self, session: UUID) -> Glance | None:
        """Return how far a session is; None where Redis does not know it for certain, which is not to say that there is none."""
        found = cast(list[bytes], await self._functions.call("glance", _session_keys(session)))
        if not found:
            return None
        return Glance(found[0].decode(), STATUS[found[1].decode()], int(found[2]) if len(found) > 2 and found[2] else None)

    async def scored(self, sessions: Sequence[UUID]) -> None:
        """Note that results are in PostgreSQL: the nets forget these sessions, and their hashes go after a day."""
        calls = [
            (
                "scored",
                [keys.session_key(s), *(key(keys.shard(s)) for key in (keys.unscored_key, keys.due_key, keys.parked_key))],
                [KEEP_SCORED_MS],
            )
            for s in sessions
        ]
        await self._all(calls)

    async def park(self, session: UUID) -> None:
        """Take a session that cannot be scored out of the nets, until an operator has looked at it."""
        number = keys.shard(session)
        await self._functions.call("park", [keys.unscored_key(number), keys.parked_key(number)], str(session))

    async def unpark(self, session: UUID) -> None:
        """Give a parked session back to the nets, at once and with all their patience; one that is scored they let go."""
        number = keys.shard(session)
        await self._functions.call("unpark", [keys.session_key(session), keys.unscored_key(number), keys.parked_key(number)])

    async def retire(self, rows: Sequence[SessionRow], parked: Container[UUID], keep_ms: int) -> Mapping[UUID, int | None]:
        """End sessions for good, whose rows PostgreSQL is about to forget; returns the version of each. None: its submit is
        on its way to a score, and nothing was done. `parked` wait for an operator, and for no score."""
        calls = [
            (
                "retire",
                [
                    *_session_keys(row.facts.session),
                    keys.token_key(row.facts.session),
                    *(key(keys.shard(row.facts.session)) for key in (keys.due_key, keys.unscored_key, keys.parked_key)),
                ],
                (
                    keep_ms,
                    "P" if row.facts.session in parked else STATUS_LETTER[row.status],
                    row.ends_ms,
                    *session_fields(row.facts, epoch=row.epoch, restored_through=0),
                ),
            )
            for row in rows
        ]
        replies = [int(cast(int, reply)) for reply in await self._all(calls)]
        if NO_GENERATION in replies:
            raise RestoreFailed
        return {row.facts.session: version if version >= 0 else None for row, version in zip(rows, replies, strict=True)}

    async def install(self, states: Mapping[UUID, Restored], token: str) -> frozenset[UUID]:
        """Install restored sessions whose restore token is still `token`; returns those that were not installed."""
        calls = [
            (
                "install",
                [
                    *_session_keys(session),
                    keys.token_key(session),
                    *(key(keys.shard(session)) for key in (keys.due_key, keys.unscored_key, keys.parked_key)),
                ],
                (
                    token,
                    "P" if restored.parked else STATUS_LETTER[restored.state.status],
                    restored.state.deadline.ends_ms,
                    KEEP_SCORED_MS,
                    *state_fields(restored.state),
                ),
            )
            for session, restored in states.items()
        ]
        replies = await self._all(calls)
        return frozenset(session for session, reply in zip(states, replies, strict=True) if reply != b"INSTALLED")

    async def leftovers(self, sessions: Sequence[UUID]) -> Mapping[UUID, SessionState]:
        """Return what Redis still has of sessions from whatever generation; only for a restore to merge."""
        hashes = await self._hashes(sessions)
        return {session: read_state(session, 0, fields) for session, fields in zip(sessions, hashes, strict=True) if fields}

    async def take_tokens(self, sessions: Sequence[UUID], token: str) -> tuple[frozenset[UUID], int]:
        """Take the right to restore sessions, for 5 s; returns those that nobody else has taken, and the milliseconds after
        which their generations are old enough.

        A shard that has no generation, since it was wiped, gets one before anybody restores into it.
        """
        shards = sorted({keys.shard(session) for session in sessions})
        taking = [("SET", keys.token_key(session), token, "NX", "PX", TOKEN_MS) for session in sessions]
        reading = [("GET", keys.generation_key(number)) for number in shards]
        *replies, (seconds, microseconds) = await ask_all(self._redis, [*taking, *reading, ("TIME",)])
        generations = replies[len(sessions) :]
        if not all(generations):
            await self._begin_generation(self._redis)
        now_ms = int(seconds) * 1000 + int(microseconds) // 1000
        wait_ms = max((began_ms(one) + FLIGHT_MS - now_ms if one else FLIGHT_MS for one in generations), default=0)
        taken = frozenset(session for session, mine in zip(sessions, replies, strict=False) if mine)
        return taken, min(max(0, wait_ms), FLIGHT_MS)

    async def give_tokens_back(self, sessions: Sequence[UUID], token: str) -> None:
        """Let others restore these sessions, where the token is still the caller's."""
        await self._all([("release", [keys.token_key(session)], (token,)) for session in sessions])

    async def keep_paper(self, paper: Paper) -> None:
        """Keep a paper's skeleton beside the sessions, so that a new process needs no PostgreSQL to check answers."""
        rows = [f"{q.id}\t{q.type}\t{','.join(q.options)}" for q in paper.questions]
        head = f"{paper.shuffle_questions:d}{paper.shuffle_options:d}"
        await self._redis.set(keys.paper_key(paper.exam, paper.version), "\n".join([head, *rows]))

    async def drop_paper(self, exam: str, version: int) -> None:
        """Forget the paper of an exam that is no more."""
        await self._redis.delete(keys.paper_key(exam, version))

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
        for _ in range(RESTORE_TRIES):
            reply = cast(Sequence[object], await self._functions.call(act, places, *arguments))
            if reply[0] != b"RESTORE":
                return reply
            if not await self._restore(session):
                return None
        raise RestoreFailed

    async def _all(self, calls: Sequence[Call]) -> Sequence[object]:
        """Make many calls in one round trip; raises the first failure."""
        return checked(await self._functions.call_all(calls)) if calls else []

    async def _before_now(self, key: Callable[[int], str], grace_ms: int) -> Sequence[UUID]:
        until = await self.now_ms() - grace_ms
        reading = [("ZRANGE", key(n), "-inf", f"({until}", "BYSCORE", "LIMIT", 0, 500) for n in range(keys.SHARDS)]
        return [UUID(member.decode()) for members in await ask_all(self._redis, reading) for member in members]

    async def _hashes(self, sessions: Sequence[UUID]) -> Sequence[Mapping[bytes, bytes]]:
        return await ask_all(self._redis, [("HGETALL", keys.session_key(one)) for one in sessions])

    def _remember(self, facts: SessionFacts) -> None:
        self._facts[facts.session] = facts
        if len(self._facts) > FACTS_CACHED:
            self._facts.popitem(last=False)


def _session_keys(session: UUID, *others: Callable[[int], str]) -> list[str]:
    number = keys.shard(session)
    return [keys.session_key(session), keys.generation_key(number), *(key(number) for key in others)]


def _fields(flat: Sequence[bytes]) -> Mapping[bytes, bytes]:
    """Pair names and values, which a stream's entry has one after the other."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _after(entry_id: str) -> str:
    """Return the smallest stream id after `entry_id`."""
    milliseconds, sequence = entry_id.split("-")
    return f"{milliseconds}-{int(sequence) + 1}"
