"""Searches hyper-parameters with Optuna, through the engines of `quiesce.sweeps`.

A try is one point of the search space. It trains one run for each seed, and its value is the mean
over the seeds. Needs the extra `tune`: pip install 'quiesce[tune]'.
"""
