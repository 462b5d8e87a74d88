"""What the shipped nano can do, on a real server; ``benchmarks/judge_nano.py`` asks for much more of the same."""

import json

import pytest

from kimi_nb.files import sha256_file
from kimi_nb.nano import nano_facts, nano_path
from kimi_nb.nano.exam import examine, held_out
from kimi_nb.nano.world import EDITION

pytestmark = pytest.mark.engine


def test_held_out_conversations(server):
    """The bounds are what 100 answers can show of the shares that the model card states for 2,000."""
    tally = examine(server.engine, held_out(404, 100), at_once=2)
    report = {question: tally.wrong[question, kind] for question, kind in tally.wrong}
    assert tally.count("format kept")[1] >= 100
    assert tally.share("format kept") == 1, report
    assert tally.share("mode obeyed") == 1, report
    assert tally.share("decision") >= 0.95, report
    assert tally.share("exact call") >= 0.8, report
    assert tally.share("answer from result") >= 0.95, report


def test_the_recommended_sampling_keeps_the_format(server):
    tally = examine(server.engine, held_out(405, 24), sampled=True, at_once=2)
    assert tally.count("format kept")[1] >= 24
    assert tally.share("format kept") >= 0.9, dict(tally.wrong)


def test_the_exam_covers_the_world():
    samples = held_out(1, 1500)
    kinds = {sample.kind for sample in samples}
    assert kinds >= {"talk", "facts", "sum", "units", "list", "rewrite"}
    assert kinds >= {
        f"tool.{kind}" for kind in ("single", "parallel", "mixed", "chain", "several", "error", "none")
    }
    assert kinds >= {"tool.foreign", "tool.own"}
    assert {sample.thinking for sample in samples} == {True, False}
    assert nano_facts()["world"] == EDITION, "the weights learnt another edition than the exam asks for"


def test_the_shipped_file_is_the_one_that_was_measured():
    assert sha256_file(nano_path()) == nano_facts()["sha256"]
    assert nano_path().stat().st_size <= 20_000_000
    card = (nano_path().parents[1] / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert nano_facts()["sha256"] in card


def test_the_exam_finds_faults(server):
    """An exam that cannot fail shows nothing: a server that may write two tokens fails it."""
    from unittest.mock import patch

    with patch("kimi_nb.nano.exam._LONGEST", 2):
        tally = examine(server.engine, held_out(404, 2)[:2], at_once=1)
    assert tally.share("format kept") == 0
    assert json.dumps(list(tally.wrong.values()))
