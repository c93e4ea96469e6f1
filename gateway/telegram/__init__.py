"""The Telegram side: one client per account, and the conversion of its updates into events."""
