import dataclasses
import functools

import jax
import pytest

import jaxnn as nn
from experiments.support.config import (
    CONFIGS,
    LOSSES,
    Config,
    DataConfig,
    find_config,
    load_config,
    read_config,
    require_compatible,
    sample_of,
    to_table,
)
from experiments.support.runs import Run

load = functools.cache(DataConfig.load)  # several configurations are about the same data
NAMES = sorted(path.stem for path in CONFIGS.glob("*.toml"))


@pytest.fixture(scope="module")
def wine():
    return DataConfig("wine").load()


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_configuration_loads_builds_and_fits_its_data(name):
    config = load_config(name)
    config.make_optimizer(1000)
    try:
        splits = load(config.data)
    except FileNotFoundError as error:
        pytest.skip(f"{config.data.name} is not on this machine: {error}")
    require_compatible(config, splits)
    assert config.batch_size <= len(splits.train.x)
    x, target = splits.train.x[:4], config.task(splits).prepare(splits.train.target[:4])
    assert sample_of(config) == jax.eval_shape(lambda *arrays: arrays, x, target)


def write(folder, text):
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_values_of_a_file_replace_the_defaults(tmp_path):
    config = read_config(write(tmp_path, 'epochs = 3\nlearning_rate = 1\n[data]\nname = "iris"'))
    assert config == dataclasses.replace(
        Config(), epochs=3, learning_rate=1.0, data=DataConfig("iris")
    )
    assert isinstance(config.learning_rate, float)


@pytest.mark.parametrize("name", NAMES)
def test_a_configuration_written_to_a_run_folder_comes_back_the_same(name, tmp_path):
    config = load_config(name)
    Run(tmp_path).write_config(config)
    assert Run(tmp_path).read_config() == config
    assert None not in to_table(config).values()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", "mine.toml: unknown key 'epoch': did you mean 'epochs'"),
        ('[data]\nnaem = "iris"', r"mine.toml \[data\]: unknown key 'naem': did you mean 'name'"),
        ("[date]\nx = 1", "unknown key 'date': did you mean 'data'"),
        ('epochs = "3"', "mine.toml: epochs: expected int, got '3'"),
        ("epochs = 3.5", "epochs: expected int, got 3.5"),
        ("epochs = true", "epochs: expected int, got True"),
        ("network = [1, 2]", "network: expected .*, got"),
        ('network = "dense(3)"', "network: expected .*, got 'dense"),
        ("data = 3", "expected a table of options, got 3"),
        ("loss = 3", "loss: expected str, got 3"),
        ("[data]\nflatten = 1", "flatten: expected bool, got 1"),
        ("epochs = ", "expected .*mine.toml to be TOML"),
        ("patience = 1.5", "patience: expected .*, got 1.5"),
    ],
)
def test_a_wrong_key_or_type_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_config(write(tmp_path, text))


def test_an_unknown_configuration_is_named_with_the_nearest():
    with pytest.raises(ValueError, match="unknown config 'wine_mpl': did you mean 'wine_mlp'"):
        find_config("wine_mpl")
    with pytest.raises(FileNotFoundError, match=r"expected none\.toml to be a file"):
        find_config("none.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": ("dense(5)",)}, "expected network to return 3 outputs .* on wine, got shape"),
        ({"network": ()}, "expected network to have at least one layer"),
        ({"network": ("dens(3)",)}, "did you mean 'dense'"),
        ({"network": ("max_pool(2)", "dense(3)")}, "max_pool"),
        ({"network": ("fork(dense(3), dense(3))",)}, "expected network to return 3 .* got a tuple"),
        ({"network": ("projection(3)",)}, "expected prediction to be an array, got Factors"),
        ({"network": ("serial(a=dense(3), a=relu())",)}, "expected every option once, got a 2"),
        ({"network": ("serial(a=dense(3), _b=relu())",)}, "expected the name of a part to be an"),
        ({"loss": "hinge()"}, "hinge: expected data with 2 classes, got 3"),
        ({"loss": "ctc()"}, "ctc: expected a loss of one label .* sequences of labels"),
        (
            {"loss": "sequence_loss(hinge())"},
            "sequence_loss of hinge: expected a loss of one label",
        ),
        ({"loss": "softmax_cross_entrop()"}, "did you mean 'softmax_cross_entropy'"),
    ],
)
def test_a_network_or_loss_that_does_not_fit_the_data_is_refused(wine, changes, message):
    config = dataclasses.replace(Config(network=("dense(3)",), data=DataConfig("wine")), **changes)
    with pytest.raises((ValueError, TypeError), match=message):
        require_compatible(config, wine)


FROM_PYTHON = {
    "contrastive",
    "cosine_embedding",
    "ctc",
    "gaussian_nll",
    "sequence_loss",
    "triplet_margin",
}


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_fits_some_data_or_says_that_it_is_for_python(name):
    text = f"{name}(hinge())" if name == "sequence_loss" else f"{name}()"
    fitting, reasons = [], []
    for data, outputs in [("diabetes", 1), ("breast_cancer", 1), ("wine", 3)]:
        config = Config(network=(f"dense({outputs})",), loss=text, data=DataConfig(data))
        try:
            require_compatible(config, load(config.data))
            fitting.append(data)
        except ValueError as error:
            reasons.append(str(error))
    if name in FROM_PYTHON:
        assert not fitting
        assert all("from Python" in reason for reason in reasons)
    else:
        assert fitting


@pytest.mark.parametrize("last", ["dense(3)", "projection(3)"])
def test_projected_cross_entropy_takes_labels_as_softmax_cross_entropy_does(wine, last):
    config = Config(
        network=("dense(4)", last), loss="projected_cross_entropy()", data=DataConfig("wine")
    )
    require_compatible(config, wine)
    labels = wine.train.target
    assert config.task(wine).prepare(labels) is labels


def test_the_names_of_the_parts_of_a_whole_network_are_its_paths():
    (text,) = network = ("serial(stem=dense(64), act=relu(), head=dense(10))",)
    assert repr(Config(network=network).layers) == text
    paths = [path for path, _ in nn.walk(Config(network=network).layers)]
    assert paths == ["stem", "act", "head"]


def test_a_single_entry_without_names_keeps_its_place_as_in_earlier_runs():
    network = Config(network=("serial(dense(64), relu(), dense(10))",)).layers
    assert network == nn.serial(nn.serial(nn.dense(64), nn.relu(), nn.dense(10)))


@pytest.mark.parametrize("name", NAMES)
def test_the_text_of_a_configurations_network_and_loss_builds_them_again(name):
    config = load_config(name)
    again = dataclasses.replace(
        config, network=(repr(config.layers),), loss=repr(config.loss_function)
    )
    assert again.layers.parts[0] == config.layers
    assert again.loss_function == config.loss_function


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adm()"}, "unknown optimizer 'adm': did you mean 'adam'"),
        ({"optimizer": "adam(0.9)"}, "expected options of adam by name"),
        ({"optimizer": "adam(b3=1)"}, "unknown option of optimizer adam 'b3'"),
        ({"schedule": "cosin()"}, "did you mean 'cosine'"),
        ({"learning_rate": -1.0}, "learning_rate"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_what_is_wrong_with_the_optimizer_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(Config(), **changes).make_optimizer(100)


def test_the_schedule_spans_all_steps():
    config = Config(
        optimizer="sgd()", schedule="linear()", learning_rate=1.0, epochs=2, batch_size=8
    )
    optimizer = config.make_optimizer(20)  # 6 steps
    params = {"weight": jax.numpy.ones(())}
    state, rates = optimizer.init(params), []
    for _ in range(7):
        updates, state = optimizer.update(params, state, params)
        rates.append(-float(updates["weight"]))
    assert rates == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0], abs=1e-6)
