"""The index of a workspace: which files may be read, what is kept of each, and its storage."""

__all__ = ["file_record", "open_file", "project_index", "read_policy", "store", "walk"]
