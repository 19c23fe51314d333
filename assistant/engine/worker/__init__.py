"""The worker process that holds llama.cpp: `python -m assistant.engine.worker`."""

__all__ = ["job", "token_generation", "worker_loop"]
