"""Memory known before it is spent: GGUF headers, a model's sizes, devices, free memory, plans."""
