"""Replies that outlive their connections: their journals, their readers, and how a client finds them again."""
