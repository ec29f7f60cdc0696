"""The benchmark of one step: all parts are there, and its FLOPs are counted."""

from __future__ import annotations

import pytest
import torch

from recdreamer.evaluation.bench_guidance import cosines, costs, gradients
from recdreamer.evaluation.bench_step import as_table, bench_step, prepare
from recdreamer.evaluation.random_sd import UNET, VAE, random_dinov2
from recdreamer.graphs import Rerun
from recdreamer.models.radiance import Particles
from recdreamer.pose.features import FeatureExtractor
from recdreamer.shared.protocol import Stage

SMALL = {"optimize.num_views": 1, "optimize.render_px": 16, "rectifier.classifier.template_copies": 0,
         "rectifier.classifier.query_copies": 1, "field.num_levels": 2}  # fmt: skip


def test_each_part_of_a_step_is_timed_and_its_flops_counted() -> None:
    found = bench_step(("sds", "vsd", "usd"), "shape", "builtin", 1, "cpu", SMALL)
    sds, vsd, usd = (found["methods"][name] for name in ("sds", "vsd", "usd"))
    assert "branch training" in vsd["seconds"] and "branch training" not in sds["seconds"]
    assert {"decode", "classifier", "rectifier and branch backward"} <= set(usd["seconds"])
    for row in (sds, vsd, usd):
        assert all(seconds > 0 for seconds in row["seconds"].values()) and row["peak_gib"] > 0
    assert sds["tflop"] < vsd["tflop"] < usd["tflop"]
    table = as_table(found)
    assert len({line.count("|") for line in table.splitlines()}) == 1


@pytest.mark.parametrize("stage", ["geometry", "texture"])
def test_a_step_of_the_later_stages_follows_their_own_method(stage: Stage) -> None:
    small = {"geometry.resolution": 24, "geometry.render_px": 16, "texture.render_px": 16}
    found = bench_step(("usd",), stage, "builtin", 1, "cpu", SMALL | small)
    seconds = found["methods"]["usd"]["seconds"]
    assert {"render", "encode", "noise estimates", "step"} <= set(seconds)
    assert ("branch training" in seconds) == ("classifier" in seconds) == (stage == "texture")


def test_the_random_prior_has_the_size_of_stable_diffusion() -> None:
    """865.9 million weights in the U-Net and 83.7 in the autoencoder, as published; counted without memory."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    with torch.device("meta"):
        sizes = [
            sum(p.numel() for p in model.parameters())
            for model in (UNet2DConditionModel(**UNET), AutoencoderKL(**VAE))
        ]
    assert sizes == [865_910_724, 83_653_863]


def test_the_random_extractor_is_loaded_as_the_real_one(tmp_path) -> None:
    extractor = FeatureExtractor(str(random_dinov2(tmp_path)))
    features = extractor(torch.rand(1, 3, 64, 64))
    assert features.cls.shape == (1, 384) and features.patches.shape == (1, 256, 384)
    assert extractor.prepare.size_px == 224
    assert features.cls.norm().item() == pytest.approx(1, abs=1e-4)


def test_steps_as_written_and_recorded_are_compared() -> None:
    """On a CPU by a recording that needs no GPU, and in bfloat16 against float32."""
    device = torch.device("cpu")
    subject = prepare("usd", "shape", "builtin", device, torch.float32, SMALL)
    theta = Particles(subject.config, device)
    found = costs(
        subject.of_step, subject.prior, subject.guide, subject.lora, theta.at(0), theta.cameras, 2, Rerun
    )
    kinds = {f"{what}, {kind}" for what in ("step", "guidance") for kind in ("as written", "recorded")}
    assert set(found) == kinds | {"agreement"}
    assert all(found[kind]["wall_ms"] > 0 for kind in kinds)
    assert found["agreement"]["difference"] < 1e-6 and found["agreement"]["cosine"] > 0.999999
    grads = []
    for dtype in (torch.bfloat16, torch.float32):
        subject = prepare("usd", "shape", "builtin", device, dtype, SMALL)
        grads.append(gradients(subject.guide, subject.prior, subject.lora))
    near = cosines(*grads)
    assert set(near) == {"all", "rectifier", "branch"}
    assert near["all"] > 0.98 and near["branch"] > 0.98
    assert cosines(grads[1], grads[1])["rectifier"] == pytest.approx(1)
