"""Checks a request's fields by name before they are typed. Pure.

As OpenAI and llama-server have it, null stands for a field's default, and an integral float for an
integer. A field that is unknown or not supported is refused by name: dropping it silently would
give another answer than the client requested. Fields that never change an answer are accepted, and
so are the values of others that change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec
from msgspec import inspect

from assistant.errors import RequestError

_NO_EFFECT = frozenset(
    {
        # OpenAI: bookkeeping of the caller.
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"),
        *("prompt_cache_retention", "parallel_tool_calls"),
        # llama-server: what is reported besides the answer.
        *("timings_per_token", "return_progress", "post_sampling_probs", "response_fields"),
        *("id_slot", "id_task", "n_indent", "n_cache_reuse"),
    }
)
"""Accepted and ignored."""

_NO_EFFECT_WITHIN = frozenset({"cache_control", "id", "timestamp"})
"""The same in messages and their parts: marks of other makers' caches, the caller's bookkeeping."""

_SEED_VALUES = 1 << 32

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "best_of": (1,),
    "ignore_eos": (False,),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "n_keep": (0,),
    "n_discard": (0,),
    "mirostat": (0,),
    "mirostat_tau": (5.0,),
    "mirostat_eta": (0.1,),
    "typical_p": (1.0,),
    "top_n_sigma": (-1.0,),
    "xtc_probability": (0.0,),
    "xtc_threshold": (0.1,),
    "dynatemp_range": (0.0,),
    "dynatemp_exponent": (1.0,),
    "dry_multiplier": (0.0,),
    "dry_base": (1.75,),
    "dry_allowed_length": (2,),
    "dry_penalty_last_n": (-1,),
    "min_keep": (0,),
    "tfs_z": (1.0,),
    "adaptive_target": (-1.0,),
    "dry_sequence_breakers": (["\n", ":", '"', "*"],),
    "parse_tool_calls": (True,),
    "add_generation_prompt": (True,),
    "repetition_penalty": (1.0,),
    "length_penalty": (1.0,),
    "min_tokens": (0,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "include_reasoning": (True,),
    "detokenize": (True,),
}
"""Fields that are not supported, with the values that mean not to use them (the defaults of
llama-server, tools/server/server-task.h, of OpenAI, and of vLLM, vllm/sampling_params.py)."""


def checked(raw: object, kind: type[msgspec.Struct]) -> object:
    """`raw`, a decoded JSON value, ready to be converted to `kind`.

    Raises:
        RequestError: it has fields that are unknown or not supported.
    """
    if not isinstance(raw, dict):
        return raw
    refused: list[str] = []
    found = _checked(raw, kind, "", refused)
    if refused:
        names = ", ".join(dict.fromkeys(refused))
        raise RequestError(
            f"not supported: {names}", advice="Leave these fields out of the request"
        )
    return found


def _checked(
    raw: dict[str, Any], kind: type[msgspec.Struct], where: str, refused: list[str]
) -> dict[str, Any]:
    fields = _fields(kind)
    found: dict[str, Any] = {}
    for name, value in raw.items():
        field = fields.get(name)
        if field is None:
            if not _changes_nothing(name, value, top=not where):
                refused.append(f"{where}{name}"[:100])
        elif value is not None or field.required or field.nullable:
            found[name] = _value(value, field, f"{where}{name}", refused)
            if name == "seed" and not where:
                found[name] = _seed(found[name])
            elif name == "logit_bias" and not where:
                found[name] = _biases(found[name])
    return found


def _changes_nothing(name: str, value: object, *, top: bool) -> bool:
    if value is None:
        return True
    if name in (_NO_EFFECT if top else _NO_EFFECT_WITHIN):
        return True
    neutral_values = _NEUTRAL.get(name, ())
    default_true = any(one is True for one in neutral_values)
    if value in ([], {}, "") or (value is False and not default_true):
        return True
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    return any(
        value == neutral and numeric == (not isinstance(neutral, str | list | bool))
        for neutral in neutral_values
    )


class _Field(msgspec.Struct, frozen=True):
    required: bool
    nullable: bool
    integer: bool
    structs: tuple[type[msgspec.Struct], ...]


@lru_cache(maxsize=64)
def _fields(kind: type[msgspec.Struct]) -> dict[str, _Field]:
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    found = {}
    for field in info.fields:
        types = _types(field.type)
        integers = any(isinstance(one, inspect.IntType) for one in types)
        floats = any(isinstance(one, inspect.FloatType) for one in types)
        structs = tuple(one.cls for one in types if isinstance(one, inspect.StructType))
        nullable = any(isinstance(one, inspect.NoneType | inspect.AnyType) for one in types)
        found[field.encode_name] = _Field(
            field.required, nullable, integers and not floats, structs
        )
    return found


def _types(one: inspect.Type) -> list[inspect.Type]:
    """A type and those it is made of: members of unions, items of lists."""
    if isinstance(one, inspect.UnionType):
        return [inner for member in one.types for inner in _types(member)]
    if isinstance(one, inspect.ListType | inspect.VarTupleType):
        return [one, *_types(one.item_type)]
    return [one]


def _value(value: Any, field: _Field, where: str, refused: list[str]) -> Any:
    if isinstance(value, list):
        if field.structs:
            return [_value(item, field, f"{where}[{n}]", refused) for n, item in enumerate(value)]
        return [_integer(item) for item in value] if field.integer else value
    if isinstance(value, dict) and len(field.structs) == 1:
        return _checked(value, field.structs[0], f"{where}.", refused)
    return _integer(value) if field.integer else value


def _seed(value: Any) -> Any:
    """OpenAI's seeds have 64 bits; as llama-server does it, the lower 32 count."""
    integer = isinstance(value, int) and not isinstance(value, bool)
    return value % _SEED_VALUES if integer and not -1 <= value < _SEED_VALUES else value


def _biases(value: Any) -> Any:
    """Pairs of ids and biases: an id may be an integral float."""
    if isinstance(value, list) and all(isinstance(one, list) and one for one in value):
        return [[_integer(one[0]), *one[1:]] for one in value]
    return value


def _integer(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value
