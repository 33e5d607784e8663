"""Scores of generated images: feature networks, statistics, and the protocol that goes with each number."""
