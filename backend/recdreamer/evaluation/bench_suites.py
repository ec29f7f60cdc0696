"""What the benchmark can run: suites of methods, prompts, seeds, variants of settings and sources of templates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recdreamer.evaluation.figurines import POSE_SHARES
from recdreamer.evaluation.job_runs import METHODS
from recdreamer.shared.protocol import BUILTIN_PRIOR, CLASS_AZIMUTHS_DEG, Kind, RequestError

EIGHT_PROMPTS = (
    "a red bear", "a blue bird", "a yellow robot", "a purple rabbit",
    "a green bear", "a teal bird", "a red robot", "a blue rabbit",
)  # fmt: skip
"""Each kind of the embedded world twice."""
ANIMAL_PROMPTS = (
    "a brown bear", "a gray elephant", "a golden lion", "a striped zebra",
    "a brown horse", "a spotted pig", "a gray wolf", "a red fox",
)  # fmt: skip
PAPER_PROMPTS = (
    "An airplane made out of wood.",
    "A bald eagle carved out of wood features.",
    "A blue motorcycle.",
    "A dragon-shaped teapot.",
    "A DSLR photo of a beagle in a detective's outfit.",
    "A DSLR photo of a chimpanzee dressed like Napoleon Bonaparte.",
    "A DSLR photo of a football helmet.",
    "A kingfisher bird.",
    "A fantasy painting of a dragoncat.",
    "A kangaroo wearing boxing gloves.",
    "A DSLR photo of a squirrel playing guitar.",
    "A peacock on a surfboard.",
    "A portrait of Groot, head, HDR, photorealistic, 8K.",
    "A sea turtle.",
    "A zombie bust.",
    "A 3D printed white bust of a man with curly hair.",
    "DSLR Camera, photography, dslr, camera, noobie, box-modeling, maya.",
    "Mecha vampire girl chibi.",
    "Robot with pumpkin head.",
    "Robotic bee, high detail.",
    "Samurai koala bear.",
    "Wes Anderson style Red Panda, reading a book, super cute, highly detailed and colored.",
)
"""Table 7 of the paper."""
BENCH_SEEDS = (2001, 2002, 2003)
"""On which nothing was chosen."""
PAPER_METHODS = ("usd-marginal", "vsd", "sds", "debiased_sds", "perp_neg", "esd", "sds_bridge")


@dataclass(frozen=True)
class Suite:
    name: str
    question: str
    methods: tuple[str, ...]
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    variants: dict[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})
    """Settings of each variant by its name; every method runs with each."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of all runs."""
    prior: str = BUILTIN_PRIOR
    """The embedded world of its prompts."""
    kind: Kind = "object"
    """`particles` makes 2D pictures instead of objects."""
    sources: tuple[str, ...] = ()
    """Sources of templates in `study_templates.SOURCES`, each a variant; "" is the prior, which draws its own."""

    noise_renders: int = 0
    """Of each prompt, to be noised and read; see `noise_reading.py`."""

    def with_choices(
        self,
        methods: Sequence[str] = (),
        prompts: Sequence[str] = (),
        seeds: Sequence[int] = (),
        variants: Sequence[str] = (),
    ) -> Suite:
        """The suite with other methods, prompts or seeds, or with some of its variants. Raises RequestError for an
        unknown method or variant."""
        for method in methods:
            if method not in METHODS:
                raise RequestError(f"There is no method {method!r}.", f"Choose from {', '.join(METHODS)}.")
        for variant in variants:
            if variant not in self.variants:
                raise RequestError(
                    f"The suite {self.name} has no variant {variant!r}.",
                    f"Choose from {', '.join(map(repr, self.variants))}.",
                )
        return replace(
            self,
            methods=tuple(methods) or self.methods,
            prompts=tuple(prompts) or self.prompts,
            seeds=tuple(seeds) or self.seeds,
            variants={name: self.variants[name] for name in variants} or self.variants,
        )

    def smoke(self) -> Suite:
        """The same in a few minutes on one core: every variant and source, one method, prompt and seed, a few small
        steps. It shows that all works, and nothing about the question."""
        particles = min(4, self.settings.get("optimize.num_particles", 1))
        few = {"optimize.num_steps": 4 * max(2, particles), "optimize.num_views": 2, "optimize.num_particles": particles,
               "optimize.preview_every": 4, "rectifier.marginal_samples": 8,
               "rectifier.classifier.template_copies": 4}  # fmt: skip
        return replace(
            self,
            methods=self.methods[:1],
            prompts=self.prompts[:1],
            seeds=self.seeds[:1],
            settings=self.settings | few,
            noise_renders=min(self.noise_renders, 8),
        )


SUITES = {
    suite.name: suite
    for suite in (
        Suite(
            "small",
            "Does everything work? Short drafts that end within 10 minutes on two cores.",
            ("vsd", "usd-camera"), ("a red bear", "a blue bird"), (2001,),
            settings={"optimize.num_steps": 120, "optimize.num_views": 2},
        ),
        Suite(
            "bar", "Are the bars of consistency reached?",
            ("usd-camera", "usd-marginal", "vsd"), EIGHT_PROMPTS, BENCH_SEEDS,
        ),
        Suite("methods", "Who wins where?", tuple(METHODS), EIGHT_PROMPTS, BENCH_SEEDS),
        Suite(
            "rivals", "Do the younger cures work?",
            ("sdi", "consdreamer", "usd-sdi-camera", "usd-sdi-marginal"), EIGHT_PROMPTS, BENCH_SEEDS,
        ),
        Suite(
            "animals", "The bars in the world of animals, whose prior obeys words for views less often.",
            ("usd-camera", "usd-marginal", "vsd", "debiased_sds"), ANIMAL_PROMPTS, BENCH_SEEDS, prior="animals",
        ),
        Suite("paper", "The paper's Tables 1, 3 and 5.", PAPER_METHODS, PAPER_PROMPTS, (0,)),
        Suite(
            "noisy",
            "Sec. 4.4: may the classifier read x_t instead of the clean estimate?",
            ("usd-marginal",), EIGHT_PROMPTS[:4], BENCH_SEEDS[:2],
            {"clean estimate": {}, "noisy picture": {"rectifier.estimate": "noisy"}},
            noise_renders=96,
        ),
        Suite(
            "marginal",
            "Sec. 4.4: may p(c|y) be fixed from pictures drawn beforehand?",
            ("usd-marginal",), EIGHT_PROMPTS[:4], BENCH_SEEDS[:2],
            {"running": {}, "fixed": {"rectifier.marginal": "sampled"}},
        ),
        Suite(
            "q-sampling",
            "Fig. 9: does it help to draw cameras by the prior's p(c) or against it, instead of rectifying?",
            ("vsd", "usd-marginal"), EIGHT_PROMPTS[:4], BENCH_SEEDS[:2],
            {
                "uniform cameras": {},
                # q(c) as the prior's p(c), so that no view asks for what it seldom draws; and the other way round.
                "as often as drawn": {"cameras.azimuth_probs": list(POSE_SHARES.values())},
                "rare sides more often": {
                    "cameras.azimuth_probs": [round(0.05 / share, 4) for share in POSE_SHARES.values()]
                },
            },
        ),
        Suite(
            "particles",
            "Fig. 6: do ten intervals keep four particles together better than two?",
            ("usd-marginal",), EIGHT_PROMPTS[:2], BENCH_SEEDS[:2],
            {"n_i 2": {"guidance.num_intervals": 2}, "n_i 10": {"guidance.num_intervals": 10}},
            {"optimize.num_particles": 4, "optimize.num_steps": 2000},
        ),
        Suite(
            "control",
            "Fig. 12: does a single class as the target make 2D particles of that pose?",
            ("usd-marginal",), EIGHT_PROMPTS[:2], BENCH_SEEDS[:1],
            {f"wants {pose}": {"rectifier.target": {pose: 1.0}} for pose in CLASS_AZIMUTHS_DEG},
            {"optimize.num_particles": 16, "optimize.num_steps": 1000, "optimize.network_learning_rate": 0.03},
            kind="particles",
        ),
        Suite(
            "clamp",
            "B.3: how should the rectifier's gradient be limited?",
            ("usd-marginal",), EIGHT_PROMPTS[:4], BENCH_SEEDS[:2],
            {
                "cap per view": {},
                "cap over the batch": {"rectifier.clamp": "released"},
                "weight 1, no cap": {"rectifier.clamp": "none", "rectifier.weight": 1.0},
            },
        ),
        Suite(
            "guided",
            "May the clean estimate be guided, as in the released code?",
            ("usd-marginal",), EIGHT_PROMPTS[:4], BENCH_SEEDS[:2],
            {
                "unguided": {},
                "guided as the prior's term": {"rectifier.estimate_guidance": 3.0},
                "guided by 7.5": {"rectifier.estimate_guidance": 7.5},
            },
        ),
        Suite(
            "templates",
            "Do templates of other sources than the prior do as well?",
            ("usd-camera",), EIGHT_PROMPTS[:4], BENCH_SEEDS[:2],
            sources=("", "turntable", "by hand", "sketches"),
        ),
        Suite(
            "other-renders",
            "Fig. 16: can another generator's renders, which lack what the prompt asks for, control the pose?",
            ("usd-camera",), tuple(f"{prompt} wearing a hat" for prompt in EIGHT_PROMPTS[:4]), BENCH_SEEDS[:2],
            sources=("", "other renders"),
        ),
        Suite(
            "jacobian",
            "Is the U-Net's Jacobian needed?",
            ("usd-camera", "usd-marginal"), EIGHT_PROMPTS[:4], BENCH_SEEDS[:2],
            {"with": {}, "without": {"rectifier.jacobian": False}},
        ),
    )
}  # fmt: skip
"""Every suite by its name."""


def suite_of(name: str) -> Suite:
    """Raises RequestError for a name that there is not."""
    if name not in SUITES:
        raise RequestError(f"There is no suite {name!r}.", f"Choose from {', '.join(SUITES)}.")
    return SUITES[name]


def prompts_of(prompts: Sequence[str]) -> tuple[str, ...]:
    """Prompts of the command line; "paper" stands for the 22 of Table 7, "eight" for those of the embedded world.

    >>> len(prompts_of(["paper"])), prompts_of(["a red bear"])
    (22, ('a red bear',))
    """
    named = {"paper": PAPER_PROMPTS, "eight": EIGHT_PROMPTS, "animals": ANIMAL_PROMPTS}
    return tuple(prompt for given in prompts for prompt in named.get(given, (given,)))
