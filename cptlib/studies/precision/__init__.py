"""Precision: the same runs in float32 and under bf16 autocast, and in float32 with sums taken in another order."""
