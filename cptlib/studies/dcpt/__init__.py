"""The D-CPT Law chapter (arXiv 2406.01375): its runs, its tables of losses, its evidence."""
