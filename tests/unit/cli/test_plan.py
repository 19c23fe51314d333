"""`underkeel plan` and `underkeel recommend`, called as a person calls them."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import checkpoint_files
import pytest
import shapes
from real_daemon import configure
from rich.console import Console
from typer.testing import CliRunner, Result

from assistant import settings
from assistant.cli import build_app
from assistant.cli.plan_view import plan_json, plan_text
from assistant.cli.recommend import find_model
from assistant.errors import PlanError, SettingsError, UnderkeelError, UnknownModelError
from assistant.memory.gguf.header import Header, read_header
from assistant.memory.model.known_models import known_header, known_models
from assistant.memory.planning import Plan, Requirements, imagined, parse_size, this_machine
from assistant.memory.planning.dry_run import write_skeleton
from assistant.memory.planning.measured_planner import plan_report
from assistant.memory.planning.plan_report import PlanReport, gib
from assistant.memory.planning.planner import requirements_of
from assistant.settings import ModelSettings

ROOT = Path(__file__).parents[3]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(build_app(arguments[0]), list(arguments), terminal_width=100)


def answer(*arguments: str) -> dict[str, object]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.output)
    return found


def failure(*arguments: str) -> UnderkeelError:
    error = run(*arguments).exception
    assert isinstance(error, UnderkeelError), error
    return error


def test_a_picture_of_a_machine_one_does_not_have() -> None:
    result = run("plan", "qwen3-coder-next", "--vram", "24G,12G", "--ram", "64G", "--ctx", "0")
    assert result.exit_code == 0, result.output
    words = " ".join(result.output.split())
    for wanted in (
        "CUDA0", "CUDA1", "CPU", "79.7 B parameters must be in memory", "uses 3.9 B of them",
        "experts of", "KV cache", "compute", "margin", "free", "tokens of context", "tokens/s",
        "expert groups fit on the GPUs", "What would change", "q8_0",
        "compute buffers are estimated",
    ):  # fmt: skip
        assert wanted in words, wanted


def test_json_holds_all_of_it() -> None:
    found = answer("plan", "gpt-oss-20b", "--vram", "16G", "--gpus", "2", "--ctx", "8192")
    assert found["fits"] is True
    assert found["measured"] is False
    assert [device["name"] for device in found["devices"]] == ["CPU", "CUDA0", "CUDA1"]  # type: ignore[attr-defined]
    assert found["context"]["n_ctx"] == 8192  # type: ignore[index]
    assert found["load"]["devices"] == ["CUDA0"]  # type: ignore[index]
    assert {row["cache_type"] for row in found["what_if"]} == {"f16", "q8_0", "q4_0"}  # type: ignore[attr-defined]


def test_text_and_json_show_the_report_and_nothing_else(tmp_path: Path) -> None:
    """Both formats print the rows of one report, also where everything is measured."""
    header = read_header(shapes.write_family(tmp_path, "granitemoe"))
    here, _ = this_machine()
    on = imagined(here, [], 64 << 30, 0)
    report = plan_report(header, on, Requirements(n_ctx=4096), here, ("a caveat of this machine",))
    plan = report.require_plan()
    assert plan.measured
    found = plan_json(report)
    assert [
        (row["n_ctx"], row["cache_type"], row["kv_bytes"], row["needed_bytes"], row["measured"])
        for row in found["what_if"]
    ] == [
        (row.n_ctx, row.cache_type, row.kv_bytes, needed(row.plan), True) for row in report.what_if
    ]
    assert found["context"]["most_n_ctx"] == report.most_n_ctx
    assert found["caveats"] == list(report.caveats)
    words = shown(report)
    rows = words[words.index("What would change") : words.index("Caveats")].splitlines()[2:]
    assert [row.split() for row in rows if row.strip()] == [
        [
            f"{row.n_ctx:,}",
            row.cache_type,
            *gib(row.kv_bytes).split(),
            *gib(needed(row.plan)).split(),
        ]
        for row in report.what_if
    ]
    assert f"up to {report.most_n_ctx:,}" in words
    assert "a caveat of this machine" in words


def needed(plan: Plan | None) -> int:
    return sum(usage.needed_bytes for usage in plan.usages) if plan else 0


def shown(report: PlanReport) -> str:
    console = Console(width=100, file=io.StringIO(), color_system=None)
    with console.capture() as capture:
        console.print(plan_text(report))
    return capture.get()


def test_plan_and_daemon_read_the_same_settings(home: Path, tmp_path: Path) -> None:
    """Whatever the daemon plans by, `plan` plans by; what is given on the command line wins."""
    path = shapes.write_family(tmp_path, "granitemoe")
    configure(
        home,
        model={
            "name": str(path),
            "n_ctx": 2048,
            "n_seq_max": 2,
            "cache_type": "q8_0",
            "vram_margin_mib": 300,
            "vram_overhead_mib": 7,
        },
    )
    machine = ("--vram", "8G", "--ram", "64G")
    found = answer("plan", *machine)
    chosen, problems = settings.load()
    assert not problems
    daemons = requirements_of(chosen.model)
    gpu = next(row for row in found["devices"] if row["name"] == "CUDA0")  # type: ignore[attr-defined]
    assert gpu["margin_bytes"] == daemons.margin_bytes == 300 << 20
    assert gpu["overhead_bytes"] == daemons.overhead_bytes == 7 << 20
    context, load = found["context"], found["load"]
    assert (context["n_ctx"], context["cache_type"]) == (2048, "q8_0")  # type: ignore[index]
    assert load["n_seq_max"] == 2  # type: ignore[index]
    given = answer("plan", *machine, "--ctx", "4096", "--margin", "64M", "--cache-type", "f16")
    gpu = next(row for row in given["devices"] if row["name"] == "CUDA0")  # type: ignore[attr-defined]
    assert gpu["margin_bytes"] == 64 << 20
    assert (given["context"]["n_ctx"], given["context"]["cache_type"]) == (4096, "f16")  # type: ignore[index]


def test_every_setting_of_memory_is_a_requirement() -> None:
    """A setting that the planner should know of cannot be forgotten in one of the two places."""
    plain = requirements_of(ModelSettings())
    changes: dict[str, Any] = {
        "n_ctx": 1024,
        "n_seq_max": 7,
        "cache_type": "q4_0",
        "vram_margin_mib": 1,
        "vram_overhead_mib": 1,
    }
    for name, value in changes.items():
        assert requirements_of(ModelSettings(**{name: value})) != plain, name


def test_a_file_of_this_machine_is_measured(tmp_path: Path) -> None:
    path = shapes.write_family(tmp_path, "granitemoe")
    found = answer("plan", str(path), "--ram", "64G", "--cache-type", "q8_0")
    assert found["measured"] is True
    assert found["caveats"] == []
    assert found["context"]["cache_type"] == "q8_0"  # type: ignore[index]


def test_another_quantisation_of_a_known_model() -> None:
    sizes = [
        answer("plan", "gpt-oss-20b", "--quant", quant, "--ram", "99G", "--gpus", "0")["model"]
        for quant in ("MXFP4", "F16")
    ]
    assert sizes[1]["total_bytes"] > 3 * sizes[0]["total_bytes"]  # type: ignore[index]


def test_what_does_not_fit_says_what_would() -> None:
    arguments = ("plan", "qwen3-coder-30b-a3b", "--vram", "8G", "--ram", "12G", "--ctx", "65536")
    error = failure(*arguments)
    assert isinstance(error, PlanError)
    assert error.shortfall_bytes > 0
    result = run(*arguments, "--json")
    found = json.loads(result.output)
    assert result.exit_code == 1
    assert found["fits"] is False
    assert found["shortfall_bytes"] == error.shortfall_bytes
    assert found["alternatives"]


def test_a_checkpoint(tmp_path: Path) -> None:
    folder = checkpoint_files.write_checkpoint(tmp_path / "toy")
    result = run("plan", str(folder), "--vram", "24G", "--ram", "64G")
    assert result.exit_code == 0, result.output
    for wanted in ("NF4, double quantisation", "GPTQ", "AWQ", "device_map", "vllm serve"):
        assert wanted in result.output, wanted
    found = answer("plan", str(folder), "--vram", "24G", "--ram", "64G")
    assert set(found["schemes"]) == {  # type: ignore[call-overload]
        "16 bit", "LLM.int8()", "NF4", "NF4, double quantisation", "GPTQ 4 bit", "AWQ 4 bit",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("plan", "nonsense"), "no model"),
        (("plan", "./nothing.gguf"), "no such file"),
        (("plan", "gpt-oss-20b", "--vram", "many"), "not a size"),
        (("plan", "gpt-oss-20b", "--ram", "-3G"), "not a size"),
        (("plan", "gpt-oss-20b", "--quant", "Q99"), "quantisation"),
        (("plan", "gpt-oss-20b", "--cache-type", "q3_K", "--ram", "64G"), "q3_K"),
    ],
)
def test_mistakes_are_explained(arguments: tuple[str, ...], words: str) -> None:
    error = failure(*arguments)
    assert words in str(error)
    assert error.advice


def test_unknown_names_are_met_with_the_known_ones() -> None:
    error = failure("plan", "nonsense")
    assert isinstance(error, UnknownModelError)
    assert "qwen3-coder-30b-a3b" in error.advice
    near = failure("plan", "qwen3-coder-30B")
    assert near.advice.startswith("Did you mean qwen3-coder-30b-a3b")
    for path in ("./nothing.gguf", "nothing.gguf"):
        assert "Give the path of a GGUF" in failure("plan", path).advice


@pytest.mark.parametrize(
    ("spelling", "stem"),
    [
        ("Kimi K2.6", "kimi-k2.6-Q4_K_M"),
        ("glm5", "glm-5-Q4_K_M"),
        ("deepseek v4 flash", "deepseek-v4-flash-Q4_K_M"),
        ("DeepSeek_V4_Pro", "deepseek-v4-pro-Q4_K_M"),
        ("Seed-Coder-8B-Instruct", "seed-coder-8b-Q4_K_M"),
        ("kimi-k2.6:Q2_K", "kimi-k2.6-Q2_K"),
    ],
)
def test_other_spellings_of_a_name_are_understood(spelling: str, stem: str) -> None:
    found = find_model(spelling)
    assert isinstance(found, Header) and Path(found.path).stem == stem


@pytest.mark.parametrize(
    ("wrong", "near"),
    [
        ("qwen3.6", "qwen3.6-35b-a3b"),
        ("gemma4", "gemma-4-26b-a4b"),
        ("granite 4", "granite-4.0-h-tiny"),
        ("devstral", "devstral-small"),
        ("codestral", "codestral-22b"),
        ("sweep", "sweep-next-edit-0.5b"),
        ("zeta", "zeta-2"),
        ("deepseek-v4", "deepseek-v4-flash"),
        ("coder-next", "qwen3-coder-next"),
        ("qwen3-codr-next", "qwen3-coder-next"),
        ("minimax m2.9", "minimax-m2"),
    ],
)
def test_part_of_a_name_or_a_misspelt_one_finds_the_model(wrong: str, near: str) -> None:
    assert near in failure("plan", wrong).advice.removeprefix("Did you mean ").split(" or ", 1)[0]


def test_a_refusal_names_a_quantisation_that_can_be_planned() -> None:
    refused = failure("plan", "deepseek-v4-flash", "--gpus", "0", "--ram", "110G")
    assert "a Q2_K file of about" in refused.advice
    planned = answer("plan", "deepseek-v4-flash:Q2_K", "--gpus", "0", "--ram", "110G")
    size = float(refused.advice.partition("a Q2_K file of about ")[2].split()[0])
    model = planned["model"]
    assert isinstance(model, dict)
    assert model["total_bytes"] / (1 << 30) == pytest.approx(size, rel=0.01)


def test_the_quantisations_of_a_known_model_are_listed() -> None:
    machine = ("--gpus", "0", "--ram", "11G", "--ctx", "4096")
    found = answer("plan", "qwen2.5-coder-14b", *machine)["quantisations"]
    assert isinstance(found, list)
    sizes = [row["total_bytes"] for row in found]
    assert len(found) >= 6 and sizes == sorted(sizes, reverse=True)
    fits = [row["fits"] for row in found]
    assert fits == sorted(fits) and not fits[0] and fits[-1]
    for row in found:
        arguments = ("plan", f"qwen2.5-coder-14b:{row['name']}", *machine, "--json")
        assert (run(*arguments).exit_code == 0) is row["fits"]
    words = run("plan", "kimi-k2.6", "--gpus", "0", "--ram", "400G").output
    assert "Q3_K_M" in words and "too large" in words


def test_a_quantisation_is_only_asked_for_by_name(tmp_path: Path) -> None:
    path = write_skeleton(tmp_path / "m.gguf", known_header("qwen2.5-coder-1.5b"))
    assert "--quant" in str(failure("plan", str(path), "--quant", "Q2_K"))


def test_no_traceback_reaches_a_person(tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(3))
    done = subprocess.run(
        [sys.executable, "-m", "assistant", "plan", str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1
    assert "not a GGUF" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout


def test_recommendations_are_ordered() -> None:
    result = run("recommend", "--vram", "24G", "--ram", "64G", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    fits = [row["fits"] for row in found]
    assert fits == sorted(fits, reverse=True)
    names = [row["name"] for row in found]
    assert names.index("qwen3-coder-next") < names.index("gpt-oss-20b")
    assert not next(row for row in found if row["name"] == "kimi-k2")["fits"]
    small = json.loads(run("recommend", "--gpus", "0", "--ram", "4G", "--json").output)
    pulled = {"gemma-3-270m"}  # a test model, recommended only where somebody has pulled it
    fitting = [row["name"] for row in small if row["fits"] and row["name"] not in pulled]
    sizes = [known_models()[name].parameters for name in fitting if name in known_models()]
    assert fitting[0] == "qwen3.5-4b" and max(sizes) < 5
    assert {"qwen2.5-coder-3b", "granite-4.0-h-micro", "starter-moe"} <= set(fitting)


def test_plan_and_recommend_tell_whose_sizes_are_not_checked() -> None:
    """The known shapes of `known_models.toml` whose source begins with "not checked"."""
    unchecked = [name for name, model in known_models().items() if not model.checked]
    assert unchecked
    words = "this model's sizes are not from its file or its makers"
    machine = ("--gpus", "0", "--ram", "900G")
    for name in (*unchecked[:2], "qwen2.5-coder-7b"):
        found: Any = answer("plan", name, *machine)
        assert any(line.startswith(words) for line in found["caveats"]) == (name in unchecked)
        shown = " ".join(run("plan", name, *machine).output.split())
        assert (words in shown) == (name in unchecked)
    rows = json.loads(run("recommend", *machine, "--json").output)
    assert {row["name"] for row in rows if not row["checked"]} == set(unchecked)
    table = run("recommend", *machine).output
    marked = {line.split()[0] for line in table.splitlines() if line.split()[1:2] == ["*"]}
    assert marked == set(unchecked) and "* Sizes not from its file or its makers" in " ".join(
        table.split()
    )


def test_recommendations_as_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = run("recommend", "--vram", "24G", "--ram", "64G")
    assert "…" not in result.output
    words = " ".join(result.output.split())
    for wanted in ("all of it", "22/48 experts", "GiB too large"):
        assert wanted in words, wanted
    lines = [line for line in result.output.splitlines() if line.startswith("kimi-k2 ")]
    assert len(lines) == 1 and "too large" in lines[0]


@pytest.mark.parametrize(
    ("text", "size"),
    [("24", 24 << 30), ("24G", 24 << 30), ("512M", 512 << 20), ("1.5GiB", 3 << 29), ("0", 0)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "-1", "1X", "9999999T"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(SettingsError):
        parse_size(text)


def test_a_known_model_that_does_not_fit_names_the_quantisation_that_does() -> None:
    """Known by its shape, before a byte of it is fetched."""
    result = run("plan", "kimi-k2.5", "--gpus", "0", "--ram", "400G")
    assert isinstance(result.exception, PlanError)
    assert result.exception.advice.startswith("What fits: a Q2_K file of about 330.3 GiB")


def test_two_models_are_planned_together() -> None:
    machine = ("--vram", "24G", "--gpus", "1", "--ram", "32G", "--ctx", "8192")
    found: Any = answer("plan", "qwen2.5-coder-7b", "--explain", "gpt-oss-20b", *machine)
    first, second = found["models"]
    assert first["purposes"] == ["completions", "next edits"] and not first["on_demand"]
    assert second["purposes"] == ["explanations", "chats"] and second["on_demand"]
    taken = sum(row["bytes"].get("CUDA0", 0) for row in (first, second))
    assert 0 < taken <= 24 << 30
    assert answer("plan", "qwen2.5-coder-7b", "gpt-oss-20b", *machine)["models"] == found["models"]
    three = failure("plan", "qwen2.5-coder-7b", "gpt-oss-20b", "--explain", "glm-5", *machine)
    assert "not three" in str(three)
    small = ("--gpus", "0", "--ram", "9G")
    refused = failure("plan", "qwen2.5-coder-7b", "--explain", "gpt-oss-20b", *small)
    assert "do not fit together" in refused.message and "What fits: " in refused.advice
