"""Claims, their statistics and verdicts, and the one visual style of the figures."""
