"""A training run as data: its configuration, its folder, its events."""
