"""Losses: one file each; formula, denominator, metrics. Each returns `(sum over tokens, metrics as sums)`.

A loss is a *sum* over tokens: the caller divides by the tokens of the whole step, so that the split into
micro-batches changes nothing and a long reply weighs by its tokens (2503.20783, section 3.1).
"""
