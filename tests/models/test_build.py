import pytest
import torch
import torchvision

from harness.app.compose import compose_config
from harness.errors import UserError
from harness.models import build as module
from harness.models.build import build_model


def network(*overrides, classes=10):
    return build_model(compose_config(list(overrides))[0].model, (1, 8, 8), classes, [48, 16])


@pytest.mark.parametrize(
    ("channels", "message"),
    [
        (
            "[1000000000]",
            r"^model.channels=\[1000000000\] with 10 classes: weights and gradients need 1,384.0 GB of memory",
        ),
        (
            "[9223372036854775807,8]",
            r"^model.channels=\[9223372036854775807, 8\] with 10 classes: must be a network that",
        ),
    ],
)
def test_a_network_beyond_memory_is_refused_before_it_is_built(channels, message):
    with pytest.raises(UserError, match=message):
        network(f"model.channels={channels}")


def test_a_number_of_classes_beyond_memory_is_refused_as_well(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 4_000_000)
    with pytest.raises(UserError, match=r"^model.depth=20 with 10,000 classes: weights and gradients need 0.0 GB"):
        network("model=resnet20", classes=10_000)


def test_a_network_of_torchvision_beyond_memory_is_refused_before_it_is_built(monkeypatch):
    monkeypatch.setattr(module, "free_memory", lambda: 20_000_000)
    before = torch.get_rng_state()
    with pytest.raises(UserError, match=r"^model.architecture=mobilenet_v3_small with 1,000 classes: weights and grad"):
        network("model=torchvision", "model.architecture=mobilenet_v3_small", classes=1000)
    assert torch.equal(torch.get_rng_state(), before)  # nothing was drawn


@pytest.mark.parametrize("architecture", ["regnet_x_400mf", "vit_b_16"])
def test_a_network_of_torchvision_has_the_weights_that_building_it_alone_gives(architecture):
    config = compose_config(["model=torchvision", f"model.architecture={architecture}"])[0].model
    torch.manual_seed(0)
    built = build_model(config, (3, 32, 32), 10, [16])
    torch.manual_seed(0)
    size = {"image_size": 32} if architecture.startswith("vit") else {}
    alone = torchvision.models.get_model(architecture, weights=None, num_classes=10, **size)
    assert all(torch.equal(*pair) for pair in zip(built.parameters(), alone.parameters(), strict=True))


def test_resnet9_is_the_source_s_and_takes_images_of_eight_pixels_or_more():
    config = compose_config(["model=resnet9"])[0].model
    source_s = build_model(config, (3, 32, 32), 10, [2])
    assert sum(parameter.numel() for parameter in source_s.parameters()) == 6_573_120
    for shape in ((1, 8, 8), (3, 32, 32), (2, 40, 9)):
        assert build_model(config, shape, 7, [2])(torch.zeros(2, *shape)).shape == (2, 7)
    with pytest.raises(UserError, match=r"^model.name=resnet9: cannot train on images of 7x8 with 1 channel: "):
        build_model(config, (1, 7, 8), 10, [2])


@pytest.mark.parametrize("model", ["small_cnn", "resnet20", "resnet18", "resnet9"])
def test_sizing_a_network_up_leaves_its_initial_weights_as_they_were(model):
    config = compose_config([f"model={model}"])[0].model
    torch.manual_seed(0)
    built = build_model(config, (1, 8, 8), 10, [16])
    torch.manual_seed(0)
    alone = module._own(config, (1, 8, 8), 10)
    assert all(torch.equal(*pair) for pair in zip(built.parameters(), alone.parameters(), strict=True))
