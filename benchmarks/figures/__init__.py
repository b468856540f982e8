"""Figures beside the engines' rounds: how Tasker fares as its tables grow, and what its single parts cost."""
