"""Assess: score the exported model on pictures that no stage scores: altered ones, and other people's."""
