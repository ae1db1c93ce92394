"""Models that use tools: what they are shown, what they may write, and the loop that runs what they call."""
