"""Files: downloads of the world's media, and the parts of what clients send."""

from __future__ import annotations

from typing import Any

from telethon.tl import functions, types

from gateway.sandbox.backend import RpcError
from gateway.sandbox.messages import Media
from gateway.sandbox.rpc.call import Call, Handlers

handlers = Handlers()

# https://core.telegram.org/api/files#downloading-files
FILE_DC_ID = 4  # the other data centre: at the same address, for keys that came with an exported login
_BLOCK = 4096
_MEGABYTE = 1 << 20


@handlers.answers(functions.upload.GetFileRequest)
def get_file(call: Call, request: Any) -> Any:
    media = _located(call, request.location)
    if media.id in call.world.elsewhere and call.session.auth_key_id not in call.services.accounts.visitors:
        raise RpcError(303, f"FILE_MIGRATE_{FILE_DC_ID}")
    offset, limit = request.offset, request.limit
    if offset < 0 or offset % _BLOCK:
        raise RpcError(400, "OFFSET_INVALID")
    if limit <= 0 or limit % _BLOCK or _MEGABYTE % limit:
        raise RpcError(400, "LIMIT_INVALID")
    if offset // _MEGABYTE != (offset + limit - 1) // _MEGABYTE:
        raise RpcError(400, "LIMIT_INVALID")
    part = media.data[offset : offset + limit]
    call.world.served.append((media.id, offset, len(part)))
    kind = types.storage.FileJpeg() if media.kind == "photo" else types.storage.FileUnknown()
    return types.upload.File(kind, media.date, part)


def _located(call: Call, location: Any) -> Media:
    """The media of an InputFileLocation, if the caller may have it."""
    media = call.world.media.get(getattr(location, "id", 0))
    if media is None or location.access_hash != call.world.access_hash(call.me, "media", media.id):
        raise RpcError(400, "LOCATION_INVALID")
    wanted = {"photo": types.InputPhotoFileLocation, "document": types.InputDocumentFileLocation}
    if not isinstance(location, wanted[media.kind]):
        raise RpcError(400, "LOCATION_INVALID")
    if location.file_reference != call.world.file_reference:
        raise RpcError(400, "FILE_REFERENCE_EXPIRED")
    return media


@handlers.answers(functions.upload.SaveFilePartRequest, functions.upload.SaveBigFilePartRequest)
def save_file_part(call: Call, request: Any) -> Any:
    call.services.uploads.setdefault(request.file_id, {})[request.file_part] = request.bytes
    return True
