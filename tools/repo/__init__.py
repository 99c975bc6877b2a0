"""What the tools of a software engineer share: one working folder, in the episode's sandbox session."""
