"""What continual.py measures, in parts."""
