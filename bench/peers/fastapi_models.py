"""What goes in and out of the FastAPI peer, with the rules of `session.proto` as Pydantic's."""

from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from stores.records import Answer, AnswerKind, SavedAnswer

Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,32}$")]
Number = Annotated[str, Field(max_length=40, pattern=r"^(?:[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?)$")]
LONGEST_TEXT_BYTES = 20_480


def _plain(text: str) -> str:
    if len(text.encode()) > LONGEST_TEXT_BYTES or "\0" in text:
        raise ValueError("at most 20,480 bytes of UTF-8, no NUL")
    return text


def _unique(ids: list[str]) -> list[str]:
    if len(set(ids)) != len(ids):
        raise ValueError("each option once")
    return ids


class Camel(BaseModel):
    """A model whose fields are lowerCamelCase in JSON."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class Choices(Camel):
    """Picked options."""

    ids: Annotated[list[Id], Field(min_length=1, max_length=64), AfterValidator(_unique)]


class SaveAnswer(Camel):
    """A save: exactly one kind of answer."""

    question_id: Id
    choice: Id | None = None
    choices: Choices | None = None
    number: Number | None = None
    text: Annotated[str, AfterValidator(_plain)] | None = None
    cleared: Literal[True] | None = None
    client_ts: datetime | None = None
    client_seq: Annotated[int, Field(ge=1, lt=2**32)] | None = None
    idempotency_key: str = ""

    @model_validator(mode="after")
    def one_answer(self) -> Self:
        """Refuse none and several."""
        given = (self.choice, self.choices, self.number, self.text, self.cleared)
        if sum(one is not None for one in given) != 1:
            raise ValueError("exactly one of choice, choices, number, text, cleared is needed")
        return self

    def answer(self) -> Answer:
        """Return the answer in canonical form."""
        if self.choice is not None:
            return Answer(AnswerKind.CHOICE, self.choice)
        if self.choices is not None:
            return Answer(AnswerKind.CHOICES, ",".join(sorted(self.choices.ids)))
        if self.number is not None:
            return Answer(AnswerKind.NUMBER, self.number)
        if self.text is not None:
            return Answer(AnswerKind.TEXT, self.text)
        return Answer(AnswerKind.CLEARED)


class Current(Camel):
    """The answer that stands."""

    question_id: str
    choice: str | None = None
    choices: Choices | None = None
    number: str | None = None
    text: str | None = None
    cleared: bool | None = None
    version: int
    saved_at: datetime
    client_seq: int | None

    @classmethod
    def of(cls, saved: SavedAnswer) -> Self:
        """Return a saved answer as clients see it."""
        kind, value = saved.answer.kind, saved.answer.value
        return cls(
            question_id=saved.question,
            choice=value if kind is AnswerKind.CHOICE else None,
            choices=Choices(ids=list(saved.answer.picks)) if kind is AnswerKind.CHOICES else None,
            number=value if kind is AnswerKind.NUMBER else None,
            text=value if kind is AnswerKind.TEXT else None,
            cleared=True if kind is AnswerKind.CLEARED else None,
            version=saved.version,
            saved_at=datetime.fromtimestamp(saved.saved_ms / 1000, UTC),
            client_seq=saved.client_seq,
        )


class Standing(Camel):
    """What stands after a save."""

    saved: bool
    superseded: bool
    saved_at: datetime | None
    version: int
    ends_at: datetime
    current: Current | None
