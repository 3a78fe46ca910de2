from __future__ import annotations

import json
import os

import pytest

from grpo_environments.dataset.environment import DatasetEnvironment
from grpo_sdk import ConfigError
from grpo_sdk.messages import assistant, user
from grpo_sdk.testing import EnvironmentContract

ROWS = [{"prompt": f"What is {n} + 1?", "answer": n + 1} for n in range(20)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def file(tmp_path):
    return write(tmp_path / "sums.jsonl", ROWS)


class TestDataset(EnvironmentContract):
    @pytest.fixture(autouse=True)
    def _file(self, file):
        self.path = file

    def make(self):
        return DatasetEnvironment(path=self.path)


async def opening(environment, task):
    return (await environment.reset(task, seed=0)).messages


async def test_every_column_of_a_row_is_in_its_tasks_data(file):
    task = DatasetEnvironment(path=file, held_out_share=0.0).tasks("train")[0]
    assert task.data == {"prompt": "What is 0 + 1?", "answer": 1}
    assert await opening(DatasetEnvironment(path=file), task) == [user("What is 0 + 1?")]


def test_a_share_is_held_out_and_more_rows_change_nothing_for_most_others(tmp_path):
    few = write(tmp_path / "few.jsonl", ROWS)
    many = write(tmp_path / "many.jsonl", [*ROWS, ROWS[0] | {"x": 1}])
    held = [
        {task.data["answer"] for task in DatasetEnvironment(path=path, held_out_share=0.2).tasks("held_out")}
        for path in (few, many)
    ]
    assert len(held[0]) == 4
    assert len(DatasetEnvironment(path=few, held_out_share=0.2).tasks("train")) == 16
    assert len(held[0] & held[1]) >= 3


def test_another_file_is_held_out(file, tmp_path):
    held = write(tmp_path / "held.jsonl", ROWS[:3])
    made = DatasetEnvironment(path=file, held_out_path=held, validation_path=held)
    assert [len(made.tasks(split)) for split in ("train", "validation", "held_out")] == [20, 3, 3]


def test_a_column_tells_the_split(tmp_path):
    rows = [row | {"part": part} for row, part in zip(ROWS, ["train", "test", "dev", "train"], strict=False)]
    made = DatasetEnvironment(path=write(tmp_path / "x.jsonl", rows), split_column="part")
    assert [len(made.tasks(split)) for split in ("train", "validation", "held_out")] == [2, 1, 1]


def test_a_split_column_with_another_word_is_refused(tmp_path):
    path = write(tmp_path / "x.jsonl", [ROWS[0] | {"part": "later"}])
    with pytest.raises(ConfigError, match="row 1: its part is 'later'; splits are train, validation"):
        DatasetEnvironment(path=path, split_column="part").tasks("train")


@pytest.mark.parametrize("ending", ["csv", "tsv", "json"])
def test_other_formats_give_the_same_rows(tmp_path, ending):
    path = tmp_path / f"sums.{ending}"
    if ending == "json":
        path.write_text(json.dumps(ROWS))
    else:
        mark = {"csv": ",", "tsv": "\t"}[ending]
        lines = [mark.join(("prompt", "answer")), *(f"{r['prompt']}{mark}{r['answer']}" for r in ROWS)]
        path.write_text("\n".join(lines) + "\n")
    tasks = DatasetEnvironment(path=path, held_out_share=0.0).tasks("train")
    assert [int(task.data["answer"]) for task in tasks] == list(range(1, 21))


def test_parquet_and_what_datasets_saves_or_loads_are_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    whole = datasets.Dataset.from_list(ROWS)
    whole.to_parquet(tmp_path / "sums.parquet")
    made = DatasetEnvironment(path=tmp_path / "sums.parquet", held_out_share=0.0)
    assert [task.data for task in made.tasks("train")] == ROWS

    datasets.DatasetDict(train=whole, test=whole.select(range(3))).save_to_disk(tmp_path / "saved")
    made = DatasetEnvironment(path=tmp_path / "saved")
    assert [len(made.tasks(split)) for split in ("train", "held_out")] == [20, 3]

    hub = tmp_path / "as-on-the-hub"
    hub.mkdir()
    write(hub / "train.jsonl", ROWS)
    write(hub / "test.jsonl", ROWS[:2])
    made = DatasetEnvironment(hub=str(hub))
    assert [len(made.tasks(split)) for split in ("train", "held_out")] == [20, 2]


def test_a_dataset_that_the_hub_does_not_have_is_an_error_that_names_it(tmp_path):
    pytest.importorskip("datasets")
    with pytest.raises(ConfigError, match=r"the dataset .*nowhere cannot be had"):
        DatasetEnvironment(hub=str(tmp_path / "nowhere")).tasks("train")


async def test_a_system_message_stands_before_the_prompt(tmp_path):
    path = write(tmp_path / "x.jsonl", [{"prompt": "Hi", "about": "Be brief."}])
    for made in (
        DatasetEnvironment(path=path, system="Be brief.", held_out_share=0.0),
        DatasetEnvironment(path=path, system_column="about", held_out_share=0.0),
    ):
        assert [m["content"] for m in await opening(made, made.tasks("train")[0])] == ["Be brief.", "Hi"]


async def test_of_a_whole_conversation_the_last_answer_is_left_off_and_can_be_imitated(tmp_path):
    talk = [user("Hi"), assistant("Hello."), user("Bye"), assistant("See you.")]
    path = write(tmp_path / "x.jsonl", [{"messages": talk}])
    made = DatasetEnvironment(path=path, prompt="messages", held_out_share=0.0)
    assert await opening(made, made.tasks("train")[0]) == talk[:3]
    assert made.demonstrations("train") == [talk]


def test_a_column_of_good_answers_makes_demonstrations(file):
    made = DatasetEnvironment(path=file, completion="answer", held_out_share=0.0)
    assert made.demonstrations("train")[0] == [user("What is 0 + 1?"), assistant("1")]


def test_tasks_are_named_by_a_column_and_two_of_one_name_are_refused(file, tmp_path):
    assert DatasetEnvironment(path=file, id="answer", held_out_share=0.0).tasks("train")[1].id == "2"
    twice = write(tmp_path / "twice.jsonl", [ROWS[0], ROWS[0]])
    with pytest.raises(ConfigError, match='two rows of train have the id "1"'):
        DatasetEnvironment(path=twice, id="answer", held_out_share=0.0).tasks("train")


def test_a_file_that_is_written_anew_is_read_anew(file):
    assert len(DatasetEnvironment(path=file, held_out_share=0.0).tasks("train")) == 20
    write(file, ROWS[:5])
    os.utime(file, (1, 1))
    assert len(DatasetEnvironment(path=file, held_out_share=0.0).tasks("train")) == 5


def test_there_may_be_fewer_tasks_than_rows(file):
    assert len(DatasetEnvironment(path=file, limit=3).tasks("train")) == 3


@pytest.mark.parametrize(
    ("content", "name", "what"),
    [
        ('{"prompt": "a"}\n{oops\n', "x.jsonl", "x.jsonl:2: no JSON"),
        ("[1]\n", "x.jsonl", r"x.jsonl:1: \[1\] is no JSON object; each line is one row"),
        ("{}", "x.json", "x.json: no list of objects"),
        ("{", "x.json", "x.json: no JSON: .* One object a line belongs in a .jsonl file"),
        ("prompt,answer\na\n", "x.csv", "x.csv:2: it has not as many values as the first line has names"),
        ("", "x.txt", "x.txt: what is written there cannot be told from its name"),
        (
            '{"question": "a"}\n',
            "x.jsonl",
            'row 1 of train has no column "prompt"; its columns are: question',
        ),
        ('{"prompt": 3}\n', "x.jsonl", 'row 1 of train: "prompt" is neither a text nor messages'),
        ('{"prompt": []}\n', "x.jsonl", 'row 1 of train: "prompt" is an empty list'),
        ("PAR1", "x.parquet", "x.parquet: no Parquet"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path, content, name, what):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=what):
        DatasetEnvironment(path=tmp_path / name, held_out_share=0.0).tasks("train")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.jsonl: cannot be read"):
        DatasetEnvironment(path=tmp_path / "gone.jsonl").tasks("train")


def test_a_directory_that_holds_no_dataset_is_named(tmp_path):
    pytest.importorskip("datasets")
    with pytest.raises(ConfigError, match="no dataset that save_to_disk"):
        DatasetEnvironment(path=tmp_path).tasks("train")


def test_a_source_is_needed_and_one_is_enough(tmp_path):
    with pytest.raises(ConfigError, match="give path, a file or directory, or hub"):
        DatasetEnvironment().tasks("train")
    with pytest.raises(ValueError, match="path and hub: give one of the two"):
        DatasetEnvironment(path=tmp_path, hub="x/y")


@pytest.mark.parametrize("option", ["held_out_path", "validation_path"])
def test_what_is_trained_on_is_not_measured_with(file, option):
    with pytest.raises(ValueError, match=f"{option} is path, what is trained on"):
        DatasetEnvironment(path=file, **{option: file})


def test_a_dataset_of_the_hub_may_take_its_time_to_be_downloaded(file):
    assert DatasetEnvironment(hub="x/y").start_seconds > DatasetEnvironment(path=file).start_seconds == 0
