"""What must never reach an index or a prompt: files by their names, keys by their looks."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pathspec

MASK = "..."

# Keys of known makers: a text that all of a form contain, and the form. Looking for the plain
# text first is what makes this cheap enough for every window and every indexed file.
_BEGIN = r"-----BEGIN[ A-Z0-9]*PRIVATE KEY(?: BLOCK)?-----"
_KEYS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (hint, re.compile(form))
    for hint, form in (
        (
            "PRIVATE KEY",
            _BEGIN + r"(?:[\s\S]*?" + _BEGIN.replace("BEGIN", "END") + r"|[\s\S]{0,4096})",
        ),
        ("AKIA", r"\bAKIA[A-Z0-9]{16}\b"),
        ("ASIA", r"\bASIA[A-Z0-9]{16}\b"),
        ("gh", r"\bgh[pousr]_[A-Za-z0-9]{30,}\b"),
        ("github_pat_", r"\bgithub_pat_[A-Za-z0-9_]{30,}\b"),
        ("glpat-", r"\bglpat-[A-Za-z0-9_-]{18,}"),
        ("xox", r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}"),
        ("sk-", r"\bsk-(?:[a-z]+-)*[A-Za-z0-9_-]{20,}"),
        ("k_live_", r"\b[rsp]k_live_[A-Za-z0-9]{16,}"),
        ("k_test_", r"\b[rsp]k_test_[A-Za-z0-9]{16,}"),
        ("AIza", r"\bAIza[A-Za-z0-9_-]{30,}"),
        ("ya29.", r"\bya29\.[A-Za-z0-9_-]{20,}"),
        ("hf_", r"\bhf_[A-Za-z]{30,}\b"),
        ("npm_", r"\bnpm_[A-Za-z0-9]{30,}\b"),
        ("pypi-", r"\bpypi-[A-Za-z0-9_-]{40,}"),
        ("SG.", r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
        ("eyJ", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}"),
        ("dop_v1_", r"\bdo[por]_v1_[a-f0-9]{32,}\b"),
        ("shp", r"\bshp(?:at|ca|pa|ss)_[A-Fa-f0-9]{24,}\b"),
        ("dckr_pat_", r"\bdckr_pat_[A-Za-z0-9_-]{20,}"),
        ("hooks.slack.com", r"(?<=hooks\.slack\.com/services/)[A-Za-z0-9/]{20,}"),
        ("AccountKey=", r"(?<=AccountKey=)[A-Za-z0-9+/=]{20,}"),
        ("Bearer ", r"(?<=Bearer )[A-Za-z0-9._~+/-]{20,}=*"),
        ("://", r"(?<=://)[^/\s:@\"']{1,64}:[^/\s:@\"']{3,128}(?=@)"),
    )
)
# Something long and random in quotes, on a line where a telling name stands before it.
_TELLING = re.compile(r"pass(?:wor|wd|phr)|secret|token|api[_-]?key|access[_-]?key|_key|credential")
_QUOTED = re.compile(r"""[=:]\s*["']([^"'\s]{12,})["']""")
# The same without quotes of its own, as in shells and YAML, at the end of its line.
_BARE = re.compile(r"[=:][ \t]*([A-Za-z0-9+/_=-]{20,})[\"'`,;)]*[ \t\r]*$", re.MULTILINE)
_PLAIN_WORD = re.compile(r"[A-Z]?[a-z]*|[A-Z]+|(?:[A-Z][a-z]{2,})+")
_JOINTS = re.compile(r"[-_./:<>|(){}\[\]$%,;]")
_ARMOUR = re.compile(r"^[A-Za-z0-9+/]{60,}={0,2}[ \t\r]*$", re.MULTILINE)


def masked(text: str) -> str:
    """`text` with everything that looks like a key replaced by MASK; line ends stay."""
    for hint, form in _KEYS:
        if hint in text:
            text = form.sub(lambda found: MASK + "\n" * found.group().count("\n"), text)
    text = _mask_named(text, _QUOTED, kinds=2)
    text = _mask_named(text, _BARE, kinds=3)  # else it may be a name of the program
    return _ARMOUR.sub(MASK, text)


def _mask_named(text: str, form: re.Pattern[str], *, kinds: int) -> str:
    """Mask what `form` finds behind a telling name, if it is of so many kinds of characters."""
    parts: list[str] = []
    at = 0
    for found in form.finditer(text):
        before = text[
            max(text.rfind("\n", 0, found.start()) + 1, found.start() - 80) : found.start()
        ]
        if _TELLING.search(before.lower()) and _random_looking(found.group(1), kinds):
            parts += [text[at : found.start(1)], MASK]
            at = found.end(1)
    parts.append(text[at:])
    return "".join(parts)


def _random_looking(value: str, wanted_kinds: int) -> bool:
    """Many kinds of characters, many different ones, and not merely words joined by signs."""
    if all(_PLAIN_WORD.fullmatch(part) for part in _JOINTS.split(value)):
        return False
    kinds = sum(
        any(test(char) for char in value) for test in (str.islower, str.isupper, str.isdigit)
    )
    many = len(set(value)) * 2 >= min(len(value), 32)
    signs = not value.replace("_", "").replace("-", "").isalpha()
    return many and (kinds >= wanted_kinds or (wanted_kinds < 3 and signs))


@cache
def _spec(name: str) -> pathspec.GitIgnoreSpec:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return pathspec.GitIgnoreSpec.from_lines(lines)


def is_secret(path: str) -> bool:
    """Whether a file's path (any form, `/` between parts) is on the list of secrets."""
    return _spec("secrets.gitignore").match_file(path.lstrip("/"))


def is_skipped(path: str) -> bool:
    """Whether a path is never source: version control, caches, installed packages, lock files."""
    return _spec("skipped.gitignore").match_file(path)
