"""Everything that the demo and the tests install is pinned, with the hash of what was pinned."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_PIN = re.compile(r"^[A-Za-z0-9][\w.-]*(\[[\w,-]+\])?==[\w.!+-]+( ;[^\\]+)? \\$")
_HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


@pytest.mark.parametrize(
    "name", ["requirements.lock", "assistant/install/requirements.lock", ".ci/build.lock"]
)
def test_every_package_has_its_version_and_hashes(name: str) -> None:
    lines = [
        line
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    pins = [line for line in lines if not line.startswith(" ")]
    assert pins and all(_PIN.match(line) for line in pins)
    assert all(_HASH.match(line) for line in lines if line.startswith(" "))
    # No pin without a hash under it.
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        assert line.startswith(" ") or _HASH.match(following), line


def test_the_installer_insists_on_them() -> None:
    text = (ROOT / ".ci" / "setup_env.py").read_text(encoding="utf-8")
    calls = re.findall(r"^    pip\((.+)\)$", text, re.MULTILINE)
    assert len(calls) == 4
    # Our own source has no hash, and is installed without dependencies.
    assert [("--require-hashes" in call) for call in calls].count(False) == 1
    assert all("--require-hashes" in call or "--no-deps" in call for call in calls)
