"""Names of Hugging Face, and the choice of a file (cases S5 and S17)."""

from __future__ import annotations

import pytest

from assistant.errors import ModelError
from assistant.memory.gguf.remote import (
    HubName,
    choose_file,
    is_remote,
    parse_hub_name,
    quantisation_of,
)

SITE = "https://huggingface.co/o/r"


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("o/r", HubName("o/r")),
        (" o/r:Q4_K_M ", HubName("o/r", quantisation="Q4_K_M")),
        (SITE + "/tree/main", HubName("o/r")),
        (SITE + "/tree/main/", HubName("o/r")),
        (SITE + "/tree/main/Q4_K_M", HubName("o/r", "Q4_K_M", folder=True)),
        (SITE + "/tree/v2", HubName("o/r", revision="v2")),
        (SITE + "/blob/main/a%20b.gguf", HubName("o/r", "a b.gguf")),
        (SITE + "/resolve/abc/m.gguf?download=true", HubName("o/r", "m.gguf", revision="abc")),
        (SITE + "?show_file_info=m.gguf", HubName("o/r", "m.gguf")),
        ("http://www.huggingface.co/o/r/", HubName("o/r")),
        ("hf.co/o/r:Q8_0", HubName("o/r", quantisation="Q8_0")),
        ("o/r/tree/main", HubName("o/r")),
        ("https://mirror.example/o/r/tree/main", HubName("o/r")),
        ("https://other.example/m.gguf", HubName()),
        (SITE + "/tree/refs%2Fpr%2F3", HubName("o/r", revision="refs/pr/3")),
        (SITE + "/blob/refs%2Fpr%2F3/m.gguf", HubName("o/r", "m.gguf", revision="refs/pr/3")),
        ("https://huggingface.co:443/o/r", HubName("o/r")),
        ("hf://o/r", HubName("o/r")),
        ("HF://models/o/r/m.gguf", HubName("o/r", "m.gguf")),
    ],
)
def test_addresses_as_a_browser_shows_them(name: str, parsed: HubName) -> None:
    """Case S17."""
    assert parse_hub_name(name, "https://mirror.example") == parsed
    assert is_remote(name)


@pytest.mark.parametrize("name", ["https://huggingface.co/datasets/o/r", "hf.co/o"])
def test_addresses_that_name_no_model(name: str) -> None:
    with pytest.raises(ModelError, match="no model"):
        parse_hub_name(name)


@pytest.mark.parametrize(
    ("wanted", "files", "chosen"),
    [
        ("F16", ["m-BF16.gguf", "m-F16.gguf"], "m-F16.gguf"),
        ("bf16", ["m-BF16.gguf", "m-F16.gguf"], "m-BF16.gguf"),
        ("F16", ["m.fp16.gguf", "m-bf16.gguf"], "m.fp16.gguf"),
        ("Q4_0", ["m-IQ4_NL.gguf", "m-Q4_0_4_4.gguf", "m-Q4_0.gguf"], "m-Q4_0.gguf"),
        ("Q4_K_XL", ["m-UD-Q4_K_XL.gguf", "m-Q4_K_M.gguf"], "m-UD-Q4_K_XL.gguf"),
        ("Q4_K_XL", ["m-UD-Q4_K_XL.gguf", "m-Q4_K_XL.gguf"], "m-Q4_K_XL.gguf"),
        ("Q8_0", ["m-Q8_0-mm-proj.gguf", "mm_proj-Q8_0.gguf", "m-Q8_0.gguf"], "m-Q8_0.gguf"),
        ("Q8_0", ["clip-m-Q8_0.gguf", "m-vae-Q8_0.gguf", "m-Q8_0.gguf"], "m-Q8_0.gguf"),
        ("Q8_0", ["m-audio-encoder-Q8_0.gguf", "m-dflash-Q8_0.gguf", "m-Q8_0.gguf"],
         "m-Q8_0.gguf"),
        ("", ["imatrix.gguf", "MTP-m-Q4_K_M.gguf", "mmproj-F16.gguf", "m-Q4_K_M.gguf"],
         "m-Q4_K_M.gguf"),
        ("", ["a.imatrix.gguf", "lora-m-Q4_K_M.gguf", "m-draft-Q4_K_M.gguf", "z-Q8_0.gguf"],
         "z-Q8_0.gguf"),
        ("", ["MTP-m-Q4_K_M.gguf"], "MTP-m-Q4_K_M.gguf"),
        ("Q8_0", ["m-Q8_0.GGUF"], "m-Q8_0.GGUF"),
        ("", ["Q4_K_M/m-00002-of-00002.gguf", "Q4_K_M/m-00001-of-00002.gguf"],
         "Q4_K_M/m-00001-of-00002.gguf"),
        ("instruct", ["m-instruct-Q8_0.gguf", "m-base-Q8_0.gguf"], "m-instruct-Q8_0.gguf"),
    ],
)  # fmt: skip
def test_the_file_that_is_meant(wanted: str, files: list[str], chosen: str) -> None:
    """Case S5: quantisations are whole words; files beside a model are never taken for it."""
    assert choose_file(files, wanted, "o/r") == chosen
    assert choose_file(files[::-1], wanted, "o/r") == chosen


@pytest.mark.parametrize("files", [["imatrix.gguf"], ["mmproj-F16.gguf"], ["m.vocab.gguf"]])
def test_no_helper_is_a_model(files: list[str]) -> None:
    with pytest.raises(ModelError, match="no GGUF"):
        choose_file(files, "", "o/r")


def test_doubt_is_an_error_that_names_the_files() -> None:
    """Case S5: two models in one repository."""
    files = ["small-Q4_K_M.gguf", "large-Q4_K_M.gguf"]
    with pytest.raises(ModelError, match="several files") as caught:
        choose_file(files, "Q4_K_M", "o/r")
    assert all(file in caught.value.advice for file in files)


def test_quantisations_of_names() -> None:
    assert quantisation_of("UD-IQ2_XXS/m-00001-of-00002.gguf") == "iq2_xxs"
    assert quantisation_of("m.gguf") == ""
