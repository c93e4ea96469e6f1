"""The answers to polls, kept with the page of Redis that they were made of: many ask for the same bytes."""

import gzip
from collections.abc import Callable, Hashable
from typing import NamedTuple

from fastapi import Request, Response

from gateway.api.caching import COMPRESSED_BYTES, COMPRESSION_LEVEL, answer, etag_of
from gateway.api.message_model import encode_hot_page
from gateway.read import HotPage

KEPT_ANSWERS = 2  # of one page: for callers who see other chats, compressed and not
LARGEST_INLINE = 128 << 10  # bytes; the layer above compresses what is larger in a thread


class _Made(NamedTuple):
    body: bytes
    etag: str
    encoding: str | None


def hot_answer(
    request: Request, page: HotPage, view: Hashable, next_cursor: Callable[[], str | None]
) -> Response:
    """The page as it is sent to whoever has the same `view` of it, with the cursor of what follows."""
    # The rule of Starlette's GZipMiddleware, which leaves alone what is compressed.
    takes_gzip = "gzip" in request.headers.get("accept-encoding", "")
    made: _Made | None = page.made.get((view, takes_gzip))
    if made is None:
        made = _make(page, next_cursor(), takes_gzip)
        if len(page.made) >= KEPT_ANSWERS:
            page.made.clear()
        page.made[view, takes_gzip] = made
    return answer(request, made.body, headers={"X-Source": "redis"}, etag=made.etag, encoding=made.encoding)


def _make(page: HotPage, cursor: str | None, takes_gzip: bool) -> _Made:
    body = encode_hot_page(page, cursor)
    etag = etag_of(body)
    if takes_gzip and COMPRESSED_BYTES <= len(body) <= LARGEST_INLINE:
        return _Made(gzip.compress(body, COMPRESSION_LEVEL, mtime=0), etag, "gzip")
    return _Made(body, etag, None)
