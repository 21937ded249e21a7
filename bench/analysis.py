"""What `finalbell integrity analyse` takes, out of PostgreSQL: 10,000 students x 60 items, all pairs, and those of rooms.

python -m bench.analysis [--students 10000] [--items 60] [--room 25] [--smoke]

Sessions, results and times of answers are written as an exam would have left them (students of bench/classes.py), then the command
is run as an operator runs it: reading, comparing in a process of its own, keeping, listing. Measured: how long it takes, the most
memory that the process of the comparison and the unit `integrity` had, and how long the unit kept a call waiting meanwhile.
Figures go to bench/results/analysis.json.
"""

import argparse
import asyncio
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from bench.classes import Habits, by_ability, copy, paper, sit
from bench.local import FINALBELL, ROOT, Stack, stack
from bench.measure import arguments, keep, table
from bench.similarity import BANDS
from ops.client import client

EXAM, UNIT, LETTERS = "analysed", "integrity", "ABCD"
TOGETHER = 1_000
WAITS_SECONDS = 0.02


@dataclass(slots=True)
class Took:
    """What one run took."""

    what: str
    seconds: float = 0.0
    pairs_printed: int = 0
    comparing_mib: float = 0.0
    unit_before_mib: float = 0.0
    unit_mib: float = 0.0
    waits_ms: list[float] = field(default_factory=list)
    """How long a health check of the unit took, one after another."""


def exam(items: int) -> dict[str, Any]:
    """Return an exam whose keys are those of bench/classes.py's papers."""
    questions = [
        {
            "id": f"q{number}",
            "type": "single_choice",
            "stem": f"Which of these is number {number}?",
            "options": [{"id": letter, "text": f"the {letter} of {number}"} for letter in LETTERS],
            "answer": {"choice": LETTERS[number % len(LETTERS)]},
            "topic": "numbers",
        }
        for number in range(items)
    ]
    return {"exam": {"id": EXAM, "title": "Analysed", "durationSeconds": 3600}, "questions": questions}


async def write(place: Stack, answers: NDArray[np.int16], room: int) -> None:
    """Write what an exam leaves that all of them have sat."""
    connection = await asyncpg.connect(place.read()["postgres"], timeout=10)
    try:
        for at in range(0, len(answers), TOGETHER):
            sessions, results, times = [], [], []
            for number in range(at, min(at + TOGETHER, len(answers))):
                session, result, answered = _rows(number, answers[number].tolist(), number // room)
                sessions.append(session)
                results.append(result)
                times += answered
            for name, columns, rows in (
                ("exam_session", SESSION, sessions),
                ("result", RESULT, results),
                ("session_answer", ANSWER, times),
            ):
                await connection.copy_records_to_table(name, records=rows, columns=columns, timeout=600)
        await connection.execute("UPDATE exam SET closed_at = now() WHERE id = $1", EXAM)
        await connection.execute("ANALYZE exam_session, result, session_answer", timeout=600)
    finally:
        await connection.close()


SESSION = (
    *("id", "student_id", "exam_id", "exam_version", "cohorts", "attempt", "alias", "started_at", "ends_at", "status"),
    "submitted_at",
)
RESULT = (
    *("session_id", "exam_id", "exam_version", "student_id", "score", "max_score", "status", "key_version", "answers"),
    *("answers_sha256", "points"),
)
ANSWER = ("session_id", "question_id", "answer", "version", "answered_at", "key_digest", "body_digest")


def _rows(number: int, codes: Sequence[int], room: int) -> tuple[tuple[object, ...], tuple[object, ...], list[tuple[object, ...]]]:
    """Return a student's session, result and times of answers."""
    ended = datetime.now(UTC) - timedelta(hours=1)
    started, student = ended - timedelta(hours=1), f"b{number}"
    session = UUID(int=(int(started.timestamp() * 1000) << 80) | (7 << 76) | (2 << 62) | number)
    given = {f"q{at}": f"c:{LETTERS[code.bit_length() - 1]}" for at, code in enumerate(codes) if code > 0}
    points = [int(code == 1 << at % len(LETTERS)) for at, code in enumerate(codes)]
    whole = json.dumps(given, sort_keys=True, separators=(",", ":"))
    pace = timedelta(hours=1) / (len(codes) + 1)
    return (
        (session, student, EXAM, 1, [f"room-{room}"], 1, f"Student {number}", started, ended, "SCORED", ended),
        (session, EXAM, 1, student, sum(points), len(codes), "SCORED", 1, whole, bytes(32), points),
        [(session, name, answer, 1, started + pace * (at + 1), b"", b"") for at, (name, answer) in enumerate(given.items())],
    )


@contextmanager
def watched(place: Stack, took: Took) -> Iterator[None]:
    """Watch the unit, and the process that it has started, until the end."""
    over = threading.Event()
    unit = place.pids(UNIT)[0]
    took.unit_before_mib = _memory(unit, "VmRSS")

    def watch() -> None:
        with grpc.insecure_channel(place.address(UNIT)) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while not over.wait(WAITS_SECONDS):
                asked = time.perf_counter()
                health.Check(health_pb2.HealthCheckRequest(), timeout=30)
                took.waits_ms.append((time.perf_counter() - asked) * 1000)
                took.unit_mib = max(took.unit_mib, _memory(unit, "VmRSS"))
                others = [_memory(pid, "VmHWM") for pid in place.pids(UNIT) if pid != unit]
                took.comparing_mib = max([took.comparing_mib, *others])

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        over.set()
        watching.join()


def _memory(pid: int, name: str) -> float:
    """Return a process's memory in MiB; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), 0.0)


def analyse(place: Stack, what: str, *options: str) -> Took:
    """Run the command."""
    took = Took(what)
    command = [*FINALBELL, "integrity", "analyse", EXAM, *options, "--json", "--home", str(place.home)]
    with watched(place, took):
        began = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, timeout=3_600)
        took.seconds = time.perf_counter() - began
    took.pairs_printed = len(json.loads(done.stdout))
    return took


def show(rows: Sequence[Took]) -> None:
    """Print what there is."""
    table(
        "What an analysis takes",
        ("who", "s", "MiB comparing", "MiB of the unit", "before", "a call waits, ms: median", "most", "pairs printed"),
        [
            (
                *(one.what, f"{one.seconds:.1f}", f"{one.comparing_mib:.0f}", f"{one.unit_mib:.0f}", f"{one.unit_before_mib:.0f}"),
                *(f"{np.median(one.waits_ms):.1f}", f"{max(one.waits_ms):.0f}", one.pairs_printed),
            )
            for one in rows
        ],
    )


def main() -> None:
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("--students", type=int, default=10_000)
    parser.add_argument("--items", type=int, default=60)
    parser.add_argument("--room", type=int, default=25, help="students of a room")
    parser.add_argument("--smoke", action="store_true", help="200 students: figures mean nothing")
    given = parser.parse_args()
    chance, students = np.random.default_rng(1), 200 if given.smoke else given.students
    sat = sit(paper(given.items), students, chance, Habits())
    sat = copy(sat, by_ability(sat, chance, 5, list(BANDS.values())), 0.7, chance)
    with stack() as place:
        with client(place.home, None, None) as admin:
            admin.import_exam(json.dumps(exam(given.items)).encode(), EXAM, {})
        asyncio.run(write(place, sat.exam.answers, given.room))
        rows = [
            analyse(place, "everybody", "--everybody"),
            analyse(place, "rooms", "--by", "room"),
            analyse(place, "again", "--last"),
        ]
    show(rows)
    figures = [{**asdict(one), "waits_ms": [float(np.median(one.waits_ms)), max(one.waits_ms)]} for one in rows]
    keep(given.results, "analysis", {"students": students, "items": given.items, "room": given.room, "runs": figures})


if __name__ == "__main__":
    main()
