"""Moves in from the old containerised stack, and back: sessions, messages, and where a consumer stood.

The two databases are compared by checksums per chat and day, and only what differs is carried over. So every
phase can be run again at any time, from whatever point the last run came to.
"""
