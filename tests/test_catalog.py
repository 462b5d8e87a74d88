"""The catalog against what is known of the models, and against itself."""

import re
import subprocess
import sys
import tomllib
from importlib.resources import files

import pytest

import kimi_nb.model
from kimi_nb.errors import UsageError, troubles
from kimi_nb.model.catalog import CatalogModel, Quant, catalog
from kimi_nb.records import RecordError, from_plain

KEYS = ["kimi-k2-instruct", "kimi-k2-thinking", "kimi-k2.5", "kimi-k2.6", "kimi-k2.7-code", "nano"]
ALL = [catalog().model(key) for key in KEYS]
FULL = ALL[:-1]
K25 = catalog().model("kimi-k2.5")


def test_the_models():
    assert list(catalog().models) == KEYS
    assert catalog() is catalog()
    assert catalog().model("KIMI-K2.5") is K25


def test_each_file_is_one_model_named_as_its_key():
    names = {path.name for path in files("kimi_nb.model").joinpath("catalog_data").iterdir()}
    assert names == {f"{key}.toml" for key in KEYS}


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("name", "size", "exact", "shards"),
    [
        ("UD-TQ1_0", 240_000_000_000, False, 5),
        ("UD-IQ1_S", 276_000_000_000, False, None),
        ("UD-IQ1_M", 301_000_000_000, False, None),
        ("UD-IQ2_XXS", None, False, None),
        ("UD-Q2_K_XL", 374_764_330_144, True, 8),
        ("UD-IQ3_XXS", None, False, 9),
        ("Q3_K_S", 443_000_000_000, False, 10),
        ("UD-Q3_K_XL", 500_000_000_000, False, 11),
        ("Q4_K_M", 622_000_000_000, False, 13),
        ("UD-Q4_K_XL", 630_000_000_000, False, 13),
        ("BF16", 2_050_000_000_000, False, 46),
        ("bartowski/IQ1_S", 210_299_214_240, True, 6),
        ("bartowski/IQ1_M", 219_584_616_864, True, 6),
        ("bartowski/IQ2_XXS", 245_277_612_576, True, 7),
        ("bartowski/IQ2_XS", 283_113_380_512, True, 8),
        ("bartowski/IQ2_S", 283_797_330_528, True, 8),
        ("bartowski/IQ2_M", 322_954_304_224, True, 9),
        ("bartowski/Q2_K", 358_637_722_528, True, 10),
        ("bartowski/IQ3_XXS", 404_581_325_856, True, 11),
        ("bartowski/Q3_K_M", 467_321_920_864, True, 13),
        ("bartowski/IQ4_XS", 547_605_634_464, True, 14),
        ("bartowski/Q4_K_M", 580_355_550_784, True, 16),
        ("bartowski/Q8_0", 583_710_875_200, True, 16),
        ("bartowski/Q4_1", 643_155_730_176, True, 17),
    ],
)
def test_kimi_k25s_quants(name, size, exact, shards):
    quant = K25.quant(name)
    assert (quant.bytes, quant.exact, quant.shards) == (size, exact, shards)


@pytest.mark.parametrize(
    ("key", "name", "size", "shards", "lossless"),
    [
        ("kimi-k2.6", "UD-Q2_K_XL", 340_000_000_000, 8, False),
        ("kimi-k2.6", "UD-Q4_K_XL", 584_000_000_000, 14, False),
        ("kimi-k2.6", "UD-Q8_K_XL", 595_000_000_000, 14, True),
        ("kimi-k2.7-code", "UD-Q8_K_XL", 605_000_000_000, None, True),
        ("kimi-k2-instruct", "UD-TQ1_0", 245_000_000_000, 5, False),
        ("kimi-k2-thinking", "UD-TQ1_0", 247_000_000_000, 6, False),
    ],
)
def test_quants_of_the_others(key, name, size, shards, lossless):
    quant = catalog().model(key).quant(name)
    assert (quant.bytes, quant.exact, quant.shards, quant.lossless) == (size, False, shards, lossless)


def test_the_parameter_counts_follow_from_the_shapes():
    """Every weight matrix, counted from the hyperparameters; norms and biases are left out, as the entry says."""
    for model in FULL:
        a = model.architecture
        head_k = a.n_embd_head_nope + a.n_rot
        attention = a.n_layer * (
            a.n_lora_q * a.n_embd
            + a.n_head * head_k * a.n_lora_q
            + (a.n_lora_kv + a.n_rot) * a.n_embd
            + a.n_head * a.n_lora_kv * (a.n_embd_head_nope + a.n_embd_head_v)
            + a.n_embd * a.n_head * a.n_embd_head_v
        )
        moe_layers = a.n_layer - a.n_layer_dense_lead
        expert = 3 * a.n_embd * a.n_ff_exp
        routed = moe_layers * a.n_expert * expert
        rest = attention + moe_layers * (a.n_expert_shared * expert + a.n_expert * a.n_embd)
        rest += a.n_layer_dense_lead * 3 * a.n_embd * a.n_ff
        one_embedding = a.n_vocab * a.n_embd
        assert model.parameters.total == routed + rest + 2 * one_embedding == 1_026_407_202_816
        assert model.parameters.active == routed * a.n_expert_used // a.n_expert + rest + one_embedding
        assert 31.68e9 < model.parameters.active < 31.70e9
        assert a.cache_bytes_per_token == 70_272


def test_context_and_yarn_agree():
    for model in FULL:
        a = model.architecture
        assert model.context_limit == a.n_ctx_train == a.rope_scaling_factor * a.n_ctx_orig_yarn


def test_what_differs_in_the_family():
    of = {model.key: model.architecture for model in FULL}
    assert of["kimi-k2.5"].yarn_beta_fast == 32.0
    assert of["kimi-k2-thinking"].yarn_beta_fast == 1.0
    assert of["kimi-k2.5"].eos_token_id == 163585
    assert of["kimi-k2.6"].eos_token_id == 163586
    assert of["kimi-k2.7-code"].eos_token_id is None, "its config was not read"
    assert {a.gguf_architecture for a in of.values()} == {"deepseek2"}
    assert {a.tokenizer_pre for a in of.values()} == {"kimi-k2"}
    assert [model.key for model in FULL if model.vision] == ["kimi-k2.5", "kimi-k2.6", "kimi-k2.7-code"]


def test_sizes_and_files_are_plausible():
    """Rounded or exact, no quant is smaller than a bit a weight or larger than BF16, and no file is over 50 GB."""
    for model in FULL:
        for quant in model.quants:
            if quant.bytes is not None:
                assert 1.5 < quant.bytes * 8 / model.parameters.total < 16.1, quant.name
                if quant.shards is not None:
                    assert 25e9 < quant.bytes / quant.shards <= 50e9, quant.name


# ---------------------------------------------------------------- honesty


def every_source(value, where=""):
    """Walk the records; yield each field that tells a source."""
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from every_source(item, where)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            item = getattr(value, name)
            if name.endswith("source"):
                yield f"{where}.{name}", item
            else:
                yield from every_source(item, f"{where}.{name}")


@pytest.mark.parametrize("model", ALL, ids=KEYS)
def test_every_source_is_told(model):
    sources = list(every_source(model, model.key))
    assert len(sources) > len(model.quants)
    for where, source in sources:
        if where.endswith("min_p_source") and source is None:
            continue
        assert isinstance(source, str), where
        assert len(source) > 8, where


@pytest.mark.parametrize("model", ALL, ids=KEYS)
def test_only_exact_figures_look_exact(model):
    """A size ending in many zeros is a rounded one, and one that does not is exact."""
    for quant in model.quants:
        if quant.bytes is None:
            assert not quant.exact
        else:
            assert quant.exact == (quant.bytes % 100_000_000 != 0), quant.name
            assert quant.size.startswith("~") == (not quant.exact)


@pytest.mark.parametrize("model", ALL, ids=KEYS)
def test_revisions_are_commits(model):
    revisions = [quant.revision for quant in model.quants] + [model.hub.revision if model.hub else None]
    for revision in revisions:
        assert revision is None or re.fullmatch(r"[0-9a-f]{40}", revision)


def test_known_revisions_are_pinned():
    assert K25.quant("UD-Q2_K_XL").revision == "386fed8b054275941d6a495a9a7010fbf31b560d"
    assert K25.quant("UD-Q3_K_XL").revision == "5f759b07a564a5cb9fcfa9ad456cf254e539ac77"
    assert K25.quant("UD-TQ1_0").revision is None


@pytest.mark.parametrize("model", ALL, ids=KEYS)
def test_no_address_and_no_half_sentence(model):
    text = files("kimi_nb.model").joinpath(f"catalog_data/{model.key}.toml").read_text(encoding="utf-8")
    assert "://" not in text
    assert "[?]" not in text
    assert not re.search(r"huggingface\.co|unsloth\.ai", text)


@pytest.mark.parametrize("model", FULL, ids=KEYS[:-1])
def test_the_licence_is_told_with_its_clause(model):
    assert model.licence.name == "Modified MIT"
    assert model.licence.note
    assert model.licence.verified is False


# ---------------------------------------------------------------- files


def test_file_names():
    names = K25.quant("UD-Q2_K_XL").file_names()
    assert len(names) == 8
    assert names[0] == "UD-Q2_K_XL/Kimi-K2.5-UD-Q2_K_XL-00001-of-00008.gguf"
    assert names[-1] == "UD-Q2_K_XL/Kimi-K2.5-UD-Q2_K_XL-00008-of-00008.gguf"
    assert K25.quant("UD-TQ1_0").first_file == "UD-TQ1_0/Kimi-K2.5-UD-TQ1_0-00001-of-00005.gguf"
    other = K25.quant("bartowski/IQ1_S")
    assert other.first_file == "moonshotai_Kimi-K2.5-IQ1_S/moonshotai_Kimi-K2.5-IQ1_S-00001-of-00006.gguf"
    assert other.repo == "bartowski/moonshotai_Kimi-K2.5-GGUF"


def test_a_quant_in_one_file_has_no_number():
    quant = Quant(name="Q8_0", publisher="p", repo="p/r", folder="Q8_0", stem="m-Q8_0", source="s", shards=1)
    assert quant.file_names() == ["Q8_0/m-Q8_0.gguf"]


def test_an_unknown_number_of_files_is_not_guessed():
    with pytest.raises(UsageError) as caught:
        K25.quant("UD-IQ1_S").file_names()
    assert caught.value.id == "KNB393"
    assert "unsloth/Kimi-K2.5-GGUF" in caught.value.fix


def test_the_vision_encoders():
    mmproj = K25.publishers[0].mmproj
    assert mmproj.files == ("mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf")
    assert mmproj.bytes is None
    assert catalog().model("kimi-k2.6").publishers[0].mmproj.bytes == 908_000_000


# ---------------------------------------------------------------- names


def test_two_publishers_with_one_name():
    assert K25.quant("Q4_K_M").publisher == "unsloth"
    assert K25.quant("bartowski/Q4_K_M").publisher == "bartowski"
    assert K25.quant("UNSLOTH/q4_k_m").publisher == "unsloth"


@pytest.mark.parametrize(
    ("call", "id_", "near"),
    [
        (lambda: catalog().model("kimi-k25"), "KNB390", "kimi-k2.5"),
        (lambda: catalog().model("K2.6"), "KNB390", "kimi-k2.6"),
        (lambda: catalog().model(""), "KNB390", "Name one of those"),
        (lambda: K25.quant("UD-Q2_K"), "KNB391", "UD-Q2_K_XL"),
        (lambda: K25.quant("q4km"), "KNB391", "Q4_K_M"),
        (lambda: catalog().model("nano").quant("Q4_0"), "KNB391", "Name one of those"),
        (lambda: catalog().model("kimi-k2-thinking").mode("instant"), "KNB392", "Name one of those"),
        (lambda: K25.mode("Thinking"), "KNB392", "thinking"),
        (lambda: K25.mode("instant").request_fields("ollama"), "KNB394", "Use one of those engines"),
    ],
)
def test_a_misspelt_name_gets_the_nearest_ones(call, id_, near):
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.id == id_
    assert caught.value.exit_code == 2
    assert near in caught.value.fix
    assert "\n" not in str(caught.value)
    assert id_ in troubles()


# ---------------------------------------------------------------- modes


def test_modes():
    modes = {model.key: [mode.name for mode in model.modes] for model in ALL}
    assert modes == {
        "kimi-k2-instruct": ["instant"],
        "kimi-k2-thinking": ["thinking"],
        "kimi-k2.5": ["thinking", "instant"],
        "kimi-k2.6": ["thinking", "instant"],
        "kimi-k2.7-code": ["thinking"],
        "nano": ["thinking", "instant"],
    }


@pytest.mark.parametrize("key", ["kimi-k2.5", "kimi-k2.6", "nano"])
def test_the_switch_of_each_engine(key):
    model = catalog().model(key)
    instant, thinking = model.mode("instant"), model.mode("thinking")
    assert instant.request_fields("llama-server") == {
        "temperature": 0.6,
        "top_p": 0.95,
        "min_p": 0.01,
        "chat_template_kwargs": {"thinking": False},
    }
    assert thinking.request_fields("vllm") == {
        "temperature": 1.0,
        "top_p": 0.95,
        "chat_template_kwargs": {"thinking": True},
    }
    if model.moonshot_id:
        assert instant.request_fields("moonshot") == {"thinking": {"type": "disabled"}}
        assert thinking.request_fields("moonshot") == {"thinking": {"type": "enabled"}}


def test_fields_given_out_cannot_spoil_the_catalog():
    fields = K25.mode("instant").request_fields("llama-server")
    fields["chat_template_kwargs"]["thinking"] = True
    assert K25.mode("instant").request_fields("llama-server")["chat_template_kwargs"] == {"thinking": False}


def test_moonshot_gets_no_sampling_from_us():
    """Any temperature but its own is answered with 400 invalid temperature."""
    for model in ALL:
        for mode in model.modes:
            if "moonshot" in mode.switches:
                assert not {"temperature", "top_p", "min_p"} & set(mode.request_fields("moonshot"))


def test_what_is_on_moonshots_api_has_a_switch_for_it():
    for model in ALL:
        for mode in model.modes:
            assert ("moonshot" in mode.switches) == (model.moonshot_id is not None), model.key


def test_nano_is_as_long_as_its_shape_says():
    from kimi_nb.nano.shape import SHAPE

    assert catalog().model("nano").context_limit == SHAPE.n_ctx_train


def test_vllm_versions():
    assert K25.vllm.min_version == "0.19.1"
    assert "CVE-2026-27893" in K25.vllm.reason
    assert K25.vllm.min_vram_gb == 714
    for key in ("kimi-k2.6", "kimi-k2.7-code"):
        assert catalog().model(key).vllm.min_version == "0.18.0"


# ---------------------------------------------------------------- the loader


def test_a_mistake_in_the_data_is_named():
    text = files("kimi_nb.model").joinpath("catalog_data/nano.toml").read_text(encoding="utf-8")
    entry = tomllib.loads(text)
    entry["context_limit"] = "32768"
    with pytest.raises(RecordError, match="context_limit must be a whole number"):
        from_plain(CatalogModel, entry)


def test_the_package_exports_work_whichever_comes_first():
    """The function and the module bear one name; both ways of importing must give something to call."""
    for first in ("import kimi_nb.model.catalog", "from kimi_nb.model.catalog import catalog", "pass"):
        code = f"{first}\nfrom kimi_nb.model import catalog\nprint(catalog().model('nano').key)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "nano", (first, done.stderr)
    assert kimi_nb.model.CatalogModel is CatalogModel
    assert kimi_nb.model.Quant is Quant


def test_reading_it_needs_nothing_heavy():
    code = (
        "import sys\nfrom kimi_nb.model.catalog import catalog\ncatalog()\n"
        "print([m for m in sys.modules if m.split('.')[0] in {'huggingface_hub', 'gguf', 'numpy', 'openai', 'httpx'}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
