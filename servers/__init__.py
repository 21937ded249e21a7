"""The services."""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
"""Where a service forks, it starts another program: what gRPC does about forks would only write a line to the log each time. It
reads this when it is imported."""
