"""``kimi-nb plan``: for a file, for nano and for models that are not here; and llama.cpp's word on it."""

import json
import os
import subprocess

import pytest
from gguf_bytes import gguf, key, tensor
from header_models import ORACLE_MODELS

from kimi_nb.cli import main
from kimi_nb.machine import load_profile
from kimi_nb.model import catalog
from kimi_nb.model.candidates import Candidate, candidates, with_real_header
from kimi_nb.model.stand_in import stand_in
from kimi_nb.nano import nano_path
from kimi_nb.plan import Settings, forecast, memory_report
from kimi_nb.plan.planner import make_plan
from kimi_nb.plan.record import Plan
from kimi_nb.plan.text import report_lines


def document(capsys, *words):
    code = main(["plan", *words, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_nano_here(capsys, tmp_path):
    file = tmp_path / "nano.json"
    code, said = document(capsys, "--model", "nano", "--ctx", "4096", "--save", str(file))
    assert code == 0
    assert said["plan"]["model"]["file"] == str(nano_path())
    assert said["plan"]["settings"]["ctx_size"] == 4096
    assert said["plan"]["exact"]
    assert Plan.load(file).to_dict() == said["plan"]


def test_a_file_by_its_path(capsys):
    code, said = document(capsys, "--gguf", str(nano_path()), "--machine", "cpu-512gb")
    assert code == 0
    assert said["plan"]["machine"] == load_profile("cpu-512gb").name
    assert said["plan"]["model"]["key"] is None


def test_the_real_model_offline(capsys):
    code, said = document(capsys, "--model", "kimi-k2.5", "--machine", "rtx4090-256gb", "--offline")
    assert code == 0
    assert said["plan"]["model"]["approximate"] is True
    assert said["plan"]["exact"] is False
    assert said["plan"]["warnings"][0].startswith("approximate")
    assert said["plan"]["model"]["repo"] == "unsloth/Kimi-K2.5-GGUF"


def test_the_words_for_people(capsys):
    assert (
        main(["plan", "--model", "kimi-k2.5", "--machine", "h100-80gb", "--offline", "--quant", "UD-TQ1_0"])
        == 0
    )
    text = capsys.readouterr().out
    assert text.startswith("Kimi K2.5 UD-TQ1_0 (240 GB) on 1 x H100 80 GB, 256 GB\n")
    for part in (
        "writes",
        "reads",
        "main memory",
        "Why so",
        "Mind",
        "Start it",
        "kimi-nb download --model kimi-k2.5",
    ):
        assert part in text
    assert max(len(line) for line in text.splitlines()) <= 79  # a terminal is 80 wide unless one changes it
    assert '--model "$(kimi-nb models path UD-TQ1_0)"' in text  # where the download puts it
    assert "all of their memory free" in " ".join(text.split())  # a profile is no machine


def test_the_printed_command_can_be_pasted_into_a_shell(tmp_path, capsys):
    """It was once wrapped like prose, so that a shell took its second line for another command."""
    nano = tmp_path / "a folder with  spaces and it's accents é" / "nano.gguf"
    nano.parent.mkdir()
    nano.symlink_to(nano_path())
    assert main(["plan", "--gguf", str(nano), "--machine", "cpu-512gb", "--json"]) == 0
    argv = json.loads(capsys.readouterr().out)["plan"]["argv"]
    assert main(["plan", "--gguf", str(nano), "--machine", "cpu-512gb"]) == 0
    text = capsys.readouterr().out.partition("\nStart it\n")[2].partition("\n\n")[0]
    assert text.count("\n") >= 2
    (tmp_path / "llama-server").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    (tmp_path / "llama-server").chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = subprocess.run(["sh", "-c", text], env=env, capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == argv[1:]


def test_an_estimate_for_people(capsys):
    words = ["estimate", "--gguf", str(nano_path()), "--machine", "cpu-512gb", "--ctx", "4096"]
    assert main([*words, "--gpus", "24000"]) == 0
    text = capsys.readouterr().out
    for part in ("needed", "what its kernels borrow", "finished prompts", "\nfits\n", "writes", "reads"):
        assert part in text
    assert main([*words, "--gpus", "750"]) == 1
    text = capsys.readouterr().out
    assert "MiB (0.0 GiB) short on GPU0" in text
    assert "writes" not in text


def test_an_estimate_says_what_is_read_from_disk(tmp_path):
    model = ORACLE_MODELS["Q4K"].read(tmp_path / "kimi.gguf")
    here = load_profile("h100-80gb")
    settings = Settings(ctx_size=16384, n_gpu_layers=99, cpu_moe=True)
    report = memory_report(model, settings, here)
    text = " ".join("\n".join(report_lines(report, forecast(model, settings, here, report=report))).split())
    assert f"{report.host.paged_mib:,.0f} MiB of the weights in main memory find no room" in text
    assert "held back by the disk" in text


def test_no_is_one(capsys):
    words = ["--model", "kimi-k2.5", "--quant", "UD-Q4_K_XL", "--offline", "--ctx", "262144"]
    assert main(["plan", *words, "--machine", "h100-80gb"]) == 0
    assert "What would avoid the disk" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "id_"),
    [
        (["--model", "kimi-k9"], "KNB390"),
        (["--model", "kimi-k2.5", "--quant", "Q9"], "KNB391"),
        (["--model", "nano", "--quant", "Q4_K_M"], "KNB391"),
        (["--model", "nano", "--ctx", "0"], "KNB378"),
        (["--model", "nano", "--ctx", "999999999"], "KNB378"),
        (["--model", "nano", "--machine", "no-such"], "KNB133"),
        (["--model", "kimi-k2.5", "--quant", "UD-IQ2_XXS", "--offline"], "KNB395"),
        (["--model", "nano", "--save", "/"], "KNB377"),
    ],
)
def test_wrong_use_is_two(capsys, words, id_):
    assert main(["plan", *words]) == 2
    assert id_ in capsys.readouterr().err


def test_stand_ins_have_the_size_that_the_catalog_says():
    seen = 0
    for entry in catalog().models.values():
        for quant in entry.quants:
            if quant.bytes is not None and entry.architecture is not None:
                model = stand_in(entry, quant)
                assert model.data_bytes == pytest.approx(quant.bytes, rel=0.01), (entry.key, quant.name)
                assert model.file_bytes == quant.bytes
                seen += 1
    assert seen >= 25


def test_a_stand_in_has_the_real_shapes(tmp_path):
    """Beside a header of Kimi's shape: the same tensors, and nearly the same plan at the same size."""
    real = ORACLE_MODELS["TQ1"].read(tmp_path / "kimi.gguf")
    near = candidates("kimi-k2.5", "UD-TQ1_0")[0].model
    assert {tensor.name: tensor.shape for tensor in near.tensors} == {
        tensor.name: tensor.shape for tensor in real.tensors
    }
    here = load_profile("h100-80gb")
    plans = [make_plan(model, here, ctx_size=32768).plan for model in (real, near)]
    assert plans[0].memory.gpus[0].context_mib == plans[1].memory.gpus[0].context_mib
    assert abs(plans[0].settings.n_cpu_moe - plans[1].settings.n_cpu_moe) <= 3


def test_the_real_header_takes_the_stand_in_s_place(tmp_path):
    """What is chosen by the catalog's size is planned again with what the file says."""
    real = ORACLE_MODELS["TQ1"].read(tmp_path / "kimi.gguf")
    asked = []

    def exact(candidate):
        asked.append(candidate.quant)
        return Candidate(real, key=candidate.key, quant=candidate.quant, repo=candidate.repo)

    here = load_profile("rtx4090-256gb")
    result = make_plan(candidates("kimi-k2.5"), here, objective="quality", exact=exact)
    assert asked
    assert asked[-1] == result.plan.model.quant
    assert result.plan.model.approximate is False
    assert result.plan.model.header_sha256 == real.header_sha256


def test_where_the_header_cannot_be_read_the_plan_says_why(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    result = make_plan(
        candidates("kimi-k2.5", "UD-TQ1_0"), load_profile("h100-80gb"), exact=with_real_header, ctx_size=4096
    )
    assert result.plan.model.approximate
    assert "KNB34" in result.plan.warnings[0]


@pytest.mark.engine
def test_llama_cpp_agrees_with_plans(build, tmp_path):
    """The settings of plans for machines without GPUs, on files without weights: the same MiB everywhere."""
    from kimi_nb.rehearse.verify import verify

    model = ORACLE_MODELS["TQ1"].read(tmp_path / "kimi.gguf")
    here = load_profile("cpu-512gb")
    for wishes in ({"ctx_size": 4096}, {"objective": "context"}, {"parallel": 4, "ctx_size": 65536}):
        plan = make_plan(model, here, **wishes).plan
        assert verify(model, plan.settings, here, build).agrees, plan.settings


@pytest.mark.engine
def test_the_real_server_takes_a_plan_s_settings(build):
    """nano, planned for this machine, is served with the plan's own arguments."""
    from kimi_nb.engine import LlamaServer
    from kimi_nb.machine import probe

    plan = make_plan(Candidate(candidates("nano")[0].model, on_disk=True), probe(), ctx_size=2048).plan
    with LlamaServer(plan.model.file, settings=plan.settings.replace(threads=1, threads_batch=1)) as server:
        assert server.state == "ready"


@pytest.mark.engine
@pytest.mark.parametrize("name", ["rtx3090x2-256gb", "h100-80gb", "h200x8"])
def test_the_real_server_knows_every_argument_of_a_gpu_s_plan(build, tmp_path, name):
    """The arguments of plans for GPUs, given to a server without any: it knows them all, and serves nano."""
    from kimi_nb.engine import LlamaServer

    model = ORACLE_MODELS["TQ1"].read(tmp_path / "kimi.gguf")
    plan = make_plan(model, load_profile(name), ctx_size=4096, parallel=2).plan
    # What names GPUs must go, and what is too large for a test.
    settings = plan.settings.replace(device=None, tensor_split=None, threads=1, threads_batch=1, cache_ram=0)
    with LlamaServer(nano_path(), settings=settings) as server:
        assert server.state == "ready"


def test_the_vision_part_is_counted(tmp_path, capsys):
    path = tmp_path / "mmproj.gguf"
    parts = [tensor("v.patch_embd.weight", (1024, 1 << 19), 1, 0)]
    path.write_bytes(gguf([key("general.architecture", "str", "clip")], parts))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + (1 << 30) + 4096)  # a hole for the weights
    words = ["estimate", "--gguf", str(nano_path()), "--ctx", "4096", "--gpus", "24000", "--json"]
    found = []
    for more in ([], ["--mmproj", str(path)], ["--mmproj", str(path), "--no-mmproj-offload"]):
        assert main([*words, *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    without, on_gpu, on_host = found
    assert on_gpu["devices"][0]["needed_mib"] - without["devices"][0]["needed_mib"] == pytest.approx(
        1024, abs=1
    )
    assert on_host["host"]["needed_mib"] - without["host"]["needed_mib"] == pytest.approx(1024, abs=1)
    code, said = document(
        capsys, "--model", "kimi-k2.5", "--machine", "h100-80gb", "--offline", "--mmproj", str(path)
    )
    assert code == 0
    assert said["plan"]["argv"][said["plan"]["argv"].index("--mmproj") + 1] == str(path)
    assert said["plan"]["limits"]["mmproj_mib"] == pytest.approx(1024, abs=1)
    assert said["plan"]["devices"][0]["extra_mib"] > 1700
    assert any("vision part" in text for text in said["plan"]["warnings"])
    for wrong, id_ in ((nano_path(), "KNB352"), (tmp_path / "none.gguf", "KNB330")):
        assert main([*words[:-1], "--mmproj", str(wrong)]) in {1, 2}
        assert id_ in capsys.readouterr().err
