"""Engines that answer: the llama.cpp worker process and remote servers, behind one protocol."""

__all__ = ["ipc", "local", "remote", "transformers", "types"]
