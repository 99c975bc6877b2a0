"""What tools may return, and how a model sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentrl import DefinitionError, Image, Observation

PNG, JPEG = Image(b"one"), Image(b"two", "image/jpeg")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("", ""),
        ("plain\ntext", "plain\ntext"),
        (12, "12"),
        (0.5, "0.5"),
        (True, "true"),
        ([1, "é"], '[1, "é"]'),
        ((1, 2), "[1, 2]"),
        ([], "[]"),
        ({"a": [1, None]}, '{"a": [1, null]}'),
    ],
)
def test_values_become_text(value: Any, text: str) -> None:
    assert Observation.of(value) == Observation(text)


def test_an_observation_stays_itself() -> None:
    made = Observation("no", error=True, done=True, metadata={"a": 1})
    assert Observation.of(made) is made


def test_images_are_shown_alone_or_between_texts_in_their_order() -> None:
    assert Observation.of(PNG) == Observation(images=(PNG,))
    assert Observation.of(["before", PNG, None, 3, JPEG, "after"]) == Observation(
        "before\n3\nafter", (PNG, JPEG)
    )
    assert Observation.of((JPEG,)) == Observation(images=(JPEG,))


@pytest.mark.parametrize("value", [object(), b"bytes", {1, 2}, {"a": object()}, [PNG, object()]])
def test_what_a_model_cannot_be_shown_is_not_well_defined(value: Any) -> None:
    with pytest.raises(DefinitionError, match="A tool returned .* cannot be shown to a model"):
        Observation.of(value)


def test_data_that_contains_itself_is_not_well_defined() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(DefinitionError, match="returned list"):
        Observation.of(value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", "image/png"), ("a.JPG", "image/jpeg"), ("a.jpeg", "image/jpeg"), ("a.webp", "image/webp")],
)
def test_an_image_file_is_read_undecoded_and_named_by_its_suffix(
    tmp_path: Path, name: str, kind: str
) -> None:
    (tmp_path / name).write_bytes(b"not really")
    assert Image.from_file(str(tmp_path / name)) == Image(b"not really", kind)
