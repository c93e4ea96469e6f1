"""Runs the API: uvicorn inside our own loop, told to stop by SIGTERM, known to systemd.

Stop order: STOPPING=1, live streams end, no new connections, requests under way finish for a bounded time.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Generator

import structlog
import uvicorn

from gateway import __version__
from gateway.api.app import create_app
from gateway.api.resources import Resources
from gateway.errors import ConfigurationError, GatewayError
from gateway.settings import Settings
from gateway.systemd import Notifier, Watchdog

log = structlog.get_logger()

STOP_SECONDS = 10  # how long requests under way may take once the API was told to stop
IDLE_CONNECTION_SECONDS = 75
WAITING_CONNECTIONS = 1024


class Server(uvicorn.Server):
    """uvicorn's server, except that signals are ours and that one can wait for it to listen."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Leaves the signals alone."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Starts the application, then listens."""
        try:
            await super().startup(sockets)
        except SystemExit:
            raise GatewayError("the API could not start; the log says why") from None
        self.listening.set()


async def serve(settings: Settings, notifier: Notifier) -> None:
    """Runs until SIGTERM or SIGINT. Raises ConfigurationError when the address cannot be bound."""
    app = create_app(settings)
    listener = _bind(settings.api_addr)
    server = Server(
        uvicorn.Config(
            app,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=IDLE_CONNECTION_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
    )
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if server.should_exit:
            server.force_exit = True
            return
        log.info("api_stopping")
        notifier.stopping("finishing what is under way")
        resources: Resources | None = getattr(app.state, "resources", None)
        if resources is not None:
            resources.stopping.set()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(server.serve(sockets=[listener]), name="server")
            watching = group.create_task(_watch(server, notifier, listener), name="watchdog")
            await running
            watching.cancel()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        listener.close()
    log.info("api_stopped")


async def _watch(server: Server, notifier: Notifier, listener: socket.socket) -> None:
    """Says READY once requests are answered, then feeds systemd's watchdog; ends with a lost application."""
    await server.listening.wait()
    host, port = listener.getsockname()[:2]
    log.info("api_ready", version=__version__, host=host, port=port)
    notifier.ready(f"listening on {host}:{port}")
    async with asyncio.TaskGroup() as group:
        feeding = group.create_task(Watchdog(notifier).run(), name="feed")
        await server.lifespan.shutdown_event.wait()
        feeding.cancel()
    if not server.should_exit:
        raise GatewayError("a part of the API ended; the log says why")


def _bind(address: tuple[str, int]) -> socket.socket:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(WAITING_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"TELEGRAM_API_ADDR: cannot listen on {host}:{port} ({error.strerror}); "
            "another API may be running, or choose another port"
        ) from None
    return listener
