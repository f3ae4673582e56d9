"""The learning-dynamics chapter (arXiv 2505.07796): its runs, its curves, its evidence."""
