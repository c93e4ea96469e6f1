"""Files: downloads of the world's media, and the parts of what clients send."""

from __future__ import annotations

from typing import Any

from telethon.tl import functions, types

from gateway.sandbox.backend import RpcError
from gateway.sandbox.rpc.call import Call, Handlers

handlers = Handlers()

_CHUNK_LIMIT = 1 << 20


@handlers.answers(functions.upload.GetFileRequest)
def get_file(call: Call, request: Any) -> Any:
    media = call.world.media.get(getattr(request.location, "id", 0))
    if media is None:
        raise RpcError(400, "LOCATION_INVALID")
    if request.location.access_hash != call.world.access_hash(call.me, "media", media.id):
        raise RpcError(400, "FILE_REFERENCE_INVALID")
    if not 0 < request.limit <= _CHUNK_LIMIT:
        raise RpcError(400, "LIMIT_INVALID")
    kind = types.storage.FileJpeg() if media.kind == "photo" else types.storage.FileUnknown()
    return types.upload.File(kind, media.date, media.data[request.offset : request.offset + request.limit])


@handlers.answers(functions.upload.SaveFilePartRequest, functions.upload.SaveBigFilePartRequest)
def save_file_part(call: Call, request: Any) -> Any:
    call.services.uploads.setdefault(request.file_id, {})[request.file_part] = request.bytes
    return True
