"""Analyses: reads an exam's answers, has them compared in a process of its own, and keeps what came of it. One at a time."""

import asyncio
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
from finalbell.v1 import integrity_pb2 as pb
from google.protobuf.json_format import MessageToJson

from servers import errors
from servers.integrity.case_messages import run_message
from servers.integrity.groups import DEFAULT, Groups, grouped, tags
from servers.integrity.sheets import Sheets
from servers.serving.wrap import Call, refused
from stores.analyses import Analyses
from stores.case_records import Examined, Grouping, Options, Pair, Run

WAIT_SECONDS = 8.0
"""How long a call waits for a run: less than the 10 s that any call may take."""

RETRY_AFTER_SECONDS = "2"
ALIVE_SECONDS = 10.0
MOST_PAIRS = 1_000_000_000
"""More are not compared whatever the setting says: the API counts them, twice for ω, in 32 bits."""

FDR = 0.05
STRONGEST = 100
EVERYBODY = (Grouping.EVERYBODY,)
log = structlog.get_logger()


WRONG = "Something went wrong on our side; the log of the service integrity says what."
TOO_MUCH = (
    "It needed more memory or time than it may have (FINALBELL_ANALYSIS_BYTES, FINALBELL_ANALYSIS_SECONDS). "
    "Choose smaller groups, or give it more."
)


class TooMuch(Exception):
    """A run that cannot be made, in words for whoever asked for it."""


class Analysing:
    """Makes runs in tasks that the server owns."""

    def __init__(self, analyses: Analyses, *, most_pairs: int, most_bytes: int, most_seconds: int) -> None:
        self._analyses = analyses
        self._most_pairs = min(most_pairs, MOST_PAIRS)
        self._limits = (str(most_bytes), str(most_seconds))
        self._seconds = most_seconds
        self._one = asyncio.Lock()
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}

    async def analyse(self, request: pb.AnalyseExamRequest, call: Call) -> pb.AnalyseExamResponse:
        exam = await self._analyses.exam(request.exam_id)
        if exam is None:
            raise errors.ExamNotFound("There is no such exam, or it is a rehearsal.")
        if not exam.ended:
            raise errors.ExamNotEnded(
                "The exam is open, or somebody still sits it: answers are compared once nobody can change them. "
                "'finalbell exam close' ends the first, the end of each session's time the second."
            )
        options = Options(
            groupings=tuple(Grouping(pb.Analysis.Grouping.Name(one)) for one in request.groupings),
            fdr=request.fdr if request.HasField("fdr") else FDR,
            strongest=request.strongest if request.HasField("strongest") else STRONGEST,
        )
        version, new = await self._analyses.begin(exam.exam, options, call.caller.student)
        task = self._begin(exam, version, options) if new else self._running.get((exam.exam, version))
        if task is not None:
            await asyncio.wait([task], timeout=WAIT_SECONDS)
        run = await self._analyses.read(exam.exam, version)
        if run is None:
            raise LookupError(f"the run {version} of {exam.exam} is gone")
        analysis = run_message(run)
        if analysis.state == pb.Analysis.RUNNING:
            call.answer_with(202)
            call.header("retry-after", RETRY_AFTER_SECONDS)
        return pb.AnalyseExamResponse(analysis=analysis)

    async def drain(self) -> None:
        """Give up what runs: whoever asked for it reads why, and asks again."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _begin(self, exam: Examined, version: int, options: Options) -> asyncio.Task[None]:
        place = exam.exam, version
        task = self._running[place] = asyncio.create_task(self._run(exam, version, options))
        task.add_done_callback(lambda _: self._running.pop(place, None))
        return task

    async def _run(self, exam: Examined, version: int, options: Options) -> None:
        """Make one run, and note what came of it, whatever that is."""
        beating = asyncio.create_task(self._beat(exam.exam, version))
        failure = "The service was stopped meanwhile. Ask for it again."
        try:
            async with self._one:
                figures, pairs = await self._made(exam, options)
            failure = ""
            await self._analyses.finish(exam.exam, version, MessageToJson(figures, indent=None), pairs)
        except TooMuch as why:
            failure = str(why)
        except Exception as why:
            away = isinstance(refused(why), errors.StoreUnavailable)
            failure = "PostgreSQL did not answer meanwhile. Ask for it again." if away else WRONG
            log.error("no analysis", exam=exam.exam, version=version, exc_info=why)
        finally:
            beating.cancel()
            if failure:
                with suppress(Exception):  # its rows are given up for dead by themselves
                    await self._analyses.fail(exam.exam, version, failure)

    async def _beat(self, exam: str, version: int) -> None:
        """Say that the run goes on, for as long as it does."""
        while True:
            await asyncio.sleep(ALIVE_SECONDS)
            with suppress(Exception):  # PostgreSQL is away; said again
                await self._analyses.alive(exam, version)

    async def _made(self, exam: Examined, options: Options) -> tuple[pb.Analysis, Sequence[Pair]]:
        """Read, compare, and return what came of it."""
        sheets = Sheets(await self._analyses.questions(exam.exam, exam.version))
        async for page in self._analyses.sittings(exam.exam, exam.version):
            marks = await self._analyses.marks(exam.exam, exam.version)  # read after the page: a regrade may have begun meanwhile
            await asyncio.to_thread(sheets.feed, page, marks)
        others, unscored = await self._analyses.left_out(exam.exam, exam.version)
        used, groups = await self._groups(sheets, options)
        everybody = Grouping.EVERYBODY in used
        students = len(sheets.students)
        most = students * (students - 1) // 2 if everybody else groups.pairs
        if most > self._most_pairs:
            raise TooMuch(
                f"That would be {most:,} pairs, and this installation compares {self._most_pairs:,}. Choose other groupings."
            )
        figures = pb.Analysis(
            exam_version=exam.version,
            students=students,
            items=len(sheets.asked),
            groupings=[pb.Analysis.Grouping.Value(one) for one in used],
            left_out=pb.LeftOut(
                essays=sheets.essays,
                attempts=sheets.attempts,
                other_versions=others,
                unscored=unscored,
                alone=0 if everybody else groups.alone,
            ),
        )
        if not most or not sheets.asked:
            return figures, ()
        shuffled = await self._analyses.shuffled(exam.exam, exam.version)
        head: dict[str, Any] = {
            "shown": {"version": exam.version, "questions": [one.question for _, one in sheets.asked]}
            if shuffled.questions
            else None,
            "places": [[] for _ in sheets.asked] if shuffled.options else sheets.places(),
            **{"everybody": everybody, "fdr": options.fdr, "strongest": options.strongest},
        }
        found = await self._compared(sheets, groups, head)
        figures.left_out.rushed = found["rushed"]
        figures.pairs_tested = found["tested"]
        figures.indices.extend(
            pb.IndexSummary(
                index=one["index"], flagged=one["flagged"], complete=one["complete"], edges=one["edges"], counts=one["counts"]
            )
            for one in found["summaries"]
        )
        return figures, await asyncio.to_thread(lambda: [_pair(one, sheets, groups) for one in found["pairs"]])

    async def _groups(self, sheets: Sheets, options: Options) -> tuple[Sequence[Grouping], Groups]:
        """Return which groupings are used, and who is in which group. The default is everybody where nobody is near anybody."""
        wanted = options.groupings or DEFAULT
        shown = tuple(one for one in wanted if one != Grouping.EVERYBODY) or DEFAULT
        addresses = await self._analyses.addresses(sheets.sessions) if Grouping.ADDRESS_RANGE in shown else {}
        groups = await asyncio.to_thread(lambda: grouped(tags(shown, sheets.cohorts, sheets.sessions, addresses)))
        if Grouping.EVERYBODY in wanted or (not options.groupings and not groups.pairs):
            return EVERYBODY, groups
        return wanted, groups

    async def _compared(self, sheets: Sheets, groups: Groups, head: Mapping[str, Any]) -> dict[str, Any]:
        """Have everything compared in another process, and return what it says."""
        data = await asyncio.to_thread(_written, sheets, groups, head)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "servers.integrity.comparing", *self._limits),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
        )
        try:
            async with asyncio.timeout(2 * self._seconds):
                out, said = await process.communicate(data)
        except TimeoutError:
            raise TooMuch(TOO_MUCH) from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            log.warning("comparison failed", code=process.returncode, said=said.decode(errors="replace")[-1000:])
            if process.returncode < 0 or b"MemoryError" in said:
                raise TooMuch(TOO_MUCH)
            raise RuntimeError("the comparison failed")
        found: dict[str, Any] = await asyncio.to_thread(json.loads, out)
        return found


def _written(sheets: Sheets, groups: Groups, head: Mapping[str, Any]) -> bytes:
    """Return what the other process reads (comparing.py)."""
    head = {
        "students": len(sheets.students),
        "items": sheets.right(),
        "same": sheets.same(),
        "groupings": len(groups.numbers),
        **head,
    }
    sessions = [one.bytes for one in sheets.sessions] if head["shown"] else []
    return b"".join(
        [json.dumps(head).encode(), b"\n", sheets.codes.tobytes(), *(one.tobytes() for one in groups.numbers), *sessions]
    )


def _pair(one: dict[str, Any], sheets: Sheets, groups: Groups) -> Pair:
    """Return a pair of numbers as the pair of students that it is."""
    a, b = (int(student) for student in one["students"])
    return Pair(
        index=one["index"],
        sessions=(sheets.sessions[a], sheets.sessions[b]),
        students=(sheets.students[a], sheets.students[b]),
        source=None if one["source"] is None else sheets.students[int(one["source"])],
        value=one["value"],
        p=one["p"],
        q=one["q"],
        flagged=one["flagged"],
        matches=one["matches"],
        expected=one["expected"],
        compared=one["compared"],
        shared_wrong=one["shared_wrong"],
        shared_blank=one["shared_blank"],
        groups=tuple(sorted(groups.tags[a] & groups.tags[b])),
    )


def shown_run(run: Run | None) -> Run:
    """Return a run that is there, or refuse."""
    if run is None:
        raise errors.AnalysisNotFound("There is no such run: ask for one ('finalbell integrity analyse', AnalyseExam).")
    return run
