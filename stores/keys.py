"""Every Redis key that sessions have, one function per noun.

All keys of a session share a hash tag, so that one function may touch them on a cluster too.
"""

from uuid import UUID

SHARDS = 64
"""Recorded in PostgreSQL (`setting`) by the first migration; it can never change while sessions live."""


_TAGS = tuple(f"{{{number:02d}}}" for number in range(SHARDS))


def shard(session: UUID) -> int:
    """Return the session's shard, from the random end of its UUIDv7."""
    return session.int % SHARDS


def session_key(session: UUID) -> str:
    """Return the key of a session's hash."""
    return f"s:{_TAGS[shard(session)]}:{session}"


def token_key(session: UUID) -> str:
    """Return the key of a session's restore token."""
    return f"r:{_TAGS[shard(session)]}:{session}"


def log_key(number: int) -> str:
    """Return the key of a shard's save log, a stream."""
    return f"log:{_TAGS[number]}"


def generation_key(number: int) -> str:
    """Return the key of a shard's generation."""
    return f"gen:{_TAGS[number]}"


def due_key(number: int) -> str:
    """Return the key of a shard's sessions by the end of their time."""
    return f"due:{_TAGS[number]}"


def unscored_key(number: int) -> str:
    """Return the key of a shard's submitted sessions without a result, by when to look at them again."""
    return f"unscored:{_TAGS[number]}"


def parked_key(number: int) -> str:
    """Return the key of a shard's submitted sessions that wait for an operator."""
    return f"parked:{_TAGS[number]}"


def dirty_key(number: int) -> str:
    """Return the key of a shard's sessions that have to be read whole, by version: its log was full."""
    return f"dirty:{_TAGS[number]}"


def run_key(number: int) -> str:
    """Return the key of the server's identity behind a shard's generation."""
    return f"run:{_TAGS[number]}"


def beat_key(number: int) -> str:
    """Return the key of the last moment at which students were being served."""
    return f"beat:{_TAGS[number]}"


def hold_key(number: int) -> str:
    """Return the key that holds a shard's bell after an outage."""
    return f"hold:{_TAGS[number]}"


def lease_key(number: int, work: str) -> str:
    """Return the key of the lease for one kind of work on a shard."""
    return f"lease:{_TAGS[number]}:{work}"


def paper_key(exam: str, version: int) -> str:
    """Return the key of a paper's skeleton."""
    return f"paper:{exam}:{version}"
