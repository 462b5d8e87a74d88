"""Settings: what llama.cpp would refuse late or misread is refused at once, and what passes it understands."""

import argparse
import json
import re
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_nb.errors import UsageError, troubles
from kimi_nb.plan import Settings
from kimi_nb.plan.arguments import add_settings, read_settings
from kimi_nb.plan.knobs import Choice, Flag, JsonObject, Number, Numbers, Switch, Text, Texts

#: A value for every setting, none of them contradicting another.
EVERYTHING = {
    "ctx_size": 4096,
    "parallel": 2,
    "n_gpu_layers": 0,
    "n_cpu_moe": 3,
    "override_tensor": ["exps=CPU", r"blk\.[0-9]+\.attn=CPU"],
    "cache_type_k": "q8_0",
    "cache_type_v": "q8_0",
    "flash_attn": "auto",
    "batch_size": 512,
    "ubatch_size": 256,
    "threads": 2,
    "threads_batch": 2,
    "split_mode": "layer",
    "tensor_split": [3, 1.5],
    "main_gpu": 0,
    "device": "none",
    "fit": "off",
    "fit_target": [1024],
    "fit_ctx": 2048,
    "kv_offload": False,
    "op_offload": False,
    "kv_unified": True,
    "load_mode": "mmap",
    "lazy_mode": "auto",
    "repack": False,
    "no_host": True,
    "numa": "distribute",
    "prio": 0,
    "poll": 50,
    "warmup": True,
    "check_tensors": True,
    "mmproj_offload": False,
    "cache_ram": 256,
    "cache_prompt": True,
    "cache_reuse": 64,
    "ctx_checkpoints": 4,
    "slot_save_path": "/tmp",
    "chat_template": "kimi-k2",
    "chat_template_kwargs": {"thinking": False},
    "jinja": True,
    "reasoning_format": "auto",
    "reasoning_budget": -1,
    "threads_http": 2,
    "timeout": 600,
    "sleep_idle_seconds": -1,
}
#: They name a file that must exist, or contradict the ones above.
NEEDS_MORE = {"cpu_moe", "mmproj", "chat_template_file"}


def refused(**values) -> str:
    with pytest.raises(UsageError) as caught:
        Settings(**values)
    assert caught.value.id in troubles()
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def help_flags(build) -> set[str]:
    shown = subprocess.run(
        [build.program("llama-server"), "--help"], capture_output=True, check=True, timeout=60
    )
    return set(re.findall(r"--[a-z][a-z0-9-]*", shown.stdout.decode()))


def test_everything_above_is_every_setting():
    assert set(EVERYTHING) | NEEDS_MORE == set(Settings.knobs())


def test_nothing_set_writes_nothing():
    assert Settings().argv() == []
    assert Settings().to_dict() == {}


@pytest.mark.engine
@pytest.mark.parametrize("name", Settings.knobs())
def test_llama_server_has_every_flag_that_a_setting_can_write(name, help_flags):
    knob = Settings.knobs()[name]
    values = [True, False] if isinstance(knob, Switch) else [None]
    flags = {word for value in values for word in knob.argv(value)[:1]} if values[0] else {knob.flag}
    assert flags <= help_flags


@pytest.mark.engine
def test_llama_server_reads_every_setting(build):
    """The real program parses all of them and stops only at the model, which is not there."""
    words = [
        build.program("llama-server"),
        *Settings(**EVERYTHING).argv(),
        "--port",
        "0",
        "-m",
        "/nothing.gguf",
    ]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    log = (done.stdout + done.stderr).decode(errors="replace")
    assert "failed to open GGUF file '/nothing.gguf'" in log
    assert "invalid argument" not in log
    assert "error while handling argument" not in log
    assert "specified multiple times" not in log


@pytest.mark.engine
@pytest.mark.parametrize("load_mode", ["auto", "none", "mmap", "mlock", "mmap+mlock", "dio"])
def test_llama_server_knows_every_load_mode(build, load_mode):
    words = [
        build.program("llama-server"),
        *Settings(load_mode=load_mode).argv(),
        "--port",
        "0",
        "-m",
        "/no.gguf",
    ]
    done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert b"failed to open GGUF file '/no.gguf'" in done.stderr


def test_the_flags_that_llama_cpp_dropped_are_never_written():
    for kwargs in ({"load_mode": "none"}, {"load_mode": "mlock"}, {"flash_attn": "on"}):
        assert not {"--no-mmap", "--mmap", "--mlock", "--special"} & set(Settings(**kwargs).argv())


def test_argv_is_what_one_would_type():
    settings = Settings(
        ctx_size=16384,
        n_gpu_layers="all",
        override_tensor=["exps=CPU", "attn=CUDA0"],
        tensor_split=(3, 1),
        kv_offload=False,
        cpu_moe=True,
        chat_template_kwargs={"thinking": False},
    )
    assert settings.argv() == [
        *("--ctx-size", "16384"),
        *("--n-gpu-layers", "all"),
        "--cpu-moe",
        *("--override-tensor", "exps=CPU,attn=CUDA0"),
        *("--tensor-split", "3,1"),
        "--no-kv-offload",
        *("--chat-template-kwargs", '{"thinking": false}'),
    ]


@pytest.mark.parametrize(
    "values",
    [
        {"ctx_size": "8192"},
        {"ctx_size": 8192.5},
        {"ctx_size": -1},
        {"ctx_size": 2**31},
        {"ctx_size": True},
        {"parallel": 0},
        {"n_gpu_layers": "some"},
        {"n_gpu_layers": -1},
        {"cache_type_k": "q3_K"},
        {"flash_attn": "yes"},
        {"load_mode": "no-mmap"},
        {"load_mode": ["mmap"]},
        {"override_tensor": "exps=CPU"},
        {"override_tensor": []},
        {"override_tensor": ["exps"]},
        {"override_tensor": ["=CPU"]},
        {"override_tensor": [r"blk\.(1,2)=CPU"]},
        {"override_tensor": [7]},
        {"tensor_split": [0, 0]},
        {"tensor_split": [1, -1]},
        {"tensor_split": [1, float("nan")]},
        {"tensor_split": [1, "2"]},
        {"tensor_split": "3,1"},
        {"tensor_split": []},
        {"fit_target": [10.5]},
        {"kv_offload": 1},
        {"kv_offload": "yes"},
        {"mmproj": ""},
        {"mmproj": 7},
        {"device": "a\0b"},
        {"chat_template_kwargs": '{"thinking": false}'},
        {"chat_template_kwargs": {"x": float("nan")}},
        {"chat_template_kwargs": {"x": object()}},
        {"chat_template_kwargs": {1: 2}},
        {"numa": "on"},
        {"poll": 101},
    ],
)
def test_a_wrong_value_is_one_clear_line(values):
    message = refused(**values)
    assert message.startswith("KNB501: ")
    assert next(iter(values)) in message


def test_a_flag_of_yaml_is_understood():
    assert Settings(flash_attn=True).flash_attn == "on"
    assert Settings(fit=False).fit == "off"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"cache_type_k": "q8_0"}, "cache_type_v is f16"),
        ({"cache_type_k": "q8_0", "cache_type_v": "q4_0"}, "cache_type_v is q4_0"),
        ({"cache_type_k": "q8_0", "cache_type_v": "q8_0", "flash_attn": "off"}, "flash attention"),
        ({"batch_size": 256, "ubatch_size": 512}, "batch_size 256"),
        ({"cpu_moe": True, "n_cpu_moe": 3}, "n_cpu_moe"),
        ({"chat_template": "kimi-k2", "chat_template_file": "x"}, "chat_template_file"),
        ({"split_mode": "tensor", "flash_attn": "off"}, "flash attention"),
    ],
)
def test_settings_that_exclude_each_other_say_which_and_why(values, words):
    message = refused(**values)
    assert message.startswith("KNB503: ")
    assert words in message


@pytest.mark.engine
def test_llama_cpp_itself_refuses_what_we_refuse_before_it(build, nano):
    """The rules above are llama.cpp's own, not ours: the real program fails on each, after loading."""
    for words, error in (
        (["--cache-type-k", "q8_0"], b"does not support different K"),
        (["--cache-type-k", "q8_0", "--cache-type-v", "q8_0", "--flash-attn", "off"], b"requires flash_attn"),
    ):
        done = subprocess.run(
            [build.program("llama-server"), "--port", "0", "-c", "512", "-m", nano, *words],
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 1
        assert error in done.stderr


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ctx-size", "ctx_size"),
        ("--n-gpu-layer", "n_gpu_layers"),
        ("flash_atn", "flash_attn"),
        ("kv_ofload", "kv_offload"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name, near):
    with pytest.raises(UsageError, match=f"KNB502.*Did you mean {near}"):
        Settings.from_dict({name: 1})


def test_an_unknown_name_far_from_all_gets_the_list():
    with pytest.raises(UsageError, match=r"KNB502.*ctx_size.*timeout"):
        Settings.from_dict({"zzzzzzz": 1})


def test_a_dictionary_and_back_and_through_json():
    settings = Settings.from_dict(EVERYTHING)
    assert settings.to_dict() == EVERYTHING
    assert Settings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert hash(settings) == hash(Settings.from_dict(EVERYTHING))


def test_replace_changes_checks_and_unsets():
    settings = Settings(ctx_size=4096, parallel=2)
    assert settings.replace(ctx_size=None, threads=3) == Settings(parallel=2, threads=3)
    with pytest.raises(UsageError, match="KNB501"):
        settings.replace(parallel=0)
    with pytest.raises(UsageError, match="KNB502"):
        settings.replace(paralel=1)


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(AttributeError):
        Settings().ctx_size = 1


def from_command_line(*words: str) -> Settings:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_settings(parser)
    return read_settings(parser.parse_args(words))


def test_the_command_line_reads_back_what_argv_writes():
    settings = Settings.from_dict(EVERYTHING)
    assert from_command_line(*settings.argv()) == settings
    assert from_command_line() == Settings()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--ctx-size", "8k"], "KNB501: --ctx-size cannot be '8k'.*whole number from 0 up"),
        (["--n-gpu-layers", "most"], "KNB501.*auto, or all"),
        (["--tensor-split", "3,x"], "KNB501"),
        (["--chat-template-kwargs", "{thinking}"], "KNB501.*an object such as"),
        (["--override-tensor", "exps"], "KNB501.*exps=CPU"),
        (["--cache-type-k", "q8_0"], "KNB503"),
    ],
)
def test_a_wrong_word_on_the_command_line(words, error):
    with pytest.raises(UsageError, match=error):
        from_command_line(*words)


TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
SIDE = st.text(st.characters(exclude_characters="\0,=", exclude_categories=["Cs"]), min_size=1, max_size=10)


#: What each kind of knob takes, as hypothesis draws it.
VALUES = {
    Number: lambda knob: st.integers(knob.low, knob.high) | st.sampled_from((*knob.words, knob.low)),
    Choice: lambda knob: st.sampled_from(knob.words),
    Flag: lambda _: st.just(value=True),
    Switch: lambda _: st.booleans(),
    Numbers: lambda knob: st.lists(
        st.integers(1, 10**6) if knob.whole else st.floats(0.001, 1e6), min_size=1, max_size=8
    ).map(tuple),
    Texts: lambda _: st.lists(st.builds("{}={}".format, SIDE, SIDE), min_size=1, max_size=3).map(tuple),
    JsonObject: lambda _: st.dictionaries(TEXT, st.none() | st.booleans() | st.integers() | TEXT, max_size=3),
    Text: lambda _: TEXT,
}


@given(st.data())
def test_whatever_a_knob_takes_survives_the_command_line(data):
    name = data.draw(
        st.sampled_from([name for name in Settings.knobs() if not name.startswith("cache_type")])
    )
    knob = Settings.knobs()[name]
    value = data.draw(VALUES[type(knob)](knob))
    settings = Settings(**{name: value})
    words = settings.argv()
    flag, rest = words[0], words[1:]
    # The equals form, because a text may begin with a dash.
    assert from_command_line(*([f"{flag}={rest[0]}"] if rest else [flag])) == settings


@given(
    st.sampled_from(list(Settings.knobs())),
    st.none() | st.integers() | st.floats() | st.text() | st.lists(st.integers()),
)
def test_any_value_at_all_is_taken_or_refused_cleanly(name, value):
    try:
        taken = Settings(**{name: value})
    except UsageError as error:
        taken = error
    assert (
        taken.id in {"KNB501", "KNB503"}
        if isinstance(taken, UsageError)
        else taken.to_dict().keys() <= {name}
    )
