"""Two guides to Kimi K2.5 that people follow, and what is wrong in them: right in ours, one test for each mistake.

The first is a guide in Arabic to running the model with llama.cpp, the second one in Chinese to renting GPUs for it.
What a test calls "our recipes" are the commands that the notebooks and the README give to copy; what they say in
words counts as well. Where a guide only lacked something, ours has it.
"""

import re
import subprocess
from pathlib import Path

import pytest

from kimi_nb.chat.modes import mode_fields
from kimi_nb.engine import Engine
from kimi_nb.engine.compile import PROGRAMS
from kimi_nb.engine.server_command import check_extra_args
from kimi_nb.errors import UsageError, troubles
from kimi_nb.machine import first_look, load_profile
from kimi_nb.model import catalog
from kimi_nb.plan import Settings

ROOT = Path(__file__).parents[1]
K25 = catalog().models["kimi-k2.5"]
SHAPE = K25.architecture
PAGES = [*sorted((ROOT / "notebooks").glob("*.py")), ROOT / "README.md"]
TEXT = "\n".join(re.sub(r"(?m)^# ?", "", page.read_text(encoding="utf-8")) for page in PAGES)
#: What a person would copy: the blocks fenced as shell or Python.
FENCED = re.findall(r"```(?:sh|python)\n(.*?)```", TEXT, re.DOTALL)
RECIPES = "\n".join(block.replace("\\\n", " ") for block in FENCED)
LINES = [line for line in RECIPES.splitlines() if not line.lstrip().startswith("#")]
SERVERS = [line for line in LINES if re.search(r"\bllama-server\b|kimi-nb serve --(?:detach|model)", line)]
VLLM = [line for line in LINES if "vllm serve" in line]
GB, GIB = 10**9, 2**30


@pytest.fixture(scope="module")
def help_text(build):
    done = subprocess.run(
        [build.program("llama-server"), "--help"], capture_output=True, check=True, timeout=60
    )
    return done.stdout.decode()


def refuses(build, *words, program="llama-server"):
    """What the real program says against some arguments."""
    done = subprocess.run([build.program(program), *words], capture_output=True, check=False, timeout=60)
    assert done.returncode != 0
    return (done.stdout + done.stderr).decode(errors="replace")


def test_there_is_something_to_look_at():
    assert len(FENCED) > 15
    assert len(SERVERS) >= 3
    assert len(VLLM) == 1


# The first guide


def test_a_trillion_parameters_and_not_a_billion():
    """It says "with a billion parameters". 1,026 billion are there, and 31.7 billion are used for a token."""
    assert round(K25.parameters.total / GB) == 1026
    assert round(K25.parameters.active / GB, 1) == 31.7
    assert "1.03 trillion parameters" in TEXT


def test_a_token_reads_eight_experts_and_not_the_whole_model():
    """It says that every token moves 240 GB. 8 of 384 experts in a layer are read: a few GB."""
    experts = (
        SHAPE.n_expert_used * 3 * SHAPE.n_embd * SHAPE.n_ff_exp * (SHAPE.n_layer - SHAPE.n_layer_dense_lead)
    )
    assert (SHAPE.n_expert, SHAPE.n_expert_used) == (384, 8)
    assert 4.5 < experts * 1.87 / 8 / GB < 5.0  # at 1.87 bits a weight
    assert "for each token it uses only 8 of the 384 experts" in TEXT


def test_the_smallest_quant_is_not_ternary():
    """It calls it "1.58-bit". The name TQ1_0 stands for 1.87 bits a weight on average, and nothing in it is ternary."""
    assert "no ternary type is used, and its average is 1.87 bits" in K25.publishers[0].note
    assert "1.58" not in TEXT


def test_the_release_is_int4():
    """It starts from 2 TB in FP16. What was released is INT4, 595 GB; BF16 is the quant for those who want it."""
    assert K25.native.format.startswith("INT4")
    assert round(K25.native.bytes / GB) == 595
    assert K25.quant("BF16").bytes == 2050 * GB


def test_only_the_experts_are_squeezed():
    """It gives attention "4/6 bits". Only routed experts have few bits; the rest is what `--n-cpu-moe` leaves on the GPU."""
    assert "keeps the experts of that many layers in RAM" in TEXT
    assert Settings(n_cpu_moe=61).argv() == ["--n-cpu-moe", "61"]


def test_four_h100_do_not_hold_the_release():
    """It recommends 4 H100 or H200: 320 or 564 GB. vLLM's own recipe wants 714 GB, so ours says 8 H200."""
    assert K25.vllm.min_vram_gb == 714
    assert "--tensor-parallel-size 8" in VLLM[0]
    assert "8 H200" in TEXT


def test_no_libcurl():
    """It installs libcurl4-openssl-dev. llama.cpp ignores LLAMA_CURL now; HTTPS comes from OpenSSL, if at all."""
    build_code = "".join(path.read_text() for path in sorted((ROOT / "kimi_nb/engine").glob("*.py")))
    for text in (TEXT, build_code):
        assert "libcurl" not in text.lower()
        assert "LLAMA_CURL" not in text


def test_the_vision_program_is_built():
    """Its build has llama-cli and llama-server only; images want llama-mtmd-cli too."""
    assert {"llama-server", "llama-mtmd-cli"} <= set(PROGRAMS)


def test_no_model_url_that_is_no_url():
    """It gives --model-url the name of a repository, beside -hf. Ours name a file."""
    assert "--model-url" not in TEXT
    assert not re.search(r"\s-hf\b|--hf-repo", RECIPES)


@pytest.mark.engine
def test_no_print_token_count(build):
    """`--print-token-count 0` ends the program: "error: invalid argument"."""
    assert "invalid argument: --print-token-count" in refuses(build, "--print-token-count", "0")
    assert "print-token-count" not in TEXT


def test_files_lie_where_they_were_put():
    """It says that -hf caches into models/kimi-k2.5. That goes to the Hub's cache: ours download to a named folder."""
    assert (
        'hf download unsloth/Kimi-K2.5-GGUF --include "UD-TQ1_0/*" --local-dir models/Kimi-K2.5-GGUF'
        in RECIPES
    )


def test_huggingface_cli_is_dead():
    """`huggingface-cli download` prints that it no longer works, and exits 1. It is called hf now."""
    assert not [line for line in LINES if "huggingface-cli" in line]
    assert any(line.startswith("hf download") for line in LINES)
    assert "the older `huggingface-cli` no longer works" in TEXT


def test_every_quant_has_its_folder():
    """It leaves out the folder: models/kimi-k2.5/Kimi-K2.5-UD-TQ1_0-00001-of-00005.gguf is not there."""
    assert K25.quant("UD-TQ1_0").first_file == "UD-TQ1_0/Kimi-K2.5-UD-TQ1_0-00001-of-00005.gguf"
    named = re.findall(r"`(\S*?)Kimi-K2\.5-([\w-]+?)-\d{5}-of-\d{5}\.gguf`", TEXT)
    assert len(named) >= 2
    assert all(folder == f"{quant}/" for folder, quant in named)
    # Nothing to copy spells such a path out: the program says where the download put it.
    assert "kimi-nb models path" in RECIPES
    assert not re.search(r"-of-\d{5}\.gguf", RECIPES)


def test_nobody_writes_user_and_assistant_into_a_prompt():
    """`--prompt "User: ...\\nAssistant:"` is sent inside a user's turn today: the template is applied by itself."""
    assert not re.search(r"User:.*Assistant:", RECIPES, re.DOTALL)
    assert "Never write `User:` and `Assistant:` into a message yourself" in TEXT


@pytest.mark.engine
def test_fit_is_on_by_itself(help_text):
    """It praises `--fit on` and never gives it. It is the default; what one sets is its target and the least context."""
    assert re.search(r"--fit \[on\|off\].*?default: 'on'", help_text, re.DOTALL)
    settings = Settings(fit_target=(2048,), fit_ctx=8192)
    assert settings.argv() == ["--fit-target", "2048", "--fit-ctx", "8192"]


def test_no_server_is_open_to_the_world():
    """`--host 0.0.0.0` without a key lets everybody in, from any web page too."""
    for line in [*SERVERS, *VLLM]:
        assert "0.0.0.0" not in line
        assert "--api-key " not in line, "a key on a command line is shown by ps"
        if "kimi-nb serve" not in line:  # which binds to loopback and makes a key
            assert "--host 127.0.0.1" in line
    assert "export LLAMA_API_KEY=" in RECIPES
    assert "export VLLM_API_KEY=" in RECIPES
    with pytest.raises(UsageError, match="KNB525"):
        check_extra_args(["--host", "0.0.0.0"])


def test_each_mode_has_its_temperature():
    """It gives 1.0 alone. Thinking wants 1.0 and instant 0.6, top_p 0.95 both; min_p is Unsloth's advice, and said so."""
    found = {mode.name: (mode.sampling.temperature, mode.sampling.top_p) for mode in K25.modes}
    assert found == {"thinking": (1.0, 0.95), "instant": (0.6, 0.95)}
    assert all("Unsloth" in mode.sampling.min_p_source for mode in K25.modes)


def test_a_smaller_context_saves_next_to_nothing():
    """Out of memory, it cuts the context to 4096. From 16k that frees 0.8 GiB, and starves the thinking."""
    a_token = SHAPE.n_layer * (SHAPE.n_lora_kv + SHAPE.n_rot) * 2
    assert a_token == 70_272
    assert round(a_token * (16384 - 4096) / GIB, 1) == 0.8
    assert "70,272 bytes a token" in TEXT
    assert "Out of memory, and a smaller context hardly helps" in TEXT
    assert "raise `--n-cpu-moe`" in TEXT


def test_numa_is_no_build_flag():
    """It wants NUMA "enabled in the build flags". There is no such option; it is one of running."""
    assert "NUMA" not in (ROOT / "kimi_nb/engine/compile.py").read_text().upper().replace("ENUMERATE", "")
    assert Settings(numa="distribute").argv() == ["--numa", "distribute"]


def test_no_swap_against_a_large_model():
    """It adds 100 GB of swap. Weights that are mapped from their file are never swapped; it would only wear the disk."""
    assert "swap" not in RECIPES
    fix = troubles()["KNB513"]
    assert "swap" not in fix.explanation.lower()


def test_layers_stay_and_experts_move():
    """`--n-gpu-layers 10` to save a small GPU. Ten layers are 38 GB even of the smallest quant: move experts instead."""
    ten = K25.quant("UD-TQ1_0").bytes * 10 / SHAPE.n_layer
    assert 37 < ten / GB < 41
    for line in SERVERS:
        if re.search(r"-ngl|--n-gpu-layers", line):
            assert re.search(r"(?:-ngl|--n-gpu-layers) 99\b", line)
            assert re.search(r"--n-cpu-moe \d+|--cpu-moe", line)


def test_the_cache_of_keys_stays_on_the_gpu():
    """`--no-kv-offload` when GPU memory is short: the cache is 1 to 6 GiB, and the experts are hundreds."""
    assert "--no-kv-offload" not in TEXT
    assert "-nkvo" not in TEXT


def test_no_speed_is_promised_for_paging_from_disk():
    """It says "below 1 token a second" for that, others say 2. It depends on the disk; we give no figure unmeasured."""
    assert not re.search(r"(?i)disk[^.|\n]{0,80}\d\s*(?:tok/s|tokens?/s|tokens? (?:a|per) second)", TEXT)


def test_images_work():
    """No word on vision there. llama.cpp reads Kimi's images since February 2026, with the projector's file."""
    assert K25.vision
    assert K25.publishers[0].mmproj.files
    assert "mmproj" in Settings.knobs()


# The second guide


def test_there_is_no_fp8_release():
    """It counts on "an FP8 checkpoint of 630 GB". 630 GB is the size of a quant, UD-Q4_K_XL; the release is INT4."""
    assert K25.quant("UD-Q4_K_XL").bytes == 630 * GB
    assert "FP8" not in K25.native.format
    assert "FP8" not in TEXT


def test_714_gb_will_do():
    """It says that 1,128 GB of GPU memory are needed: that is the machine someone tested."""
    assert K25.vllm.min_vram_gb == 714
    assert "1128" not in TEXT.replace(",", "")


@pytest.mark.parametrize(("profile", "fits"), [("rtx4090-256gb", False), ("cpu-512gb", True)])
def test_256_gb_and_a_4090_do_not_hold_q2(profile, fits):
    """It recommends 256 GB and an RTX 4090 for Q2_K_XL, 375 GB. Our first look says no, and by how much."""
    looks = {look.quant.name: look for look in first_look(load_profile(profile), K25).quants}
    q2 = looks["UD-Q2_K_XL"]
    assert q2.fits_memory is fits
    assert profile != "rtx4090-256gb" or 70_000 < -q2.memory_spare_mib < 80_000


def test_one_h100_needs_much_memory_beside_it():
    """ "A single H100 works": only with 300 GB of main memory beside it. Its 80 GB alone hold no quant."""
    for look in first_look(load_profile("h100-80gb"), K25).quants:
        assert look.fits_gpu is False


def test_no_price_is_named():
    """8 H200 for "24 to 48 dollars a day" is wrong by ten times. Prices change; we name none."""
    assert not re.search(r"\$\s?\d+(?:\.\d+)?\s*(?:/|a |per )\s*(?:day|hour|h\b)|\bUSD\b", TEXT)


def test_no_cuda_that_is_too_old():
    """ "CUDA 12.0 or newer": vLLM's wheels want 12.9 or 13. We name no such limit for vLLM, and take its own wheels."""
    assert "CUDA 12.0" not in TEXT
    assert "cu118" not in TEXT


def test_q2_has_eight_files_in_a_folder():
    """It lists five files without a folder. There are eight."""
    names = K25.quant("UD-Q2_K_XL").file_names()
    assert len(names) == 8
    assert names[-1] == "UD-Q2_K_XL/Kimi-K2.5-UD-Q2_K_XL-00008-of-00008.gguf"


def test_no_resume_flag():
    """--resume-download is gone: hf goes on by itself, and so do we."""
    assert "resume-download" not in TEXT
    assert "resume_download" not in "".join(p.read_text() for p in sorted((ROOT / "kimi_nb").rglob("*.py")))


def test_ten_layers_of_q2_do_not_fit_into_24_gb():
    """`--n-gpu-layers 10` on 24 GB: ten layers of Q2_K_XL are about 60 GB."""
    assert 58 < K25.quant("UD-Q2_K_XL").bytes * 10 / SHAPE.n_layer / GB < 64
    assert not re.search(r"(?:-ngl|--n-gpu-layers) 10\b", TEXT)


@pytest.mark.engine
def test_jinja_is_on_by_itself(help_text):
    """No word there on the template. Kimi's is used by default, and notebook 6 says so."""
    assert re.search(r"--jinja.*?default: enabled", help_text, re.DOTALL)
    assert "`--jinja` is on by default" in TEXT


def test_images_are_not_denied():
    """ "Vision is not supported in GGUF", twice. It is; only video is not."""
    assert not re.search(r"(?:vision|images?) (?:is|are) not supported", TEXT, re.IGNORECASE)
    assert K25.about.startswith("Text and images")


def test_no_nightly_vllm():
    """It installs a nightly vLLM from extra indexes. A released one does, and there is a least version."""
    assert K25.vllm.min_version == "0.19.1"
    assert "nightly" not in TEXT
    assert "extra-index" not in TEXT


def test_vllm_is_told_to_let_the_model_choose_tools():
    """Its server lacks --enable-auto-tool-choice, and its demo needs it: 400."""
    assert "--enable-auto-tool-choice" in VLLM[0]
    assert "--tool-call-parser kimi_k2" in VLLM[0]
    assert "--reasoning-parser kimi_k2" in VLLM[0]


def test_vllm_takes_the_model_by_position():
    """`--model moonshotai/Kimi-K2.5` is the old form."""
    assert "vllm serve moonshotai/Kimi-K2.5 " in VLLM[0]
    assert "--model" not in VLLM[0]


@pytest.mark.parametrize("kind", ["llama-server", "vllm"])
def test_thinking_gets_1_0_and_room(kind):
    """Its client sends 0.6 while thinking is on, and 2048 to 4096 tokens."""
    engine = Engine(kind, "http://127.0.0.1:1/v1", "", "kimi-k2.5")
    assert mode_fields(engine, "thinking", temperature=None, top_p=None)["temperature"] == 1.0
    assert mode_fields(engine, "instant", temperature=None, top_p=None)["temperature"] == 0.6
    assert "when thinking, rather 16384 and more" in RECIPES
    for block in FENCED:
        if re.search(r"temperature=0\.6", block):
            assert '"thinking": False' in block


@pytest.mark.parametrize("mode", ["thinking", "instant"])
def test_moonshots_api_gets_no_temperature(mode):
    """Its sample sends 0.6 to the API: 400, "invalid temperature: only 1 is allowed for this model"."""
    engine = Engine("moonshot", "https://api.moonshot.ai/v1", "", "kimi-k2.5")
    assert not {"temperature", "top_p", "min_p"} & set(
        mode_fields(engine, mode, temperature=None, top_p=None)
    )
    assert "**Moonshot's API**: nothing. Leave out `temperature`." in TEXT


def test_k2_instruct_is_not_lighter():
    """ "K2-Instruct is lighter to deploy". It is FP8 and larger; K2.5 is INT4, and its vision part is below 1 GB."""
    assert catalog().models["kimi-k2-instruct"].native.bytes > 1.5 * K25.native.bytes


def test_no_half_a_recipe_for_many_machines():
    """Its command for several machines lacks half of what that takes. Ours is for one, and says how many GPUs."""
    assert not re.search(r"--nnodes|--node-rank|expert-parallel", VLLM[0])


def test_no_video():
    """It promises video. That is experimental, and on Moonshot's own API only."""
    assert "video" not in TEXT.lower()
    assert "video" not in K25.about.lower()


def test_no_swarm_in_the_weights():
    """ "Agent swarm technology in the weights": the ability is trained, the swarm itself is a product around it."""
    assert not re.search(r"swarm[^.]{0,60}\bweights", TEXT, re.IGNORECASE)


def test_a_figure_that_was_right_is_not_repeated_as_ours():
    """76.8 % on SWE-bench is the model card's. We measured no benchmark, so we quote none."""
    assert "SWE-bench" not in TEXT


def test_the_page_of_troubles_is_called_what_it_is():
    """Its table of troubles stands under "use a fixed seed for steady results", a heading that slipped."""
    page = (ROOT / "notebooks/07_troubleshooting.py").read_text()
    assert re.search(r"^# # 7\. Troubleshooting", page, re.MULTILINE)


def test_no_words_for_bots():
    """Its last paragraph is an instruction to machines that read it. Ours address people."""
    assert "agent instructions" not in TEXT.lower()
    assert "?ask=" not in TEXT
