"""The language server: requests in, suggestions out. Holds no model; asks the daemon."""
