"""Pairs and cases, as staff see and move them. Every step is a person's."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import combinations
from uuid import UUID

from finalbell.v1 import integrity_pb2 as pb
from google.protobuf.json_format import MessageToJson

from servers import errors
from servers.integrity import rules
from servers.integrity.analysing import shown_run
from servers.integrity.case_messages import (
    add_around,
    case_message,
    pair_message,
    run_message,
    seen_json,
    session_ids,
    student_message,
    timing_message,
    whole_case_message,
)
from servers.integrity.case_rules import STEPS, close_in_time, leading_to
from servers.integrity.messages import indicator_messages
from servers.integrity.report import report
from servers.integrity.sheets import meanings
from servers.messages import read_page_token, timestamp, whole_position, write_page_token
from servers.serving.wrap import Call
from stores.analyses import Analyses
from stores.case_records import Around, Asked, CaseState, Examined, Moved, Party, WholeCase
from stores.cases import Cases
from stores.signals import Signals

PAGE = 50


class CaseDesk:
    """Shows pairs, opens cases and moves them on."""

    def __init__(self, analyses: Analyses, cases: Cases, signals: Signals) -> None:
        self._analyses = analyses
        self._cases = cases
        self._signals = signals

    async def run(self, request: pb.GetAnalysisRequest) -> pb.GetAnalysisResponse:
        run = shown_run(await self._analyses.read(request.exam_id, request.version))
        return pb.GetAnalysisResponse(analysis=run_message(run))

    async def pairs(self, request: pb.ListPairsRequest) -> pb.ListPairsResponse:
        run = shown_run(await self._analyses.read(request.exam_id, request.version, done=True))
        count = request.page_size or PAGE
        scope = f"pairs/{run.exam}/{run.version}/{request.flagged_only}"
        after = read_page_token(request.page_token, scope, lambda position: whole_position(position, 31)) or 0
        rows = await self._analyses.pairs(run.exam, run.version, after, count + 1, flagged=request.flagged_only)
        pairs = [pair for _, pair in rows[:count]]
        sessions = sorted({session for pair in pairs for session in pair.sessions})
        answers, times = await self._answers(sessions)
        found = await self._around(run.exam, sessions)
        shown = []
        for pair in pairs:
            message = pair_message(pair)
            message.timing.CopyFrom(_timing(*pair.sessions, answers, times))
            message.around.extend(pb.SessionIndicators(indicators=indicator_messages(found[one])) for one in pair.sessions)
            shown.append(message)
        last = rows[count - 1][0] if len(rows) > count else None
        token = write_page_token(str(last), scope) if last is not None else ""
        return pb.ListPairsResponse(pairs=shown, next_page_token=token, version=run.version)

    async def open(self, request: pb.OpenCaseRequest, call: Call) -> pb.OpenCaseResponse:
        sessions = session_ids(request.session_ids)
        case = await self._cases.known(request.exam_id, sessions)
        if case is None:
            case, new = await self._open(request, sessions, call.caller.student)
            if new:
                call.answer_with(201)
        return pb.OpenCaseResponse(case=await _message(await self._whole(case)))

    async def read(self, request: pb.GetCaseRequest) -> pb.GetCaseResponse:
        return pb.GetCaseResponse(case=await _message(await self._whole(UUID(request.case_id))))

    async def page(self, request: pb.ListCasesRequest) -> pb.ListCasesResponse:
        scope, count = f"cases/{request.exam_id}/{request.student_id}", request.page_size or PAGE
        after = read_page_token(request.page_token, scope, UUID)
        cases = await self._cases.page(request.exam_id, request.student_id, after, count + 1)
        token = write_page_token(str(cases[count - 1].id), scope) if len(cases) > count else ""
        return pb.ListCasesResponse(cases=[case_message(case) for case in cases[:count]], next_page_token=token)

    async def move(self, request: pb.MoveCaseRequest, call: Call) -> pb.MoveCaseResponse:
        case, to = UUID(request.case_id), CaseState(pb.IntegrityCase.State.Name(request.to_state))
        moved = await self._cases.move(case, request.revision, to, call.caller.student, request.note, leading_to(to))
        whole = await self._whole(case)
        if moved is Moved.ELSEWHERE:
            now = whole.case
            if now.revision != request.revision:
                raise errors.CaseMoved(
                    f"The case was moved meanwhile: it is {now.state} at revision {now.revision}. Look at it again.",
                    state=now.state,
                    revision=str(now.revision),
                )
            after = " or ".join(sorted(STEPS[now.state]))
            raise errors.CaseStepNotAllowed(f"The case is {now.state}; from there it goes to {after}.", state=now.state)
        return pb.MoveCaseResponse(case=await _message(whole))

    async def export(self, request: pb.ExportCaseRequest, call: Call) -> pb.ExportCaseResponse:
        case = UUID(request.case_id)
        message = await _message(await self._whole(case))
        await self._cases.exported(case, call.caller.student)
        return await asyncio.to_thread(_exported, message)

    async def _open(self, request: pb.OpenCaseRequest, sessions: Sequence[UUID], actor: str) -> tuple[UUID, bool]:
        """Gather what is known, and keep it."""
        exam = await self._analyses.exam(request.exam_id)
        if exam is None:
            raise errors.ExamNotFound("There is no such exam, or it is a rehearsal.")
        taken_ms = await self._cases.now()
        there = dict(await self._cases.around(request.exam_id, sessions))
        if len(there) < len(sessions):
            raise errors.SessionNotFound("A session of these is not of this exam: check the ids.")
        around = [one for session in sessions if (one := there[session]) is not None]
        if len(around) < len(sessions):
            raise errors.SessionUnscored(
                "A session of these has no score yet; a case is about finished sessions.", retry_seconds=5.0
            )
        seen = await self._cases.seen(sessions)
        evidence = await self._evidence(exam, around, taken_ms)
        students = [(one.sitting.session, one.sitting.student) for one in around]
        parties = await asyncio.to_thread(lambda: [Party(*each, seen_json(seen[each[0]])) for each in students])
        written = await asyncio.to_thread(MessageToJson, evidence, indent=None)
        return await self._cases.open(request.exam_id, parties, written, taken_ms, actor, request.note)

    async def _evidence(self, examined: Examined, around: Sequence[Around], taken_ms: int) -> pb.CaseEvidence:
        """Return what is known of sessions, but for what was kept of each one by one."""
        exam, sessions = examined.exam, [one.sitting.session for one in around]
        version = max(one.exam_version for one in around)
        known = await self._papers(exam, around)
        evidence = pb.CaseEvidence(taken_at=timestamp(taken_ms), exam_title=examined.title, exam_version=version)
        evidence.questions.extend(question_messages([known[one][0] for one in sorted(known, reverse=True)]))
        answers, times = await self._answers(sessions)
        counts, found = await self._cases.counts(sessions), await self._around(exam, sessions)
        for one in around:
            questions, marks = known[one.exam_version]
            full = {each.question: each.points * marks.get(one.sitting.key_version, 0) for each in questions}
            session = one.sitting.session
            student = student_message(one, _compared(questions), full, times[session])
            add_around(student, found[session], counts[session].counts if session in counts else ())
            evidence.students.append(student)
        for a, b in combinations(sessions, 2):
            evidence.timings.add(session_ids=[str(a), str(b)], timing=_timing(a, b, answers, times))
        run = await self._analyses.read(exam, done=True)
        if run is not None:
            evidence.analysis.CopyFrom(run_message(run))
            evidence.pairs.extend(map(pair_message, await self._analyses.pairs_among(exam, run.version, sessions)))
        return evidence

    async def _papers(self, exam: str, around: Sequence[Around]) -> Mapping[int, tuple[Sequence[Asked], Mapping[int, int]]]:
        """Return the questions and the marks of each version of the paper that was sat."""
        return {
            version: (await self._analyses.questions(exam, version), await self._analyses.marks(exam, version))
            for version in sorted({one.exam_version for one in around})
        }

    async def _answers(self, sessions: Sequence[UUID]) -> tuple[Mapping[UUID, Mapping[str, str]], Mapping[UUID, Mapping[str, int]]]:
        """Return what the answers of sessions mean, and when each answer was last changed."""
        texts, times = await self._analyses.answers(sessions), await self._signals.answer_times(sessions)
        read = await asyncio.to_thread(lambda: {session: meanings(texts.get(session, "{}")) for session in sessions})
        return read, {session: dict(times.get(session, ())) for session in sessions}

    async def _around(self, exam: str, sessions: Sequence[UUID]) -> Mapping[UUID, Sequence[rules.Found]]:
        """Return what is over its threshold around sessions."""
        counts = await self._cases.counts(sessions)
        found = rules.suspects(list(counts.values()), rules.thresholds(await self._signals.thresholds(exam)))
        return dict.fromkeys(sessions, ()) | {one.session: one.found for one in found}

    async def _whole(self, case: UUID) -> WholeCase:
        whole = await self._cases.read(case)
        if whole is None:
            raise errors.CaseNotFound
        return whole


async def _message(whole: WholeCase) -> pb.IntegrityCase:
    """Read a case off the loop: a large one takes the better part of a second, and students' reports wait for this loop."""
    return await asyncio.to_thread(whole_case_message, whole)


def _exported(message: pb.IntegrityCase) -> pb.ExportCaseResponse:
    """Return a case as a report and as JSON."""
    written = MessageToJson(message, always_print_fields_with_no_presence=True, ensure_ascii=False)
    return pb.ExportCaseResponse(html=report(message), json=written)


def question_messages(papers: Sequence[Sequence[Asked]]) -> Sequence[pb.CaseQuestion]:
    """Return the questions of a paper's versions, the newest first; what only earlier ones have comes after its last question."""
    places = {one.question: (at + 1, one) for at, one in _compared(papers[0])}
    last = len(papers[0])
    for _, one in (each for paper in papers[1:] for each in _compared(paper)):
        if one.question not in places:
            last += 1
            places[one.question] = last, one
    return [
        pb.CaseQuestion(question_id=one.question, position=place, type=one.type, stem=one.stem) for place, one in places.values()
    ]


def _compared(questions: Sequence[Asked]) -> list[tuple[int, Asked]]:
    """Return the questions that have fixed answers, with their places in the paper."""
    return [(at, one) for at, one in enumerate(questions) if one.type != "essay"]


def _timing(a: UUID, b: UUID, answers: Mapping[UUID, Mapping[str, str]], times: Mapping[UUID, Mapping[str, int]]) -> pb.PairTiming:
    return timing_message(close_in_time(answers[a], answers[b], times[a], times[b]))
