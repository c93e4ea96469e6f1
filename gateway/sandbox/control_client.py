"""The control interface from the other side: what tests and the demo drive a sandbox process with."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import aiohttp
import msgspec

from gateway.errors import GatewayError
from gateway.sandbox.truth import TruthEvent

_truth = msgspec.json.Decoder(TruthEvent)


class ControlError(GatewayError):
    """The sandbox refused a command."""


class ControlClient:
    """Talks to one sandbox. Chats are named as in `describe()`, users by id.

    Commands that have no method of their own here go through `call`.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._http is not None:
            await self._http.close()

    async def call(self, command: str, **arguments: Any) -> Any:
        """Any command by name. Raises ControlError with the sandbox's reason when it refuses."""
        assert self._http is not None
        async with self._http.post(f"{self._url}/{command}", json=arguments) as response:
            answer = await response.json()
        if response.status != 200:
            raise ControlError(answer["error"])
        return answer

    async def describe(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self._get("/")
        return answer

    async def stats(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self._get("/stats")
        return answer

    async def truth(self, user: int, since: int = 0) -> list[TruthEvent]:
        """What the user's account could see, in order."""
        assert self._http is not None
        url = f"{self._url}/truth?user={user}&since={since}"
        async with self._http.get(url) as response:
            body = await response.read()
        if response.status != 200:
            raise ControlError(body.decode())
        return [_truth.decode(line) for line in body.splitlines()]

    async def post(self, chat: str, text: str = "", **how: Any) -> int:
        """The new message's id in its chat."""
        return int((await self.call("post", chat=chat, text=text, **how))["id"])

    async def post_many(self, chat: str, texts: list[str], *, per_push: int = 1) -> list[int]:
        made = await self.call("post_many", chat=chat, texts=texts, per_push=per_push)
        return [int(message["id"]) for message in made]

    async def edit(self, chat: str, message_id: int, text: str) -> None:
        await self.call("edit", chat=chat, message_id=message_id, text=text)

    async def delete(self, chat: str, ids: list[int]) -> list[int]:
        gone: list[int] = await self.call("delete", chat=chat, ids=ids)
        return gone

    async def traffic(
        self,
        rate: float,
        *,
        count: int | None = None,
        mix: dict[str, float] | None = None,
        chats: list[str] | None = None,
        wait: bool = False,
    ) -> dict[str, Any]:
        """Starts traffic; with `wait` and a `count`, returns the counts when all of it has been made."""
        answer: dict[str, Any] = await self.call(
            "traffic", rate=rate, count=count, mix=mix, chats=chats, wait=wait
        )
        return answer

    async def stop_traffic(self) -> dict[str, Any]:
        answer: dict[str, Any] = await self.call("stop_traffic")
        return answer

    async def restart(self, down_seconds: float = 0.0) -> None:
        await self.call("restart", down_seconds=down_seconds)

    async def drop_connections(self, user: int | None = None) -> int:
        return int(await self.call("drop_connections", user=user))

    async def fault(self, name: str, *, user: int | None = None, **how: Any) -> None:
        """stall, release, refuse_connections, fault_pushes, fail_calls or lose_answers, and its arguments."""
        await self.call("fault", name=name, user=user, **how)

    async def clear_faults(self) -> None:
        await self.call("clear_faults")

    async def _get(self, path: str) -> Any:
        assert self._http is not None
        async with self._http.get(f"{self._url}{path}") as response:
            return await response.json()
