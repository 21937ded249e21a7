"""Who may come in, and what of a request reaches a service."""

import hmac
from base64 import urlsafe_b64encode
from time import time

import pytest
from finalbell.v1 import content_pb2, content_pb2_grpc, session_pb2, session_pb2_grpc
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey

from tests.gateway.harness import AUDIENCE, ISSUER, Edge, Services, refusal, refused, write_auth

EXAMS = "/api/v1/exams"
OTHER_KEY = RSAKey.generate_key(2048, {"kid": "k1", "use": "sig", "alg": "RS256"})


def wrong_tokens(edge: Edge) -> dict[str, str | None]:
    """Give what must not open the door, as the whole Authorization header."""
    sign, now = edge.tokens.sign, int(time())
    claims = sign().split(".")[1]
    return {
        "no header": None,
        "empty": "",
        "no token": "Bearer",
        "garbage": "Bearer garbage",
        "another scheme": f"Basic {sign()}",
        "two tokens": f"Bearer {sign()},Bearer {sign()}",
        "alg none": "Bearer " + encoded(b'{"alg":"none"}') + f".{claims}.",
        "HS256 with our public key": f"Bearer {signed_with_public_key(edge, claims)}",
        "another's signature": "Bearer " + sign(key=OTHER_KEY),
        "unknown kid": "Bearer " + sign(header={"kid": "k9"}),
        "kid that is a path": "Bearer " + sign(header={"kid": "../../../../dev/null"}),
        "wrong issuer": "Bearer " + sign(iss="https://evil.example"),
        "no issuer": "Bearer " + sign(iss=None),
        "wrong audience": "Bearer " + sign(aud="other"),
        "no audience": "Bearer " + sign(aud=None),
        "no expiry": "Bearer " + sign(exp=None),
        "expiry that is no number": "Bearer " + sign(exp=str(now + 600)),
        "not valid yet": "Bearer " + sign(nbf=now + 600),
    }


def encoded(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_with_public_key(edge: Edge, claims: str) -> str:
    """Sign by hand what a library refuses to sign."""
    signed = encoded(b'{"alg":"HS256","kid":"k1"}') + "." + claims
    return signed + "." + encoded(hmac.digest(edge.tokens.key.as_pem(private=False), signed.encode(), "sha256"))


async def test_only_a_right_token_opens_the_door(edge: Edge, services: Services) -> None:
    for what, header in wrong_tokens(edge).items():
        headers = {} if header is None else {"authorization": header}

        reply = await edge.anonymous.get(EXAMS, headers=headers)

        assert refusal(reply) == (401, 16, "TOKEN_INVALID"), what
        assert reply.headers["www-authenticate"] == 'Bearer realm="finalbell"'
    assert services.seen == []


async def test_a_token_counts_for_a_minute_after_its_expiry_and_not_longer(edge: Edge) -> None:
    late, too_late = (edge.tokens.sign(exp=int(time()) - seconds) for seconds in (30, 90))

    welcome = await edge.anonymous.get(EXAMS, headers={"authorization": f"Bearer {late}"})
    reply = await edge.anonymous.get(EXAMS, headers={"authorization": f"Bearer {too_late}"})

    assert welcome.status_code == 200
    assert refusal(reply) == (401, 16, "TOKEN_EXPIRED")


async def test_a_token_in_the_url_is_no_token(edge: Edge) -> None:
    reply = await edge.anonymous.get(EXAMS, params={"access_token": edge.tokens.sign()})

    assert refusal(reply) == (401, 16, "TOKEN_INVALID")


async def test_an_unknown_path_without_a_token_is_refused_for_the_token(edge: Edge) -> None:
    for path in ("/", "/api/v1/nope", "/admin", "/finalbell.v1.SessionService/Nope"):
        assert refusal(await edge.anonymous.get(path)) == (401, 16, "TOKEN_INVALID"), path


async def test_the_service_gets_the_token_to_check_it_again(edge: Edge, services: Services) -> None:
    token = edge.tokens.sign(sub="s7")

    await edge.anonymous.get(EXAMS, headers={"authorization": f"Bearer {token}"})

    assert services.seen[-1].metadata["authorization"] == f"Bearer {token}"


async def test_headers_that_say_who_is_calling_do_not_arrive(edge: Edge, services: Services) -> None:
    forged = {
        "x-student-id": "s2",
        "x-user": "s2",
        "x-user-id": "s2",
        "X-User-Roles": "admin",
        "x-jwt-payload": "e30",
        "x-role": "admin",
        "x-cohorts": "c",
        "x-envoy-original-path": "/x",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-retry-on": "5xx",
        "fb-http-status": "201",
    }

    rest = await edge.rest.get(EXAMS, headers=forged)
    metadata = (*edge.metadata, *((name.lower(), value) for name, value in forged.items()))
    await content_pb2_grpc.ContentServiceStub(edge.channel).ListExams(content_pb2.ListExamsRequest(), metadata=metadata)

    assert rest.status_code == 200
    over_rest, native = services.seen
    assert set(forged) & set(over_rest.metadata) == {"x-envoy-original-path"}  # the transcoder's own
    assert over_rest.metadata["x-envoy-original-path"] == EXAMS
    assert set(forged) & set(native.metadata) == set()


async def test_a_header_with_an_underscore_is_refused(edge: Edge, services: Services) -> None:
    reply = await edge.rest.get(EXAMS, headers={"x_student_id": "s2"})

    assert refusal(reply) == (400, 3, "INVALID_FIELD")
    assert services.seen == []


async def test_keys_change_while_the_gateway_runs(edge: Edge) -> None:
    known = edge.tokens.sign()
    rsa = RSAKey.generate_key(2048, {"kid": "k2", "use": "sig", "alg": "RS256"})
    ec = ECKey.generate_key("P-256", {"kid": "k3"})
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "s1", "exp": int(time()) + 600}
    fresh = [edge.tokens.sign(key=rsa, header={"kid": "k2"}), jwt.encode({"alg": "ES256", "kid": "k3"}, claims, ec)]

    async def status(token: str) -> int:
        return (await edge.anonymous.get(EXAMS, headers={"authorization": f"Bearer {token}"})).status_code

    assert [await status(token) for token in (known, *fresh)] == [200, 401, 401]
    try:
        await edge.use_keys(edge.tokens.jwks(rsa, ec), until=lambda: status(fresh[0]))
        assert [await status(token) for token in (known, *fresh)] == [401, 200, 200]

        edge.gateway.jwks.write_text("garbage")
        write_auth(edge.gateway)
        assert [await status(token) for token in fresh] == [200, 200]
    finally:
        await edge.use_keys(edge.tokens.jwks(), until=lambda: status(known))
    assert [await status(token) for token in (known, *fresh)] == [200, 401, 401]


async def test_health_needs_no_token(edge: Edge) -> None:
    health = health_pb2_grpc.HealthStub(edge.channel)

    checked = await health.Check(health_pb2.HealthCheckRequest())
    watched = health.Watch(health_pb2.HealthCheckRequest())
    first = await watched.read()
    watched.cancel()

    assert checked.status == first.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("token", [None, "garbage"])
async def test_a_grpc_client_without_a_token_is_unauthenticated(edge: Edge, token: str | None) -> None:
    metadata = [("authorization", f"Bearer {token}")] if token else []

    sessions = session_pb2_grpc.SessionServiceStub(edge.channel)

    call = sessions.GetSession(session_pb2.GetSessionRequest(), metadata=metadata)

    assert await refused(call) == (StatusCode.UNAUTHENTICATED, "TOKEN_INVALID")
