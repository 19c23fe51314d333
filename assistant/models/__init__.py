"""Models: the catalogue, downloads, the starter model, vocabularies and families."""
