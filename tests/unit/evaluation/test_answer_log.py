"""Answers that resume: one writer, and no answer under the number of another question."""

import pytest

from lens_cache.errors import ConfigError
from lens_cache.progress import no_progress
from pipelines.evaluation.answer_log import answer_all, read_answers

KEY = {"questions": "abc"}


def ask(path, questions, answer=lambda question: {"number": question}, key=KEY):
    return answer_all(path, key, questions, answer, no_progress, "questions")


def test_a_stopped_run_goes_on_with_the_next_question(tmp_path):
    whole = tmp_path / "whole.jsonl"
    ask(whole, range(5))
    asked = []

    def stop(question):
        if question == 2 and asked.count(2) == 0:
            asked.append(2)
            raise KeyboardInterrupt
        asked.append(question)
        return {"number": question}

    path = tmp_path / "answers.jsonl"
    with pytest.raises(KeyboardInterrupt):
        ask(path, range(5), stop)
    with path.open("ab") as file:
        file.write(b'{"numb')
    found = ask(path, range(5), stop)
    assert asked == [0, 1, 2, 2, 3, 4]
    assert found == [{"number": number} for number in range(5)]
    assert path.read_bytes() == whole.read_bytes()
    assert read_answers(path) == (KEY, found)


def test_a_second_writer_is_refused(tmp_path):
    path = tmp_path / "answers.jsonl"

    def second(question):
        with pytest.raises(ConfigError, match="another process writes this file"):
            ask(path, range(2))
        return {"number": question}

    assert len(ask(path, range(2), second)) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"number"\n', "line 4: expected an answer in JSON, found a damaged line"),
        (b'{"number": 0}\n', "expected at most 2 answers, found 3"),
    ],
)
def test_a_file_that_is_not_as_written_is_refused(tmp_path, line, message):
    path = tmp_path / "answers.jsonl"
    ask(path, range(2))
    with path.open("ab") as file:
        file.write(line)
    with pytest.raises(ConfigError, match=message):
        ask(path, range(2))


def test_answers_under_another_key_are_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    ask(path, range(2))
    with pytest.raises(ConfigError, match="answers of another model or file"):
        ask(path, range(2), key={"questions": "abd"})
