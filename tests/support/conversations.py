"""Generators of conversations."""

from __future__ import annotations

from hypothesis import strategies as st

from cfchat.conversation.model import Message

ROUND = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text()), max_size=6)

TALKS = st.lists(
    st.builds(Message, st.sampled_from(("system", "user", "user", "assistant")), st.text(max_size=40)), max_size=12
)
