"""Learning: credit, losses, and the learner that applies them."""
