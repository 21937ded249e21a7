"""Papers as protobuf messages."""

from collections.abc import Sequence

from finalbell.v1 import content_pb2 as pb

from stores.catalog import QuestionText


def paper_message(exam: str, version: int, questions: Sequence[QuestionText]) -> pb.Paper:
    """Return a paper as students read it."""
    return pb.Paper(exam_id=exam, version=version, questions=[_question(question) for question in questions])


def _question(question: QuestionText) -> pb.Question:
    return pb.Question(
        question_id=question.id,
        type=pb.Question.Type.Value(question.type.upper()),
        stem=question.stem,
        passage=question.passage,
        topic=question.topic,
        points=question.points,
        options=[pb.Option(id=one, text=text) for one, text in question.options],
        rubric=[pb.Criterion(criterion=name, description=text, max_points=points) for name, text, points in question.rubric],
    )
