"""What the database would drop at once must not be fetched or imported in the first place."""

from datetime import datetime

from gateway.errors import ConfigurationError
from gateway.event import utc_now
from gateway.settings import Settings


def refuse_beyond_retention(settings: Settings, since: datetime) -> None:
    """Raises ConfigurationError when messages since `since` are older than the database keeps them."""
    keep = settings.db_retention
    if not settings.enable_db or keep is None:
        return
    horizon = utc_now() - keep
    if since < horizon:
        days = f"{keep.total_seconds() / 86400:g} days"
        raise ConfigurationError(
            f"messages since {since:%F %T %Z} are asked for, but the database drops what is older than "
            f"{days} (TELEGRAM_DB_RETENTION): choose {horizon:%F %T %Z} or later, or set a longer time, or "
            "off, and run telegram-gateway db migrate, which puts it into effect"
        )
