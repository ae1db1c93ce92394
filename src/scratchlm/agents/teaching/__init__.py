"""Teaching a model to call tools: tasks with answers that can be checked, traces, and rewards."""
