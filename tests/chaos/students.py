"""Students who sit exams while things break: they do what docs/clients.md says, and some do worse."""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from finalbell.v1 import admin_pb2, integrity_pb2, leaderboard_pb2, scoring_pb2, session_pb2
from google.protobuf.message import Message

from tests.chaos.recorder import Ways
from tests.flows.transports import Reply, Transport
from tests.stack import Stack

LONG, SHORT = "chaos-long", "chaos-short"
SHORT_SECONDS = 25
COHORTS = ("red", "green", "blue")
EPOCH = 1_000_000
AT_ONCE = 2
PATIENCE = 45.0
"""How long a student goes on repeating one call; an exam's length would be theirs in real life."""

REPEATED = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED", "UNKNOWN"}


@dataclass(slots=True)
class Kept:
    """A save that a client keeps until the submit, so that it can send it again."""

    version: int
    key: str
    request: session_pb2.SaveAnswerRequest


@dataclass(slots=True)
class Desk:
    """One student with one session."""

    name: str
    token: str
    exam: str
    way: Transport
    counts: bool
    """Whether its client sends `client_seq`."""

    session: str = ""
    epoch: int = 1
    ends_at: float = 0.0
    """By our clock."""

    sequence: dict[str, int] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)
    paused: bool = False
    over: bool = False
    busy: bool = False
    """Whether it is sending an epoch's lost saves again."""

    waiting: int = 0
    """How many calls it waits for; an app does not begin ever more while none is answered."""


class Room:
    """All students, the load that they make, and the staff."""

    def __init__(self, stack: Stack, ways: Ways, paper: dict[str, Any], seed: int, live: int) -> None:
        self._stack, self._ways, self._live = stack, ways, live
        self._chance = random.Random(seed)
        self._questions = paper["questions"]
        self._numbers = count()
        self._tasks: set[asyncio.Task[None]] = set()
        self._proctor = stack.token("proctor", roles=["proctor"])
        self._thief = stack.token("thief")
        self.desks: list[Desk] = []
        self.submitted: list[Desk] = []
        self.skipped = 0
        self.signals = 0
        """Signals that were taken, as far as these students heard of it."""

    # Load

    async def fill(self) -> None:
        """Start the first sessions."""
        waiting = iter(range(self._live))

        async def starter() -> None:
            for _ in waiting:
                await self.start()

        await asyncio.gather(*(starter() for _ in range(32)))

    async def load(self, stop: asyncio.Event, saves: float, submits: float) -> None:
        """Save and submit at these rates until told to stop; a call that is slow does not slow down the others."""
        began, saved, handed_in = time.monotonic(), 0, 0
        while not stop.is_set():
            elapsed = time.monotonic() - began
            for _ in range(int(elapsed * saves) - saved):
                saved += 1
                self._do(self._act)
            for _ in range(int(elapsed * submits) - handed_in):
                handed_in += 1
                self._do(self._next_student)
            await asyncio.sleep(0.005)

    async def finish(self, seconds: float = 90) -> None:
        """Wait for what is under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _do(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if len(self._tasks) > 3 * self._live:  # a stack that stands still gets no endless crowd
            self.skipped += 1
            return
        task = asyncio.ensure_future(work())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None:
            raise failure

    # What a student does

    async def start(self, exam: str | None = None) -> None:
        """A new student starts a session."""
        number, chance = next(self._numbers), self._chance
        exam = exam or (SHORT if chance.random() < 0.25 else LONG)
        name, cohort = f"c{number}", chance.choice(COHORTS)
        desk = Desk(name, self._stack.token(name, cohorts=[cohort]), exam, self._ways.way(number), chance.random() < 0.7)
        if exam == SHORT and chance.random() < 0.05:
            accommodation = admin_pb2.SetAccommodationRequest(student_id=name, exam_id=exam, factor=1.4)
            await self._staff("SetAccommodation", accommodation)
        reply = await self._insist(desk, "StartSession", session_pb2.StartSessionRequest(exam_id=exam), uuid.uuid4().hex)
        if reply is not None and reply.code == "OK":
            session = reply.ok.session
            desk.session, desk.epoch, desk.ends_at = session.session_id, session.epoch, _seconds(session.ends_at)
            self.desks.append(desk)

    async def _act(self) -> None:
        desk = self._someone()
        if desk is None or desk.waiting >= AT_ONCE:
            self.skipped += 1
            return
        desk.waiting += 1
        try:
            await self._something(desk, self._chance.random())
        finally:
            desk.waiting -= 1

    async def _something(self, desk: Desk, dice: float) -> None:
        if dice < 0.02:
            await self._look(desk)
        elif dice < 0.04 and desk.kept:
            kept = self._chance.choice(list(desk.kept.values()))
            await self._save(desk, kept.request, kept.key)
        elif dice < 0.05:
            await self._intrude(desk)
        elif dice < 0.07:
            await self._batch(desk)
        elif dice < 0.09 and desk.exam == SHORT:
            await self._pause(desk)
        elif dice < 0.10 and desk.exam == SHORT:
            given = admin_pb2.AdjustDeadlineRequest(session_id=desk.session, seconds=8, reason="chaos")
            await self._staff("AdjustDeadline", given, uuid.uuid4().hex)
        elif dice < 0.16:
            await self._report(desk)
        else:
            request = session_pb2.SaveAnswerRequest(session_id=desk.session, **self._answer(desk))
            await self._save(desk, request, uuid.uuid4().hex)

    def _someone(self) -> Desk | None:
        for _ in range(20):
            if not self.desks:
                break
            place = self._chance.randrange(len(self.desks))
            desk = self.desks[place]
            if not desk.over and time.time() < desk.ends_at + 12:
                return desk if not desk.paused else None
            self.desks[place] = self.desks[-1]
            self.desks.pop()
            self.submitted.append(desk)
        return None

    def _answer(self, desk: Desk) -> dict[str, Any]:
        question, chance = self._chance.choice(self._questions), self._chance
        said: dict[str, Any] = {"question_id": question["id"]}
        if chance.random() < 0.05:
            said["cleared"] = True
        elif question["type"] == "single_choice":
            said["choice"] = chance.choice(question["options"])["id"]
        elif question["type"] == "multiple_choice":
            ids = [option["id"] for option in question["options"]]
            said["choices"] = session_pb2.Choices(ids=chance.sample(ids, chance.randint(1, len(ids))))
        elif question["type"] == "numeric":
            said["number"] = chance.choice(["3.5", "3.50", "35e-1", "7", "-0.25"])
        else:
            said["text"] = chance.choice(["Ankara", " ankara ", "İstanbul", 'a "quoted" \\ text', "emoji 🎓"])
        if desk.counts:
            desk.sequence[question["id"]] = said["client_seq"] = desk.sequence.get(question["id"], 0) + 1
        return said

    async def _save(self, desk: Desk, request: session_pb2.SaveAnswerRequest, key: str) -> None:
        reply = await self._insist(desk, "SaveAnswer", request, key)
        if reply is not None and reply.code == "OK":
            await self._saved(desk, request, key, reply.ok)

    async def _saved(self, desk: Desk, request: session_pb2.SaveAnswerRequest, key: str, told: Any) -> None:
        """Keep what was acknowledged; where the session was rebuilt, send again what it lost."""
        desk.ends_at = _seconds(told.ends_at)
        known = desk.kept.get(request.question_id)
        if told.saved and (known is None or known.version < told.version):
            desk.kept[request.question_id] = Kept(told.version, key, request)
        if told.version // EPOCH > desk.epoch and not desk.busy:
            await self._look(desk)

    async def _look(self, desk: Desk) -> None:
        """Read the session as after a restart, and send again what a new epoch does not have."""
        reply = await self._insist(desk, "GetSession", session_pb2.GetSessionRequest(session_id=desk.session))
        if reply is None or reply.code != "OK":
            return
        session = reply.ok.session
        lost: list[Kept] = []
        if session.epoch > desk.epoch and not desk.busy:
            shown = {saved.question_id: saved.version for saved in session.answers}
            lost = [
                kept
                for question, kept in desk.kept.items()
                if kept.version // EPOCH < session.epoch
                and kept.version > max(session.restored_through_version, shown.get(question, 0))
            ]
        desk.epoch, desk.ends_at = max(desk.epoch, session.epoch), _seconds(session.ends_at)
        desk.busy = True
        try:
            for kept in lost:
                await self._save(desk, kept.request, kept.key)
        finally:
            desk.busy = False

    async def _batch(self, desk: Desk) -> None:
        saves = [(uuid.uuid4().hex, self._answer(desk)) for _ in range(self._chance.randint(2, 5))]
        items = [session_pb2.SaveItem(idempotency_key=key, **said) for key, said in saves]
        reply = await self._insist(
            desk, "BatchSaveAnswers", session_pb2.BatchSaveAnswersRequest(session_id=desk.session, items=items)
        )
        if reply is None or reply.code != "OK":
            return
        for (key, said), outcome in zip(saves, reply.ok.outcomes, strict=True):
            request = session_pb2.SaveAnswerRequest(session_id=desk.session, **said)
            if outcome.WhichOneof("outcome") == "answer":
                await self._saved(desk, request, key, outcome.answer)
            else:  # a store was away for this one
                await self._save(desk, request, key)

    async def _report(self, desk: Desk) -> None:
        """Report what was noticed, once: what is not taken is thrown away."""
        paste = integrity_pb2.Signal(paste=integrity_pb2.Clipboard(length=self._chance.randint(1, 500)))
        request = integrity_pb2.ReportSignalsRequest(session_id=desk.session, signals=[paste] * self._chance.randint(1, 5))
        reply = await self._call(desk, "ReportSignals", request)
        if reply is not None and reply.code == "OK":
            self.signals += reply.ok.accepted

    async def _pause(self, desk: Desk) -> None:
        desk.paused = True
        try:
            await self._insist(desk, "PauseSession", session_pb2.PauseSessionRequest(session_id=desk.session))
            await asyncio.sleep(self._chance.uniform(0.5, 3))
            reply = await self._insist(desk, "ResumeSession", session_pb2.ResumeSessionRequest(session_id=desk.session))
            if reply is not None and reply.code == "OK":
                desk.ends_at = _seconds(reply.ok.session.ends_at)
        finally:
            desk.paused = False

    async def _intrude(self, desk: Desk) -> None:
        """Try to reach somebody else's session, or one's own as somebody else."""
        if self._chance.random() < 0.3:
            await self._ways.call(
                desk.way,
                "",
                "GetSession",
                session_pb2.GetSessionRequest(session_id=desk.session),
                student=desk.name,
                exam=desk.exam,
                claims="no token",
            )
            return
        requests: dict[str, Message] = {
            "GetSession": session_pb2.GetSessionRequest(session_id=desk.session),
            "SaveAnswer": session_pb2.SaveAnswerRequest(session_id=desk.session, question_id="q1-0", choice="A"),
            "SubmitSession": session_pb2.SubmitSessionRequest(session_id=desk.session),
            "GetResult": scoring_pb2.GetResultRequest(session_id=desk.session),
        }
        method = self._chance.choice(list(requests))
        forged = {"x-student-id": desk.name, "x-user": desk.name} if self._chance.random() < 0.5 else {}
        await self._ways.call(
            desk.way,
            self._thief,
            method,
            requests[method],
            uuid.uuid4().hex if method in ("SaveAnswer", "SubmitSession") else None,
            student="thief",
            exam=desk.exam,
            headers=forged,
            **({"claims": "forged header"} if forged else {}),
        )

    async def _next_student(self) -> None:
        """One student hands in, and another one comes."""
        if self.desks:
            longs = [desk for desk in self.desks[: self._live // 4] if not desk.over]
            if longs:
                await self.submit(longs[0])
        if len(self.desks) < 2 * self._live:
            await self.start()

    async def submit(self, desk: Desk) -> None:
        """Hand in, twice now and then, and ask for the result."""
        desk.over = True
        if desk in self.desks:
            self.desks.remove(desk)
            self.submitted.append(desk)
        request = session_pb2.SubmitSessionRequest(session_id=desk.session)
        twice = self._chance.random() < 0.1
        await asyncio.gather(*(self._insist(desk, "SubmitSession", request, uuid.uuid4().hex) for _ in range(1 + twice)))
        if self._chance.random() < 0.3:
            await asyncio.sleep(self._chance.uniform(0.5, 3))
            await self.result(desk)

    async def result(self, desk: Desk) -> None:
        """Ask for the result once."""
        await self._call(desk, "GetResult", scoring_pb2.GetResultRequest(session_id=desk.session))

    async def board(self, exam: str) -> bool:
        """Read the top of a board as staff, who see whose places they are; says whether it was whole."""
        request = leaderboard_pb2.GetLeaderboardRequest(exam_id=exam, top=100)
        reply = await self._staff("GetLeaderboard", request, exam=exam)
        return reply is not None and reply.code == "OK" and not reply.ok.rebuilding

    # Calls

    async def _staff(self, method: str, request: Message, key: str | None = None, exam: str = "") -> Reply | None:
        boss = Desk("proctor", self._proctor, exam, self._ways.way(0), counts=False)
        return await self._insist(boss, method, request, key)

    async def _insist(self, desk: Desk, method: str, request: Message, key: str | None = None) -> Reply | None:
        """Repeat a call with the same key, as docs/clients.md says; None when patience ends."""
        until, pause = time.monotonic() + PATIENCE, 0.2
        while True:
            reply = await self._call(desk, method, request, key)
            if reply is not None and not (reply.code in REPEATED and reply.reason != "REQUEST_TOO_LARGE"):
                if reply.reason in ("SESSION_ENDED", "SESSION_SUBMITTED"):
                    desk.over = True
                return reply
            if time.monotonic() > until:
                return None
            wait = max(reply.retry_ms / 1000 if reply is not None else 0, pause)
            await asyncio.sleep(wait * (1 + self._chance.random()))
            pause = min(5.0, pause * 2)

    async def _call(self, desk: Desk, method: str, request: Message, key: str | None = None) -> Reply | None:
        return await self._ways.call(desk.way, desk.token, method, request, key, student=desk.name, exam=desk.exam)


def paper(small: dict[str, Any]) -> dict[str, Any]:
    """An exam of 20 questions from one that has one of each type."""
    questions = [{**question, "id": f"{question['id']}-{copy}"} for copy in range(5) for question in small["questions"]]
    return {**small, "questions": questions}


def _seconds(moment: Any) -> float:
    return float(moment.ToMilliseconds()) / 1000
