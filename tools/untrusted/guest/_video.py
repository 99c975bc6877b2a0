"""Video files: one of their pictures, by its number. Pictures are counted without decoding any."""

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentrl.tools.untrusted.guest._picture import _check_size

_VIDEO_SUFFIXES = {".mp4": "MP4", ".m4v": "MP4", ".mov": "MP4", ".webm": "WebM", ".mkv": "WebM"}
_DEMUXERS = {"MP4": "mov", "WebM": "matroska"}


def _video_kind(path: str) -> str:
    """``MP4`` or ``WebM`` and relatives, by content, which the name must not contradict; or empty."""
    if not os.path.isfile(path):
        raise ValueError(f"There is no image file {path!r}.")
    with open(path, "rb") as file:
        head = file.read(12)
    found = "MP4" if head[4:8] == b"ftyp" else "WebM" if head[:4] == b"\x1aE\xdf\xa3" else ""
    suffix = os.path.splitext(path)[1].lower()
    if suffix and (found or suffix in _VIDEO_SUFFIXES) and _VIDEO_SUFFIXES.get(suffix, "") != found:
        raise ValueError(f"The file is named as {suffix[1:]}, but its content is {found or 'no such video'}.")
    return found


def _video_picture(
    path: str, kind: str, frame: int, most_pixels: int, most_bytes: int, most_frames: int
) -> "tuple[Any, int]":
    """The picture with this number (from 0) as it is to be shown, and how many there are."""
    import av

    if os.path.getsize(path) > most_bytes:
        raise PermissionError(f"The video file has more than {most_bytes} bytes.")
    # As a file object: so FFmpeg cannot follow a file's references to other places.
    with open(path, "rb") as file:
        try:
            with av.open(file, format=_DEMUXERS[kind]) as video:
                return _nth(video, frame, most_pixels, most_frames)
        except av.FFmpegError as problem:
            raise ValueError(f"The video is truncated or damaged: {problem.strerror}") from None


def _nth(video: Any, frame: int, most_pixels: int, most_frames: int) -> "tuple[Any, int]":
    if not video.streams.video:
        raise ValueError("There are no pictures in this video.")
    stream = video.streams.video[0]
    _check_size(stream.codec_context.width, stream.codec_context.height, most_pixels)
    stream.codec_context.thread_count = 1  # each thread would keep pictures of its own
    times = []
    for packet in video.demux(stream):
        if packet.pts is not None and not packet.is_discard:
            times.append(packet.pts)
        if len(times) == most_frames:
            break
    if not 0 <= frame < len(times):
        raise ValueError(f"There is no frame {frame + 1}; this video has {len(times)}.")
    wanted = sorted(times)[frame]
    video.seek(wanted, stream=stream)
    for picture in video.decode(stream):
        if picture.pts is not None and picture.pts >= wanted:
            _check_size(picture.width, picture.height, most_pixels)
            return picture.to_image().rotate(picture.rotation, expand=True), len(times)
    raise ValueError(f"The video is truncated or damaged: it ends before frame {frame + 1}.")
