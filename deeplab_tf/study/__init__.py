"""A grid of trainings: which cells it has, how each is run, and where each one stands."""
