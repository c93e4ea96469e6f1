"""The gateway's servers on this machine: PostgreSQL, PgBouncer, Redis with Sentinel and RabbitMQ.

Started from Debian's packages, unprivileged, in one throw-away directory, on free ports, with the very
configuration files that `deploy/` ships. It stands beside the message's way: the demo, the tests and
developers put the sinks' servers up with it.
"""

from gateway.localstack.packages import missing_servers
from gateway.localstack.process import Server, ServerFailed
from gateway.localstack.stack import ALL, LocalStack

__all__ = ["ALL", "LocalStack", "Server", "ServerFailed", "missing_servers"]
