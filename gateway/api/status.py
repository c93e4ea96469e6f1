"""Health, readiness and metrics of the API itself, and what the daemon says of the gateway."""

import asyncio
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import Field
from starlette.responses import Response

from gateway.api.auth import Admin, Reader
from gateway.api.model import ApiModel, Moment
from gateway.api.problems import unavailable
from gateway.api.resources import Resources
from gateway.errors import GatewayNotRunning

router = APIRouter()
_NO_STORE = {"Cache-Control": "no-store"}


class Health(ApiModel):
    """How the API is; `problems` says of each server that is not well what is wrong."""

    status: Literal["healthy", "degraded", "down"]
    problems: dict[str, str]


class Readiness(ApiModel):
    """Whether requests should be sent here."""

    ready: bool


class AccountStatus(ApiModel):
    """A Telegram account that the daemon runs."""

    account: str
    state: Literal["connecting", "connected", "waiting", "dead"]
    reason: str | None
    since: Moment
    user_id: int | None
    channels: int = Field(description="How many channels' update state is known.")
    reconnects: int
    open_gaps: int
    lease_epoch: int | None


class JournalStatus(ApiModel):
    """The journal's extent."""

    rows: int
    bytes: int
    limit_bytes: int
    last_seq: int
    full: bool


class SinkStatus(ApiModel):
    """A sink's place in the journal."""

    name: str
    up: bool
    reason: str | None
    cursor: int
    lag_events: int
    oldest_undelivered: Moment | None
    quarantined: int


class GatewayStatus(ApiModel):
    """The daemon at this moment; everything but `reachable` is absent when it does not answer."""

    reachable: bool
    version: str | None = None
    ready: bool | None = None
    health: Literal["healthy", "degraded", "down"] | None = None
    problems: list[str] = Field(default=[])
    accounts: list[AccountStatus] = Field(default=[])
    journal: JournalStatus | None = None
    sinks: list[SinkStatus] = Field(default=[])


class OpenGap(ApiModel):
    """Message ids of a chat that are known to exist, or to have existed, and are not here yet."""

    account: str
    channel_id: str | None = Field(
        description="Null for private chats and basic groups, which share their ids.",
        examples=["-1001649127710"],
    )
    first_id: int
    last_id: int
    source: str = Field(description="What showed that something is missing.")
    reread: bool = Field(description="Nothing is missing, but what is known may have changed.")
    since: Moment


class OpenGaps(ApiModel):
    """The open gaps, newest first; `total` counts also those beyond the ones listed."""

    total: int
    gaps: list[OpenGap]


@router.get("/health", tags=["operations"], responses={503: {"model": Health, "description": "Down."}})
async def health(request: Request, response: Response) -> Health:
    """Healthy, degraded (and by what), or down (503): without PostgreSQL and Redis nothing can be read."""
    verdict = await _resources(request).health.verdict()
    response.headers.update(_NO_STORE)
    if verdict.status == "down":
        response.status_code = 503
    return Health(status=verdict.status, problems=verdict.problems)


@router.get("/ready", tags=["operations"], responses={503: {"model": Readiness, "description": "Not ready."}})
async def ready(request: Request, response: Response) -> Readiness:
    """Whether requests should be sent here: not while it stops, and not while it could answer none."""
    resources = _resources(request)
    is_ready = not resources.stopping.is_set() and (await resources.health.verdict()).status != "down"
    response.headers.update(_NO_STORE)
    if not is_ready:
        response.status_code = 503
    return Readiness(ready=is_ready)


@router.get(
    "/metrics",
    tags=["operations"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(request: Request) -> Response:
    """This process's metrics, for Prometheus."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


@router.get("/api/gateway/status", tags=["gateway"])
async def gateway_status(request: Request, response: Response, _caller: Reader) -> GatewayStatus:
    """The daemon's accounts, journal and sinks. `reachable` is false when it does not answer."""
    daemon = _resources(request).daemon
    response.headers.update(_NO_STORE)
    try:
        status, its_health = await asyncio.gather(daemon.status(), daemon.health())
    except GatewayNotRunning:
        return GatewayStatus(reachable=False)
    return GatewayStatus.model_validate(
        {
            "reachable": True,
            "health": its_health["status"],
            **{name: status[name] for name in ("version", "ready", "problems")},
            "accounts": [_known(AccountStatus, account) for account in status["accounts"]],
            "journal": _known(JournalStatus, status["journal"]),
            "sinks": [_known(SinkStatus, sink) for sink in status["sinks"]],
        }
    )


@router.get("/api/gateway/gaps", tags=["gateway"])
async def gateway_gaps(
    request: Request,
    response: Response,
    _caller: Admin,
    limit: Annotated[int, Query(ge=1, le=500, examples=[100])] = 100,
) -> OpenGaps:
    """The ranges of messages that the daemon is still fetching, or cannot fetch."""
    try:
        found = await _resources(request).daemon.gaps()
    except GatewayNotRunning:
        raise unavailable("The daemon does not answer; only it knows the gaps.") from None
    response.headers.update(_NO_STORE)
    return OpenGaps(total=found["total"], gaps=[_known(OpenGap, gap) for gap in found["gaps"][:limit]])


def _resources(request: Request) -> Resources:
    resources: Resources = request.app.state.resources
    return resources


def _known(model: type[ApiModel], value: dict[str, Any]) -> Any:
    # The daemon may be of another version while one of the two is being upgraded.
    return model.model_validate({name: value[name] for name in model.model_fields if name in value})
