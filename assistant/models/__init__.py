"""Models: the catalogue, downloads, the starter model, vocabularies and families."""

__all__ = [
    "catalogue",
    "families",
    "fetch",
    "hub",
    "local_store",
    "pull",
    "token_estimate",
    "vocabulary",
    "vocabulary_import",
]
