"""The worker process that holds llama.cpp: `python -m assistant.engine.worker`."""

__all__ = ["job", "worker_loop"]
