"""Run folders: made once, found again, and clear about why they cannot be written."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from agentrl.config import validate
from agentrl.errors import ConfigError, DataError, NotFound
from agentrl.store import RunFolder, writing


def test_a_folder_is_named_for_when_and_what_and_holds_the_settings(tmp_path: Path) -> None:
    config = validate({"env": "math", "steps": 3})
    run = RunFolder.create(tmp_path / "runs", "math", config)
    assert re.fullmatch(r"\d{8}-\d{6}-math-[0-9a-f]{4}", run.name)
    assert validate(run.read_config()) == config
    assert run.events.is_dir()
    assert run.info["kind"] == "train"


@pytest.mark.parametrize(
    ("env", "slug"),
    [
        ("./some/my_env.py", "my_env"),
        ("./some/my_env.py:Thing", "my_env"),
        ("package.module:Sums", "sums"),
        ("package.module", "module"),
        ("../../etc/pass wd", "pass_wd"),
        ("..", "env"),
    ],
)
def test_any_way_to_name_an_environment_gives_a_plain_folder_name(
    tmp_path: Path, env: str, slug: str
) -> None:
    run = RunFolder.create(tmp_path, env, {})
    assert run.path.parent == tmp_path
    assert run.name[16:-5] == slug


def test_last_is_the_newest_of_its_kind(tmp_path: Path) -> None:
    runs = [RunFolder.create(tmp_path, "math", {}) for _ in range(3)]
    RunFolder.create(tmp_path, "math", {}, kind="eval")
    for age, run in enumerate(runs):
        run.write_json(run.path / "run.json", {"kind": "train", "created": 1000.0 - age})
    assert RunFolder.open("last", tmp_path) == runs[0]
    assert RunFolder.open("last", tmp_path, kind="eval").info["kind"] == "eval"


def test_a_run_is_found_by_path_and_by_name(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "math", {})
    assert RunFolder.open(run.path) == run
    assert RunFolder.open(run.name, tmp_path) == run


def test_a_run_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="There is no train run in"):
        RunFolder.open("last", tmp_path)
    run = RunFolder.create(tmp_path, "math", {})
    with pytest.raises(NotFound, match=f"'nothing' is no run folder.*{run.name}"):
        RunFolder.open("nothing", tmp_path)


def test_a_place_below_a_file_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        ConfigError, match=r"cannot be written: Not a directory\. Choose another folder with runs="
    ):
        RunFolder.create(tmp_path / "file", "math", {})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_that_says_what_to_do() -> None:
    full = Path("/dev/full")
    with pytest.raises(
        ConfigError, match=r"'/dev/full' cannot be written: the disk is full\. Free some space"
    ):
        with writing(full):
            full.write_text("more than fits")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_missing_rights_are_an_error_that_says_what_to_do(number: int) -> None:
    with pytest.raises(ConfigError, match="with runs=FOLDER"):
        with writing(Path("somewhere")):
            raise OSError(number, os.strerror(number))


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, "math", {})
    run.write_json(run.summary, {"a": 1})
    with pytest.raises(TypeError):
        run.write_json(run.summary, {"a": object()})
    assert run.read_json(run.summary) == {"a": 1}


@pytest.mark.parametrize("content", ["{", "[1]", None])
def test_unreadable_json_names_the_file(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "summary.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=re.escape(str(path))):
        RunFolder.read_json(path)
