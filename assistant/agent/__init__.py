"""The agent: works on a task with tools, within the current budget and the permissions given."""

__all__ = ["conversation", "loop", "packing", "permissions", "toolbox", "tools", "workspace"]
