"""Plans for safetensors checkpoints, for Transformers and vLLM."""

__all__ = [
    "checkpoint",
    "checkpoint_plan",
]
