"""What runs inside the isolated view: standard library only, started with ``python -I -S``."""
