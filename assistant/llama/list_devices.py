"""Prints ggml's devices as JSON: `python -m assistant.llama.list_devices`.

A process of its own, because a CUDA device that is asked for its memory keeps a context on the
GPU until the process ends.
"""

from __future__ import annotations

import sys

import msgspec

from assistant.errors import UnderkeelError


def main() -> int:
    """Returns 0 and prints a list, or 1 and prints the error as it goes over a wire."""
    try:
        from assistant.llama import ggml

        sys.stdout.buffer.write(msgspec.json.encode(ggml.devices()))
    except UnderkeelError as error:
        refusal = {
            "code": error.code,
            "message": error.message,
            "subject": error.subject,
            "advice": error.advice,
        }
        sys.stdout.buffer.write(msgspec.json.encode(refusal))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
