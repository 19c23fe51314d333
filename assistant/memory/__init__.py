"""Memory known before it is spent: GGUF headers, the census, KV sizes, devices, plan, budget."""
