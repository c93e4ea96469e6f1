"""Calls that clients make in passing: answered harmlessly, so that nobody stumbles over them."""

from __future__ import annotations

from typing import Any

from telethon.tl import functions, types

from gateway.sandbox import tl
from gateway.sandbox.rpc.call import Call, Handlers

handlers = Handlers()


@handlers.answers(
    functions.account.UpdateStatusRequest,
    functions.account.RegisterDeviceRequest,
    functions.messages.SetTypingRequest,
    functions.messages.ReadMentionsRequest,
    functions.channels.ReadMessageContentsRequest,
    functions.help.SaveAppLogRequest,
)
def done(call: Call, request: Any) -> Any:
    return True


@handlers.answers(
    functions.contacts.GetStatusesRequest,
    functions.messages.ReceivedMessagesRequest,
    functions.messages.GetSplitRangesRequest,
    functions.users.GetRequirementsToContactRequest,
)
def nothing(call: Call, request: Any) -> Any:
    return []


@handlers.answers(functions.langpack.GetLanguagesRequest, open=True)
def get_languages(call: Call, request: Any) -> Any:
    return []


@handlers.answers(functions.langpack.GetLangPackRequest, functions.langpack.GetDifferenceRequest, open=True)
def get_lang_pack(call: Call, request: Any) -> Any:
    return types.LangPackDifference(request.lang_code, 0, 1, [])


@handlers.answers(functions.langpack.GetStringsRequest, open=True)
def get_strings(call: Call, request: Any) -> Any:
    return []


@handlers.answers(functions.account.GetNotifySettingsRequest)
def get_notify_settings(call: Call, request: Any) -> Any:
    return tl.notify_settings()


@handlers.answers(functions.messages.GetDialogFiltersRequest)
def get_dialog_filters(call: Call, request: Any) -> Any:
    return types.messages.DialogFilters([])


@handlers.answers(functions.help.GetTermsOfServiceUpdateRequest, open=True)
def get_terms_of_service_update(call: Call, request: Any) -> Any:
    return types.help.TermsOfServiceUpdateEmpty(call.world.now() + 86_400)


@handlers.answers(functions.account.GetAuthorizationsRequest)
def get_authorizations(call: Call, request: Any) -> Any:
    return types.account.Authorizations(365, [])


@handlers.answers(functions.messages.ReadMessageContentsRequest, functions.messages.ReadReactionsRequest)
def nothing_affected(call: Call, request: Any) -> Any:
    return types.messages.AffectedMessages(call.me.log.pts, 0)
