"""`gen/` is what `protos/` says, and the contract in it is whole."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from finalbell.v1 import policy_pb2
from google.api.annotations_pb2 import http
from google.protobuf.descriptor_pb2 import FileDescriptorSet, MethodDescriptorProto
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from ops.gateway import LOCAL_REPLIES

ROOT = Path(__file__).parents[2]
BUF = Path(sys.executable).parent / "buf"
CONTRACT: dict[str, Any] = json.loads((ROOT / "gen/openapi.json").read_text())


def rpcs() -> Iterator[tuple[str, MethodDescriptorProto]]:
    for file in FileDescriptorSet.FromString((ROOT / "gen/api.binpb").read_bytes()).file:
        for service in file.service:
            for method in service.method:
                yield f"{service.name}_{method.name}", method


def operations() -> dict[str, Any]:
    return {each["operationId"]: each for path in CONTRACT["paths"].values() for each in path.values()}


def files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def accepts(schema: str, value: object) -> bool:
    reference = {"$ref": f"#/components/schemas/{schema}", "components": CONTRACT["components"]}
    return bool(Draft202012Validator(reference).is_valid(value))


def test_generating_again_gives_the_same_files_byte_for_byte(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(ROOT / "protos/generate.py"), str(tmp_path / "gen")], check=True)

    again, committed = files(tmp_path / "gen"), files(ROOT / "gen")

    assert [name for name in sorted({*again, *committed}) if again.get(name) != committed.get(name)] == []


@pytest.mark.parametrize("arguments", [["lint"], ["format", "--diff", "--exit-code", "protos"]], ids=["lint", "format"])
def test_buf_has_nothing_to_say(arguments: list[str]) -> None:
    done = subprocess.run([str(BUF), *arguments], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_rest_contract_is_valid_openapi() -> None:
    validate(CONTRACT)


def test_every_rpc_says_who_may_call_it() -> None:
    silent = [name for name, method in rpcs() if not method.options.Extensions[policy_pb2.policy].access]

    assert silent == []


def test_every_rpc_with_a_url_is_in_the_rest_contract_and_nothing_else_is() -> None:
    urls = {
        name: 1 + len(method.options.Extensions[http].additional_bindings)
        for name, method in rpcs()
        if method.options.HasExtension(http)
    }

    assert {name if not nth else f"{name}_{nth + 1}" for name, count in urls.items() for nth in range(count)} == operations().keys()


def test_every_operation_says_what_it_does_and_how_it_can_fail() -> None:
    for name, operation in operations().items():
        assert operation["summary"].startswith(name.split("_")[1]), name
        assert {"400", "429", "503"} <= operation["responses"].keys(), name


def test_an_rpc_that_takes_a_key_has_the_header_and_the_field() -> None:
    for name, method in rpcs():
        policy = method.options.Extensions[policy_pb2.policy]
        if name in operations():
            headers = {each["name"]: each["required"] for each in operations()[name].get("parameters", ())}
            required = policy.key == policy_pb2.Policy.REQUIRED
            assert headers.get("Idempotency-Key") == (required if policy.key else None), name


def test_every_field_and_value_of_the_contract_is_explained() -> None:
    schemas = CONTRACT["components"]["schemas"]

    mute = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, described in schema.get("properties", {}).items()
        if field != "@type" and not described.get("description")
    ]

    assert mute == []


def test_a_save_takes_exactly_one_answer_and_a_question() -> None:
    assert accepts("SaveAnswerRequest", {"questionId": "q1", "choice": "B", "clientSeq": 1})
    assert accepts("SaveAnswerRequest", {"questionId": "q1", "choices": {"ids": ["A", "C"]}})
    assert accepts("SaveAnswerRequest", {"questionId": "q1", "number": "-3.5e2"})
    assert not accepts("SaveAnswerRequest", {"questionId": "q1"})
    assert not accepts("SaveAnswerRequest", {"questionId": "q1", "choice": "B", "text": "B"})
    assert not accepts("SaveAnswerRequest", {"choice": "B"})
    assert not accepts("SaveAnswerRequest", {"questionId": "q1", "choices": {"ids": ["A", "A"]}})
    assert not accepts("SaveAnswerRequest", {"questionId": "q1", "number": "1,000"})
    assert not accepts("SaveAnswerRequest", {"questionId": "q1", "cleared": False})
    assert not accepts("SaveAnswerRequest", {"questionId": "q1", "choice": "B", "clientSeq": 0})


def test_what_the_url_names_is_not_asked_for_again_in_the_body() -> None:
    assert "sessionId" not in CONTRACT["components"]["schemas"]["SaveAnswerRequest"]["properties"]


def test_a_reply_always_has_its_figures_and_leaves_out_what_may_be_absent() -> None:
    required = CONTRACT["components"]["schemas"]["Result"]["required"]

    assert {"status", "revision", "breakdown"} <= set(required)
    assert not {"score", "rank", "releasesAt"} & set(required)


def test_a_reply_with_a_field_of_tomorrow_is_still_accepted() -> None:
    assert accepts("SubmitSessionResponse", {"status": "SCORING", "answersSha256": "", "confetti": True})


def test_a_refusal_carries_its_reason() -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "SESSION_ENDED", "domain": "finalbell"}

    assert accepts("Status", {"code": 9, "message": "Time is over.", "details": [info]})
    assert not accepts("Status", {"code": 9, "message": "Time is over.", "details": [{"reason": "SESSION_ENDED"}]})


def test_enums_are_words_and_never_unspecified() -> None:
    enums = [schema["enum"] for schema in CONTRACT["components"]["schemas"].values() if "enum" in schema]

    assert ["SCORING", "SCORED", "PARTIAL", "WITHHELD"] in enums
    assert not [value for values in enums for value in values if value.endswith("_UNSPECIFIED")]


def test_the_client_guide_names_every_rpc_and_its_service_config_names_only_real_ones() -> None:
    guide = (ROOT / "docs/clients.md").read_text()
    config = json.loads(guide.partition("```json")[2].partition("```")[0])
    named = {f"{n['service'].removeprefix('finalbell.v1.')}_{n['method']}" for m in config["methodConfig"] for n in m["name"]}

    every = {name for name, _ in rpcs()}
    assert [name for name in sorted(every) if f"`{name.partition('_')[2]}`" not in guide] == []
    assert named == every


def test_the_client_guide_explains_every_reason_of_services_and_gateway() -> None:
    guide = (ROOT / "docs/clients.md").read_text()
    protos = "".join(path.read_text() for path in sorted((ROOT / "protos/finalbell/v1").glob("*.proto")))
    promised = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", protos))
    promised |= {reply.reason for reply in LOCAL_REPLIES}

    assert sorted(reason for reason in promised if f"`{reason}`" not in guide) == []
