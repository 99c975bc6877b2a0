"""The published methods as small parts that are put together: one idea in each module."""
