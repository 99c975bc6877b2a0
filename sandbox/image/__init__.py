"""The image that sessions of the docker backend run in: Debian, Python, and the guest's agent baked in.

The agent is a part of the image, so that nothing of the host is mounted and the daemon may be on a machine
that does not see our files. ::

    agentrl sandbox image
"""

from __future__ import annotations

from .build import DEFAULT_PACKAGES, build_image, image_name

__all__ = ["DEFAULT_PACKAGES", "build_image", "image_name"]
