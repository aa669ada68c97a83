"""Studies: a grid of trainings and its report."""
