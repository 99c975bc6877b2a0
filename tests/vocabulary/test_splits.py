"""The tasks to train on and those held out."""

import pytest

from agentrl import ConfigError, Splits, Task, split_size


def test_what_is_held_out_is_not_trained_on_and_is_made_first_and_once():
    asked = []

    def make(split, held_out):
        asked.append((split, sorted(held_out)))
        return [Task("a"), Task("b")] if split == "test" else [Task(name) for name in "abcd"]

    tasks = Splits(make)
    assert [task.prompt for task in tasks("train")] == ["c", "d"]
    assert [task.prompt for task in tasks("test")] == ["a", "b"]
    assert tasks("train") is tasks("train")
    assert asked == [("test", []), ("train", ["a", "b"])]


def test_a_maker_may_add_to_the_keys_it_was_given():
    def make(split, held_out):
        for name in "a" if split == "test" else "aabbcc":
            if name not in held_out:
                held_out.add(name)
                yield Task(name)

    assert [task.prompt for task in Splits(make)("train")] == ["b", "c"]


def test_tasks_may_be_the_same_in_another_way():
    tasks = Splits(lambda split, _: [Task("x", id=split), Task("y", id="both")], key=lambda task: task.id)
    assert [task.id for task in tasks("train")] == ["train"]


def test_unknown_splits_are_refused_unless_the_maker_knows():
    with pytest.raises(ConfigError, match="no split 'dev'; there are 'train' and 'test'"):
        Splits(lambda split, _: [])("dev")
    assert Splits(lambda split, _: [Task(split)], names=None)("dev")[0].prompt == "dev"


def test_a_quarter_is_held_out():
    assert [split_size("train", 400, 256), split_size("test", 400, 256)] == [400, 100]
    assert split_size("test", 4000, 256) == 256
