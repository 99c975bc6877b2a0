"""Templates: what they render, what they may not, and errors that say where."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from agentrl import DefinitionError, Env, Task, Template


def test_values_loops_and_files(tmp_path: Path) -> None:
    (tmp_path / "shot.j2").write_text("Q: {{ shot.question }}\nA: {{ shot.answer }}\n\n")
    (tmp_path / "prompt.j2").write_text(
        "Answer briefly.\n{% for shot in shots %}\n{% include 'shot.j2' %}\n{% endfor %}\n{{ prompt }}"
    )
    shots = [{"question": "1 + 1", "answer": 2}]
    for source in (tmp_path / "prompt.j2", str(tmp_path / "prompt.j2")):
        rendered = Template(source).render(shots=shots, prompt="3 + 3 {{ prompt }}")
        assert rendered.split("\n") == ["Answer briefly.", "Q: 1 + 1", "A: 2", "3 + 3 {{ prompt }}"]


def test_it_travels_between_processes() -> None:
    assert pickle.loads(pickle.dumps(Template("Hello {{ name }}"))).render(name="you") == "Hello you"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("one\n{{ qestion }}", "<template> line 2: 'qestion' is undefined. .*: answer, question"),
        ("{{ answer.unit }}", "line 1: .* has no attribute 'unit'"),
        ("\n\n{{ 1 / 0 }}", "line 3: division by zero"),
        ("{{ ''.__class__.__mro__ }}", "line 1: access to attribute '__class__' .* is unsafe"),
        ("{{ answer.append(1) }}", "line 1: access to attribute 'append' .* is unsafe"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "line 1: Range too big"),
        ("one\n{{ question", "line 2: unexpected end"),
        ("one\n{% fro x in y %}", "line 2: Encountered unknown tag 'fro'"),
        ("absent.j2", "no template file 'absent.j2'"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(source: str, words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        Template(source).render(question="?", answer=[5])


def test_a_file_is_told_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "outer.j2").write_text("\n{% include 'inner.j2' %}")
    (tmp_path / "inner.j2").write_text("\n\n{{ unknown }}")
    with pytest.raises(DefinitionError, match=r"inner\.j2 line 3: 'unknown' is undefined"):
        Template(tmp_path / "outer.j2").render()
    (tmp_path / "inner.j2").write_text("\n{% wrong %}")
    with pytest.raises(DefinitionError, match=r"Encountered unknown tag 'wrong'"):
        Template(tmp_path / "outer.j2").render()


def test_as_an_environments_prompt() -> None:
    task = Task("How far?", answer="secret", metadata={"unit": "metres"})
    env = Env(tasks=[task], prompt=Template("Answer in {{ metadata.unit }}."))
    messages: list[Any] = env.messages(task)
    assert [message["content"] for message in messages] == ["Answer in metres.", "How far?"]
    with pytest.raises(DefinitionError, match="'answer' is undefined"):
        Env(tasks=[task], prompt=Template("{{ answer }}")).messages(task)
