"""How model families write tool calls: as data, with a parser and a grammar made from it."""

__all__ = ["families", "grammar", "parser"]
