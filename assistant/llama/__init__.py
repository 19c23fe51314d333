"""The only package that calls llama.cpp's C interface: loading, contexts, memory breakdown."""

__all__ = [
    "breakdown",
    "context",
    "ggml",
    "model",
    "spec",
    "structs",
]
