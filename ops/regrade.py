"""What a regrade changed, or would change, in words."""

from finalbell.v1 import scoring_pb2

EXAMPLE_COLUMNS = ("student", "score before", "after", "rank before", "after", "session")


def sentences(run: scoring_pb2.Regrade) -> list[str]:
    """Return the report of a run."""
    if run.status == run.FAILED:
        return [f"It failed: {run.error} What was done stays; ask again to go on."]
    if not run.results:
        return [f"Every result of {run.exam_id} is graded with the newest keys (version {run.key_version})."]
    would = "would change" if run.dry_run else "changed"
    lines = [
        f"{run.done} results of {run.exam_id} looked at, with key version {run.key_version}.",
        f"{run.scores_changed} scores {would}: {run.scores_raised} up (by {run.largest_gain} at most), {run.scores_lowered} down "
        f"(by {run.largest_loss} at most); {run.mean_change:+.3f} points on average.",
        f"{run.ranks_changed} students' ranks {would}, by {run.largest_rank_move} places at most.",
    ]
    return [*lines, f"Nothing is changed yet. Next: finalbell exam regrade {run.exam_id} --reason TEXT"] if run.dry_run else lines


def example_row(example: scoring_pb2.RegradeExample) -> list[str]:
    """Return one result that moves, as cells."""
    ranks = [str(getattr(example, name)) if example.HasField(name) else "" for name in ("rank_before", "rank_after")]
    return [example.student_id, str(example.score_before), str(example.score_after), *ranks, example.session_id]
