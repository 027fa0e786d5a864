"""The journal of a reply, against a plain list of deltas."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reply_forms import META

from cfchat.app.kept.journal import BASE, READ, READ_ENTRIES, Journal
from cfchat.conversation.model import Delta, Source, ToolCall
from cfchat.replies.events import Events
from cfchat.replies.form import Form
from cfchat.replies.openai import Chunks, Completion
from cfchat.replies.text import Text
from cfchat.replies.ui_message import UIMessage
from cfchat.replies.whole import Whole

WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.just("word " * 2000)
CALLS = st.lists(st.builds(ToolCall, st.integers(0, 3), st.just("id"), WORDS, WORDS), max_size=2).map(tuple)
PAGES = st.sampled_from([Source("A page"), Source("Another", "https://a.example", 0.5)])
SOURCES = st.lists(PAGES, max_size=2).map(tuple)
DELTAS = st.builds(Delta, WORDS, st.sampled_from([None, None, "stop"]), st.just(None), WORDS, CALLS, SOURCES)
FORMS: tuple[Callable[[], Form], ...] = (
    *(lambda: Events(True), lambda: UIMessage(True), lambda: UIMessage(), Text),
    *(lambda: Whole(True), lambda: Chunks(True, True), lambda: Completion(True)),
)


def entries_of(batch: Sequence[Delta]) -> list[Delta]:
    """Return what a batch says, in the order in which every form says it."""
    sources = tuple(source for delta in batch for source in delta.sources)
    reasoning = "".join(delta.reasoning for delta in batch)
    text = "".join(delta.text for delta in batch)
    rest = [delta._replace(text="", reasoning="", sources=()) for delta in batch]
    words = (Delta(sources=sources), Delta(reasoning=reasoning), Delta(text))
    return [delta for delta in (*words, *rest) if delta != Delta()]


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


@given(st.lists(st.lists(DELTAS, min_size=1, max_size=3), max_size=5), st.sampled_from(FORMS))
def test_a_form_says_the_same_of_its_entries_as_of_the_reply_itself(
    batches: list[list[Delta]], make: Callable[[], Form]
) -> None:
    journal, direct, later = Journal(), make(), make()
    said = direct.start(META)
    for batch in [*batches, [Delta("", "stop")]]:
        journal.add(batch)
        said += direct.encode(batch)
    again = later.start(META) + b"".join(later.encode([entry]) for entry in read_all(journal, 0))
    assert again + later.finish() == said + direct.finish()


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
