"""Every setting, typed, read once from `FINALBELL_…`; nobody else reads the environment."""

from pathlib import Path
from typing import Literal

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What a process needs to know. URLs hold the credentials of the service's own user and are never logged."""

    model_config = SettingsConfigDict(env_prefix="FINALBELL_", frozen=True)

    listen: str = "127.0.0.1:50051"
    """Where gRPC listens, host:port; several workers may share one port."""

    listen_alone: str = ""
    """Where this worker listens besides, alone: for a balancer, which has to know which worker hangs."""

    rest: str = ""
    """Where this worker takes the gateway's REST requests that go past the transcoder (HTTP/1.1), alone; empty: nowhere."""

    metrics: str = "127.0.0.1:9464"
    """Where Prometheus reads, host:port."""

    postgres: str
    redis: str
    boards_redis: str = ""
    """Where boards live; empty: where sessions live."""

    nats: str
    jwks: Path
    """The public keys that tokens are signed with; read again when the file changes."""

    issuer: str
    audience: str
    receipt_key: str = ""
    """The file of the private key that signs receipts (Ed25519, PEM), for the units session and scoring; empty: no receipts."""

    receipt_jwks: str = ""
    """The file of all public keys of receipts, the older ones too; empty: the public half of `receipt_key` alone."""

    media_url: str = ""
    """Where players find media: `/media` where the gateway has them, or a CDN's https://…/media; empty: lectures do not play."""

    media_keys: str = ""
    """The file of the secrets that media links are signed with (a JWK set of kty oct): the first signs, all are taken."""

    media_seconds: int = 1800
    """How long a media link is good, at least; at most half as long again. Who is refunded plays on until then."""

    media_folder: str = ""
    """For the unit media: the folder whose folders it serves."""

    media_bucket: str = ""
    """For the unit media: a bucket that it serves instead, with the credentials and the region that botocore finds (extra `s3`)."""

    media_endpoint: str = ""
    """Where the bucket is, https://…, where it is not at AWS."""

    engine: Literal["grpcio", "native"] = "grpcio"
    environment: Literal["development", "production"] = "production"
    """Development switches reflection on."""

    otlp: str = ""
    """Where traces go: an OTLP collector over gRPC, http(s)://host:port; needs the extra `otel`. Empty: there are none."""

    leave_seconds: float = 1.2
    """How long a service that ends still takes calls: balancers ask every half second, and leave it out after two refusals."""

    drain_seconds: float = 10.0
    inline_wait_ms: int = 250
    """How long a submit waits for its score, from when its turn has come: at once, but in a burst."""

    publish_wait_ms: int = 150
    """How long a submit waits for JetStream before it goes to the `submission` table."""

    student_calls_per_second: float = 100.0
    """How many calls a student may make in each process, over time; 0: as many as they like. Staff have no limit."""

    student_calls_at_once: int = 500
    """How many of them may come in one burst."""

    outage_seconds: float = 5.0
    """A silence of the session service that long is an outage; the bell waits for its end."""

    hold_seconds: float = 120.0
    """How long the bell holds after an outage for the sessions that were running, so that staff can give time back first."""

    payments: str = ""
    """The file that says which gateways the unit payments sells through, with their keys (docs/payments.md); empty: none."""

    reconcile_seconds: float = 30.0
    """How often gateways are asked what has become of open orders."""

    integrity: Literal["on", "off"] = "on"
    """Whether signals are collected. Off: reports are answered 202 and dropped, and nothing is worked out (docs/integrity.md)."""

    signals_per_second: float = 5.0
    """How many signals a student may report in each process, over time; 0: as many as they like."""

    signals_at_once: int = 300
    """How many of them may come in one burst; at least 100, which is one report."""

    signals_per_session: int = 5_000
    """How many signals of one session each process takes in all; the rest is counted and dropped."""

    signals_stream_bytes: int = 64 * 1024 * 1024
    """How much memory of NATS signals may fill on their way; then the oldest make room."""

    integrity_days: int = 180
    """How long signals, devices and addresses are kept, by whole months; their counts stay, of nobody."""

    frames_bucket: str = ""
    """The bucket that webcam pictures are uploaded to, with the credentials that botocore finds (extra `s3`); empty: none are."""

    frames_endpoint: str = ""
    """Where that bucket is, https://…, where it is not at AWS."""

    frames_days: int = 30
    """How long the bucket keeps a picture: what students are told. Its lifecycle rule deletes it (docs/integrity.md)."""

    analysis_pairs: int = 100_000_000
    """How many pairs of students one analysis compares at most: all of 14,000 students, or as many cohorts as that makes.
    Never more than 1,000 million."""

    analysis_bytes: int = 2 * 1024 * 1024 * 1024
    """How much address space the process of an analysis may have."""

    analysis_seconds: int = 3_600
    """How much CPU time it may take."""

    crash_at: str = ""
    """For fault tests: the process kills itself at the named step of the submit pipeline (D1…D9), or of a purchase (P1…P5)."""
