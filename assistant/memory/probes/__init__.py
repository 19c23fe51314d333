"""Measures the memory of this machine: GPUs, host memory, control groups."""

__all__ = ["devices", "rates", "sampler"]
