"""What merge.py measures, in parts."""
