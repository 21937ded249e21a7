"""Item statistics for people: the table, its sentences, and rows for a spreadsheet."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import typer
from finalbell.v1 import scoring_pb2 as pb

from ops.table import inert

COLUMNS = ("question", "topic", "n", "difficulty", "discrimination", "blank", "flags")
CSV_COLUMNS = (
    *("question", "option", "type", "topic", "max_points", "n", "difficulty", "discrimination", "alpha_without", "blank"),
    *("count", "share", "mean_rest", "correlation", "is_key", "flags"),
)


def table_row(question: pb.QuestionStatistics, results: int) -> list[str]:
    """Return a question as cells of `COLUMNS`."""
    figures = (_shown(question, "difficulty"), _shown(question, "discrimination"), f"{question.blank:.0%}")
    return [
        question.question_id,
        question.topic,
        str(results),
        *figures,
        "voided" if question.voided else " ".join(flags(question)),
    ]


def csv_rows(found: pb.ItemStatistics) -> Iterator[Sequence[str]]:
    """Yield rows of `CSV_COLUMNS`: one for each question, with no option, followed by one for each of its options.

    Figures have all their digits; a cell is empty where there is no such figure, or none in such a row.
    """
    for question in found.questions:
        names = [inert(question.question_id), "", question.type, inert(question.topic), str(question.max_points)]
        figures = [_exact(question, name) for name in ("difficulty", "discrimination", "alpha_without")]
        flagged = ["voided", *flags(question)] if question.voided else flags(question)
        yield [*names, str(found.results), *figures, str(question.blank), *[""] * 5, " ".join(flagged)]
        for option in question.options:
            names[1] = inert(option.option_id)
            picked = [str(option.count), str(option.share), _exact(option, "mean_rest"), _exact(option, "correlation")]
            mark = "SUSPECT_KEY" if option.suspect else ""
            yield [*names, str(found.results), *[""] * 4, *picked, "yes" if option.is_key else "no", mark]


def sentences(found: pb.ItemStatistics) -> Iterator[str]:
    """Yield what stands below the table: the exam's line, then a sentence for each key that is suspect."""
    if not found.results:
        yield f"{found.exam_id}: no result of version {found.exam_version} is scored yet."
        return
    figures = (
        f"mean {_shown(found, 'mean')} of {found.max_score}",
        f"standard deviation {_shown(found, 'standard_deviation')}",
        f"alpha {_shown(found, 'alpha')}",
        f"standard error {_shown(found, 'standard_error')}",
    )
    yield f"{found.exam_id} (version {found.exam_version}): {found.results} results, {', '.join(figures)}."
    if not found.final:
        yield "The exam has not ended yet, or some sessions wait for their score: these figures are not final."
    for question in found.questions:
        for option in question.options:
            if option.suspect:
                yield _suspicion(found.exam_id, question, option)


def drawing(file: Path | None) -> Callable[[pb.ItemStatistics], None]:
    """Return what draws into a file, or nothing for none; says at once, before anything is computed, what stands in its way."""
    if file is None:
        return lambda _: None
    if file.suffix not in (".svg", ".png", ".pdf"):
        raise typer.BadParameter("--plot takes a file that ends in .svg, .png or .pdf")
    try:
        from ops.plots import draw
    except ModuleNotFoundError as missing:
        if missing.name is None or not missing.name.startswith("matplotlib"):
            raise
        typer.echo("--plot needs matplotlib: pip install 'finalbell[plots]', or pip install matplotlib.", err=True)
        raise typer.Exit(1) from None

    def drawn(found: pb.ItemStatistics) -> None:
        try:
            draw(found, file)
        except OSError as failure:
            typer.echo(f"{file} cannot be written: {failure.strerror}", err=True)
            raise typer.Exit(1) from None

    return drawn


def flags(question: pb.QuestionStatistics) -> list[str]:
    """Return a question's flags as words."""
    return [pb.QuestionStatistics.Flag.Name(flag) for flag in question.flags]


def _suspicion(exam: str, question: pb.QuestionStatistics, option: pb.OptionStatistics) -> str:
    keys = [f"{key.option_id} (r = {_shown(key, 'correlation')})" for key in question.options if key.is_key]
    keyed = f"the key is {keys[0]}" if len(keys) == 1 else f"the keys are {' and '.join(keys)}"
    look = "Look at the question and its key."
    if question.type == "single_choice":
        command = f"finalbell exam key {exam} --question {question.question_id} --accept {option.option_id}"
        look = f"Look at it; if {option.option_id} is right: '{command}'."
    chose = f"{option.share:.0%} chose {option.option_id}, among them the best students (r = {_shown(option, 'correlation')})"
    return f"{question.question_id}: {chose}; {keyed}. {look}"


def _shown(of: pb.ItemStatistics | pb.QuestionStatistics | pb.OptionStatistics, name: str) -> str:
    return f"{getattr(of, name):.2f}" if of.HasField(name) else "–"  # type: ignore[arg-type]  # the names are the callers' own


def _exact(of: pb.QuestionStatistics | pb.OptionStatistics, name: str) -> str:
    return str(getattr(of, name)) if of.HasField(name) else ""  # type: ignore[arg-type]
