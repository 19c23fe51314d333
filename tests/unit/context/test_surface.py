"""What other rooms may use of `context`."""

from __future__ import annotations

import context


def test_all_names_exist_and_are_sorted() -> None:
    assert list(context.__all__) == sorted(context.__all__)
    for name in context.__all__:
        assert hasattr(context, name), name


def test_nothing_else_is_offered() -> None:
    offered = {
        name
        for name, value in vars(context).items()
        if not name.startswith("_") and isinstance(value, type)
    }
    assert offered <= set(context.__all__)
