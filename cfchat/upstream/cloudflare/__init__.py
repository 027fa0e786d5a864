"""Cloudflare's JSON: what is sent to it, and what comes back. Pure."""
