"""A loaded model: its weights, its vocabulary, the facts in its header, and its pages in memory.

A mapped model that is not used for long loses its pages to other programs' files, and the next
completion reads them from disk again (26 s instead of 0.6 s were measured for half a GB). Touching
the pages now and then keeps them.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from assistant.errors import EngineError, LoadError
from assistant.llama import LoadSpec, ggml, structs
from assistant.llama.ggml import llama_cpp

_MAGIC = b"GGUF"
_TOO_MANY_TOKENS = -(1 << 31)  # INT32_MIN: more than fit a count
_MEANT_LENGTH = 64  # a token's text is seldom longer

GoesOn = Callable[[float], bool]
"""Called with the loaded share, 0 to 1; returning False cancels the load."""


@dataclass(frozen=True)
class ModelFacts:
    """What the GGUF says.

    Attributes:
        n_swa: the sliding window in tokens, 0 where there is none.
        tool_template, special_tokens: as of `assistant.engine.types.ModelInfo`.
    """

    name: str
    architecture: str
    n_vocab: int
    n_ctx_train: int
    n_params: int
    size_bytes: int
    n_swa: int
    recurrent: bool
    add_bos: bool
    bos: int
    chat_template: str
    tool_template: str
    special_tokens: tuple[tuple[str, str], ...]


class Model:
    """Owns a `llama_model *`; `free` gives its memory back.

    Raises:
        LoadError: no such file, not a GGUF, damaged, of an unknown architecture, cancelled, or
            memory was refused.
    """

    def __init__(self, spec: LoadSpec, goes_on: GoesOn | None = None) -> None:
        ggml.capture()
        _check_file(spec.path)
        ggml.initialise()
        cancelled = False

        @llama_cpp.llama_progress_callback  # type: ignore[untyped-decorator]
        def progress(share: float, _: object) -> bool:
            nonlocal cancelled
            cancelled = cancelled or not (goes_on is None or goes_on(share))
            return not cancelled

        native = structs.model_params(spec)
        native.struct.progress_callback = progress
        ggml.clear()
        self._handle: Any = llama_cpp.llama_model_load_from_file(
            os.fsencode(spec.path), native.struct
        )
        if not self._handle:
            if cancelled:
                raise LoadError("the load was cancelled", subject=spec.path)
            raise LoadError(
                f"llama.cpp cannot load the model: {ggml.reason('it does not say why')}",
                subject=spec.path,
                advice="Check that the file is whole and that memory is free, or pull it again",
            )
        self._vocab = llama_cpp.llama_model_get_vocab(self._handle)

    @property
    def handle(self) -> Any:
        """The `llama_model *`."""
        return self._handle

    def free(self) -> None:
        """Give the weights back, after all contexts of it. Safe to call twice."""
        handle, self._handle = self._handle, None
        if handle:
            llama_cpp.llama_model_free(handle)

    @functools.cached_property
    def facts(self) -> ModelFacts:
        model = self._handle
        return ModelFacts(
            name=self._meta("general.name"),
            architecture=self._meta("general.architecture"),
            n_vocab=llama_cpp.llama_vocab_n_tokens(self._vocab),
            n_ctx_train=llama_cpp.llama_model_n_ctx_train(model),
            n_params=llama_cpp.llama_model_n_params(model),
            size_bytes=llama_cpp.llama_model_size(model),
            n_swa=llama_cpp.llama_model_n_swa(model),
            recurrent=llama_cpp.llama_model_is_recurrent(model)
            or llama_cpp.llama_model_is_hybrid(model),
            add_bos=llama_cpp.llama_vocab_get_add_bos(self._vocab),
            bos=llama_cpp.llama_vocab_bos(self._vocab),
            chat_template=self._template() or self._template("default"),
            tool_template=self._template("tool_use"),
            special_tokens=self._special_tokens(),
        )

    def _template(self, name: str = "") -> str:
        return self._meta(f"tokenizer.chat_template{'.' if name else ''}{name}")

    def _special_tokens(self) -> tuple[tuple[str, str], ...]:
        ids = {
            "bos_token": llama_cpp.llama_vocab_bos(self._vocab),
            "eos_token": llama_cpp.llama_vocab_eos(self._vocab),
            "pad_token": llama_cpp.llama_vocab_pad(self._vocab),
            "sep_token": llama_cpp.llama_vocab_sep(self._vocab),
        }
        for name, key in (("unk", "unknown"), ("cls", "cls"), ("mask", "mask")):
            number = self._meta(f"tokenizer.ggml.{key}_token_id")
            ids[f"{name}_token"] = int(number) if number.isascii() and number.isdigit() else -1
        n_vocab = llama_cpp.llama_vocab_n_tokens(self._vocab)
        return tuple(
            (name, self.piece(token, special=True).decode("utf-8", "replace"))
            for name, token in ids.items()
            if 0 <= token < n_vocab
        )

    def tokenise(self, text: str, *, special: bool = False) -> list[int]:
        """Token ids of `text`, without BOS; `special` reads control tokens written in it."""
        raw = text.encode("utf-8", "replace")
        capacity = len(raw) + 8  # some vocabularies put a space in front
        for _ in range(2):
            tokens = (llama_cpp.llama_token * capacity)()
            count = llama_cpp.llama_tokenize(
                self._vocab, raw, len(raw), tokens, capacity, False, special
            )
            if count >= 0:
                return list(tokens[:count])
            if count == _TOO_MANY_TOKENS:
                break
            capacity = -count  # llama.cpp returns how many there are
        raise EngineError("llama.cpp cannot tokenise this text", advice="Send less of it")

    def detokenise(self, tokens: Sequence[int]) -> str:
        """Text of `tokens`, control tokens rendered; invalid UTF-8 becomes U+FFFD."""
        return b"".join(self.piece(token, special=True) for token in tokens).decode(
            "utf-8", "replace"
        )

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes of one token; a control token has none unless `special`."""
        capacity = _MEANT_LENGTH
        while True:
            text = ctypes.create_string_buffer(capacity)
            count = llama_cpp.llama_token_to_piece(self._vocab, token, text, capacity, 0, special)
            if count >= 0:
                return text.raw[:count]
            capacity = -count

    @functools.cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end a generation (EOS, EOT, and the FIM tokens that mean an end)."""
        is_end = llama_cpp.llama_vocab_is_eog
        return frozenset(token for token in range(self.facts.n_vocab) if is_end(self._vocab, token))

    def _meta(self, key: str) -> str:
        capacity = 256
        while True:
            text = ctypes.create_string_buffer(capacity)
            count = llama_cpp.llama_model_meta_val_str(self._handle, key.encode(), text, capacity)
            if count < capacity:
                return text.value.decode("utf-8", "replace") if count >= 0 else ""
            capacity = count + 1  # llama.cpp returns the whole length, without the NUL


def _check_file(name: str) -> None:
    """Say clearly what llama.cpp would say in passing."""
    path = Path(name)
    try:
        with path.open("rb") as file:
            opening = file.read(len(_MAGIC))
    except FileNotFoundError as error:
        raise LoadError(
            "there is no such file", subject=name, advice="Pull the model, or fix the path"
        ) from error
    except OSError as error:
        raise LoadError(
            f"the file cannot be read ({error.strerror})",
            subject=name,
            advice="Fix its permissions, or name another file",
        ) from error
    if opening != _MAGIC:
        raise LoadError(
            "this is not a GGUF file", subject=name, advice="Name a .gguf file, or pull it again"
        )


_PIECE_BYTES = 64 << 20
_LEAST_ANONYMOUS_BYTES = 16 << 20  # weights that were copied, and the cache; not stacks and heaps
_PART = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf", re.IGNORECASE)
_MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r\S+ \S+ \S+ (\d+) *(.*)")

Region = tuple[int, int]
"""First address, and the one after the last."""


def regions(model: str, maps: str) -> list[Region]:
    """Where `model` and large anonymous memory stand. `maps`: the text of /proc/self/maps."""
    names, found = _names(model), []
    for line in maps.splitlines():
        match = _MAPPING.fullmatch(line)
        if match is None:
            continue
        start, stop = int(match[1], 16), int(match[2], 16)
        name = match[4].removesuffix(" (deleted)")  # replaced by a newer file meanwhile
        large = not name and match[3] == "0" and stop - start >= _LEAST_ANONYMOUS_BYTES
        if name in names or large:
            found.append((start, stop))
    return found


def _names(model: str) -> frozenset[str]:
    """The file of a model, or the files of all its parts, as the system names them."""
    path = Path(model)
    files = [path]
    if part := _PART.fullmatch(path.name):
        others = re.compile(rf"{re.escape(part[1])}-\d{{5}}-of-{part[2]}\.gguf", re.IGNORECASE)
        with suppress(OSError):
            files += [one for one in path.parent.iterdir() if others.fullmatch(one.name)]
    return frozenset(str(one.resolve()) for one in files)


class Toucher:
    """Reads a byte of every page of a model. A pass that was interrupted continues the next time,
    so that the last pages get their turn however often the first ones were read."""

    def __init__(self) -> None:
        self._next = 0

    def touch(self, model: str, continues: Callable[[], bool] = lambda: True) -> int:
        """Returns the number of pages that this process read of `model`.

        Stops early when `continues` returns False. Does nothing where the system does not report
        what is mapped.
        """
        try:
            maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return 0
        all_pieces = pieces(regions(model, maps))
        pages = 0
        for start, stop in [piece for piece in all_pieces if piece[0] >= self._next] or all_pieces:
            if not continues():
                self._next = start
                return pages
            memory = np.ctypeslib.as_array((ctypes.c_uint8 * (stop - start)).from_address(start))
            read = memory[:: mmap.PAGESIZE]
            read.sum()
            pages += len(read)
        self._next = 0
        return pages


def pieces(found: Sequence[Region]) -> list[Region]:
    """The regions in pieces of at most `_PIECE_BYTES`, by address."""
    return [
        (start, min(start + _PIECE_BYTES, stop))
        for first, stop in sorted(found)
        for start in range(first, stop, _PIECE_BYTES)
    ]
