"""The batch: the paper's whole matrix of experiments as jobs, driven by Snakemake, on one machine or a cluster.

``python -m lodo_experiments.cli.batch --help``. What belongs to it, in the order in which it is used:

* `plan`: which jobs there are, what each needs, and the command that does it;
* `finished_jobs`: whether a job's results are there and can be trusted;
* `costs`: what a job will take, from what earlier ones took;
* `batch_lock`: one batch at a time in a results folder;
* `snakemake_engine`: Snakemake, started on the jobs that are left (``workflow/Snakefile``);
* `job_supervisor`: one job, run and judged by its exit, tried again where that can help (`failures`), its processes
ending
  with the batch (`utils.kill_with_parent`);
* `display`: progress and the summary for people.
"""
