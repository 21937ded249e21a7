"""Reads of content through the gateway, cold and warm, beside a static file server; and what asking what students own costs.

python -m bench.content [--seconds 10] [--students 2000] [--exams 50] [--rate-of-c 0.1] [--short]

Warm: as many as can be answered, and a tenth of C offered. Cold: the first reads of content that has just started, one after the
other, each of another exam's paper. The file server is Go's own, one process without any gateway, over the same bytes. Exit code 1
when a read was refused. Figures go to bench/results/content.json.
"""

import asyncio
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import httpx
import uvloop

from bench.local import EXAM, PAPER, Stack, free_port, show, stack
from bench.measure import LOAD, Run, arguments, build_load, keep, load, measure_c, served, table
from ops.client import client
from ops.keys import mint
from stores.connect import StoreSettings, connect
from stores.entitlements import Entitlements

FREE, SOLD, PRODUCT = "free", "sold", "bench"
HITS = 50_000


@dataclass(slots=True)
class Read:
    """What was read, how large its reply is, and how quickly it came."""

    what: str
    path: str
    tag: str = ""
    size: int = 0
    most: Run | None = None
    steady: Run | None = None


@dataclass(slots=True)
class Found:
    """All figures."""

    c: float
    reads: list[Read] = field(default_factory=list)
    cold_ms: list[float] = field(default_factory=list)
    known_us: float = 0
    asked_us: float = 0
    files: list[Read] = field(default_factory=list)


def bank(name: str) -> bytes:
    """A bank with the sample's questions."""
    return json.dumps({"bank": {"id": name, "title": name}, "questions": PAPER["questions"]}).encode()


async def prepare(place: Stack, exams: int, tokens: Mapping[str, str]) -> None:
    """Import what is read, seat the students, the first of them everywhere, and sell them a bank."""
    with client(place.home, None, None) as admin:
        for number in range(exams):
            admin.import_exam(json.dumps(PAPER).encode(), f"cold-{number}", {"durationSeconds": "7200"})
        for name in (FREE, SOLD):
            admin.import_bank(bank(name), name)
    connection = await asyncpg.connect(place.read()["postgres"])
    try:
        await connection.execute("INSERT INTO product (id, title, amount, currency) VALUES ($1, 'A course', 100, 'USD')", PRODUCT)
        await connection.execute("INSERT INTO product_opens VALUES ($1, 'BANK', $2)", PRODUCT, SOLD)
        await connection.execute(
            "INSERT INTO entitlement (student_id, product_id) SELECT unnest($2::text[]), $1", PRODUCT, list(tokens)
        )
    finally:
        await connection.close()
    async with httpx.AsyncClient(base_url=place.read()["gateway"], timeout=20) as http:
        seats = [*((name, EXAM) for name in tokens), *((next(iter(tokens)), f"cold-{number}") for number in range(exams))]
        for name, exam in seats:
            reply = await http.post(f"/api/v1/exams/{exam}/sessions", json={}, headers={"authorization": f"Bearer {tokens[name]}"})
            reply.raise_for_status()


def reads(place: Stack, file: Path) -> list[Read]:
    """What there is to read, with its size and its tag."""
    token = first_token(file)
    found = []
    for what, path in (
        ("an exam", f"/api/v1/exams/{EXAM}"),
        ("a paper of 60 questions", f"/api/v1/exams/{EXAM}/paper"),
        ("the same, sealed", f"/api/v1/exams/{EXAM}/sealed-papers/1"),
        ("20 practice questions", f"/api/v1/questions?bankId={FREE}"),
        ("20 practice questions that were bought", f"/api/v1/questions?bankId={SOLD}"),
        ("a solution", f"/api/v1/banks/{FREE}/questions/q1/solution"),
    ):
        reply = fetch(place.read()["gateway"] + path, token)
        found.append(Read(what, path, size=len(reply.content)))
        if path.endswith("/paper"):
            found.append(Read("the same, unchanged (304)", path, reply.headers["etag"]))
    return found


def fetch(url: str, token: str) -> httpx.Response:
    """Read something over a connection of its own."""
    return httpx.get(url, headers={"authorization": f"Bearer {token}"}, timeout=20, trust_env=False).raise_for_status()


def first_token(file: Path) -> str:
    """Return the first student's token."""
    return str(json.loads(file.read_text().partition("\n")[0])["token"])


def measure(
    found: Read, address: str, file: Path, seconds: float, rate: float, place: Stack | None, also: Mapping[str, int]
) -> None:
    """Read as often as can be answered, and at a rate."""
    asked: dict[str, Any] = {
        "seconds": seconds,
        "warm": min(1.0, seconds),
        "path": found.path,
        "tag": found.tag,
        "place": place,
        "also": also,
    }
    found.most = load("read", address, file, connections=64, **asked)
    found.steady = load("read", address, file, connections=64, rate=rate, **asked)


def cold(place: Stack, file: Path, exams: int) -> list[float]:
    """Read papers for the first time: kill content, and be there when another process has taken its place."""
    token = first_token(file)
    gateway, before = place.read()["gateway"], place.pids("content")[0]
    os.kill(before, signal.SIGKILL)
    while place.pids("content")[0] == before or not answers(f"{gateway}/api/v1/banks", token):
        time.sleep(0.05)
    took = []
    for number in range(exams):
        began = time.perf_counter()
        fetch(f"{gateway}/api/v1/exams/cold-{number}/paper", token)
        took.append(1000 * (time.perf_counter() - began))
    return took


def answers(url: str, token: str) -> bool:
    """Whether a read is answered."""
    try:
        fetch(url, token)
    except httpx.HTTPError:
        return False
    return True


async def ownership(place: Stack, students: int) -> tuple[float, float]:
    """Return the microseconds that it costs to ask what is known, and what is not."""
    where = place.read()
    async with connect(StoreSettings(where["postgres"], where["redis"], where["redis"], where["nats"], needs_nats=False)) as stores:
        entitlements = Entitlements(stores.postgres)
        await entitlements.owns("warm", [PRODUCT])
        began = time.perf_counter()
        for number in range(students):
            await entitlements.owns(f"r{number}", [PRODUCT])
        asked = (time.perf_counter() - began) / students
        began = time.perf_counter()
        for number in range(HITS):
            await entitlements.owns(f"r{number % students}", [PRODUCT])
        known = (time.perf_counter() - began) / HITS
    return 1e6 * known, 1e6 * asked


def beside(paths: list[Read], gateway: str, file: Path, seconds: float, rate: float, scratch: Path) -> list[Read]:
    """Read the same bytes from a static file server."""
    token = first_token(file)
    found = []
    folder = scratch / "files"
    folder.mkdir()
    for number, one in enumerate(paths):
        (folder / str(number)).write_bytes(fetch(gateway + one.path, token).content)
        found.append(Read(one.what, f"/{number}", size=one.size))
    port = free_port()
    command = [str(LOAD), "-mode=files", f"-address=127.0.0.1:{port}", f"-path={folder}"]
    with served(command) as process:
        for one in found:
            measure(one, f"127.0.0.1:{port}", file, seconds, rate, None, {"file server": process.pid})
    return found


def show_all(found: Found) -> None:
    """Print the figures."""
    rows = []
    for server, list_ in (("finalbell", found.reads), ("Go's file server", found.files)):
        for one in list_:
            if one.most is None or one.steady is None:
                continue
            used = one.most.cpu_us
            server_us = used.get("content", used.get("file server", 0))
            first = [server, one.what, f"{one.size / 1024:.1f}", f"{one.most.per_second:,.0f}"]
            times = [f"{one.steady.p50_ms:.1f}", f"{one.steady.p99_ms:.1f}", f"{server_us:,.0f}", f"{used.get('envoy', 0):,.0f}"]
            rows.append([*first, f"{one.most.per_second / found.c:.2f} C", *times])
    head = ("server", "what", "KiB", "reads/s", "of C", "p50 ms", "p99 ms at the rate", "CPU-µs server", "CPU-µs Envoy")
    table(f"Reads; C = {found.c:,.0f}/s", head, rows)
    ordered = sorted(found.cold_ms)
    show(
        "Cold, and what is owned",
        [
            (
                f"the first read of {len(ordered)} papers: p50, longest",
                f"{statistics.median(ordered):.1f} ms, {ordered[-1]:.1f} ms",
            ),
            ("does a student own a product: known", f"{found.known_us:.1f} µs"),
            ("does a student own a product: asked of PostgreSQL", f"{found.asked_us:,.0f} µs"),
        ],
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--students", type=int, default=2_000)
    parser.add_argument("--exams", type=int, default=50, help="how many papers are read cold")
    parser.add_argument("--rate-of-c", type=float, default=0.1, help="the offered rate, as a share of C")
    parser.add_argument("--short", action="store_true", help="a smoke of everything: figures mean nothing")
    given = parser.parse_args()
    if given.short:
        given.seconds, given.students, given.exams = 0.5, 20, 3
    build_load()
    with stack(STUDENT_CALLS_PER_SECOND="0") as place, tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        file, gateway = scratch / "students", place.read()["gateway"]
        tokens = {f"r{n}": mint(place.home, student=f"r{n}", ttl_seconds=6 * 3600) for n in range(given.students)}
        file.write_text("".join(json.dumps({"student": name, "token": token}) + "\n" for name, token in tokens.items()))
        uvloop.run(prepare(place, given.exams, tokens))
        found = Found(measure_c(file, given.seconds))
        rate = max(20.0, found.c * given.rate_of_c)
        found.cold_ms = cold(place, file, given.exams)
        found.reads = reads(place, file)
        for one in found.reads:
            measure(one, urlsplit(gateway).netloc, file, given.seconds, rate, place, {})
        found.files = beside([one for one in found.reads if not one.tag], gateway, file, given.seconds, rate, scratch)
        found.known_us, found.asked_us = asyncio.run(ownership(place, given.students))
    show_all(found)
    figures = {"c": found.c, "coldMs": found.cold_ms, "knownUs": found.known_us, "askedUs": found.asked_us}
    for name, list_ in (("reads", found.reads), ("files", found.files)):
        figures[name] = [{"what": r.what, "bytes": r.size, "most": r.most, "steady": r.steady} for r in list_]
    keep(given.results, "content", figures)
    refused = [one.what for one in (*found.reads, *found.files) for run in (one.most, one.steady) if run and run.refused]
    for what in refused:
        print(f"REFUSED: {what}")
    sys.exit(bool(refused))


if __name__ == "__main__":
    main()
