"""The parts of bench/sample_efficiency.py: what is learned, by which methods, one run, and what follows."""
