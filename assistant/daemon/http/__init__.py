"""The HTTP side of the daemon: routes, request schemas, response formats, admission."""

__all__ = [
    "app",
    "bodies",
    "completion_handler",
    "metrics",
    "ollama_api",
    "prompts",
    "request_schemas",
    "response_formats",
    "responses_api",
]
