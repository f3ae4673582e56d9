"""The chapter on cross-lingual CPT (arXiv 2407.02118): its runs, its tables of losses, its evidence."""
