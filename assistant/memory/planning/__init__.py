"""Plans how a model is loaded: placement, footprint, dry run, alternatives, projections."""

__all__ = [
    "dry_run",
    "footprint",
    "load_report",
    "measured_planner",
    "placement",
    "plan",
    "plan_report",
    "planner",
]
