"""Where runs are kept on disk."""

from __future__ import annotations

from agentrl.store.run_folder import RunFolder, keep_pictures, writing

__all__ = ["RunFolder", "keep_pictures", "writing"]
