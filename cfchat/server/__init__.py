"""An HTTP/1.1 server. Knows no chat."""
