"""Rewards to build environments from."""
