"""The only package that calls llama.cpp's C interface: loading, contexts, memory breakdown."""

__all__ = [
    "batch",
    "breakdown",
    "context",
    "ggml",
    "model",
    "sampling",
    "spec",
]
