"""Negative controls: each of these mistakes in the guidance is caught by the test that is named beside it.

Every mistake is made in a copy of the package, which lies in a small checkout of its own with the tests. None of
these tests needs a network, so diffusers, transformers and peft are empty there: they take longer to import than
all the rest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "backend" / "recdreamer"
MIXTURE = "tests/distillation/test_mixture.py::"
PERP_NEG = "tests/distillation/test_perp_neg.py::"
ORDER = "tests/pose/test_marginal_order.py::"
USED = "tests/test_the_copy_is_used.py"
"""Written into each checkout."""
EMPTY_LIBRARIES = """
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class Empty(ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        is_large = name.partition(".")[0] in {"diffusers", "transformers", "peft"}
        return ModuleSpec(name, Finder, is_package=True) if is_large else None

    @staticmethod
    def create_module(spec):
        return Empty(spec.name)

    @staticmethod
    def exec_module(module):
        pass


sys.meta_path.insert(0, Finder)
"""
"""A plugin of pytest: any part of these libraries can be imported, and every name in them is an empty class."""


@dataclass(frozen=True)
class Mutation:
    """`old` stands exactly once in `file` (of the package); `test` must fail with `new` in its place."""

    name: str
    file: str
    old: str
    new: str
    test: str


MUTATIONS = [
    Mutation(
        "rectifier_with_the_wrong_sign",
        "optimize.py",
        "rectifying = -answers.w_t * x.sigma_t * answers.grad_log_r",
        "rectifying = answers.w_t * x.sigma_t * answers.grad_log_r",
        MIXTURE + "test_the_second_term_of_usd_is_the_slope_of_the_ratio[clean-True-False]",
    ),
    Mutation(
        "rectifier_without_sigma",
        "optimize.py",
        "rectifying = -answers.w_t * x.sigma_t * answers.grad_log_r",
        "rectifying = -answers.w_t * answers.grad_log_r",
        MIXTURE + "test_usd_with_the_true_posterior_is_vsd_towards_the_rectified_prior",
    ),
    Mutation(
        "weight_of_one",
        "distillation/noised.py",
        "sigma_t, sigma_t.square(), cameras",
        "sigma_t, torch.ones_like(sigma_t), cameras",
        MIXTURE + "test_sds_over_noise_has_its_closed_expectation[400]",
    ),
    Mutation(
        "marginal_changed_before_its_use",
        "pose/rectifier.py",
        "        log_probs = self.classifier(images, generator)\n        if self.mode",
        "        log_probs = self.classifier(images, generator)\n"
        "        self.observe(log_probs, t, azimuth_deg)\n        if self.mode",
        ORDER + "test_the_marginal_is_used_before_it_is_changed",
    ),
    Mutation(
        "entropy_weight_the_other_way_round",
        "distillation/methods.py",
        "mixed = share * eps_phi_free + (1 - share) * eps_phi",
        "mixed = (1 - share) * eps_phi_free + share * eps_phi",
        MIXTURE + "test_esd_without_entropy_is_vsd",
    ),
    Mutation(
        "negatives_not_projected",
        "distillation/perp_neg.py",
        "return a - share * b",
        "return a",
        PERP_NEG + "test_negatives_change_the_estimate_only_across_the_wanted_direction[20]",
    ),
    Mutation(
        "vsd_without_the_branch",
        "distillation/methods.py",
        "return Answers(guided(cond, uncond, self.config.guidance_scale), eps_phi, cond, x.w_t)",
        "return Answers(guided(cond, uncond, self.config.guidance_scale), x.eps, cond, x.w_t)",
        MIXTURE + "test_vsd_is_exactly_zero_where_the_renders_are_the_prior[7.5]",
    ),
    Mutation(
        "tweedie_without_division",
        "prior/schedule.py",
        "return (latents_t - self.sigma_t(t) * eps) / self.alpha_t(t)",
        "return latents_t - self.sigma_t(t) * eps",
        MIXTURE + "test_tweedie_gives_the_posterior_mean",
    ),
]


def checkout(folder: Path) -> Path:
    """The package, linked where it is large, with the tests that the mutations name."""
    shutil.copytree(
        PACKAGE, folder / "backend" / "recdreamer", ignore=shutil.ignore_patterns("builtin", "__pycache__")
    )
    (folder / "backend" / "recdreamer" / "builtin").symlink_to(PACKAGE / "builtin", target_is_directory=True)
    copied = (
        "pyproject.toml",
        "tests/conftest.py",
        "tests/distillation/mixture.py",
        MIXTURE[:-2],
        PERP_NEG[:-2],
        ORDER[:-2],
    )
    for name in copied:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    (folder / "empty_libraries.py").write_text(EMPTY_LIBRARIES, encoding="utf-8")
    (folder / USED).write_text(
        "import recdreamer\n\n\ndef test_the_copy_is_used() -> None:\n"
        f"    assert recdreamer.__file__ == {str(folder / 'backend' / 'recdreamer' / '__init__.py')!r}\n",
        encoding="utf-8",
    )
    return folder


def run_tests(folder: Path, *tests: str) -> tuple[int, dict[str, str | None], str]:
    """Exit code; for each test by name None or the message of its failure; what pytest said."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "empty_libraries", "--junitxml=report.xml"]
    command = [sys.executable, "-m", "pytest", *options, USED, *tests]
    # pyproject.toml of the checkout puts its own backend first, before the installed package.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
    environment["PYTHONPATH"] = str(folder)
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    outcomes: dict[str, str | None] = {}
    if (folder / "report.xml").is_file():
        for case in ET.parse(folder / "report.xml").iter("testcase"):
            bad = case.find("failure") if case.find("failure") is not None else case.find("error")
            outcomes[case.attrib["name"]] = None if bad is None else f"{bad.tag}: {bad.attrib['message']}"
    return done.returncode, outcomes, done.stdout + done.stderr


def test_all_pass_without_a_mistake(tmp_path: Path) -> None:
    tests = sorted({mutation.test for mutation in MUTATIONS})
    code, outcomes, output = run_tests(checkout(tmp_path), *tests)
    assert code == 0, output
    assert len(outcomes) == len(tests) + 1 and set(outcomes.values()) == {None}


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_mistake_is_caught(mutation: Mutation, tmp_path: Path) -> None:
    file = checkout(tmp_path) / "backend" / "recdreamer" / mutation.file
    source = file.read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1, f"{mutation.file} was changed: bring the mutation up to date."
    file.write_text(source.replace(mutation.old, mutation.new), encoding="utf-8")
    code, outcomes, output = run_tests(tmp_path, mutation.test)
    name = mutation.test.split("::")[1]
    assert code == 1, output
    assert set(outcomes) == {name, "test_the_copy_is_used"}, output
    assert outcomes["test_the_copy_is_used"] is None, output
    assert (outcomes[name] or "passed").startswith(("failure: AssertionError", "failure: assert ")), output
