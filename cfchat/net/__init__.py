"""Bytes over sockets, for both doors: streams, TLS in memory, deadlines, listening. Knows no HTTP."""
