"""Compression of a network under a budget: costs and losses of options, the choice, the check."""
