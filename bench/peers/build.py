"""Builds the Go peer: its protobuf code into `go/gen/`, which is not kept, then `.tools/bin/peer-go`. Needs Go.

python -m bench.peers.build

The compiler is grpcio-tools'; its plugins for Go are the module's own tools, so go.mod pins them with all the rest.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "bench" / "peers" / "go"
TOOLS = ROOT / ".tools" / "go"
PEER = ROOT / ".tools" / "bin" / "peer-go"
OURS = ["policy", "scoring", "session"]
PACKAGE = "finalbell/bench/peers/go"
RULES = "buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
PLUGINS = {
    "protoc-gen-go": "google.golang.org/protobuf/cmd/protoc-gen-go",
    "protoc-gen-go-grpc": "google.golang.org/grpc/cmd/protoc-gen-go-grpc",
}


def build() -> Path:
    """Build the peer, and return its path; the first build takes about a minute, the next ones some seconds."""
    TOOLS.mkdir(parents=True, exist_ok=True)
    _go("build", "-o", f"{TOOLS}/", *PLUGINS.values())
    _generate()
    _go("build", "-o", str(PEER), ".")
    return PEER


def fetch() -> None:
    """Get the modules that go.mod names; raises CalledProcessError where they are not cached and no module proxy answers."""
    _go("mod", "download")


def _generate() -> None:
    """Write the Go packages; the protos name none, since nobody else needs any, so each is mapped here."""
    mapped = {f"finalbell/v1/{name}.proto": f"{PACKAGE}/gen" for name in OURS} | {"buf/validate/validate.proto": RULES}
    packages = [f"M{proto}={package}" for proto, package in mapped.items()]
    options = ",".join([f"module={PACKAGE}", *packages])
    protos = ROOT / "protos"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}"]
    for plugin in PLUGINS:
        short = plugin.removeprefix("protoc-gen-")
        command += [f"--plugin={plugin}={TOOLS / plugin}", f"--{short}_out={MODULE}", f"--{short}_opt={options}"]
    subprocess.run([*command, *(f"finalbell/v1/{name}.proto" for name in OURS)], check=True)


def _go(*arguments: str) -> None:
    subprocess.run(["go", *arguments], cwd=MODULE, check=True)  # noqa: S607  # the one that the caller's PATH names


if __name__ == "__main__":
    fetch()
    print(build())
