"""Experiments: a configuration in, a run directory out. Needs no Hydra: the commands hand over plain dictionaries."""
