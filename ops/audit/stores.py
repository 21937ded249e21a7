"""Reads PostgreSQL and Redis as their owner: PostgreSQL at one moment, Redis just after it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from typing import cast

from redis import Redis

from ops.audit import rows
from ops.audit.kept import Board, Stores

TOGETHER = 5_000
LIVE = {b"I": "IN_PROGRESS", b"S": "SUBMITTED", b"D": "SCORED"}


def read(postgres: str, redis: str, wanted: Sequence[str], snapshots_of: frozenset[str]) -> Stores:
    """Read the wanted exams, all when none is named; an exam that does not exist is a KeyError.

    What snapshots have written of a session is read for `snapshots_of` alone: of all sessions it is millions of rows.
    """
    stores = rows.read(postgres, wanted, snapshots_of)
    with Redis.from_url(redis) as client:
        return _with_redis(stores, client)


def _with_redis(stores: Stores, client: "Redis") -> Stores:
    wanted: set[tuple[str, str | None]] = {(exam, None) for exam in stores.exams}
    wanted |= {(exam, cohort) for (exam, _), cohorts in stores.cohorts_of.items() for cohort in cohorts}
    wanted |= {(standing.exam, cohort) for standing in stores.standings for cohort in standing.cohorts}
    live = list(_live(stores.sessions, client))
    return replace(
        stores,
        live={session: status for session, status, _ in live},
        clicked={session: clicked for session, _, clicked in live if clicked is not None},
        boards={(exam, cohort): _board(client, exam, cohort) for exam, cohort in wanted},
        holding=next(iter(client.scan_iter("hold:*", count=TOGETHER)), None) is not None,
        open_keys={exam: _open_to_all(client, exam) for exam in stores.exams},
    )


def _live(sessions: Mapping[str, object], client: "Redis") -> Iterator[tuple[str, str, datetime | None]]:
    """Yield what Redis says of each session, and when it was handed in by a click; one of an earlier generation is no
    statement, it would be restored first."""
    generations = [cast("bytes | None", client.get(f"gen:{{{shard:02d}}}")) for shard in range(64)]
    ids = iter(sessions)
    while part := list(islice(ids, TOGETHER)):
        with client.pipeline(transaction=False) as pipeline:
            for one in part:
                pipeline.hmget(f"s:{{{_shard(one):02d}}}:{one}", ["s", "g", "z", "w"])
            for one, (status, generation, at, reason) in zip(part, pipeline.execute(), strict=True):
                if status is not None and generation == generations[_shard(one)]:
                    clicked = datetime.fromtimestamp(int(at) / 1000, UTC) if reason == b"CLICK" else None
                    yield one, LIVE[status], clicked


def _shard(session: str) -> int:
    return int(session[-2:], 16) % 64


def _board(client: "Redis", exam: str, cohort: str | None) -> Board:
    board = f"{{{exam}}}" if cohort is None else f"{{{exam}}}:c:{cohort}"
    rows = cast(Iterator[tuple[bytes, float]], client.zscan_iter(f"lb:{board}", count=TOGETHER))
    found = {member.decode(): score for member, score in rows}
    state, build, kept, width = cast(list[bytes | None], client.hmget(f"lbof:{{{exam}}}", ["!", "!token", "!kept", "!width"]))
    bounds = cast(list[tuple[bytes, float]], client.zrange(f"lbband:{{{exam}}}", 0, -1, withscores=True))
    counts = cast(dict[bytes, bytes], client.hgetall(f"lbhist:{board}"))
    return Board(
        complete=found.pop("!", None) is not None and state == b"ready" and counts.get(b"!") == build,
        places={student: int(score) for student, score in found.items()},
        counts={float(band): int(count) for band, count in counts.items() if not band.startswith(b"!")},
        width=int(width or 1),
        bounds=[bound for _, bound in bounds],
        best_only=kept is not None,
    )


def _open_to_all(client: "Redis", exam: str) -> Sequence[str]:
    papers = [cast("bytes | None", client.get(key)) for key in client.scan_iter(f"paper:{exam}:*", count=TOGETHER)]
    entries = cast(Iterator[tuple[bytes, bytes]], client.hscan_iter(f"lbof:{{{exam}}}", count=TOGETHER))
    return [text.decode() for text in (*papers, *(entry for _, entry in entries)) if text is not None]
