"""A reply whose tokens come when a test says so."""

from __future__ import annotations

from standin import head_of

CHUNKED = head_of(200, [("content-type", "text/event-stream"), ("transfer-encoding", "chunked")])


BODY = b'[{"role":"user","content":"Hello"}]'


ASK = b"POST /api/chatbot HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY
