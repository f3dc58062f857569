"""A search: each job's settings are chosen from what came of the jobs before, by Optuna. Imports Optuna where it is used: it takes half a second."""
