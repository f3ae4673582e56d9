"""Runs: what one is (`spec`), how it is trained (`train`), what it leaves (`store`), many at once (`sweep`)."""
