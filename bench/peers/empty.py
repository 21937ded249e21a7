"""An empty unary call on `grpc.aio` with uvloop: its calls per second on one core are C, the unit of our budgets.

The method is `/finalbell.bench.Empty/Call`; request and reply have no bytes, and nothing encodes or decodes them.

python -m bench.peers.empty --port 6000
"""

import argparse
import asyncio
import signal

import grpc
import grpc.aio
import uvloop

SERVICE = "finalbell.bench.Empty"


async def call(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
    """Do nothing."""
    return b""


async def serve(port: int) -> None:
    """Serve until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(SERVICE, {"Call": grpc.unary_unary_rpc_method_handler(call)})]
    )
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    print("ready", flush=True)
    await stop.wait()
    await server.stop(1)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
