"""Networks: the normaliser against NumPy, and an encoder for every kind of observation."""

import numpy as np
import pytest
import torch

from rlsys.config import ENCODERS
from rlsys.networks import ACTIVATIONS, CONVOLUTIONS, Encoder, ObsSpec, Part, RunningNorm, linear, mlp


def spec(dtype, *parts):
    parts = [Part(kind, list(shape)) for kind, shape in parts]
    return ObsSpec(parts[0].shape if len(parts) == 1 else [sum(part.size for part in parts)], dtype, parts)


# -- the normaliser ------------------------------------------------------------------------------------------------------


def test_running_statistics_of_chunks_are_those_of_the_whole():
    data = np.random.default_rng(0).normal(3.0, 2.0, (100, 5))
    norm = RunningNorm([5])
    for chunk in np.split(data, [1, 3, 40, 41, 77]):
        norm.update(torch.from_numpy(chunk))
    np.testing.assert_allclose(norm.mean, data.mean(0), rtol=1e-12)
    np.testing.assert_allclose(norm.var, data.var(0), rtol=1e-12)
    assert norm.count == 100


def test_statistics_do_not_lose_a_small_spread_around_a_large_mean():
    data = 1e6 + np.random.default_rng(0).normal(0.0, 1e-2, (1000, 1))
    norm = RunningNorm([1])
    for chunk in np.split(data, 10):
        norm.update(torch.from_numpy(chunk))
    np.testing.assert_allclose(norm.var, data.var(0), rtol=1e-4)


def test_time_and_env_axes_count_as_rows():
    data = torch.randn(4, 3, 2)
    one, two = RunningNorm([2]), RunningNorm([2])
    one.update(data)
    two.update(data.flatten(0, 1))
    assert one.mean.equal(two.mean)
    assert one.var.equal(two.var)


def test_scalars_can_be_normalised():
    norm = RunningNorm([])
    norm.update(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))
    assert norm.mean == 3.0
    assert norm.var == 3.5  # (4 + 1 + 0 + 9) / 4


def test_normalised_data_has_mean_zero_and_variance_one_and_outliers_are_clipped():
    data = torch.randn(1000, 2) * torch.tensor([5.0, 0.1]) + torch.tensor([-3.0, 7.0])
    norm = RunningNorm([2])
    norm.update(data)
    x = norm(data)
    assert x.dtype == torch.float32
    torch.testing.assert_close(x.mean(0), torch.zeros(2), rtol=0, atol=1e-4)
    torch.testing.assert_close(x.var(0, correction=0), torch.ones(2), rtol=1e-3, atol=0)
    assert norm(torch.tensor([[1e6, -1e6]])).tolist() == [[10.0, -10.0]]


def test_nothing_is_changed_before_the_first_update():
    x = torch.randn(3, 2)
    torch.testing.assert_close(RunningNorm([2])(x), x)


def test_statistics_are_part_of_the_state():
    norm = RunningNorm([2])
    norm.update(torch.randn(10, 2))
    other = RunningNorm([2])
    other.load_state_dict(norm.state_dict())
    x = torch.randn(3, 2)
    assert norm(x).equal(other(x))


# -- encoders ------------------------------------------------------------------------------------------------------------


def test_numbers_pass_unchanged_and_flattened():
    encoder = Encoder(spec("float32", ("vector", (2, 3))), normalize=False)
    x = torch.arange(12.0).reshape(2, 2, 3)
    assert encoder(x).equal(x.flatten(1))
    assert encoder.num_features == 6
    assert not encoder.has_weights


def test_flags_are_not_normalised_but_numbers_beside_them_are():
    encoder = Encoder(spec("float32", ("binary", (2,)), ("vector", (3,))), normalize=True)
    x = torch.cat([torch.tensor([[0.0, 1.0]]).repeat(50, 1), 5 + 2 * torch.randn(50, 3)], dim=1)
    encoder.update_norm(x.reshape(5, 10, 5))
    features = encoder(x)
    assert features[:, :2].equal(x[:, :2])
    torch.testing.assert_close(features[:, 2:].mean(0), torch.zeros(3), rtol=0, atol=1e-5)


def test_a_binary_vector_of_bytes_becomes_numbers():
    encoder = Encoder(spec("int8", ("binary", (4,))), normalize=True)
    assert encoder(torch.tensor([[0, 1, 1, 0]], dtype=torch.int8)).tolist() == [[0.0, 1.0, 1.0, 0.0]]


@pytest.mark.parametrize(("kind", "dtype", "shape"), [("grid", "int8", (10, 12, 4)), ("image", "uint8", (84, 84, 3))])
def test_pictures_go_through_convolutions(kind, dtype, shape):
    encoder = Encoder(spec(dtype, (kind, shape)), normalize=True)
    x = torch.randint(0, 2, (5, *shape)).to(getattr(torch, dtype))
    assert encoder(x).shape == (5, encoder.num_features)
    assert encoder.has_weights
    encoder.update_norm(x)  # nothing to normalise
    rows = torch.cat([encoder(row.unsqueeze(0)) for row in x])
    torch.testing.assert_close(encoder(x), rows)  # rows do not mix


def test_the_pixels_of_an_image_are_divided_by_255_and_those_of_a_grid_are_not():
    x = torch.randint(0, 256, (2, 12, 12, 1), dtype=torch.uint8)
    torch.manual_seed(0)
    image = Encoder(spec("uint8", ("image", (12, 12, 1))), normalize=False)
    torch.manual_seed(0)
    grid = Encoder(spec("float32", ("grid", (12, 12, 1))), normalize=False)
    torch.testing.assert_close(image(x), grid(x / 255))


def test_pictures_can_be_flattened_instead():
    x = torch.randint(0, 256, (2, 6, 6, 2), dtype=torch.uint8)
    image = Encoder(spec("uint8", ("image", (6, 6, 2))), normalize=True, encoder="mlp")
    assert not image.has_weights
    torch.testing.assert_close(image(x), x.flatten(1) / 255)
    assert Encoder(spec("uint8", ("grid", (6, 6, 2))), normalize=True, encoder="mlp")(x).equal(x.flatten(1).float())


def test_the_convolutions_can_be_chosen():
    large, small = spec("uint8", ("image", (40, 40, 3))), spec("uint8", ("image", (10, 40, 3)))
    kernels = lambda encoder: [m.kernel_size[0] for m in encoder.modules() if isinstance(m, torch.nn.Conv2d)]  # noqa: E731
    assert kernels(Encoder(large, False)) == kernels(Encoder(large, False, "nature")) == [8, 4, 3]
    assert kernels(Encoder(large, False, "small")) == kernels(Encoder(small, False)) == [3, 3]
    with pytest.raises(ValueError, match=r"encoder=nature is for pictures of 36 x 36 or more, and these have 10 x 40"):
        Encoder(small, False, "nature")


def test_the_encoders_that_a_config_can_name_are_those_there_are():
    assert set(ENCODERS) == {"auto", "mlp", *CONVOLUTIONS}


def test_a_packed_dict_is_taken_apart_again():
    parts = [("vector", (3,)), ("grid", (6, 6, 2)), ("binary", (4,))]
    encoder = Encoder(spec("float32", *parts), normalize=False)
    numbers, grid, flags = torch.randn(5, 3), torch.randn(5, 6, 6, 2), torch.ones(5, 4)
    features = encoder(torch.cat([numbers, grid.flatten(1), flags], dim=1))
    assert features.shape == (5, encoder.num_features)
    assert features[:, :3].equal(numbers)
    assert features[:, 3:-4].equal(encoder.parts[1](grid))
    assert features[:, -4:].equal(flags)


def test_an_observation_spec_survives_json():
    import json
    from dataclasses import asdict

    for obs in (spec("float32", ("vector", (4,))), spec("float32", ("vector", (3,)), ("grid", (6, 6, 2)))):
        assert ObsSpec.from_json(json.loads(json.dumps(asdict(obs)))) == obs


# -- layers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_body_has_the_sizes_and_the_activation_asked_for(activation):
    body = mlp(3, [8, 5], activation, orthogonal=True)
    assert [type(layer) for layer in body] == [torch.nn.Linear, ACTIVATIONS[activation]] * 2
    assert body(torch.zeros(2, 3)).shape == (2, 5)


def test_layer_normalisation_stands_between_each_layer_and_its_activation():
    body = mlp(3, [8, 5], "relu", orthogonal=False, layer_norm=True)
    assert [type(layer) for layer in body] == [torch.nn.Linear, torch.nn.LayerNorm, torch.nn.ReLU] * 2
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    expected = x
    for weight, bias in ((body[k].weight.detach().numpy(), body[k].bias.detach().numpy()) for k in (0, 3)):
        y = expected @ weight.T + bias
        y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
        expected = np.maximum(y, 0.0)
    np.testing.assert_allclose(body(torch.from_numpy(x)).detach(), expected, rtol=0, atol=1e-5)


def test_no_hidden_layers_is_the_identity():
    x = torch.randn(2, 3)
    assert mlp(3, [], "tanh", orthogonal=True)(x).equal(x)


def test_orthogonal_weights_have_their_gain():
    layer = linear(8, 4, gain=3.0)
    torch.testing.assert_close(layer.weight @ layer.weight.T, 9.0 * torch.eye(4))
    assert not layer.bias.any()
