"""The paper's tasks, one module each, all of them a :class:`~lodo.experiments.tasks.base.Task`."""
