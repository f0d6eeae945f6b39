"""Fused loops between matrix products, compiled on first use, and the differentiable functions made of them."""
