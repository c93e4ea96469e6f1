"""The server's own particulars."""

from __future__ import annotations

from typing import Any

from telethon.tl import functions, types

from gateway.sandbox.rpc.call import Call, Handlers
from gateway.sandbox.rpc.upload import FILE_DC_ID
from gateway.sandbox.tl import DC_ID

handlers = Handlers()


@handlers.answers(functions.help.GetConfigRequest, open=True)
def get_config(call: Call, request: Any) -> Any:
    host, port = call.services.address()
    now = call.world.now()
    return types.Config(
        date=now,
        expires=now + 3600,
        test_mode=False,
        this_dc=DC_ID,
        dc_options=[types.DcOption(dc, host, port) for dc in (DC_ID, FILE_DC_ID)],
        dc_txt_domain_name="",
        chat_size_max=200,
        megagroup_size_max=200_000,
        forwarded_count_max=100,
        online_update_period_ms=210_000,
        offline_blur_timeout_ms=5_000,
        offline_idle_timeout_ms=30_000,
        online_cloud_timeout_ms=300_000,
        notify_cloud_delay_ms=30_000,
        notify_default_delay_ms=1_500,
        push_chat_period_ms=60_000,
        push_chat_limit=2,
        edit_time_limit=172_800,
        revoke_time_limit=2**31 - 1,
        revoke_pm_time_limit=2**31 - 1,
        rating_e_decay=2_419_200,
        stickers_recent_limit=200,
        channels_read_media_period=604_800,
        call_receive_timeout_ms=20_000,
        call_ring_timeout_ms=90_000,
        call_connect_timeout_ms=30_000,
        call_packet_timeout_ms=10_000,
        me_url_prefix="https://t.me/",
        caption_length_max=1_024,
        message_length_max=4_096,
        webfile_dc_id=DC_ID,
    )


@handlers.answers(functions.help.GetNearestDcRequest, open=True)
def get_nearest_dc(call: Call, request: Any) -> Any:
    return types.NearestDc("BR", DC_ID, DC_ID)


@handlers.answers(functions.help.GetAppConfigRequest, open=True)
def get_app_config(call: Call, request: Any) -> Any:
    return types.help.AppConfig(1, types.JsonObject([]))


@handlers.answers(functions.help.GetCdnConfigRequest, open=True)
def get_cdn_config(call: Call, request: Any) -> Any:
    return types.CdnConfig([])
