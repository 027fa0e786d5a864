"""The way to Cloudflare: its JSON, when to try again, which connection, one exchange on it."""
