"""Writes `gen/` from `protos/`: `python protos/generate.py DIRECTORY` (what `make gen` runs).

A test writes it a second time elsewhere and compares, so `gen/` can never be stale.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).parent
OURS = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("finalbell/v1/*.proto"))
SERVICES = [name for name in OURS if "\nservice " in (PROTOS / name).read_text()]
VENDORED = ["buf/validate/validate.proto"]  # google/api and google/rpc come from googleapis-common-protos
ERRORS = ["google/rpc/status.proto", "google/rpc/error_details.proto"]  # without them Envoy's REST errors have no body


def generate(into: Path) -> None:
    """Write the Python modules with their type stubs, `api.binpb` and `openapi.json`, replacing what was there."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(parents=True)
    _protoc(f"--python_out={into}", f"--mypy_out=quiet:{into}", *OURS, *VENDORED)
    _protoc(f"--grpc_python_out={into}", f"--mypy_grpc_out=quiet:{into}", *SERVICES)
    _protoc("--include_imports", "--include_source_info", f"--descriptor_set_out={into / 'api.binpb'}", *OURS, *ERRORS)
    command = [
        sys.executable,
        str(PROTOS / "openapi.py"),
        str(into),
    ]  # a process of its own, to import what was just made
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(into), "PYTHONDONTWRITEBYTECODE": "1"})


def _protoc(*arguments: str) -> None:
    """Run the pinned compiler with this environment's plugins."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    well_known = Path(_grpc_tools()) / "_proto"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", f"-I{well_known}", *arguments]
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})


def _grpc_tools() -> str:
    import grpc_tools

    return str(Path(grpc_tools.__file__).parent)


if __name__ == "__main__":
    target = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(dir=target.resolve().parent) as scratch:
        generate(Path(scratch) / "gen")
        shutil.rmtree(target, ignore_errors=True)
        (Path(scratch) / "gen").rename(target)
