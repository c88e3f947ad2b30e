"""Who may connect: keys, the folder of allowed ones, and the gate before the daemon's sockets."""

from streamer.access.keys import ClientKeys, KeyFileError

__all__ = ["ClientKeys", "KeyFileError"]
