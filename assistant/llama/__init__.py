"""The one room that touches llama.cpp's C interface: loading, contexts, memory breakdown."""

__all__ = ["breakdown", "context", "ggml", "model", "pages", "sampling", "spec", "threads"]
