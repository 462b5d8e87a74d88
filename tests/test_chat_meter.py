"""The meter against a clock of our own, and against a server whose clock is known."""

import pytest
from scripted_engine import Act, ScriptedEngine

from kimi_nb.chat import Chat
from kimi_nb.chat.meter import Meter


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def after_three_tokens(*, gap_s):
    clock = Clock()
    meter = Meter(clock)
    for _ in range(3):
        clock.now += gap_s
        meter.token(answer=True)
    return meter


def test_each_figure_follows_its_formula():
    clock = Clock()
    meter = Meter(clock)
    for at, answer in ((0.5, False), (0.6, False), (0.8, True), (0.9, True)):
        clock.now = 100 + at
        meter.token(answer=answer)
    clock.now = 100.92
    meter.finish()
    clock.now = 101.0
    reading = meter.reading(9, {"predicted_per_second": 21.0})
    assert reading.ttft_s == pytest.approx(0.5)
    assert reading.ttfa_s == pytest.approx(0.8)
    assert reading.total_s == pytest.approx(1.0)
    assert reading.tok_s == pytest.approx((9 - 1) / 0.42)
    assert "completion_tokens" in reading.tok_s_formula
    assert reading.gap_p50_ms == pytest.approx(100)
    assert reading.gap_p95_ms == pytest.approx(200)
    assert "19.0 tokens/s, the server says 21.0" in reading.line()


def test_without_the_engines_count_the_chunks_are_counted_and_the_formula_says_so():
    meter = after_three_tokens(gap_s=0.1)
    reading = meter.reading(None)
    assert reading.tok_s == pytest.approx(2 / 0.2)
    assert reading.tok_s_formula.startswith("(chunks - 1) /")


def test_the_hidden_tokens_of_a_tool_call_are_left_to_the_server():
    meter = after_three_tokens(gap_s=0.1)
    meter.finish()
    assert meter.reading(40, calls=True).tok_s is None
    reading = meter.reading(40, {"predicted_per_second": 21.0}, calls=True)
    assert (reading.tok_s, reading.tok_s_formula) == (21.0, "llama-server's predicted_per_second")


def test_an_answer_that_lay_there_when_a_busy_client_came_has_the_servers_speed():
    """A notebook once told of 55,280 tokens/s beside the server's 1,003."""
    meter = after_three_tokens(gap_s=0.0001)
    meter.finish()
    reading = meter.reading(40, {"predicted_per_second": 1003.5})
    assert (reading.tok_s, reading.tok_s_formula) == (1003.5, "llama-server's predicted_per_second")
    assert "1003.5 tokens/s by the server's clock" in reading.line()
    assert "the server says" not in reading.line()
    assert (
        meter.reading(40).tok_s > 100_000
    )  # an engine that tells no speed: what was measured is all there is


@pytest.mark.parametrize("tokens", [0, 1])
def test_too_little_to_measure_gives_no_speed_rather_than_a_wrong_one(tokens):
    clock = Clock()
    meter = Meter(clock)
    for _ in range(tokens):
        meter.token(answer=True)
    reading = meter.reading(tokens)
    assert (reading.tok_s, reading.tok_s_formula, reading.gap_p50_ms) == (None, None, None)
    assert (reading.ttft_s is None) == (tokens == 0)


def test_the_first_chunks_without_a_token_do_not_stop_the_clock():
    pieces = [
        (0, {"role": "assistant", "content": None}),
        (0, {"content": ""}),
        (0.2, {"reasoning_content": "a"}),
    ]
    with ScriptedEngine([Act([*pieces, (0.1, {"content": "b"})])]) as scripted, Chat(scripted.engine) as chat:
        reading = chat.ask("hi").meter
    assert reading.ttft_s >= 0.2
    assert reading.ttfa_s >= reading.ttft_s + 0.09


def test_the_meter_agrees_with_a_server_of_known_timing():
    """Within 2 ms, side by side on one clock; the best of several runs, since the machine may be busy elsewhere."""
    pieces = [
        (0, {"role": "assistant"}),
        (0.05, {"reasoning_content": "a"}),
        *[(0.01, {"content": "b"})] * 20,
    ]
    usage = {"prompt_tokens": 1, "completion_tokens": 21}
    worst = []
    with ScriptedEngine([Act(pieces, usage=usage)]) as scripted, Chat(scripted.engine) as chat:
        chat.ask("warm up")
        for _ in range(8):
            scripted.sent_at.clear()
            scripted.requests.clear()
            reading = chat.ask("hi").meter
            sent = scripted.sent_at[1:22]  # the pieces with tokens
            asked = scripted.requests[0]["at"]
            differences = [
                reading.ttft_s - (sent[0] - asked),
                reading.ttfa_s - (sent[1] - asked),
                20 / reading.tok_s - (sent[-1] - sent[0]),
            ]
            worst.append(max(abs(difference) for difference in differences))
    print(f"worst difference of each run, ms: {[round(1000 * each, 2) for each in worst]}")
    assert min(worst) < 0.002
