"""Optional download of what messages carry: behind the journal, beside the sinks, and never in their way."""

from gateway.media.downloads import MediaDownloads

__all__ = ["MediaDownloads"]
