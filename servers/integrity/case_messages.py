"""Analyses and cases between messages and values."""

import json
from collections.abc import Mapping, Sequence
from uuid import UUID

from finalbell.v1 import integrity_pb2 as pb
from google.protobuf.json_format import MessageToJson, Parse

from servers.integrity.messages import indicator_messages
from servers.integrity.rules import Found, escaped
from servers.messages import refuse_twice, timestamp
from stores.case_records import Around, Asked, Case, Pair, Run, Seen, WholeCase
from stores.records import Answer
from stores.signal_records import Count

ANSWER = 200
"""Characters of an answer that a case keeps."""


def run_message(run: Run) -> pb.Analysis:
    """Return a run; what came of it was kept as the same message."""
    found = Parse(run.figures, pb.Analysis(), ignore_unknown_fields=True) if run.figures else pb.Analysis()
    found.exam_id, found.version, found.failure, found.requested_by = run.exam, run.version, run.failure, run.requested_by
    found.state = pb.Analysis.State.Value(run.state)
    found.fdr, found.strongest = run.options.fdr, run.options.strongest
    if not found.groupings:
        found.groupings.extend(pb.Analysis.Grouping.Value(one) for one in run.options.groupings)
    found.started_at.CopyFrom(timestamp(run.started_ms))
    if run.finished_ms is not None:
        found.finished_at.CopyFrom(timestamp(run.finished_ms))
    return found


def pair_message(pair: Pair) -> pb.SimilarPair:
    """Return a pair, but for what is known around it."""
    return pb.SimilarPair(
        students=pair.students,
        session_ids=map(str, pair.sessions),
        index=pair.index,
        value=pair.value,
        p=pair.p,
        q=pair.q,
        flagged=pair.flagged,
        matches=pair.matches,
        expected=pair.expected,
        compared=pair.compared,
        shared_wrong=pair.shared_wrong,
        shared_blank=pair.shared_blank,
        source=pair.source or "",
        groups=pair.groups,
    )


def timing_message(counted: tuple[int, int, int, int]) -> pb.PairTiming:
    """Return how close in time two students answered, as `case_rules.close_in_time` counts it."""
    same, close, differ, differ_close = counted
    return pb.PairTiming(same_answers=same, within_30_seconds=close, other_answers=differ, other_within_30_seconds=differ_close)


def student_message(
    around: Around, questions: Sequence[tuple[int, Asked]], full: Mapping[str, int], answered: Mapping[str, int]
) -> pb.CaseStudent:
    """Return a student of a case with the answers; `questions` are those that are compared with their places in the paper, `full`
    what each earns where it is right, `answered` when it was last answered."""
    sitting = around.sitting
    student = pb.CaseStudent(
        session_id=str(sitting.session),
        student_id=sitting.student,
        alias=escaped(around.alias),
        cohorts=sitting.cohorts,
        attempt=around.attempt,
        started_at=timestamp(around.started_ms),
        submitted_at=timestamp(around.submitted_ms) if around.submitted_ms is not None else None,
        score=sitting.score,
        max_score=around.max_score,
    )
    packed: Mapping[str, str] = json.loads(sitting.answers)
    for at, question in questions:
        answer = Answer.unpacked(packed.get(question.question, "-:")).value
        if not answer.strip():
            continue
        points = sitting.points[at]
        student.answers.add(
            question_id=question.question,
            answer=escaped(answer[:ANSWER])[:ANSWER],
            right=0 < full[question.question] <= points,
            points=points,
            answered_at=timestamp(answered[question.question]) if question.question in answered else None,
        )
    return student


def add_around(student: pb.CaseStudent, found: Sequence[Found], counts: Sequence[Count]) -> None:
    """Add what was counted around a session."""
    student.indicators.extend(indicator_messages(found))
    student.counts.extend(pb.SignalCount(kind=one.kind, count=one.count) for one in counts)


def seen_json(seen: Seen) -> str | None:
    """Return what was kept of a session one by one, as it goes into a case; None: nothing."""
    if not seen.total and not seen.devices and not seen.addresses:
        return None
    message = pb.CaseSignals(more=seen.total - len(seen.signals), devices=seen.devices, addresses=seen.addresses)
    for one in seen.signals:
        message.signals.add(
            at=timestamp(one.at_ms), kind=one.kind, amount=one.amount, details=one.details, received_at=timestamp(one.received_ms)
        )
    return MessageToJson(message, indent=None)


def case_message(case: Case) -> pb.IntegrityCase:
    """Return a case as lists have it."""
    return pb.IntegrityCase(
        case_id=str(case.id),
        exam_id=case.exam,
        state=pb.IntegrityCase.State.Value(case.state),
        revision=case.revision,
        opened_by=case.opened_by,
        opened_at=timestamp(case.opened_ms),
        moved_at=timestamp(case.moved_ms),
        session_ids=[str(party.session) for party in case.parties],
        student_ids=[party.student for party in case.parties],
    )


def whole_case_message(whole: WholeCase) -> pb.IntegrityCase:
    """Return a case with its history and its evidence, as far as that was not erased."""
    found = case_message(whole.case)
    for step in whole.steps:
        found.steps.add(
            from_state=pb.IntegrityCase.State.Value(step.from_state) if step.from_state is not None else None,
            to_state=pb.IntegrityCase.State.Value(step.to_state),
            actor=step.actor,
            note=step.note,
            at=timestamp(step.at_ms),
        )
    Parse(whole.evidence, found.evidence, ignore_unknown_fields=True)  # a newer server may have written it
    for party, student in zip(whole.case.parties, found.evidence.students, strict=True):
        if party.seen is not None:
            Parse(party.seen, student.seen, ignore_unknown_fields=True)
        if party.erased_ms is not None:
            student.erased_at.CopyFrom(timestamp(party.erased_ms))
    return found


def session_ids(texts: Sequence[str]) -> Sequence[UUID]:
    """Return ids that were validated. Raises InvalidField: one is there twice, in small letters and in capitals."""
    ids = [UUID(text) for text in texts]
    refuse_twice(ids, "sessionIds[{}]")
    return ids
