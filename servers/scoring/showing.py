"""What a student may see of a result: totals and rank by the exam's release of scores, the rest by its release of reviews."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from finalbell.v1 import scoring_pb2 as pb

from servers.marking import correct_text
from servers.messages import timestamp
from servers.receipts import Receipts, Submission
from servers.scoring import rules
from stores import gauges
from stores.answer_keys import AnswerKeys
from stores.boards import Boards
from stores.catalog import Catalog
from stores.exam_records import Criterion
from stores.records import Answer, Exam, GradedEssay, Result
from stores.results import Results

PAPERS = 64
"""Key sets that are kept ready to review by: those of the exams that are being read now."""


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One version of the keys, ready for reviews: its grader, and what of each question is the same for everybody."""

    grader: rules.Grader
    items: Sequence[pb.BreakdownItem]


class Showing:
    """Turns results into what may be seen of them now."""

    def __init__(self, results: Results, keys: AnswerKeys, catalog: Catalog, boards: Boards, receipts: Receipts) -> None:
        self._results = results
        self._keys = keys
        self._catalog = catalog
        self._boards = boards
        self._receipts = receipts
        self._reviewed: dict[tuple[str, int, int], Reviewed] = {}
        gauges.cached("reviewed keys", self._reviewed)

    async def shown(self, result: Result, exam: Exam) -> pb.Result:
        """Return what may be seen of a result now."""
        ended = exam.asks_for_end() and await self._catalog.ended(exam.id)
        submission = Submission(
            result.session, result.student, result.exam, result.exam_version, result.submitted_ms, result.answers_sha256
        )
        shown = pb.Result(
            revision=result.revision, answers_sha256=result.answers_sha256.hex(), receipt=self._receipts.sign(submission)
        )
        shown.submitted_at.CopyFrom(timestamp(result.submitted_ms))
        if result.taken_back:
            shown.status, shown.withheld_for = pb.Result.WITHHELD, pb.Result.PURCHASE
            return shown
        if not exam.shows_scores(ended=ended):
            shown.status, shown.withheld_for = pb.Result.WITHHELD, pb.Result.RELEASE
            if exam.release_score == "AFTER_CLOSE" and exam.closes_ms is not None:
                shown.releases_at.CopyFrom(timestamp(exam.closes_ms))
            return shown
        shown.status = pb.Result.PARTIAL if result.partial else pb.Result.SCORED
        shown.score, shown.max_score = result.score, result.max_score
        shown.scored_at.CopyFrom(timestamp(result.scored_ms))
        place = None if result.partial else await self._boards.rank(exam.id, result.student)
        if place is not None:
            shown.rank, shown.percentile = place.rank, place.percentile
            if place.error:
                shown.rank_error = place.error
            shown.rank_as_of.GetCurrentTime()
        if exam.shows_review(ended=ended):
            shown.breakdown.extend(await self._breakdown(result))
            shown.topics.extend(topics(shown.breakdown))
        return shown

    async def _breakdown(self, result: Result) -> Sequence[pb.BreakdownItem]:
        """Derive the breakdown from what was scored, the keys it was scored with, and what graders wrote."""
        reviewed = await self._reviewed_by(result.exam, result.exam_version, result.key_version)
        if reviewed is None:
            return []
        answers: Mapping[str, str] = json.loads(result.answers)
        essays = await self._results.essays(result.session) if reviewed.grader.has_essay else {}
        grades = reviewed.grader.grade(answers, {question: one.total for question, one in essays.items()})
        spent = rules.time_spent(await self._results.answer_times(result.session))
        breakdown = []
        for common, graded, points in zip(reviewed.items, grades.graded, result.points, strict=True):
            item = pb.BreakdownItem()
            item.CopyFrom(common)
            question = item.question_id
            item.points, item.outcome = points, pb.BreakdownItem.Outcome.Value(graded.outcome)
            if question in answers:
                item.given = Answer.unpacked(answers[question]).value
                if question in spent:
                    item.time_spent_ms = spent[question]
            if question in essays:
                _judged(item, essays[question], reviewed.grader.rubric(question))
            breakdown.append(item)
        return breakdown

    async def _reviewed_by(self, *place: str | int) -> Reviewed | None:
        exam, exam_version, key_version = str(place[0]), int(place[1]), int(place[2])
        known = self._reviewed.get((exam, exam_version, key_version))
        if known is None and (keys := await self._keys.read(exam, exam_version, key_version)) is not None:
            explanations = await self._keys.explanations(exam, exam_version, key_version)
            items = [
                pb.BreakdownItem(
                    question_id=key.question,
                    topic=key.topic,
                    max_points=rules.max_points(key, keys.marking),
                    correct=correct_text(key.type, key.answer),
                    explanation=explanations.get(key.question, ""),
                )
                for key in keys.keys
            ]
            if len(self._reviewed) >= PAPERS:
                self._reviewed.clear()
            known = self._reviewed[exam, exam_version, key_version] = Reviewed(rules.Grader(keys), items)
        return known


def _judged(item: pb.BreakdownItem, essay: GradedEssay, rubric: Sequence[Criterion]) -> None:
    """Add what the graders wrote; where two agreed by their mean, no single grade is the one that counts."""
    item.comment = essay.comment
    for asked, points, comment in zip(rubric, essay.points, essay.comments, strict=False):
        item.criteria.add(criterion=asked.criterion, points=points, max_points=asked.max_points, comment=comment)


def topics(breakdown: Iterable[pb.BreakdownItem]) -> Sequence[pb.TopicResult]:
    """Sum a breakdown up by topic, in the order in which topics first come; empty where no question has one."""
    found: dict[str, pb.TopicResult] = {}
    for item in breakdown:
        topic = found.setdefault(item.topic, pb.TopicResult(topic=item.topic))
        topic.points += item.points
        topic.max_points += item.max_points
        topic.time_spent_ms += item.time_spent_ms
        if item.outcome != pb.BreakdownItem.VOIDED:
            topic.questions += 1
            topic.correct += item.outcome == pb.BreakdownItem.CORRECT
    return list(found.values()) if set(found) - {""} else []
