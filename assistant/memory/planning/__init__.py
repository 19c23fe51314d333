"""Plans how a GGUF or a safetensors checkpoint is loaded: placement, footprint, projections."""

__all__ = [
    "checkpoint",
    "checkpoint_plan",
    "dry_run",
    "footprint",
    "load_report",
    "measured_planner",
    "placement",
    "plan",
    "plan_report",
    "planner",
    "together",
]
