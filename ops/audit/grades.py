"""I11, I12, I15: what each result is worth, now and before; and the tasks of those who grade essays."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import groupby, pairwise

from ops.audit.kept import Exam, Keys, Question, Replaced, Result, Stores, Task
from ops.audit.marks import Marking, Worth, decided, disagree
from ops.audit.records import Checked, Evidence, Violation
from ops.audit.rules import unfrozen

SWEPT = timedelta(seconds=60)
"""Within which a result that comes late, under older keys than its exam was regraded with, is regraded, too."""


REGRADED = timedelta(hours=1)
"""Within which a regrade comes to its end; until then nobody is told of the results that it leaves behind."""


class Markings:
    """What grades with each version of the keys, made once."""

    def __init__(self, keys: Mapping[tuple[str, int, int], Keys]) -> None:
        self._known = {version: Marking(one) for version, one in keys.items() if one.whole}
        self._newest: dict[tuple[str, int], int] = {}
        for exam, exam_version, key_version in keys:
            self._newest[exam, exam_version] = max(key_version, self._newest.get((exam, exam_version), 0))

    def of(self, result: Result, key_version: int | None = None) -> Marking | None:
        """Return what graded a result; None: these keys are not there as a whole."""
        version = result.key_version if key_version is None else key_version
        return self._known.get((result.exam, result.exam_version, version))

    def newest(self, result: Result) -> int:
        """Return the newest version of the keys for a result's paper."""
        return self._newest[result.exam, result.exam_version]


def scores_recomputed(evidence: Evidence) -> Checked:
    """I12, I15: each score and status is what the frozen answers and the decided grades are worth under the keys that the
    result names, all of them there, and the newest where its exam was regraded; so is each revision before it, and each
    later one changed something, with newer keys, or with the same and a grade."""
    stores, broken, markings = evidence.stores, list(_stuck_regrades(evidence.stores)), Markings(evidence.stores.keys)
    for result in stores.results:
        marking, answers = markings.of(result), unfrozen(result.answers)
        if marking is None:
            what = f"its key version {result.key_version} is not there as a whole."
            broken.append(Violation("I15", result.session, what))
            continue
        if answers is None:
            continue  # the hashes' check says so
        right = marking.worth(answers, _given(result, stores))
        broken += [Violation("I12", result.session, what) for what in _misgraded(result, marking, right)]
        if (newest := markings.newest(result)) > result.key_version and _is_regraded(result, stores):
            what = f"it was graded with key version {result.key_version}, and its exam was regraded with {newest}."
            broken.append(Violation("I15", result.session, what))
        for earlier in stores.replaced.get(result.session, ()):
            before = markings.of(result, earlier.key_version)
            broken += [Violation("I12", result.session, what) for what in _was_misgraded(earlier, before, answers)]
        broken += [Violation(number, result.session, what) for number, what in _idle_revisions(result, stores, markings)]
        broken += [Violation("I11", result.session, what) for what in _ungraded_revisions(result, stores)]
    return Checked("I12 I15", "results", len(stores.results), broken)


def _stuck_regrades(stores: Stores) -> Iterator[Violation]:
    for run in stores.regrading:
        if run.requested_at < stores.now - REGRADED:
            minutes = (stores.now - run.requested_at).total_seconds() // 60
            yield Violation("I15", run.exam, f"its regrade {run.id} was asked for {minutes:.0f} minutes ago, and is RUNNING.")


def _given(result: Result, stores: Stores) -> Mapping[str, int]:
    """Return the points of a session's essays that are decided, before the marking."""
    tasks, exam = stores.tasks.get(result.session, ()), stores.exams.get(result.exam)
    if not tasks or exam is None:
        return {}
    points = {question: decided(same, exam.grader_tolerance) for question, same in _by_question(tasks).items()}
    return {question: one for question, one in points.items() if one is not None}


def _is_regraded(result: Result, stores: Stores) -> bool:
    """Whether somebody asked for the newest keys to hold for a result's exam, and there was time enough to see to it."""
    exam = stores.exams.get(result.exam)
    return exam is not None and exam.regraded_at is not None and exam.regraded_at < stores.now - SWEPT


def _misgraded(result: Result, marking: Marking, right: Worth) -> Iterator[str]:
    if list(result.points) != right.points or result.score != right.score:
        wrong = ", ".join(marking.differing(result.points, right)) or "none"
        yield f"its score is {result.score}, and its answers are worth {right.score} (questions {wrong})."
    if result.max_score != marking.max_score:
        yield f"its maximum is {result.max_score}, not {marking.max_score}."
    if (result.status == "PARTIAL") != bool(right.undecided):
        yield f"it is {result.status} with {len(right.undecided)} essays to grade."


def _was_misgraded(earlier: Replaced, marking: Marking | None, answers: Mapping[str, str]) -> Iterator[str]:
    """Say what was wrong with an earlier revision. Which grades its essays had by then is not on record, so that they are
    taken as they were."""
    if marking is None:
        yield f"revision {earlier.revision} was graded with key version {earlier.key_version}, which is not there as a whole."
        return
    right = marking.worth(answers, {})
    wrong = [question for question in marking.differing(earlier.points, right) if question not in right.undecided]
    if wrong or len(earlier.points) != len(right.points) or sum(earlier.points) != earlier.score:
        yield f"revision {earlier.revision} had a score of {earlier.score} (questions {', '.join(wrong) or 'none'} are wrong)."
    if earlier.status == "PARTIAL" and not right.undecided:
        yield f"revision {earlier.revision} was PARTIAL without an essay to grade."


def _idle_revisions(result: Result, stores: Stores, markings: Markings) -> Iterator[tuple[str, str]]:
    """Find revisions that are worth what the one before was, or were graded with older keys than that one."""
    revisions: list[Replaced | Result] = [*stores.replaced.get(result.session, ()), result]
    for before, after in pairwise(revisions):
        if before.key_version > after.key_version:
            what = f"revision {after.revision} has key version {after.key_version}, the one before {before.key_version}"
            yield "I15", f"{what}: older keys came back."
        worth = [
            (tuple(one.points), one.score, one.status, getattr(markings.of(result, one.key_version), "max_score", None))
            for one in (before, after)
        ]
        if worth[0] == worth[1]:
            yield "I11", f"revision {after.revision} is worth what the one before it was."


def _ungraded_revisions(result: Result, stores: Stores) -> Iterator[str]:
    """Find revisions under the keys of the one before that no grade explains.

    Only a grade changes what a result is worth under the same keys: each makes one revision at most, signed by its grader
    (docs/grading.md), and after the last one nobody is asked again.
    """
    replaced = stores.replaced.get(result.session, ())
    if not replaced:
        return
    grades = Counter(f"graded by {task.grader}" for task in stores.tasks.get(result.session, ()) if task.status == "GRADED")
    after: Sequence[Replaced | Result] = [*replaced[1:], result]
    for before, later in zip(replaced, after, strict=True):
        if before.key_version != later.key_version:
            continue
        if (before.status, later.status) == ("SCORED", "PARTIAL"):
            yield f"revision {later.revision} is PARTIAL with the keys that the one before was SCORED with."
        grades[before.reason] -= 1
        if grades[before.reason] < 0:
            yield f"revision {later.revision} has the keys of the one before, and no grade stands behind it ({before.reason})."


def grades_add_up(evidence: Evidence) -> Checked:
    """I11, I12: every answered essay that counts has as many tasks as its exam asks for, or a third one where two graders
    disagree; nothing else has any; each grade fits its rubric, and nobody graded an answer twice."""
    stores, facts, broken, markings = evidence.stores, 0, [], Markings(evidence.stores.keys)
    for result in stores.results:
        tasks, marking, exam = stores.tasks.get(result.session, ()), markings.of(result), stores.exams.get(result.exam)
        if marking is None or exam is None or not (tasks or marking.essays):
            continue
        essays = {question.id: question for question in marking.answered_essays(unfrozen(result.answers) or {})}
        facts += len(essays) + len(tasks)
        found = {**dict.fromkeys(essays, ()), **_by_question(tasks)}
        for question, same in found.items():
            problems = _amiss(essays[question], same, exam) if question in essays else _unasked(question, same, marking)
            broken += [Violation("I12", result.session, what) for what in problems]
    for session in stores.tasks.keys() - stores.result_of.keys():
        broken.append(Violation("I11", session, "graders are asked for its answers, and it has no result."))
    return Checked("I11 I12", "answered essays, and their tasks", facts, broken)


def _amiss(essay: Question, tasks: Sequence[Task], exam: Exam) -> Iterator[str]:
    """Say what is wrong with the tasks of an answer that people have to read."""
    first = sorted(task.total for task in tasks[:2] if task.total is not None)
    wanted = 3 if exam.graders == 2 and disagree(first, exam.grader_tolerance) else exam.graders
    if [task.slot for task in tasks] != list(range(1, wanted + 1)):
        yield f"{essay.id} has {len(tasks)} tasks for graders, not {wanted}."
    if any(task.status == "CANCELLED" for task in tasks):
        yield f"a task for {essay.id} is cancelled, and the question counts."
    graders = [task.grader for task in tasks if task.status in ("CLAIMED", "GRADED")]
    if None in graders or len(set(graders)) < len(graders):
        yield f"{essay.id} was graded twice by one grader, or by nobody."
    most = _rubric(essay)
    for task in tasks:
        given = task.points or ()
        if task.total is not None and (len(given) != len(most) or any(not 0 <= n <= m for n, m in zip(given, most, strict=True))):
            yield f"grade {task.slot} of {essay.id} is {list(given)}, and its rubric gives at most {most}."


def _unasked(question: str, tasks: Sequence[Task], marking: Marking) -> Iterator[str]:
    """Say what is wrong with tasks for what nobody has to read; of a question that was taken out, grades stay on
    record and the others are cancelled."""
    if question not in marking.voided:
        yield f"graders are asked for {question}, which is blank or no essay."
    elif any(task.status in ("OPEN", "CLAIMED") for task in tasks):
        yield f"graders are asked for {question}, which was taken out."


def _rubric(essay: Question) -> Sequence[int]:
    """Return the most that each criterion of an essay gives."""
    rubric = (essay.answer or {}).get("rubric")
    return [int(str(criterion["maxPoints"])) for criterion in rubric] if isinstance(rubric, list) else []


def _by_question(tasks: Sequence[Task]) -> Mapping[str, Sequence[Task]]:
    return {question: list(same) for question, same in groupby(tasks, key=lambda task: task.question)}
