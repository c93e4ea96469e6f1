"""A loopback Telegram: an MTProto server for the demo, for consumers' developers, and for every end-to-end test."""
