"""A gateway that stays logged in to Telegram and hands every message on exactly once."""

__version__ = "0.1.0"
