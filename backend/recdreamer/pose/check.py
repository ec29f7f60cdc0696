"""Checks templates with the classifier before a job spends time on them: overlays, confusion, advice."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from recdreamer.images import write_picture
from recdreamer.pose.anchoring import Drawn, doubts, read_drawn
from recdreamer.pose.classifier import ClassifierConfig, Normalization, PoseClassifier
from recdreamer.pose.features import PATCHES, FeatureExtractor, Features
from recdreamer.pose.foreground import template_masks
from recdreamer.pose.templates import PoseTemplate, are_placed
from recdreamer.shared.protocol import Template, write_atomically

SMALL, HUGE = 0.04, 0.97
"""Coverage of the picture below which the object is too small, and above which there is no background."""
SURE, UNLIKELY = 0.6, 0.2
"""A label is doubted if another class has at least the first probability, and its own at most the second."""
CONFUSED = 0.35
"""Two classes cannot be told apart if their pictures have this mean probability of the other class."""
NORMALIZATION: Normalization = "centered"
"""In units of the margin between right and wrong class, so that these thresholds fit any templates."""
TINT = (0.10, 0.85, 0.45)
"""Colour of the patches taken for the object."""
COLD, WARM = (0.15, 0.20, 0.55), (1.0, 0.85, 0.20)
"""Colours of patches shared by all poses, and of patches that distinguish this pose."""


@dataclass(frozen=True)
class Advice:
    message: str
    hint: str


@dataclass(frozen=True)
class TemplateVerdict:
    image: str
    label: str
    reads_as: str
    """Class by the other templates or by the prior's own pictures of the poses; the label itself if undecided."""
    pose_probs: dict[str, float]
    coverage: float
    """Share of the picture taken for the object."""
    overlay: str
    match: str
    warnings: list[Advice] = field(default_factory=list)


def check_templates(
    folder: Path,
    templates: tuple[Template, ...],
    loaded: list[PoseTemplate],
    extractor: FeatureExtractor,
    attention: Float[Tensor, "templates places"] | None,
    drawn: Drawn | None = None,
    cache: Path | None = None,
    config: ClassifierConfig | None = None,
) -> tuple[list[TemplateVerdict], list[Advice]]:
    """Verdicts on the templates of a folder, in their order, and advice on all of them together.

    The prior's own pictures, `drawn`, are used to check the labels, and in turn the templates must classify them.
    Writes check/check.json, and for each template check/overlay-N.png (the patches taken for the object) and
    check/match-N.png (the patches that distinguish its pose).
    """
    (folder / "check").mkdir(exist_ok=True)
    settings = replace(config or ClassifierConfig(), normalization=NORMALIZATION)
    classifier = PoseClassifier(extractor, loaded, settings, 0, attention, cache)
    device = classifier.template_mask.device
    images = torch.stack([template.image for template in loaded]).to(device)
    with torch.no_grad():
        features = extractor(images)
        masks = template_masks(classifier.rule, features.patches, loaded)
        probs = torch.stack([
            _probs(classifier, extractor, loaded, attention, index, cache) for index in range(len(loaded))
        ])  # fmt: skip
    known: tuple[str, ...] = ()
    told, doubt_of_all = None, None
    if drawn is not None:
        reference = PoseClassifier(extractor, drawn.templates, settings, cache=cache)
        told = reference(images).exp()
        if _knows_these(told, templates, reference.labels):
            known = reference.labels
        doubt_of_all = _doubt_of_all(loaded, drawn, extractor, config or ClassifierConfig(), cache)
    verdicts = []
    for index, template in enumerate(templates):
        labels, read = classifier.labels, probs[index]
        if told is not None and template.label in known:
            labels, read = known, told[index]
        covered = coverage(masks[index], loaded[index])
        reads_as, doubt = _reading(template.label, labels, read)
        advice = [doubt] if doubt else []
        advice += _frame_advice(masks[index], covered)
        names = f"check/overlay-{index}.png", f"check/match-{index}.png"
        write_picture(folder / names[0], overlay(images[index], masks[index]))
        write_picture(folder / names[1], match_map(classifier, features, masks, index))
        verdicts.append(
            TemplateVerdict(
                template.image,
                template.label,
                reads_as,
                _by_label(labels, read),
                covered,
                *names,
                advice,
            )
        )
    advice = _confusion_advice(classifier.labels, templates, probs, images)
    if doubt_of_all and not advice:  # Confusion among the views would explain the doubt.
        advice.append(doubt_of_all)
    report = {"templates": [asdict(v) for v in verdicts], "warnings": [asdict(a) for a in advice]}
    write_atomically(folder / "check" / "check.json", json.dumps(report, indent=2, ensure_ascii=False))
    return verdicts, advice


def _doubt_of_all(
    loaded: list[PoseTemplate],
    drawn: Drawn,
    extractor: FeatureExtractor,
    config: ClassifierConfig,
    cache: Path | None,
) -> Advice | None:
    """Doubt about the templates as a whole, by the same check that a job makes when it begins."""
    if not are_placed(loaded):
        return None
    both = PoseClassifier(extractor, [*loaded, *drawn.templates], config, cache=cache)
    reading = read_drawn(both, loaded, drawn)
    doubt = None if reading is None else doubts(reading)
    return None if doubt is None else Advice(*doubt)


def _probs(
    classifier: PoseClassifier,
    extractor: FeatureExtractor,
    loaded: list[PoseTemplate],
    attention: Tensor | None,
    index: int,
    cache: Path | None,
) -> Float[Tensor, "classes"]:
    """Classification of a template by the others, or by all if it is alone in its class."""
    others = [template for i, template in enumerate(loaded) if i != index]
    judge = classifier
    if any(template.label == loaded[index].label for template in others):
        rows = [i for i in range(len(loaded)) if i != index]
        rest = None if attention is None else attention[rows]
        judge = PoseClassifier(extractor, others, classifier.config, 0, rest, cache)
    probs = judge(loaded[index].image[None].to(classifier.template_mask.device))[0].exp()
    return probs[[judge.labels.index(label) for label in classifier.labels]]


def _knows_these(
    told: Float[Tensor, "templates known"], templates: tuple[Template, ...], known: tuple[str, ...]
) -> bool:
    """Whether a reference tells the templates of its poses apart at all.

    Compared with finished pictures, a block-out without details looks the same from all sides, and classifying its
    views would only mislead.
    """
    rows = [index for index, template in enumerate(templates) if template.label in known]
    labels = {templates[index].label for index in rows}
    return len(told[rows].argmax(1).unique()) >= max(2, len(labels) - 1)


def _reading(
    label: str, labels: tuple[str, ...], probs: Float[Tensor, "classes"]
) -> tuple[str, Advice | None]:
    """The class of a template as classified, and a doubt about its label."""
    best = int(probs.argmax())
    is_doubted = probs[best] >= SURE and probs[labels.index(label)] <= UNLIKELY
    if not is_doubted:
        return label, None
    return labels[best], Advice(
        f"This view looks like {labels[best]}, but its label is {label}.",
        "Change its label, mirror it if it faces the other way, or use another picture.",
    )


def _frame_advice(mask: Float[Tensor, "places"], covered: float) -> list[Advice]:
    grid = mask.unflatten(0, (PATCHES, PATCHES)) > 0
    if covered > HUGE:
        return [
            Advice(
                "The object cannot be told from the background.",
                "Use a plain background, or cut the object out with alpha.",
            )
        ]
    if covered < SMALL:
        return [
            Advice(
                f"The object is too small in the frame ({100 * covered:.0f} %).",
                "Move closer or crop the picture.",
            )
        ]
    # Sides and top only: many objects stand on the lower edge.
    cut = [
        name for name, edge in (("left", grid[:, 0]), ("right", grid[:, -1]), ("top", grid[0])) if edge.any()
    ]
    if cut:
        return [Advice(f"The object is cut off ({', '.join(cut)}).", "Leave a margin around it.")]
    return []


def coverage(mask: Float[Tensor, "places"], template: PoseTemplate) -> float:
    """Share of the picture that shows the object: by alpha, else the smaller of its share of patches and of pixels
    that differ from the border's colour, because the features of a tiny object spill over into its surroundings.

    >>> template = PoseTemplate("front", torch.zeros(3, 2, 2), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]), None)
    >>> coverage(torch.ones(PATCHES * PATCHES), template)
    0.25
    """
    if template.mask is not None:
        return template.mask.mean().item()
    image = template.image
    border = torch.cat((image[:, 0], image[:, -1], image[..., 0], image[..., -1]), dim=-1).median(-1).values
    differs = ((image - border[:, None, None]).abs().amax(0) > 0.08).float().mean().item()
    return min(mask.mean().item(), differs)


def _confusion_advice(
    labels: tuple[str, ...],
    templates: tuple[Template, ...],
    probs: Float[Tensor, "templates classes"],
    images: Float[Tensor, "templates 3 s s"],
) -> list[Advice]:
    """Advice on pairs of classes whose pictures look alike."""
    members = {label: [i for i, t in enumerate(templates) if t.label == label] for label in labels}
    advice = []
    for a, first in enumerate(labels):
        for b in range(a + 1, len(labels)):
            second = labels[b]
            same = (images[members[first]][:, None] - images[members[second]][None]).abs().amax((2, 3, 4))
            confused = torch.stack((probs[members[first], b].mean(), probs[members[second], a].mean()))
            if bool((same < 1e-3).any()):
                message, hint = f"{first} and {second} share a picture.", "Mirror one of them, or remove it."
            elif bool((confused > CONFUSED).all()):
                message, hint = (
                    f"{first} and {second} cannot be told apart.",
                    "Use pictures that differ more, or merge the two classes.",
                )
            else:
                continue
            advice.append(Advice(message[0].upper() + message[1:], hint))
    return advice


def overlay(
    image: Float[Tensor, "3 size size"], mask: Float[Tensor, "places"]
) -> Float[Tensor, "3 size size"]:
    """The picture with the object's patches tinted and everything else faded."""
    grid = F.interpolate(mask.view(1, 1, PATCHES, PATCHES), image.shape[-2:], mode="nearest")[0]
    tint = torch.tensor(TINT, device=image.device)[:, None, None]
    return torch.where(grid > 0, 0.7 * image + 0.3 * tint, 0.35 * image + 0.65)


def match_map(
    classifier: PoseClassifier,
    features: Features,
    masks: Float[Tensor, "templates places"],
    index: int,
) -> Float[Tensor, "3 side side"]:
    """Heat map of a template's patches that distinguish its pose: how far their matches move in every other class."""
    of_one = Features(features.cls[index : index + 1], features.patches[index : index + 1])
    own = int(classifier.members[:, index].argmax())
    rivals = classifier.members[own] == 0
    moved = classifier.displacement(of_one, masks[index : index + 1])[0, rivals]
    strength = (moved.amin(0) / 0.25).clamp(0, 1) * masks[index]
    cold, warm = (torch.tensor(color, device=moved.device)[:, None] for color in (COLD, WARM))
    heat = torch.lerp(cold, warm, strength).unflatten(1, (PATCHES, PATCHES))
    return F.interpolate(heat[None], scale_factor=8, mode="bilinear", align_corners=False)[0]


def _by_label(labels: tuple[str, ...], probs: Float[Tensor, "classes"]) -> dict[str, float]:
    return {label: round(prob, 4) for label, prob in zip(labels, probs.tolist(), strict=True)}
