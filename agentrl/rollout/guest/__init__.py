"""Programs of ours that the rollout sends into the sandbox. They import the standard library and Pillow."""
