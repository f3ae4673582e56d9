"""The reader's guide: recorded runs as a stranger's files, which law for which data, and how many runs are needed."""
