"""The paper's experiments: tasks, training, records, and what turns them into pages."""
