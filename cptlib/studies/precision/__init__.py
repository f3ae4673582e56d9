"""Precision: the same runs in float32 and in bf16, and in float32 with sums taken in another order."""
