"""Masks of photos and videos, for people to look at."""
