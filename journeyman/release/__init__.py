"""Release: evidence about a candidate, a verdict on it, and its way into production and back."""
