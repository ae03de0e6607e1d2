"""The paper's tasks, one module each, all of them a :class:`~lodo_experiments.tasks.base.Task`."""
