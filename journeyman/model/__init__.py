"""Models: one decoder, its value function, its files and its text."""
