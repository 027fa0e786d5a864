"""The stand-in model of `--demo`: ELIZA, behind the API of Cloudflare."""
