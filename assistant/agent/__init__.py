"""The agent: works on a task with tools, within the current budget and the permissions given."""

__all__ = [
    "acp_client",
    "acp_server",
    "commands",
    "conversation",
    "editing",
    "loop",
    "mcp_servers",
    "model",
    "packing",
    "permissions",
    "session",
    "tools",
]
