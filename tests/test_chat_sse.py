"""The reader of event streams, cut at every place."""

import json

import pytest

from kimi_nb.chat import sse
from kimi_nb.chat.sse import EventReader

# U+2028, U+0085 and a form feed are line ends to str.splitlines, and were trouble to readers built on it.
TEXTS = ["plain", "a\u2028b", "a\x85b", "a\x0cb", "ü 你好 \U0001f600", "[DONE]", ""]


def event_data(pieces):
    reader = EventReader()
    for piece in pieces:
        yield from reader.feed(piece)
    yield from reader.end()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_events_come_out_whole_wherever_the_pieces_are_cut(end, size):
    told = (
        f"event: message{end}data: {json.dumps(text, ensure_ascii=False)}{end}{end}:{end}{end}"
        for text in TEXTS
    )
    stream = f": a comment{end}{end}{''.join(told)}".encode()
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert [json.loads(data) for data in event_data(pieces)] == TEXTS


def test_an_event_of_several_lines_is_one_and_the_last_empty_line_may_be_missing():
    assert list(event_data([b"data: {\ndata:1}\n\n", b"data: x\n", b"data: y"])) == [b"{\n1}", b"x\ny"]
    assert list(event_data([])) == []


def test_a_line_without_end_is_given_up(monkeypatch):
    monkeypatch.setattr(sse, "_LONGEST", 1000)
    with pytest.raises(ValueError, match="never ends"):
        list(event_data(b"data: aaaaaaaa" for _ in range(1_000_000)))
