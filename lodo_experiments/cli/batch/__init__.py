"""The batch: the paper's whole matrix of experiments as Snakemake jobs, on one machine or a cluster.

``python -m lodo_experiments.cli.batch --help``. Snakemake runs the rules of ``workflow/Snakefile``; here is what it
lacks:

* `plan`: which jobs there are, and `finished_jobs`, whether their results are there and can be trusted;
* `costs`: what a job will take, from what earlier ones took;
* `batch_lock`: one batch at a time in a results folder;
* `snakemake_engine`: Snakemake, started on the jobs that are left, and stopped;
* `job_supervisor`: one try at a job, judged by its exit (`failures`), its processes ending with the batch;
* `summary`: what people are told.
"""
