"""The database of dialogues: where it comes from, what is found, what is added, what is kept."""

from __future__ import annotations

import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import grpo_host.dialogues.database
from grpo_host.dialogues import Dialogue, DialogueDatabase
from grpo_host.dialogues.database import merge_ranks
from grpo_rewards.embedders import HashingEmbedder
from grpo_sdk import MissingExtraError, assistant, user
from grpo_sdk.errors import ConfigError


@pytest.fixture
def database(rows):
    return DialogueDatabase(rows, embedder=None)


def ids(found):
    return [dialogue.id for dialogue in found]


@pytest.fixture(params=["list", "jsonl", "created", "table"])
def source(request, rows, tmp_path):
    """The rows in each form that they may have."""
    if request.param == "list":
        return rows
    if request.param == "jsonl":
        path = tmp_path / "dialogues.jsonl"
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
        return str(path)
    path = tmp_path / "dialogues.db"
    if request.param == "created":
        DialogueDatabase.create(path, rows).close()
        return path
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE dialogues (id, content, category, expected_response, metadata)")
        for row in rows:
            values = [row.get(key) for key in ("id", "content", "category", "expected_response")]
            metadata = json.dumps({"tags": row["tags"]}) if "tags" in row else None
            connection.execute("INSERT INTO dialogues VALUES (?, ?, ?, ?, ?)", [*values, metadata])
    connection.close()
    return path


def test_dialogues_are_the_same_from_every_source(source):
    with DialogueDatabase(source, embedder=None) as database:
        assert len(database) == 4
        assert ids(database) == ["cs_001", "cs_002", "cs_003", "cs_004"]
        assert database.get("cs_004") == Dialogue(
            "cs_004", "How do I reset my password?", "account", metadata={"tags": ["login"]}
        )
        assert database.get("cs_005") is None
        assert database.categories() == ["account", "orders", "returns"]
        assert ids(database.search("returning items", 1)) == ["cs_002"]


def test_an_empty_database_finds_nothing():
    database = DialogueDatabase(embedder=HashingEmbedder())
    assert len(database) == 0
    assert database.search("order", mode="words") == database.search("order") == []


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("order", ["cs_001"]),
        ("ORDERS!", ["cs_001"]),
        ("returned", ["cs_002", "cs_003"]),
        ("password OR parcel", ["cs_003", "cs_004"]),
        ("xylophone", []),
        ("", []),
        ("?!…", []),
    ],
)
def test_words_are_found_in_any_form(database, query, found):
    assert sorted(ids(database.search(query, mode="words"))) == found


def test_what_shares_rarer_words_comes_first(database):
    database.add([{"content": f"I need help, number {n}"} for n in range(40)])
    assert ids(database.search("I need help with a broken parcel", 3, mode="words"))[0] == "cs_003"


def test_a_category_narrows_a_search(database):
    assert ids(database.search("help order item", mode="words", category="returns")) == ["cs_002"]
    assert database.search("help", category="no such") == []


def test_a_search_in_a_category_looks_the_words_up_once_and_not_for_each_of_its_rows(database):
    connection, said = database._store._connection, []
    connection.set_trace_callback(said.append)
    database.search("parcel", mode="words", category="returns")
    connection.set_trace_callback(None)
    (ranked,) = (sql for sql in said if "category" in sql and "MATCH" in sql)
    plan = [line for *_, line in connection.execute(f"EXPLAIN QUERY PLAN {ranked}")]
    scans = [line for line in plan if "words" in line]
    assert len(scans) == 1
    assert scans[0].endswith(":M3")  # "=M3": once for each row that it may be


@pytest.mark.parametrize("mode", ["words", "meaning", "auto"])
def test_at_most_k_are_found(rows, mode):
    database = DialogueDatabase(rows, embedder=HashingEmbedder())
    assert len(database.search("my order item parcel password", 2, mode=mode, min_similarity=-1.0)) == 2
    assert database.search("order", 0, mode=mode) == []


def test_an_unknown_mode_is_an_error(database):
    with pytest.raises(ValueError, match='no mode "fuzzy"; modes are: auto, words, meaning'):
        database.search("order", mode="fuzzy")


SHARED = DialogueDatabase([{"content": "order return help"}, {"content": "NEAR NOT AND OR"}], embedder=None)


@given(st.text(max_size=60))
@settings(max_examples=300)
@example('" OR content : *')
@example("a NEAR(b, 3) ^c -d {e}")
@example("'; DROP TABLE dialogues; --")
@example("half a pair \ud83d")
@example("__ ² ª ़ ٣ \x00 order")
@example("AND")
def test_any_text_is_a_query(query):
    SHARED.search(query, mode="words")
    assert len(SHARED) == 2


def test_operators_are_words_like_others():
    assert ids(SHARED.search('"NEAR"', mode="words")) == ["dialogue-2"]


def test_common_words_do_not_hide_who_has_them_all():
    rows = [{"content": f"my order number {n}"} for n in range(4000)]
    rows += [{"content": f"my delivery number {n}"} for n in range(4000)]
    rows.append({"id": "both", "content": "the order and the delivery"})
    database = DialogueDatabase(rows, embedder=None)
    assert ids(database.search("order delivery", 1, mode="words")) == ["both"]
    assert len(database.search("order delivery", 5, mode="words")) == 5


def test_meaning_finds_what_shares_no_whole_word(rows):
    database = DialogueDatabase(rows, embedder=HashingEmbedder())
    assert database.search("passwort", mode="words") == []
    assert ids(database.search("passwort", 1, mode="meaning", min_similarity=0.1)) == ["cs_004"]
    assert ids(database.search("passwort", 1, min_similarity=0.1)) == ["cs_004"]


def test_meaning_leaves_out_what_is_too_far(rows):
    database = DialogueDatabase(rows, embedder=HashingEmbedder())
    assert database.search("xylophone quartz", mode="meaning") == []
    assert len(database.search("xylophone quartz", mode="meaning", min_similarity=-1.0)) == 4


def test_merged_ranks_favour_what_both_find():
    assert merge_ranks([[1, 2, 3], [4, 2, 5]])[0] == 2
    assert merge_ranks([[1, 2], []]) == [1, 2]


def test_words_alone_are_searched_where_no_model_is(rows, monkeypatch):
    monkeypatch.setattr(grpo_host.dialogues.database, "embedder_available", lambda: False)
    monkeypatch.setattr("grpo_host.models.sentence.find_spec", lambda name: None)
    database = DialogueDatabase(rows)
    assert ids(database.search("order")) == ["cs_001"]
    with pytest.raises(MissingExtraError, match="embeddings"):
        database.search("order", mode="meaning")


def test_meaning_without_an_embedder_is_an_error(database):
    with pytest.raises(ConfigError, match="made with embedder=None, so it cannot search by meaning"):
        database.search("order", mode="meaning")


class CountingEmbedder(HashingEmbedder):
    def __init__(self) -> None:
        super().__init__(64)
        self.asked: list[str] = []

    def embed(self, texts):
        self.asked += texts
        return super().embed(texts)


def test_many_new_dialogues_are_not_embedded_while_someone_waits(rows, caplog):
    embedder = CountingEmbedder()
    database = DialogueDatabase(({"content": f"order {n}"} for n in range(2001)), embedder=embedder)
    assert database.search("order 7", 1)
    assert database.search("order 8", 1)
    assert embedder.asked == []
    assert [record.getMessage() for record in caplog.records] == [
        "2001 dialogues have no vectors yet: searching by words alone. Call embed() once"
    ]
    done = []
    database.embed(lambda at, of: done.append((at, of)))
    assert done == [(1024, 2001), (2001, 2001)]
    database.search("order 7", 1)
    assert embedder.asked[2001:] == ["order 7"]


def test_vectors_are_kept_in_the_file(rows, tmp_path):
    path = tmp_path / "dialogues.db"
    with DialogueDatabase.create(path, rows, embedder=CountingEmbedder()) as database:
        database.embed()
        before = ids(database.search("my order", mode="meaning"))
    embedder = CountingEmbedder()
    with DialogueDatabase(path, embedder=embedder) as database:
        assert ids(database.search("my order", mode="meaning")) == before
        database.add({"content": "My order never came"})
        assert len(database.search("my order", mode="meaning", min_similarity=-1)) == 5
    assert embedder.asked == ["my order", "My order never came", "my order"]


def test_what_is_added_is_found_at_once_and_stays(rows, tmp_path):
    path = tmp_path / "dialogues.db"
    with DialogueDatabase.create(path, rows, embedder=HashingEmbedder()) as database:
        assert database.search("invoice") == []
        assert database.add([{"content": "Where is my invoice?"}]) == 1
        assert ids(database.search("invoice")) == ["dialogue-5"]
    with DialogueDatabase(path, embedder=None) as database:
        assert ids(database.search("invoice")) == ["dialogue-5"]


def test_two_processes_worth_of_connections_see_each_other(rows, tmp_path):
    path = tmp_path / "dialogues.db"
    with DialogueDatabase.create(path, rows, embedder=HashingEmbedder()) as one:
        one.embed()
        with DialogueDatabase(path, embedder=HashingEmbedder()) as other:
            other.add({"content": "Where is my invoice?"})
            other.embed()
        assert ids(one.search("invoice", 1, mode="meaning")) == ["dialogue-5"]
        assert ids(one.search("invoice", 1, mode="words")) == ["dialogue-5"]


def test_all_are_added_or_none(database):
    with pytest.raises(ConfigError, match=r'dialogue 1 of those added: .* has no "content"'):
        database.add([{"content": "fine"}, {"content": " "}])
    assert len(database) == 4
    assert database.search("fine", mode="words") == []


def test_an_id_is_used_once(database):
    with pytest.raises(ConfigError, match=r'dialogue 0 of those added: there is already .* the id "cs_001"'):
        database.add({"id": "cs_001", "content": "again"})


def test_a_file_that_may_not_be_written_can_be_read(rows, tmp_path, monkeypatch):
    path = tmp_path / "dialogues.db"
    DialogueDatabase.create(path, rows).close()
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everything
    with DialogueDatabase(path, embedder=HashingEmbedder()) as database:
        assert ids(database.search("order", 1)) == ["cs_001"]
        with pytest.raises(ConfigError, match="not writable, so no dialogue can be added"):
            database.add({"content": "more"})


def test_create_overwrites_nothing_and_leaves_nothing_half_done(rows, tmp_path):
    path = tmp_path / "dialogues.db"
    with pytest.raises(ConfigError, match="dialogue 4 of the list"):
        DialogueDatabase.create(path, [*rows, {}])
    assert list(tmp_path.iterdir()) == []
    DialogueDatabase.create(path, rows).close()
    with pytest.raises(ConfigError, match="there is such a file already"):
        DialogueDatabase.create(path, [])


def test_a_missing_file_is_an_error_that_says_how_to_make_one(tmp_path):
    with pytest.raises(
        ConfigError, match=r"no\.db: cannot read dialogues: No such file.*DialogueDatabase\.create"
    ):
        DialogueDatabase(tmp_path / "no.db")


def test_a_damaged_file_is_an_error(rows, tmp_path):
    path = tmp_path / "dialogues.db"
    DialogueDatabase.create(path, rows).close()
    path.write_bytes(path.read_bytes()[:200] + b"\0" * 4000)
    with pytest.raises(ConfigError, match="this database of dialogues is damaged"):
        DialogueDatabase(path)


def test_another_format_is_an_error(rows, tmp_path):
    path = tmp_path / "dialogues.db"
    DialogueDatabase.create(path, rows).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(ConfigError, match="in format 9, and this version reads format 1"):
        DialogueDatabase(path)


def test_a_file_without_the_table_is_an_error(tmp_path):
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE things (x)")
    connection.close()
    with pytest.raises(ConfigError, match=r"other\.db: its table dialogues cannot be read: no such table"):
        DialogueDatabase(path)


def test_many_threads_may_search_and_add(rows):
    database = DialogueDatabase(rows, embedder=HashingEmbedder(64))
    start = threading.Barrier(8)

    def work(number):
        start.wait()
        for turn in range(10):
            database.add({"id": f"{number}-{turn}", "content": f"special{number}x{turn} order"})
            assert ids(database.search(f"special{number}x{turn}", 1)) == [f"{number}-{turn}"]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert len(database) == 84


def test_demonstrations_are_those_that_show_an_answer(database):
    conversation = [user("Hi"), assistant("Hello, how can I help?"), user("Bye"), assistant("Goodbye!")]
    database.add([{"messages": conversation}, {"messages": conversation[:1]}])
    assert database.demonstrations() == [
        [user("I need help with my order"), assistant("I'll help you check your order status")],
        [user("I want to return an item"), assistant("I'll be happy to help you with the return process.")],
        conversation,
    ]
    assert len(database.demonstrations("returns")) == 1


@pytest.mark.model
def test_the_sentence_model_finds_what_is_meant(rows, sentence_model):
    database = DialogueDatabase(rows)
    assert ids(database.search("I cannot log in any more", 1, mode="meaning")) == ["cs_004"]
    assert ids(database.search("My package came damaged", 1)) == ["cs_003"]
    assert database.search("photosynthesis in plants", mode="meaning") == []
