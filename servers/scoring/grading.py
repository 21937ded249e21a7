"""The grading queue: essays, each one grader's at a time, until a session waits for no grade any more."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from uuid import UUID

from finalbell.v1 import scoring_pb2 as pb

from servers import errors
from servers.messages import read_page_token, timestamp, write_page_token
from servers.scoring.rules import Grader
from servers.serving.wrap import Call
from stores.answer_keys import AnswerKeys
from stores.grading import MOST_CLAIMS, GradingTasks, NotClaimed
from stores.records import Answer, Grade, GradeOutcome, GradingTask, Result, Standing, TaskStatus
from stores.revisions import Revisions

TRIES = 3
Tell = Callable[[Sequence[UUID], Sequence[Standing]], Awaitable[None]]
"""Brings boards and watchers up to changed results, after the commit."""


class Grading:
    """Hands answers to graders and takes their grades."""

    def __init__(self, tasks: GradingTasks, revisions: Revisions, keys: AnswerKeys, tell: Tell) -> None:
        self._tasks = tasks
        self._revisions = revisions
        self._keys = keys
        self._tell = tell

    async def list(self, request: pb.ListGradingTasksRequest, call: Call) -> pb.ListGradingTasksResponse:
        """Return a page of tasks."""
        status = TaskStatus(pb.GradingTask.Status.Name(request.status)) if request.status else None
        scope = f"tasks/{request.exam_id}/{request.question_id}/{request.status}"
        count = request.page_size or 50
        after = read_page_token(request.page_token, scope, _position)
        tasks = await self._tasks.page(request.exam_id or None, request.question_id or None, status, after, count + 1)
        last = tasks[count - 1] if len(tasks) > count else None
        return pb.ListGradingTasksResponse(
            tasks=[_message(task, call) for task in tasks[:count]],
            next_page_token=write_page_token(f"{last.created_us}/{last.id}", scope) if last else "",
        )

    async def claim(self, request: pb.ClaimGradingTaskRequest, call: Call) -> pb.ClaimGradingTaskResponse:
        """Give the caller a task."""
        wanted = UUID(request.task_id) if request.task_id else None
        claimed = await self._tasks.claim(call.caller.student, request.exam_id or None, request.question_id or None, wanted)
        match claimed:
            case NotClaimed.TOO_MANY:
                raise errors.TooManyClaims(f"You have {MOST_CLAIMS} tasks claimed; grade or release some first.")
            case NotClaimed.NONE_WAITS:
                raise errors.GradingTaskNotFound
        answers: Mapping[str, str] = json.loads(claimed.answers)
        grader_of = await self._grader(await self._result(claimed.task))
        packed = answers.get(claimed.task.question)
        return pb.ClaimGradingTaskResponse(
            task=_message(claimed.task, call),
            claim_id=str(claimed.task.claim),
            stem=claimed.stem,
            passage=claimed.passage,
            rubric=[
                pb.RubricCriterion(criterion=one.criterion, description=one.description, max_points=one.max_points)
                for one in grader_of.rubric(claimed.task.question)
            ],
            answer=Answer.unpacked(packed).value if packed else "",
            student_id=claimed.student or "",
        )

    async def renew(self, request: pb.RenewGradingTaskRequest, call: Call) -> pb.RenewGradingTaskResponse:
        """Let a claim last longer."""
        task = await self._task(request.task_id)
        renewed = await self._tasks.renew(task.id, UUID(request.claim_id), call.caller.student)
        if renewed is None:
            raise errors.ClaimLost
        return pb.RenewGradingTaskResponse(task=_message(renewed, call))

    async def release(self, request: pb.ReleaseGradingTaskRequest, call: Call) -> pb.ReleaseGradingTaskResponse:
        """Take a task back ungraded."""
        task = await self._task(request.task_id)
        if not await self._tasks.release(task.id, UUID(request.claim_id), call.caller.student):
            raise errors.ClaimLost
        return pb.ReleaseGradingTaskResponse()

    async def grade(self, request: pb.SubmitGradeRequest, call: Call) -> pb.SubmitGradeResponse:
        """Take a grade, and score the session again with it."""
        task = await self._task(request.task_id)
        for _ in range(TRIES):
            result = await self._result(task)
            grader = await self._grader(result)
            grade = _grade(request, task, call.caller.student, grader)
            graded = await self._revisions.grade(grade, task.session, result.key_version, partial(derived, grader))
            match graded.outcome:
                case GradeOutcome.CHANGED:
                    continue
                case GradeOutcome.LOST:
                    raise errors.ClaimLost
                case GradeOutcome.DIFFERS:
                    raise errors.GradeDiffers("You have graded this answer otherwise; a grade that was sent stays.")
                case GradeOutcome.GRADED | GradeOutcome.REPEATED:
                    if graded.standings:
                        await self._tell([task.session], graded.standings)
                    scored = graded.result is not None and not graded.result.partial
                    return pb.SubmitGradeResponse(
                        task=_message(replace(task, status=TaskStatus.GRADED, grader=grade.grader), call),
                        points=graded.points,
                        scored=scored,
                    )
        raise errors.Conflict("The session was regraded meanwhile; send the grade again.")

    async def _task(self, task_id: str) -> GradingTask:
        task = await self._tasks.read(UUID(task_id))
        if task is None:
            raise errors.GradingTaskNotFound
        return task

    async def _result(self, task: GradingTask) -> Result:
        result = await self._revisions.read(task.session)
        if result is None:
            raise errors.GradingTaskNotFound
        return result

    async def _grader(self, result: Result) -> Grader:
        keys = await self._keys.read(result.exam, result.exam_version, result.key_version)
        if keys is None:
            raise LookupError("the keys of a result are not there")
        return Grader(keys)


def derived(grader: Grader, old: Result, essays: Mapping[str, int]) -> Result:
    """Grade a result's frozen answers again: the one way in which any score comes about."""
    grades = grader.grade(json.loads(old.answers), essays)
    return replace(
        old,
        score=grades.score,
        max_score=grades.max_score,
        partial=bool(grades.pending),
        pending=grades.pending,
        key_version=grader.keys.key_version,
        points=tuple([one.points for one in grades.graded]),
    )


def _grade(request: pb.SubmitGradeRequest, task: GradingTask, grader: str, keys: Grader) -> Grade:
    """Read a grade; refuse one that does not fit the rubric."""
    rubric = keys.rubric(task.question)
    wrong = []
    if len(request.criteria) != len(rubric):
        wrong.append(("criteria", f"must be {len(rubric)}, one for each criterion of the rubric, in its order"))
    for i, (given, criterion) in enumerate(zip(request.criteria, rubric, strict=False)):
        if given.points > criterion.max_points:
            wrong.append((f"criteria[{i}].points", f"must be from 0 to {criterion.max_points} for {criterion.criterion!r}"))
        if given.criterion and given.criterion != criterion.criterion:
            wrong.append((f"criteria[{i}].criterion", f"must be {criterion.criterion!r}, or left out"))
    if wrong:
        raise errors.InvalidField(wrong)
    return Grade(
        task=task.id,
        claim=UUID(request.claim_id),
        grader=grader,
        question=task.question,
        points=tuple(given.points for given in request.criteria),
        comments=tuple(given.comment for given in request.criteria),
        comment=request.comment,
    )


def _message(task: GradingTask, call: Call) -> pb.GradingTask:
    """Return a task as graders see it: who has it is for admins, and for whoever it is."""
    mine = task.grader == call.caller.student or "admin" in call.caller.roles
    return pb.GradingTask(
        task_id=str(task.id),
        exam_id=task.exam,
        question_id=task.question,
        slot=task.slot,
        status=pb.GradingTask.Status.Value(task.status),
        created_at=timestamp(task.created_us // 1000),
        claimed_until=timestamp(task.until_ms) if task.until_ms is not None and task.status is TaskStatus.CLAIMED else None,
        grader_id=task.grader or "" if mine else "",
    )


def _position(text: str) -> tuple[int, UUID]:
    created, task = text.split("/")
    return int(created), UUID(task)
