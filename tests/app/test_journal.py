"""The journal of a reply, against a plain list of deltas."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cfchat.app.kept.journal import BASE, READ, READ_ENTRIES, Journal
from cfchat.conversation.model import Delta, ToolCall

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.just("word " * 2000)
CALLS = st.lists(st.builds(ToolCall, st.integers(0, 3), st.just("id"), WORDS, WORDS), max_size=2).map(tuple)
DELTAS = st.builds(Delta, WORDS, st.sampled_from([None, None, "stop"]), st.just(None), WORDS, CALLS)


def entries_of(batch: Sequence[Delta]) -> list[Delta]:
    """Return what a batch says, in the order in which every form says it."""
    reasoning = "".join(delta.reasoning for delta in batch)
    text = "".join(delta.text for delta in batch)
    rest = [delta._replace(text="", reasoning="") for delta in batch]
    return [delta for delta in (Delta(reasoning=reasoning), Delta(text), *rest) if delta != Delta()]


def read_all(journal: Journal, number: int) -> list[Delta]:
    entries: list[Delta] = []
    while more := journal.read(number + len(entries)):
        assert len(more) <= READ_ENTRIES
        assert sum(len(entry.text.encode()) for entry in more[:-1]) <= READ
        entries += more
    return entries


@given(st.data())
def test_it_has_what_a_list_of_deltas_has(data: st.DataObject) -> None:
    journal, all_entries, gone = Journal(), list[Delta](), 0
    for _ in range(data.draw(st.integers(1, 5))):
        batch = data.draw(st.lists(DELTAS, min_size=1, max_size=3))
        journal.add(batch)
        all_entries += entries_of(batch)
        assert len(journal) == len(all_entries)
        gone = data.draw(st.integers(gone, len(all_entries)))
        journal.let_go(gone)
        number = data.draw(st.integers(gone, len(all_entries)))
        assert read_all(journal, number) == all_entries[number:]
    assert journal.written >= sum(len((entry.text + entry.reasoning).encode()) for entry in all_entries)


def test_what_it_has_let_go_of_cannot_be_read() -> None:
    journal = Journal()
    journal.add([Delta("a")])
    journal.add([Delta("b")])
    journal.let_go(2)
    assert journal.read(2) == [] and journal.weight == BASE
    with pytest.raises(IndexError):
        journal.read(1)


def test_it_takes_little_more_memory_than_its_words() -> None:
    batches = [[Delta("word ")]] * 5_000
    tracemalloc.start()
    try:
        journal = Journal()
        for batch in batches:
            journal.add(batch)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert journal.written == 25_000
    assert taken <= journal.weight * 1.25 <= 25_000 * 4


def test_letting_go_moves_each_byte_about_once() -> None:
    """A reader that is always an entry behind: what is kept stays small, however long the reply is."""
    journal = Journal()
    for number in range(2_000):
        journal.add([Delta("word ")])
        journal.let_go(number)
        assert journal.weight - BASE <= 64
