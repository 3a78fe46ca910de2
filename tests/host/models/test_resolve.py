import json
import subprocess
import sys
import threading
from importlib import metadata

import pytest

from grpo_host.models import embedded, resolve
from grpo_host.models.resolve import list_models, resolve_model
from grpo_sdk.adapters import hub_id
from grpo_sdk.errors import MissingExtraError, ModelError


@pytest.fixture(autouse=True)
def own_caches(tmp_path, monkeypatch):
    monkeypatch.setenv("GRPO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("GRPO_MODEL_ALIASES", raising=False)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Stands in for the installed package of the embedded model."""
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    monkeypatch.setattr(embedded, "_gguf_file", lambda _: gguf)
    return gguf


def write_model(directory, **config):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    (directory / "tokenizer.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


def converted(calls):
    def convert(gguf, target, end_token):
        calls.append(end_token)
        write_model(target)

    return convert


def test_the_embedded_model_is_converted_once(package, monkeypatch):
    calls, told = [], []
    monkeypatch.setattr(embedded, "convert_gguf", converted(calls))
    first = resolve_model("smollm2-135m", progress=told.append)
    second = resolve_model("smollm2-135m", progress=told.append)
    assert first == second
    assert first.source == "embedded"
    assert (first.hub_id, first.license) == ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")
    assert (first.path / "model.safetensors").exists()
    assert calls == ["<|im_end|>"]
    assert len(told) == 1
    assert "Converting smollm2-135m" in told[0]


def test_two_threads_convert_once(package, monkeypatch):
    calls, inside = [], threading.Event()

    def convert(gguf, target, end_token):
        calls.append(target)
        inside.wait(0.2)
        write_model(target)

    monkeypatch.setattr(embedded, "convert_gguf", convert)
    threads = [threading.Thread(target=resolve_model, args=["smollm2-135m"]) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1


def test_a_conversion_that_fails_leaves_nothing(package, monkeypatch):
    def convert(gguf, target, end_token):
        (target / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(embedded, "convert_gguf", convert)
    with pytest.raises(ModelError, match=r"No space left on device.*GRPO_CACHE"):
        resolve_model("smollm2-135m")
    folder = embedded.cache_directory() / "models"
    assert [path.name for path in folder.iterdir() if not path.name.endswith(".lock")] == []


def test_an_incomplete_cache_and_left_overs_are_replaced(package, monkeypatch):
    monkeypatch.setattr(embedded, "convert_gguf", converted([]))
    path = resolve_model("smollm2-135m").path
    (path / "model.safetensors").unlink()
    left_over = path.parent / f".{path.name}.tmp-killed"
    left_over.mkdir()
    assert (resolve_model("smollm2-135m").path / "model.safetensors").exists()
    assert not left_over.exists()


def test_the_cache_serves_without_the_package(package, monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda _: "0.1.2")
    monkeypatch.setattr(embedded, "convert_gguf", converted([]))
    path = resolve_model("smollm2-135m").path

    def missing(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "version", missing)
    assert resolve_model("smollm2-135m").path == path
    assert [(m.installed, m.cached) for m in list_models()] == [(False, True)]


def test_the_cache_key_names_package_and_conversion(package, monkeypatch):
    calls = []
    monkeypatch.setattr(embedded, "convert_gguf", converted(calls))
    resolve_model("smollm2-135m")
    monkeypatch.setattr(embedded, "CONVERSION", embedded.CONVERSION + 1)
    resolve_model("smollm2-135m")
    monkeypatch.setattr(metadata, "version", lambda _: "0.1.3")
    resolve_model("smollm2-135m")
    assert len(calls) == 3


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    def missing(_):
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "distribution", missing)
    monkeypatch.setattr(metadata, "version", missing)
    with pytest.raises(ModelError, match=r"not installed\. Run: grpo-host models install smollm2-135m"):
        resolve_model("smollm2-135m")
    with pytest.raises(ModelError, match="To have smollm2-135m here, run: grpo-host models install smollm2"):
        resolve_model("./none")


def test_a_missing_library_says_which_extra(package, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"grpo-agent-framework\[train\]"):
        resolve_model("smollm2-135m")


def test_a_directory(tmp_path):
    directory = write_model(tmp_path / "mine")
    model = resolve_model(str(directory))
    assert (model.name, model.path, model.source) == (str(directory), directory, "path")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "does not exist"),
        ({}, r"no readable config\.json"),
        ({"config.json": "{"}, r"no readable config\.json"),
        ({"config.json": "{}", "pytorch_model.bin": ""}, r"no \.safetensors weights"),
    ],
)
def test_a_directory_that_is_no_model(tmp_path, files, message):
    directory = tmp_path / "mine"
    if files is not None:
        directory.mkdir()
        for name, text in files.items():
            (directory / name).write_text(text)
    with pytest.raises(ModelError, match=rf"{message}.*Here are: smollm2-135m"):
        resolve_model(str(directory))


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"model": {"vocab": {"a": 0, "b": 99}}, "added_tokens": [{"id": 100, "content": "<end>"}]},
        {"model": {"vocab": [["a", 0.0]] * 101}},
    ],
)
def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path, tokenizer):
    directory = write_model(tmp_path / "mine", vocab_size=101)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert resolve_model(str(directory)).path == directory
    write_model(directory, vocab_size=100)
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(
        ModelError, match=r"its tokenizer has ids up to 100, and its embedding 100 rows.*resize"
    ):
        resolve_model(str(directory))


def test_a_model_with_code_of_its_own_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(resolve, "_is_built_in", lambda model_type: model_type == "llama")
    resolve_model(str(write_model(tmp_path / "known", auto_map={})))
    strange = write_model(tmp_path / "strange", model_type="strange", auto_map={})
    with pytest.raises(ModelError, match="trust_remote_code"):
        resolve_model(str(strange))


def test_a_hub_model(tmp_path, monkeypatch):
    snapshot = write_model(tmp_path / "hub" / "models--org--tiny" / "snapshots" / "abc")
    asked = []

    class Hub:
        @staticmethod
        def snapshot_download(hub_id, **options):
            asked.append((hub_id, options["allow_patterns"]))
            assert options["tqdm_class"]  # a download shows itself though the libraries are quiet
            return str(snapshot)

    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    model = resolve_model("org/tiny")
    assert (model.path, model.source, model.hub_id) == (snapshot, "hub", "org/tiny")
    assert asked[0][0] == "org/tiny"
    assert not any(pattern.endswith((".bin", ".py")) for pattern in asked[0][1])
    assert [info.alias for info in list_models()] == ["smollm2-135m", "org/tiny"]


def test_a_hub_model_that_cannot_be_had_lists_what_can(tmp_path, monkeypatch):
    write_model(tmp_path / "hub" / "models--org--tiny" / "snapshots" / "abc")

    class Hub:
        @staticmethod
        def snapshot_download(hub_id, **options):
            raise OSError("offline mode is enabled.\nmore")

    monkeypatch.setitem(sys.modules, "huggingface_hub", Hub)
    with pytest.raises(ModelError) as caught:
        resolve_model("smolm2-135m")
    assert str(caught.value) == (
        'model "smolm2-135m" cannot be had: offline mode is enabled. Did you mean "smollm2-135m"? '
        "Here are: smollm2-135m, org/tiny; or give a directory that save_pretrained() wrote"
    )


def test_the_hub_client_honours_offline_mode(monkeypatch, tmp_path):
    pytest.importorskip("huggingface_hub")
    script = "from grpo_host.models.resolve import resolve_model; resolve_model('org/none')"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "ModelError" in result.stderr.splitlines()[-1]
    assert "cannot be had" in result.stderr


def test_a_name_that_can_be_nothing():
    with pytest.raises(ModelError, match="no alias, directory or hub id"):
        resolve_model("two words")


def test_aliases_of_a_mapping_and_of_a_file(tmp_path, monkeypatch):
    directory = write_model(tmp_path / "mine")
    file = tmp_path / "aliases.json"
    file.write_text(json.dumps({"gpt2": "nowhere", "small": "gpt2"}))
    monkeypatch.setenv("GRPO_MODEL_ALIASES", str(file))
    model = resolve_model("small", aliases={"gpt2": str(directory)})
    assert (model.name, model.path) == ("small", directory)
    listed = {info.alias: info for info in list_models({"gpt2": str(directory)})}
    assert listed["small"].path == directory
    assert listed["small"].description == f"alias of {directory}"


def test_an_alias_of_the_embedded_model(package, monkeypatch):
    monkeypatch.setattr(embedded, "convert_gguf", converted([]))
    model = resolve_model("gpt2", aliases={"gpt2": "smollm2-135m"})
    assert (model.name, model.source) == ("gpt2", "embedded")


@pytest.mark.parametrize("said", ["gpt2=smollm2-135m", " small = gpt2 ,, gpt2 = smollm2-135m ,"])
def test_aliases_of_the_environment_variable_itself(package, monkeypatch, said):
    monkeypatch.setattr(embedded, "convert_gguf", converted([]))
    monkeypatch.setenv("GRPO_MODEL_ALIASES", said)
    model = resolve_model("gpt2")
    assert (model.name, model.source) == ("gpt2", "embedded")


@pytest.mark.parametrize("said", ["gpt2=", "=x", "a=b,c"])
def test_an_alias_without_a_name_or_target(monkeypatch, said):
    monkeypatch.setenv("GRPO_MODEL_ALIASES", said)
    with pytest.raises(ModelError, match="is no alias; write name=target, as in gpt2=smollm2-135m"):
        resolve_model("gpt2")


def test_aliases_that_form_a_circle():
    with pytest.raises(ModelError, match="a → b → a"):
        resolve_model("a", aliases={"a": "b", "b": "a"})


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}'])
def test_a_bad_alias_file(tmp_path, monkeypatch, text):
    file = tmp_path / "aliases.json"
    file.write_text(text)
    monkeypatch.setenv("GRPO_MODEL_ALIASES", str(file))
    with pytest.raises(ModelError, match=r"\$GRPO_MODEL_ALIASES"):
        resolve_model("a")


def test_importing_it_is_light():
    script = (
        "import sys, grpo_host.models.resolve; "
        "print(sorted({'torch', 'transformers', 'huggingface_hub', 'gguf'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


@pytest.mark.model
@pytest.mark.filterwarnings("default")
def test_the_real_embedded_model_answers(monkeypatch):
    monkeypatch.delenv("GRPO_CACHE")
    transformers = pytest.importorskip("transformers")
    path = resolve_model("smollm2-135m").path
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path)
    assert (path / "model.safetensors").stat().st_size < 300e6
    assert model.config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    asked = tokenizer("The capital of France is", return_tensors="pt")
    answer = model.generate(**asked, max_new_tokens=3, do_sample=False)
    assert "Paris" in tokenizer.decode(answer[0])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/home/me/hub/models--org--tiny-1.0/snapshots/abc", "org/tiny-1.0"),
        ("/home/me/models/tiny", None),
        ("", None),
    ],
)
def test_a_hub_id_is_told_by_where_the_hubs_client_keeps_the_model(path, expected):
    assert hub_id(path) == expected


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_theta": 1e6}}, 4096),
        ({"max_position_embeddings": 4096, "rope_parameters": {"factor": 4.0}}, None),
        ({"max_position_embeddings": 4096, "rope_scaling": {"factor": 4.0}}, None),
        ({}, None),
        ([], None),
    ],
)
def test_the_longest_context_is_what_the_config_tells(tmp_path, config, longest):
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert resolve.longest_context(tmp_path) == longest
