"""The bench's peers do SaveAnswer's work, all of it: on a real stack, each saves, repeats and refuses as finalbell does."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
from finalbell.v1 import session_pb2 as pb
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey

from bench.peers import build
from ops.home import Home
from ops.keys import AUDIENCE, ISSUER, mint
from stores.pipeline import function_name
from tests.flows.transports import Native, Reply, Rest, Transport
from tests.stack import PLAIN, ROOT, Stack, free_port, fresh

pytestmark = pytest.mark.timeout(400)  # the Go peer is built from nothing
SIGNERS = {"ES256": ECKey.generate_key("P-256"), "EdDSA": OKPKey.generate_key("Ed25519")}
ANSWERS: Sequence[Mapping[str, Any]] = (
    {"question_id": "q1", "choice": "B"},
    {"question_id": "q2", "choices": pb.Choices(ids=["D", "A"])},
    {"question_id": "q3", "number": "-3.5e1"},
    {"question_id": "q4", "text": "Ankara, naïvely"},
    {"question_id": "q4", "cleared": True, "client_seq": 7},
)
WRONG: Mapping[str, tuple[Mapping[str, Any], str | None]] = {
    "a question of another exam": ({"question_id": "q9", "choice": "B"}, "key-00000001"),
    "an id that is none": ({"question_id": "q 1", "choice": "B"}, "key-00000001"),
    "a choice that is no option": ({"question_id": "q1", "choice": "Z"}, "key-00000001"),
    "one of several choices that is no option": ({"question_id": "q2", "choices": pb.Choices(ids=["A", "Z"])}, "key-00000001"),
    "the same choice twice": ({"question_id": "q2", "choices": pb.Choices(ids=["A", "A"])}, "key-00000001"),
    "a number for a choice": ({"question_id": "q1", "number": "1"}, "key-00000001"),
    "a number that is none": ({"question_id": "q3", "number": "1,000"}, "key-00000001"),
    "a text with a NUL": ({"question_id": "q4", "text": "a\0b"}, "key-00000001"),
    "a text that is too long": ({"question_id": "q4", "text": "é" * 10_241}, "key-00000001"),
    "no answer": ({"question_id": "q1"}, "key-00000001"),
    "cleared that is false": ({"question_id": "q1", "cleared": False}, "key-00000001"),
    "a client sequence of nought": ({"question_id": "q1", "choice": "B", "client_seq": 0}, "key-00000001"),
    "no key": ({"question_id": "q1", "choice": "B"}, None),
    "a short key": ({"question_id": "q1", "choice": "B"}, "7-chars"),
    "two keys": ({"question_id": "q1", "choice": "B", "idempotency_key": "key-00000002"}, "key-00000001"),
    "a session that is none": ({"question_id": "q1", "choice": "B", "session_id": "none"}, "key-00000001"),
    "a session that nobody has": (
        {"question_id": "q1", "choice": "B", "session_id": "01a213c9-c333-732c-80fc-67fba5aeb1ec"},
        "key-00000001",
    ),
}


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that runs."""

    name: str
    address: str

    @asynccontextmanager
    async def called(self, token: str | None) -> AsyncIterator[Transport]:
        """Its way in, for one caller."""
        if self.name == "fastapi":
            headers = {"authorization": f"Bearer {token}"} if token else {}
            async with httpx.AsyncClient(base_url=f"http://{self.address}", headers=headers, timeout=15, verify=PLAIN) as http:
                yield Rest(http)
        else:
            async with grpc.aio.insecure_channel(self.address) as channel:
                yield Native(channel, token)


@dataclass(frozen=True, slots=True)
class Sitting:
    """A student with a session of the small exam."""

    stack: Stack
    student: str
    session: str

    @property
    def token(self) -> str:
        return self.stack.token(self.student)

    async def save(self, peer: Peer | None, answer: Mapping[str, Any], key: str | None, token: str | None = None) -> Reply:
        """Save through a peer, or through finalbell's own session service."""
        request = pb.SaveAnswerRequest(**{"session_id": self.session, **answer})
        if peer is not None:
            async with peer.called(self.token if token is None else token or None) as way:
                return await way.call("SaveAnswer", request, key=key)
        async with self.stack.channel("session") as channel:
            way = Native(channel, self.token if token is None else token or None)
            return await way.call("SaveAnswer", request, key=key)

    async def gateway(self, method: str, request: Any, key: str | None = None) -> Any:
        """Call finalbell as a student's app does."""
        async with self.stack.rest(self.token) as http:
            return (await Rest(http).call(method, request, key=key)).ok


@pytest.fixture(scope="module")
def jwks(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stack's public key and one of each other kind."""
    keys = json.loads(Home(stack.home).jwks.read_text())["keys"]
    keys += [key.as_dict(private=False) | {"kid": name, "alg": name, "use": "sig"} for name, key in SIGNERS.items()]
    found = tmp_path_factory.mktemp("keys") / "jwks.json"
    found.write_text(json.dumps({"keys": keys}))
    return found


@pytest.fixture(scope="module", params=["grpcio", "fastapi", "go"])
def peer(request: pytest.FixtureRequest, stack: Stack, jwks: Path) -> Iterator[Peer]:
    """Each peer in turn, as the bench starts it."""
    command = go_peer() if request.param == "go" else [sys.executable, "-m", f"bench.peers.{request.param}_peer"]
    address = f"127.0.0.1:{free_port()}"
    command += ["--listen", address, "--redis", str(stack.read()["redis"]), "--jwks", str(jwks)]
    command += ["--issuer", ISSUER, "--audience", AUDIENCE, "--function", function_name("save")]
    with serving(command):
        yield Peer(request.param, address)


@pytest.fixture
async def sitting(stack: Stack, small_exam: dict[str, Any], exam_id: str) -> Sitting:
    """A session that has just started."""
    await stack.import_exam(small_exam, exam_id)
    student = fresh("s")
    async with stack.rest(stack.token(student)) as http:
        started = (await Rest(http).call("StartSession", pb.StartSessionRequest(exam_id=exam_id))).ok
    return Sitting(stack, student, started.session.session_id)


async def test_an_answer_saved_through_a_peer_is_in_the_session(peer: Peer, sitting: Sitting) -> None:
    for number, answer in enumerate(ANSWERS):
        assert (await sitting.save(peer, answer, f"key-0000000{number}")).ok.saved

    session = (await sitting.gateway("GetSession", pb.GetSessionRequest(session_id=sitting.session))).session

    answers = {saved.question_id: saved for saved in session.answers}
    assert answers["q1"].choice == "B"
    assert list(answers["q2"].choices.ids) == ["A", "D"]
    assert answers["q3"].number == "-3.5e1"
    assert answers["q4"].cleared


async def test_a_save_through_a_peer_repeated_through_finalbell_is_the_same_save(peer: Peer, sitting: Sitting) -> None:
    for number, answer in enumerate(ANSWERS):
        key = f"key-0000000{number}"
        first = (await sitting.save(peer, answer, key)).ok

        again = (await sitting.save(None, answer, key)).ok
        through_the_peer = (await sitting.save(peer, answer, key)).ok

        assert first.version == number + 1
        assert first == again == through_the_peer


async def test_an_older_save_is_answered_with_the_answer_that_stands(peer: Peer, sitting: Sitting) -> None:
    for answer in ANSWERS[:4]:
        await sitting.save(peer, {**answer, "client_seq": 9}, fresh("key-"))
        older = {**answer, "client_seq": 3}

        late = await sitting.save(peer, older, fresh("key-"))

        assert late.ok.superseded
        assert late.ok == (await sitting.save(None, older, fresh("key-"))).ok


@pytest.mark.parametrize("case", WRONG)
async def test_a_peer_refuses_a_wrong_save_as_finalbell_does(peer: Peer, sitting: Sitting, case: str) -> None:
    answer, key = WRONG[case]

    refused = await sitting.save(peer, answer, key)

    ours = await sitting.save(None, answer, key)
    assert (refused.code, refused.reason, refused.domain) == (ours.code, ours.reason, ours.domain)
    assert refused.reason in ("INVALID_FIELD", "SESSION_NOT_FOUND")


async def test_a_key_used_for_another_answer_is_refused(peer: Peer, sitting: Sitting) -> None:
    await sitting.save(peer, ANSWERS[0], "key-00000001")

    reused = await sitting.save(peer, {"question_id": "q1", "choice": "C"}, "key-00000001")

    assert (reused.code, reused.reason) == ("ALREADY_EXISTS", "IDEMPOTENCY_KEY_REUSED")


async def test_after_the_submit_only_repeats_are_answered(peer: Peer, sitting: Sitting) -> None:
    first = (await sitting.save(peer, ANSWERS[0], "key-00000001")).ok
    await sitting.gateway("SubmitSession", pb.SubmitSessionRequest(session_id=sitting.session), "submit-01")

    late = await sitting.save(peer, ANSWERS[0], "key-00000002")

    assert (late.code, late.reason) == ("FAILED_PRECONDITION", "SESSION_SUBMITTED")
    assert (await sitting.save(peer, ANSWERS[0], "key-00000001")).ok.version == first.version


async def test_another_students_session_does_not_exist(peer: Peer, sitting: Sitting, stack: Stack) -> None:
    await sitting.save(peer, ANSWERS[0], "key-00000001")  # so that the peer knows the session

    refused = await sitting.save(peer, ANSWERS[0], "key-00000001", stack.token())

    assert (refused.code, refused.reason) == ("NOT_FOUND", "SESSION_NOT_FOUND")


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")
@pytest.mark.parametrize("algorithm", SIGNERS)
async def test_a_token_of_every_algorithm_is_taken(peer: Peer, sitting: Sitting, algorithm: str) -> None:
    token = signed(sitting.student, algorithm)

    assert (await sitting.save(peer, ANSWERS[0], "key-00000001", token)).ok.saved


BAD_TOKENS: Mapping[str, tuple[Callable[[Sitting], str], str]] = {
    "none": (lambda _: "", "TOKEN_INVALID"),
    "not signed by us": (lambda sitting: sitting.token[:-8] + "AAAAAAAA", "TOKEN_INVALID"),
    "for another audience": (lambda sitting: signed(sitting.student, "ES256", aud="others"), "TOKEN_INVALID"),
    "from another issuer": (lambda sitting: signed(sitting.student, "ES256", iss="others"), "TOKEN_INVALID"),
    "without an end": (lambda sitting: signed(sitting.student, "ES256", exp=None), "TOKEN_INVALID"),
    "expired": (lambda sitting: mint(sitting.stack.home, student=sitting.student, ttl_seconds=-90), "TOKEN_EXPIRED"),
}


@pytest.mark.parametrize("case", BAD_TOKENS)
async def test_a_bad_token_is_refused(peer: Peer, sitting: Sitting, case: str) -> None:
    token, reason = BAD_TOKENS[case]

    refused = await sitting.save(peer, ANSWERS[0], "key-00000001", token(sitting))

    assert (refused.code, refused.reason) == ("UNAUTHENTICATED", reason)


async def test_an_empty_call_is_answered_with_nothing() -> None:
    port = free_port()
    with serving([sys.executable, "-m", "bench.peers.empty", "--port", str(port)]):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert await channel.unary_unary("/finalbell.bench.Empty/Call")(b"", timeout=5) == b""


@contextmanager
def serving(command: Sequence[str]) -> Iterator[None]:
    """Run a peer from its `ready` to a SIGTERM, which has to end it."""
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield
            process.send_signal(signal.SIGTERM)
            process.wait(10)
        finally:
            process.kill()


def go_peer() -> list[str]:
    """The command of the Go peer, where it has been built: that takes a minute, and Go."""
    if not build.PEER.exists():
        pytest.skip("the Go peer is not built: python -m bench.peers.build")
    return [str(build.PEER)]


def signed(student: str, algorithm: str, **claims: Any) -> str:
    """A token by a key of our own; a claim that is None is left out."""
    told = {"iss": ISSUER, "aud": AUDIENCE, "sub": student, "exp": int(time.time()) + 600, **claims}
    kept = {name: value for name, value in told.items() if value is not None}
    return jwt.encode({"alg": algorithm, "kid": algorithm}, kept, SIGNERS[algorithm], algorithms=[algorithm])
