"""Models: the catalogue, downloads, the starter model, vocabularies and families."""

__all__ = [
    "acquire",
    "catalogue",
    "estimate",
    "families",
    "fetch",
    "hub",
    "local_store",
    "pull",
    "storage",
    "vocabulary",
    "vocabulary_import",
]
