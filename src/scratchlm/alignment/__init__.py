"""Alignment: rewards, preferences and policies, learned by the one loop."""
