"""What bench/stopping.py and bench/asking.py share: learning runs that are played once."""
