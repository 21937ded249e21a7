"""One process of load: `python -m ops.rehearse.load`. It reads its job and then what to do, a line of JSON each, from its
input, and says twice a second and at the end of each act what it has counted so far."""

import asyncio
import json
import resource
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import uvloop

from ops.client import Gateway
from ops.rehearse.calls import way
from ops.rehearse.history import Recorder
from ops.rehearse.students import Room, Seat

EVERY_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Job:
    """What one process has to do: its students stand in `tokens`, a name and a token a line."""

    gateway: Gateway
    kind: str
    exam: str
    tokens: str
    history: str
    seed: int

    def line(self) -> str:
        """Return this as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"


def read_job(line: str) -> Job:
    """Read `Job.line` back."""
    said = json.loads(line)
    return Job(**{**said, "gateway": Gateway(**said["gateway"])})


async def run(job: Job, seats: Sequence[Seat]) -> None:
    """Do as the parent says until its end."""
    door, recorder = way(job.gateway, job.kind), Recorder(Path(job.history))
    room = Room(job.exam, seats, door, recorder, job.seed)
    ticking = asyncio.create_task(_tick(room))
    try:
        while line := await asyncio.to_thread(sys.stdin.readline):
            await _act(room, json.loads(line))
            recorder.flush()
            _say(room, done=True)
    finally:
        ticking.cancel()
        with suppress(asyncio.CancelledError):
            await ticking
        await door.close()
        recorder.close()


async def _act(room: Room, said: dict[str, Any]) -> None:
    match said["do"]:
        case "start":
            await room.start(said["seconds"])
        case "save":
            await room.save(said["seconds"], said["rate"])
        case "submit":
            await room.submit(said["seconds"])
        case "look":
            await room.look(said["count"])


async def _tick(room: Room) -> None:
    while True:
        await asyncio.sleep(EVERY_SECONDS)
        _say(room, done=False)


def _say(room: Room, *, done: bool) -> None:
    sys.stdout.write(json.dumps({"done": done, "tally": room.tally.plain()}) + "\n")
    sys.stdout.flush()


def _seat(number: int, line: str) -> Seat:
    name, _, token = line.partition("\t")
    return Seat(name, token, counts=number % 10 < 7)


def main() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 65_536), hard), hard))
    job = read_job(sys.stdin.readline())
    seats = [_seat(number, line) for number, line in enumerate(Path(job.tokens).read_text().splitlines())]
    uvloop.run(run(job, seats))


if __name__ == "__main__":
    main()
