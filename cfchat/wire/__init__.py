"""Bytes to meaning and back, without I/O: HTTP/1.1 messages and event streams."""
