"""Virtual students. They do what docs/clients.md says, at moments that nobody's slowness moves: the load is open loop."""

import asyncio
import random
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from finalbell.v1 import content_pb2, scoring_pb2, session_pb2
from google.protobuf.message import Message

from ops.rehearse.calls import Answer, Way
from ops.rehearse.figures import Tally
from ops.rehearse.history import Recorder

ROOM = 20_000
"""How much may be under way in one process; what is due beyond that is dropped, and counted."""

PATIENCE = 30.0
RESULT_PATIENCE = 60.0
REPEATED = frozenset({"", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED"})
DIES, REPEATS = 0.01, 0.02
FINAL = (scoring_pb2.Result.SCORED, scoring_pb2.Result.PARTIAL, scoring_pb2.Result.WITHHELD)
Type = content_pb2.Question.Type


@dataclass(slots=True)
class Seat:
    """One student; `counts`: its client sends `client_seq`."""

    name: str
    token: str
    counts: bool
    session: str = ""
    submitted: bool = False
    sequence: dict[str, int] = field(default_factory=dict)


class Room:
    """The students of one process, and what they do."""

    def __init__(self, exam: str, seats: Sequence[Seat], door: Way, recorder: Recorder, seed: int) -> None:
        self._exam, self._door, self._recorder = exam, door, recorder
        self._chance = random.Random(seed)  # noqa: S311
        self._seats = list(seats)
        self._questions: Sequence[content_pb2.Question] = ()
        self._tasks: set[asyncio.Task[None]] = set()
        self.tally = Tally()

    # What happens, one after the other

    async def start(self, seconds: float) -> None:
        """All students start, spread evenly; then one reads the paper for all."""
        await self._spread(self._seats, seconds, self._start)
        seated = self._seated()
        if seated:
            request = content_pb2.GetPaperRequest(exam_id=self._exam)
            answer = await self._insist(seated[0], "GetPaper", request, None, time.monotonic())
            if answer.ok:
                self._questions = list(answer.message.paper.questions)

    async def save(self, seconds: float, rate: float) -> None:
        """Save at this rate in all, each student in turn, at moments that are not quite regular."""
        seated, began, count = self._seated(), time.monotonic(), max(1, round(rate * seconds))
        if not seated or not self._questions:
            return
        self._chance.shuffle(seated)
        for number in range(count):
            due = began + (number + self._chance.random()) * seconds / count
            await self._until(due)
            self._do(due, seated[number % len(seated)], self._save)
        await self._until(began + seconds)
        await self._finish()

    async def submit(self, seconds: float) -> None:
        """All students hand in within a short time, and then ask for their results."""
        await self._spread(self._seated(), seconds, self._submit)

    async def look(self, count: int) -> None:
        """Some students ask for their result once more, now that nothing changes any more."""
        handed_in = [seat for seat in self._seats if seat.submitted]
        chosen = self._chance.sample(handed_in, min(count, len(handed_in)))
        await self._spread(chosen, len(chosen) / 100, self._look)

    # Moments

    async def _spread(self, seats: Sequence[Seat], seconds: float, act: Callable[[Seat, float], Awaitable[None]]) -> None:
        began = time.monotonic()
        for number, seat in enumerate(seats):
            due = began + seconds * number / len(seats)
            await self._until(due)
            self._do(due, seat, act)
        await self._finish()

    async def _until(self, due: float) -> None:
        """Sleep until a moment; how late this process is for it is known, since no answer's time may hide it."""
        wait = due - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        self.tally.late_ms = max(self.tally.late_ms, (time.monotonic() - due) * 1000)

    def _do(self, due: float, seat: Seat, act: Callable[[Seat, float], Awaitable[None]]) -> None:
        if len(self._tasks) >= ROOM:
            self.tally.noted["dropped"] += 1
            return

        async def run() -> None:
            await act(seat, due)

        task = asyncio.ensure_future(run())
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        self.tally.in_flight = len(self._tasks)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self.tally.in_flight = len(self._tasks)
        if not task.cancelled() and (failure := task.exception()) is not None:
            self.tally.gave_up[f"{type(failure).__name__}: {failure}"[:100]] += 1

    async def _finish(self) -> None:
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _seated(self) -> list[Seat]:
        return [seat for seat in self._seats if seat.session]

    # Acts

    async def _start(self, seat: Seat, due: float) -> None:
        request = session_pb2.StartSessionRequest(exam_id=self._exam)
        answer = await self._insist(seat, "StartSession", request, uuid.uuid4().hex, due)
        if answer.ok:
            seat.session = answer.message.session.session_id

    async def _save(self, seat: Seat, due: float) -> None:
        request, key = self._answer(seat), uuid.uuid4().hex
        if self._chance.random() < DIES:
            await self._die(seat, request, key)
            return
        answer = await self._insist(seat, "SaveAnswer", request, key, due)
        if answer.ok and self._chance.random() < REPEATS:
            self.tally.noted["repeats"] += 1
            await self._insist(seat, "SaveAnswer", request, key, time.monotonic())

    async def _die(self, seat: Seat, request: session_pb2.SaveAnswerRequest, key: str) -> None:
        """A client dies while it saves, never hears what became of it, and resumes on another device."""
        self.tally.noted["deaths"] += 1
        call = asyncio.ensure_future(self._door.call("SaveAnswer", request, seat.token, key))
        sent = time.time() * 1000
        await asyncio.wait([call], timeout=self._chance.uniform(0.0, 0.02))
        answer = call.result() if call.done() and not call.cancelled() else Answer("")
        if not call.done():
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        self._note("SaveAnswer", request, key, seat, answer, sent)
        await asyncio.sleep(self._chance.uniform(0.2, 2.0))
        resumed = await self._insist(
            seat, "GetSession", session_pb2.GetSessionRequest(session_id=seat.session), None, time.monotonic()
        )
        if resumed.ok and seat.counts:
            for saved in resumed.message.session.answers:
                seat.sequence[saved.question_id] = max(seat.sequence.get(saved.question_id, 0), saved.client_seq)

    async def _submit(self, seat: Seat, due: float) -> None:
        request = session_pb2.SubmitSessionRequest(session_id=seat.session)
        answer = await self._insist(seat, "SubmitSession", request, uuid.uuid4().hex, due)
        if not answer.ok:
            return
        seat.submitted, told, handed_in, pause = True, answer.message.HasField("score"), time.monotonic(), 1.0
        if told:
            self.tally.took("score visible", time.monotonic() - due)
        while time.monotonic() < handed_in + RESULT_PATIENCE:
            if not told:
                await asyncio.sleep(pause * self._chance.uniform(1, 2))
                pause = min(30.0, pause * 2)
            result, told = await self._result(seat), False
            if result.ok and result.message.result.status in FINAL:
                if not answer.message.HasField("score"):
                    self.tally.took("score visible", time.monotonic() - due)
                self.tally.done["results"] += 1
                return
        self.tally.gave_up["results"] += 1

    async def _look(self, seat: Seat, due: float) -> None:
        await self._result(seat)

    async def _result(self, seat: Seat) -> Answer:
        request = scoring_pb2.GetResultRequest(session_id=seat.session)
        return await self._insist(seat, "GetResult", request, None, time.monotonic())

    def _answer(self, seat: Seat) -> session_pb2.SaveAnswerRequest:
        chance, question = self._chance, self._chance.choice(self._questions)
        request = session_pb2.SaveAnswerRequest(session_id=seat.session, question_id=question.question_id)
        options = [option.id for option in question.options]
        if chance.random() < 0.02:
            request.cleared = True
        elif question.type == Type.SINGLE_CHOICE:
            request.choice = chance.choice(options)
        elif question.type == Type.MULTIPLE_CHOICE:
            request.choices.ids.extend(chance.sample(options, chance.randint(1, len(options))))
        elif question.type == Type.NUMERIC:
            request.number = str(chance.randint(-100, 100) / 4)
        else:
            request.text = chance.choice(("an answer", "Ankara", "ein längerer Satz, wie ihn jemand schreibt"))
        if seat.counts:
            request.client_seq = seat.sequence[question.question_id] = seat.sequence.get(question.question_id, 0) + 1
        return request

    # Calls

    async def _insist(self, seat: Seat, rpc: str, request: Message, key: str | None, due: float) -> Answer:
        """Repeat a call with the same key while that can help; its time counts from when it was due, repeats included."""
        self.tally.offered[rpc] += 1
        pause = 0.2
        while True:
            sent = time.time() * 1000
            answer = await self._door.call(rpc, request, seat.token, key)
            self._note(rpc, request, key, seat, answer, sent)
            if answer.ok:
                self.tally.done[rpc] += 1
                self.tally.took(rpc, time.monotonic() - due)
                return answer
            self.tally.refused[f"{rpc} {answer.code or 'no answer'} {answer.reason}".strip()] += 1
            if answer.code not in REPEATED or time.monotonic() > due + PATIENCE:
                self.tally.gave_up[rpc] += 1
                return answer
            await asyncio.sleep(max(answer.retry_ms / 1000, pause) * self._chance.uniform(1, 2))
            pause = min(5.0, pause * 2)

    def _note(self, rpc: str, request: Message, key: str | None, seat: Seat, answer: Answer, sent_ms: float) -> None:
        if rpc == "GetPaper":
            return
        received = time.time() * 1000
        self._recorder.call(rpc, request, key, answer, student=seat.name, exam=self._exam, sent_ms=sent_ms, received_ms=received)
