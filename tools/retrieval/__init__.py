"""Finding documents: a corpus on disk, and the ways to search it, behind the tools that search and read."""
