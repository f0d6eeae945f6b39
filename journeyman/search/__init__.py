"""Inference-time compute guided by V: several attempts, drafts that are dropped or gone back into, and one answer."""
