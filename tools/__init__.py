"""Tools to build environments from; each file is one tool, written as a user would write it."""
