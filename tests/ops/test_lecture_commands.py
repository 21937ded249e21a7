"""`finalbell lecture …` against a running stack."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from ops.main import app
from ops.sample import SAMPLE_LECTURE
from tests.flows.lecturing import media
from tests.stack import Stack, eventually, fresh

Run = Callable[..., Result]


@pytest.fixture
def run(stack: Stack) -> Run:
    """Runs a command against the shared stack."""

    def invoke(*words: object) -> Result:
        return CliRunner().invoke(app, ["lecture", *map(str, words), "--home", str(stack.home)])

    return invoke


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A lecture's file under a fresh id, its media beside it in a folder of that name."""
    lecture = fresh("t")
    fields = json.loads(SAMPLE_LECTURE.read_text()) | {"lectureId": lecture, "folder": lecture}
    shutil.copytree(SAMPLE_LECTURE.parent / "sample-1", tmp_path / lecture)
    (tmp_path / "lecture.json").write_text(json.dumps(fields))
    return tmp_path / "lecture.json"


def fields(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def change(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(fields(file) | changes))


def test_an_import_brings_the_media_and_a_second_one_changes_nothing(stack: Stack, run: Run, file: Path) -> None:
    lecture = fields(file)["lectureId"]

    first, second = run("import", file), run("import", file)

    assert [first.output, second.output] == [f"{lecture}: imported\n", f"{lecture}: nothing changed\n"]
    names = {str(one.relative_to(file.parent / lecture)) for one in (file.parent / lecture).rglob("*")}
    assert {str(one.relative_to(media(stack) / lecture)) for one in (media(stack) / lecture).rglob("*")} == names


def test_changed_media_replace_the_old_ones_whole(stack: Stack, run: Run, file: Path) -> None:
    lecture = fields(file)["lectureId"]
    run("import", file)
    (media(stack) / lecture / "left.ts").write_text("over")
    (file.parent / lecture / "captions" / "en.vtt").write_text("WEBVTT\n")

    assert run("import", file).exit_code == 0

    assert (media(stack) / lecture / "captions" / "en.vtt").read_text() == "WEBVTT\n"
    assert not (media(stack) / lecture / "left.ts").exists()
    assert [one.name for one in media(stack).glob(f".{lecture}*")] == []


def test_an_import_says_what_has_become_of_it(run: Run, file: Path) -> None:
    run("import", file)
    change(file, title="Another title")

    assert run("import", file).output == f"{fields(file)['lectureId']}: changed\n"


def test_media_that_are_not_whole_are_not_imported_and_neither_is_the_lecture(stack: Stack, run: Run, file: Path) -> None:
    lecture = fields(file)["lectureId"]
    for name in ("360p/2.m4s", "360p/init_0.mp4", "captions/uz.vtt"):
        (file.parent / lecture / name).unlink()

    refused = run("import", file)

    assert refused.exit_code == 1
    assert "Missing: 360p/2.m4s, 360p/init_0.mp4, captions/uz.vtt" in refused.output
    assert not (media(stack) / lecture).exists()
    assert lecture not in run("list").output


def test_a_folder_that_climbs_out_is_refused_and_nothing_is_copied(stack: Stack, run: Run, file: Path) -> None:
    change(file, folder="../../outside")

    refused = run("import", file)

    assert refused.exit_code == 1
    assert "folder: " in refused.output
    assert not (media(stack).parent.parent / "outside").exists()


@pytest.mark.parametrize("text", ["", "[1]", '{"lectureId": 1}', '{"lectureID": "a"}', "\xff"])
def test_a_file_that_is_no_lecture_is_refused(run: Run, tmp_path: Path, text: str) -> None:
    (tmp_path / "lecture.json").write_bytes(text.encode("latin-1"))

    refused = run("import", tmp_path / "lecture.json")

    assert refused.exit_code == 1
    assert "lecture.json is not a lecture file" in refused.output


def test_a_file_that_is_not_there_is_said_to_be_missing(run: Run, tmp_path: Path) -> None:
    refused = run("import", tmp_path / "none.json")

    assert (refused.exit_code, refused.output) == (1, f"{tmp_path / 'none.json'} cannot be read: No such file or directory\n")


async def test_lectures_are_listed_with_what_opens_them(run: Run, file: Path) -> None:
    lecture = fields(file)["lectureId"]
    run("import", file)

    async def listing() -> str:
        return next((line for line in run("list").output.splitlines() if lecture in line), "")

    listed = await eventually(listing, 5)  # lists are kept for a second
    as_json = json.loads(run("list", "--topic", "arithmetic", "--json").output)

    assert listed.split()[-5:] == [
        "uz",
        *["nothing:", "it", "is", "free"],
    ]
    assert lecture in [one["lectureId"] for one in as_json["lectures"]]
    assert json.loads(run("list", "--topic", fresh("t"), "--json").output)["lectures"] == []


def test_a_deleted_lecture_is_gone_and_its_media_stay(stack: Stack, run: Run, file: Path) -> None:
    lecture = fields(file)["lectureId"]
    run("import", file)

    first, second = run("delete", lecture), run("delete", lecture)

    assert (first.exit_code, first.output) == (0, f"{lecture}: deleted.\n")
    assert (second.exit_code, second.output) == (1, "There is no such lecture.\n")
    assert (media(stack) / lecture / "master.m3u8").exists()


def test_the_sample_lecture_is_whole_says_its_own_length_and_has_captions_in_two_languages() -> None:
    sample, folder = fields(SAMPLE_LECTURE), SAMPLE_LECTURE.parent / "sample-1"
    master = (folder / "master.m3u8").read_text()
    lengths = [float(line[8:].rstrip(",")) for line in (folder / "360p/index.m3u8").read_text().splitlines() if "EXTINF" in line]

    assert sum(lengths) == sample["durationSeconds"] == 16
    assert [one["language"] for one in sample["captions"]] == ["en", "uz"]
    for one in sample["captions"]:
        assert f'NAME="{one["label"]}",LANGUAGE="{one["language"]}"' in master
        assert (folder / one["file"]).read_text().startswith("WEBVTT\n")
    assert master.count("#EXT-X-STREAM-INF") == 2
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 1 << 20
