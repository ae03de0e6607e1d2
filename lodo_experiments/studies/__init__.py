"""The paper's studies: each optimizer tuned and run on a task; the theory; the paper against its code."""
