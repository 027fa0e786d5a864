"""Images of a user's message: which URLs are images, every shape that clients send, and refusals of the rest."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pictures import FIRST_BYTES, GIF, PNG, asked, url_of, url_of_size

from cfchat.conversation.images import MOST_BYTES, Image, check_model
from cfchat.conversation.model import Message
from cfchat.conversation.openai import parse_completion
from cfchat.conversation.parse import Limits, parse_conversation
from cfchat.conversation.responses import parse_response
from cfchat.errors import BadChatRequest, BadOption, InvalidImage
from cfchat.upstream.cloudflare.request import encode_question

LIMITS = Limits(images=2)


def parse(document: object, limits: Limits = LIMITS) -> tuple[Message, ...]:
    return parse_conversation(json.dumps(document).encode(), limits).messages


# --- which URLs are images ------------------------------------------------------------------------


def is_image(url: str) -> bool:
    """The slow way: what the URL says, all of it decoded, and its first bytes."""
    head, comma, payload = url.partition(",")
    scheme, _, rest = head.partition(":")
    media_type, _, coding = rest.partition(";")
    if not comma or (scheme.lower(), coding.lower()) != ("data", "base64") or not head.isascii():
        return False
    try:
        data = base64.b64decode(payload, validate=True)
    except (ValueError, binascii.Error):
        return False
    begins = {
        "image/png": data[:8] == b"\x89PNG\r\n\x1a\n",
        "image/jpeg": data[:3] == b"\xff\xd8\xff",
        "image/webp": data[:4] == b"RIFF" and data[8:12] == b"WEBP",
        "image/gif": data[:6] in (b"GIF87a", b"GIF89a"),
    }
    # Python's own decoder takes more padding than there may be.
    return begins.get(media_type.lower(), False) and len(base64.b64encode(data)) == len(payload)


def accepted(url: str) -> bool:
    try:
        Image(url)
    except InvalidImage as error:
        assert error.code == "invalid_image" and len(error.message) < 100
        return False
    return True


HEADS = st.sampled_from([f"data:{kind};base64," for kind in FIRST_BYTES]).flatmap(
    lambda head: st.sampled_from([head, head, head.upper(), head.title(), head[1:], head.replace(";", "; "), head[:-1]])
) | st.sampled_from(
    [
        "data:image/svg+xml;base64,",
        "data:image/jpg;base64,",
        "data:image/png,",
        "data:;base64,",
        "data:image/png;a=b;base64,",
    ]
    + ["blob:https://a.example/", "https://a.example/a.png?", "data:image/png;ba\u017fe64,"]
)
DATA = st.builds(bytes.__add__, st.sampled_from([*FIRST_BYTES.values(), b"GIF87a", b"GIF88a", b"<svg"]), st.binary())
PAYLOADS = DATA.map(lambda data: base64.b64encode(data).decode())

OTHERS = st.sampled_from(["=", "==", "-", "_", " ", "\n", "\0", "A", "%3D", "\u00e9", "\u212a", "\ud800"])


@st.composite
def broken(draw: Callable[[Any], Any]) -> str:
    """Base64 with something put into it or taken away."""
    payload: str = draw(PAYLOADS)
    at = draw(st.integers(0, len(payload)))
    more: str = draw(OTHERS | st.just(""))
    return payload[:at] + more + payload[at + draw(st.integers(0, 3)) :]


@given(HEADS, PAYLOADS | broken())
@example("data:image/gif;base64,", "R0lGODdh====")
@example("data:image/gif;base64,", "R0lGODdhA===")
@example("data:image/gif;base64,", "R0lGODdh\n")
@example("data:image/gif;base64,", "")
@example("data:image/jpeg;base64,", "/9j/AB==")
def test_an_image_is_what_the_slow_way_finds_one(head: str, payload: str) -> None:
    assert accepted(head + payload) == is_image(head + payload)


@given(st.integers(0, 400_000), st.sampled_from("=-_ \u00e9\x00"))
def test_no_place_is_left_unchecked(at: int, character: str) -> None:
    url = LARGE
    at += len("data:image/png;base64,")
    assert not accepted(url[:at] + character + url[at + 1 :])


LARGE = url_of_size(300_001)


@given(HEADS, DATA)
@example("DATA:image/PNG;Base64,", FIRST_BYTES["image/png"])
def test_what_is_accepted_is_told_as_it_is(head: str, data: bytes) -> None:
    url = head + base64.b64encode(data).decode()
    if accepted(url):
        image = Image(url)
        assert image.read() == data and image.size == len(data)
        assert image.url == url_of(data, image.media_type) and image == Image(image.url)
        assert repr(image) == f"Image({image.media_type}, {len(data)} bytes)"


@pytest.mark.parametrize("more", [0, 1, 2, 3])
def test_an_image_has_4_mib_at_most(more: int) -> None:
    assert accepted(url_of_size(MOST_BYTES - more))
    with pytest.raises(InvalidImage, match="4 MiB"):
        Image(url_of_size(MOST_BYTES + 1 + more))


# --- the shapes of clients --------------------------------------------------------------------------

TEXT = {"type": "text", "text": "What is this?"}
PARTS: dict[str, Callable[[str], dict[str, object]]] = {
    "chat completions": lambda url: {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
    "chat completions, bare": lambda url: {"type": "image_url", "image_url": url},
    "responses": lambda url: {"type": "input_image", "image_url": url, "detail": "auto"},
    "AI SDK": lambda url: {"type": "file", "mediaType": url[5:14], "filename": "a.png", "url": url},
    "AI SDK, any image": lambda url: {"type": "file", "mediaType": "IMAGE/*", "url": url},
    "AI SDK, no type": lambda url: {"type": "file", "url": url},
    "AI SDK, prompt": lambda url: {"type": "image", "image": url, "mediaType": "image/png"},
    "AI SDK 4": lambda url: {"type": "file", "mimeType": "image/png", "data": url},
}
BESIDE: dict[str, Callable[[str], dict[str, object]]] = {
    "deep-chat": lambda url: {"text": TEXT["text"], "files": [{"src": url, "type": "image", "name": "a.png"}]},
    "deep-chat, any": lambda url: {"text": TEXT["text"], "files": [{"src": url, "type": "any"}]},
    "AI SDK 4": lambda url: {
        "content": TEXT["text"],
        "parts": [TEXT],
        "experimental_attachments": [{"name": "a.png", "contentType": "image/png", "url": url}],
    },
}


def placed(key: str, part: Callable[[str], dict[str, object]]) -> Callable[[str], dict[str, object]]:
    return lambda url: {key: [TEXT, part(url)]}


SHAPES = {
    **{f"{name} in {key}": placed(key, part) for name, part in PARTS.items() for key in ("content", "parts")},
    **BESIDE,
}
WIRES: dict[str, Callable[[bytes, Limits], tuple[Message, ...]]] = {
    "chatbot": lambda body, limits: parse_conversation(body, limits).messages,
    "completions": lambda body, limits: parse_completion(body, limits).conversation.messages,
    "responses": lambda body, limits: (
        parse_response(body.replace(b'"messages"', b'"input"'), limits).conversation.messages
    ),
}


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_on_every_wire_is_the_same_message(shape: str, wire: str) -> None:
    body = json.dumps({"messages": [{"role": "user", **SHAPES[shape](PNG)}]}).encode()
    assert WIRES[wire](body, LIMITS) == (Message("user", "What is this?", images=(Image(PNG),)),)


@given(
    st.lists(st.none() | st.tuples(st.sampled_from(sorted(PARTS)), st.sampled_from([PNG, GIF])), max_size=6),
    st.text("ab"),
)
def test_texts_are_joined_and_images_keep_their_order(parts: list[tuple[str, str] | None], text: str) -> None:
    content = [{"type": "text", "text": text} if part is None else PARTS[part[0]](part[1]) for part in parts]
    message = Message("user", text * parts.count(None), images=tuple(Image(part[1]) for part in parts if part))
    assert parse([{"role": "user", "content": content}], Limits(images=6)) == (message,)


def test_an_image_needs_no_text() -> None:
    alone = (Message("user", "", images=(Image(PNG),)),)
    for message in ({"content": [PARTS["chat completions"](PNG)]}, {"files": [{"src": PNG, "type": "image"}]}):
        assert parse([{"role": "user", **message}]) == alone
    assert parse([{"role": "user", "text": "", "files": [{"src": PNG, "type": "image"}]}]) == alone


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://a.example/a.png",
            "http://169.254.169.254/",
            "blob:https://a.example/1",
            "file:///etc/passwd",
            "",
            "x",
        ),
        *(
            "data:",
            "data:image/svg+xml;base64,PHN2Zz4=",
            "data:image/png,%89PNG",
            "data:image/png;base64,",
            None,
            7,
            ["x"],
        ),
        *({}, {"url": None}, {"file_id": "file-1"}, PNG[:-2], PNG + "=", PNG + " ", PNG.replace("png", "gif")),
        PNG.replace("base64,", "base64, ").replace("w", "-"),
    ],
)
@pytest.mark.parametrize("part", PARTS)
def test_another_url_is_refused_with_its_place(part: str, url: Any) -> None:
    sent = {**PARTS[part](PNG)}
    key = next(key for key in ("image_url", "image", "url", "data") if key in sent)
    sent = {**sent, key: url, "mediaType": "image/png"} if part.startswith("AI") else {**sent, key: url}
    with pytest.raises(InvalidImage) as caught:
        parse([{"role": "user", "content": "Hi"}, {"role": "user", "content": [TEXT, sent]}])
    assert (caught.value.status, caught.value.code) == (400, "invalid_image")
    assert caught.value.param == "messages[1].content[1]"


def test_a_url_that_would_have_to_be_fetched_is_refused_with_the_way_out() -> None:
    for url in ("https://a.example/a.png", "file-abc123", "data:image/svg+xml;base64,PHN2Zz4="):
        with pytest.raises(InvalidImage, match="Send the image itself as a data: URL"):
            parse(asked(url))


@pytest.mark.parametrize("most", [0, 2])
@pytest.mark.parametrize("role", ["system", "assistant", "tool"])
def test_only_the_user_sends_images(role: str, most: int) -> None:
    for part in ("chat completions", "responses", "AI SDK, prompt"):
        message = {"role": role, "content": [TEXT, PARTS[part](PNG)], "tool_call_id": "c"}
        with pytest.raises(InvalidImage) as caught:
            parse([message], Limits(images=most))
        assert caught.value.param == "messages[0].content[1]"


def test_the_result_of_a_tool_of_responses_holds_no_image() -> None:
    result = {"type": "function_call_output", "call_id": "c", "output": [PARTS["responses"](PNG)]}
    with pytest.raises(InvalidImage) as caught:
        parse_response(json.dumps({"input": [{"role": "user", "content": "Hi"}, result]}).encode(), LIMITS)
    assert caught.value.param == "input[1].output[0]"


def test_files_that_an_assistant_has_made_are_passed_over() -> None:
    for message in ({"content": [TEXT, PARTS["AI SDK"]("https://a.example/")]}, BESIDE["deep-chat"](PNG)):
        assert parse([{"role": "assistant", **message}]) == (Message("assistant", "What is this?"),)


@pytest.mark.parametrize("shape", SHAPES)
def test_images_that_are_off_are_refused_with_their_place(shape: str) -> None:
    with pytest.raises(InvalidImage, match=r"Images are not accepted here: send text\.") as caught:
        parse([{"role": "user", **SHAPES[shape](PNG)}], Limits())
    assert str(caught.value.param).startswith("messages[0].") and str(caught.value.param).endswith("]")


def test_there_are_so_many_images_in_a_conversation() -> None:
    assert len(parse(asked(PNG) * 2)) == 2
    for many, place in (
        (asked(PNG) * 3, "messages[2].content[1]"),
        ([{"role": "user", "files": [{"src": PNG}] * 3}], "messages[0].files[2]"),
    ):
        with pytest.raises(InvalidImage, match=r"2 images at most") as caught:
            parse(many)
        assert caught.value.param == place
    with pytest.raises(InvalidImage, match=r"1 image at most"):
        parse(asked(PNG) * 2, Limits(images=1))


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"files": [{"src": "data:audio/mp3;base64,AAAA", "type": "audio"}]}, "files[0]"),
        ({"files": [{"src": PNG}, "x"]}, "files[1]"),
        ({"files": {"src": PNG}}, "files"),
        (
            {"experimental_attachments": [{"contentType": "application/pdf", "url": "data:application/pdf,"}]},
            "experimental_attachments[0]",
        ),
        (
            {"content": [{"type": "file", "mediaType": "application/pdf", "url": "data:application/pdf,"}]},
            "content[0].type",
        ),
        ({"content": [{"type": "input_audio", "input_audio": {"data": "", "format": "mp3"}}]}, "content[0].type"),
        ({"content": [{"type": "file", "file": {"file_data": "data:application/pdf,"}}]}, "content[0].type"),
    ],
)
def test_files_of_another_kind_are_refused(message: dict[str, object], param: str) -> None:
    with pytest.raises(BadChatRequest) as caught:
        parse([{"role": "user", "text": "Hi", **message}])
    assert (caught.value.code, caught.value.param) == ("invalid_messages", f"messages[0].{param}")


def test_a_message_without_files_may_say_so() -> None:
    nothing: list[str] | None
    for nothing in ([], None):
        assert parse([{"role": "user", "text": "Hi", "files": nothing}]) == (Message("user", "Hi"),)


def test_a_model_that_does_not_see_is_refused_with_those_that_do() -> None:
    models = ["@cf/a/b", "@cf/c/sees", "@cf/d/sees"]
    check_model(models[1], lambda model: model.endswith("sees"), models)
    with pytest.raises(BadOption, match=r"@cf/c/sees, @cf/d/sees\.") as caught:
        check_model(models[0], lambda model: model.endswith("sees"), models)
    assert (caught.value.code, caught.value.param) == ("invalid_option", "model")
    with pytest.raises(BadOption, match="None does"):
        check_model(models[0], lambda model: False, models)


# --- what it costs ----------------------------------------------------------------------------------


def test_the_largest_body_keeps_the_loop_no_longer_than_decoding_its_json_twice() -> None:
    """Between parsing and encoding the loop has a turn. CPU time of this thread, the best of a few."""
    part = PARTS["chat completions"](url_of_size(3_140_000))
    body = json.dumps([{"role": "user", "content": [TEXT, part, part]}]).encode()
    assert 8_000_000 < len(body) <= 8 << 20

    def cost(work: Callable[[], object]) -> float:
        began = time.thread_time()
        work()
        return time.thread_time() - began

    conversation = parse_conversation(body, LIMITS)
    decoding, parsing, encoding = (
        min(cost(work) for _ in range(4))
        for work in (
            lambda: json.loads(body),
            lambda: parse_conversation(body, LIMITS),
            lambda: encode_question(conversation),
        )
    )
    print("RATIO", parsing / decoding, encoding / decoding, decoding)
    assert parsing <= 2 * decoding and encoding <= 2 * decoding
