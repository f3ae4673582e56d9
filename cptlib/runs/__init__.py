"""Training runs: what a run is (`spec`), how it is trained (`train`), what it leaves behind (`store`), many of them (`sweep`)."""
