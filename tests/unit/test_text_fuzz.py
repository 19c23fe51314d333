"""A short run of the fuzzing in tests/benchmarks/text_fuzz.py."""

from __future__ import annotations

import asyncio
import random

from made_texts import differs, harmless, leaks, secret, sequence

from context.syntax.secrets import masked
from lsp.server import Server


def test_made_up_secrets_are_masked_and_nothing_else() -> None:
    """T10: nearly all of 400 made-up secrets are masked (some look like words by chance), and none
    of 400 other values."""
    rng = random.Random(10)
    missed = 0
    for _ in range(400):
        text, value = secret(rng)
        missed += leaks(value, masked(f"x = 1\n{text}y = 2\n"))
        text = harmless(rng)
        assert masked(text) == text
    assert missed <= 4


def test_edits_over_the_protocol_agree_with_the_reference(home: object) -> None:
    """C12, C13, C20, C22: 300 documents with odd URIs, encodings, line ends and whole texts."""

    async def main() -> None:
        rng = random.Random(20)
        server = Server()
        for _ in range(300):
            made = sequence(rng)
            assert not differs(server, made), made
        await server.session.aclose()

    asyncio.run(main())
