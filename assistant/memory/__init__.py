"""Memory known before it is spent: GGUF headers, the inventory, KV sizes, devices, plan, budget."""
