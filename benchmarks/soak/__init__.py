"""Tasker at a steady rate for hours: whether memory, latency and tables stay as they are."""
