"""Files of messages, over an account's live connection: found by message id, read in parts from any offset.

Messages are asked for anew just before their files: the answer has a fresh file reference, so none is stored.
"""

import asyncio
import mimetypes
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from telethon import errors, utils
from telethon.client.downloads import _CdnRedirect
from telethon.tl import functions, types

from gateway import metrics
from gateway.errors import DownloadFailed, DownloadPaused
from gateway.telegram.client import GatewayClient
from gateway.telegram.reasons import reason

# A divisor of 1 MB, as upload.getFile wants it; small, because pushes wait behind a part on the connection.
PART_BYTES: Final = 128 << 10
FIND_LIMIT: Final = 100  # messages Telegram looks up in one request
ANSWER_SECONDS: Final = 20.0
LINE_LOST_SECONDS: Final = 2.0

_EXTENSION = re.compile(r"\.[A-Za-z0-9]{1,10}$")
_PASSING = (
    errors.FileReferenceExpiredError,
    errors.FilerefUpgradeNeededError,
    errors.ServerError,
    errors.TimedOutError,
    errors.UnauthorizedError,  # another data centre's; the account's own ends the account
    errors.AuthKeyError,
)
_FLOOD = (errors.FloodWaitError, errors.FloodPremiumWaitError)


@dataclass(frozen=True)
class RemoteFile:
    """A file as Telegram offers it now. `location` is Telegram's, and good for a while."""

    media_id: int
    size: int
    extension: str
    dc_id: int
    location: Any


class TelegramFiles:
    """What one connection can fetch.

    Raises DownloadFailed when Telegram refuses or does not answer, DownloadPaused when the account has to
    wait whatever it asks for.
    """

    def __init__(self, client: GatewayClient) -> None:
        self.account = client.account
        self._client = client

    async def find(self, chat: int, message_ids: Sequence[int]) -> dict[int, RemoteFile]:
        """The files of up to FIND_LIMIT messages of a chat; what is not there, or has none, is left out."""
        wanted = [types.InputMessageID(message_id) for message_id in message_ids]
        channel, kind = utils.resolve_id(chat)
        with self._failures("GetMessages"):
            if kind is types.PeerChannel:
                peer = await self._client.get_input_entity(types.PeerChannel(channel))
                request: Any = functions.channels.GetMessagesRequest(utils.get_input_channel(peer), wanted)
            else:
                request = functions.messages.GetMessagesRequest(wanted)
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._client(request)
        self._client.learn(answer.users, answer.chats)
        found = ((message.id, _remote(getattr(message, "media", None))) for message in answer.messages)
        return {message_id: file for message_id, file in found if file is not None}

    async def parts(self, file: RemoteFile, offset: int) -> AsyncGenerator[bytes, None]:
        """The file from `offset`, a multiple of PART_BYTES, to its end; one request at a time."""
        parts = self._client.iter_download(
            file.location, offset=offset, request_size=PART_BYTES, dc_id=file.dc_id
        )
        try:
            while offset < file.size:
                with self._failures("GetFile"):
                    async with asyncio.timeout(ANSWER_SECONDS):
                        part = bytes(await anext(parts, b""))
                if not part:
                    raise DownloadFailed("incomplete")
                offset += len(part)
                yield part
        finally:
            sender = getattr(parts, "_sender", None)  # absent before the first request
            if sender is not None:
                await parts.close()
                await self._drop_lost(sender)

    async def _drop_lost(self, sender: Any) -> None:
        """Forgets a lost connection to another data centre: Telethon would keep it, and never mend it."""
        borrowed = self._client._borrowed_senders
        for dc_id, (_, kept) in list(borrowed.items()):
            if kept is sender and not sender.is_connected():
                del borrowed[dc_id]
                await sender.disconnect()

    @contextmanager
    def _failures(self, method: str) -> Iterator[None]:
        try:
            yield
        except _FLOOD as error:
            if method == "GetFile":  # which passes the client's own accounting by
                metrics.FLOOD_WAIT_SECONDS.labels(self.account, method).inc(error.seconds)
            raise DownloadPaused(error.seconds, f"{method}: {reason(error)}") from error
        except ConnectionError as error:
            if self._client.is_connected():  # then it is another data centre's line
                raise DownloadFailed("connection lost") from error
            raise DownloadPaused(LINE_LOST_SECONDS, "connection lost") from error
        except _PASSING as error:
            raise DownloadFailed(reason(error)) from error
        except errors.RPCError as error:
            raise DownloadFailed(reason(error), refused=True) from error
        except TimeoutError as error:
            raise DownloadFailed("no answer in time") from error
        except ValueError as error:  # Telethon's word for an access hash that nobody has told it
            raise DownloadFailed("chat unknown", refused=True) from error
        except _CdnRedirect as error:
            raise DownloadFailed("on a content delivery network", refused=True) from error


def _remote(media: Any) -> RemoteFile | None:
    if isinstance(media, types.MessageMediaPhoto) and isinstance(media.photo, types.Photo):
        photo = media.photo
        sizes = [
            size for size in photo.sizes if isinstance(size, types.PhotoSize | types.PhotoSizeProgressive)
        ]
        if not sizes:
            return None
        largest = max(sizes, key=lambda size: size.w * size.h)
        length = max(largest.sizes) if isinstance(largest, types.PhotoSizeProgressive) else largest.size
        location: Any = types.InputPhotoFileLocation(
            photo.id, photo.access_hash, photo.file_reference, thumb_size=largest.type
        )
        return RemoteFile(photo.id, length, ".jpg", photo.dc_id, location)
    if isinstance(media, types.MessageMediaDocument) and isinstance(media.document, types.Document):
        document = media.document
        location = types.InputDocumentFileLocation(
            document.id, document.access_hash, document.file_reference, thumb_size=""
        )
        return RemoteFile(document.id, document.size, _extension(document), document.dc_id, location)
    return None


def _extension(document: Any) -> str:
    for attribute in document.attributes:
        if isinstance(attribute, types.DocumentAttributeFilename) and (
            match := _EXTENSION.search(attribute.file_name)
        ):
            return match[0].lower()
    return mimetypes.guess_extension(document.mime_type) or ""
