"""Environments: one folder per domain, each with its tasks, prompt, train.yaml and README."""
