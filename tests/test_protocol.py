"""The request and the state survive a round trip and refuse what is not theirs."""

import json
from dataclasses import replace

import pytest

from recdreamer.shared.protocol import (
    PROTOCOL_VERSION,
    JobFolder,
    JobRequest,
    JobState,
    RequestError,
    Template,
)

FRONT, BACK = (
    Template("front", "templates/front.png"),
    Template("back", "templates/back.png", azimuth_deg=180.0),
)
REQUEST = JobRequest("ein Bär", templates=(FRONT, BACK), seed=5, overrides={"optimize.num_steps": 4})


def of_front(**changes) -> dict:
    """The change of a request that changes its first template."""
    return {"templates": (replace(FRONT, **changes), BACK)}


def test_a_request_survives_a_round_trip():
    assert JobRequest.from_json(REQUEST.to_json()) == REQUEST


def test_a_newer_minor_version_may_add_fields():
    raw = json.loads(REQUEST.to_json()) | {"colour_scheme": "warm"}
    raw["templates"][0]["depth"] = "front.exr"
    assert JobRequest.from_json(json.dumps(raw)) == REQUEST


def test_whole_numbers_stand_for_fractions():
    request = JobRequest.from_json('{"prompt": "a bear", "height_m": 2}')
    assert request.height_m == 2.0 and isinstance(request.height_m, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": " "}, "The prompt is empty."),
        ({"height_m": 0.0}, "The height is 0.0 meters."),
        ({"height_m": 1e39}, "The height is 1e+39 meters."),
        ({"seed": 2**64}, "The seed is 18446744073709551616."),
        ({"seed": -1}, "The seed is -1."),
        ({"device": "mps"}, "There is no device 'mps'."),
        ({"device": "cuda:0; x"}, "There is no device 'cuda:0; x'."),
        ({"prompt": "a\ud800"}, "The prompt has characters that are no Unicode: a\\ud800."),
        ({"prior": "x" * 20_000}, "The prior has 20,000 letters."),
        ({"start": "object", "start_mesh": "../a.npz"}, "The mesh '../a.npz' is not in the job folder."),
        ({"start": "object", "start_mesh": "C:\\a.npz"}, "The mesh 'C:\\\\a.npz' is not in the job folder."),
        ({"start_mesh": "a.npz"}, "A mesh is given, but the job starts from the prompt alone."),
        ({"start_job": "/a"}, "An earlier job is given, but the job does not start from it."),
        (of_front(azimuth_deg=float("nan")), "The azimuth of template 'front' is nan degrees."),
        (of_front(elevation_deg=1e39), "The elevation of template 'front' is 1e+39 degrees."),
        (of_front(weight=1e39), "The weight of template 'front' is 1e+39."),
        (of_front(weight=0.0), "The weight of template 'front' is 0.0."),
        (of_front(image="/etc/hostname"), "The picture of template 'front' is not in the job folder."),
        (of_front(image="\\\\host\\share.png"), "The picture of template 'front' is not in the job folder."),
        (of_front(label=" "), "A template has no label."),
        ({"height_m": float("nan")}, "The height is nan meters."),
        ({"height_m": float("inf")}, "The height is inf meters."),
        ({"protocol": PROTOCOL_VERSION + 1}, f"The request speaks protocol {PROTOCOL_VERSION + 1},"),
        ({"templates": (FRONT,)}, "The templates show 1 pose class(es), but 2 to 6 are needed."),
        ({"templates": (FRONT, replace(FRONT, label="top"))}, "Template 'top' has no known view direction."),
    ],
)
def test_a_bad_request_names_its_fault_and_a_remedy(change, message):
    with pytest.raises(RequestError) as caught:
        replace(REQUEST, **change).validate()
    assert caught.value.message.startswith(message)
    assert caught.value.hint.endswith(".")


@pytest.mark.parametrize("name", ["method", "pose_mode", "quality"])
def test_a_wrong_choice_names_the_right_ones(name):
    with pytest.raises(RequestError) as caught:
        JobRequest.from_json(json.dumps(json.loads(REQUEST.to_json()) | {name: "dream"}))
    assert caught.value.message == f"Unknown {name} 'dream'."
    assert caught.value.hint.startswith("Choose one of: ")


@pytest.mark.parametrize(
    "change", [{"prompt": 3}, {"seed": "one"}, {"seed": True}, {"templates": "front.png"}, {"templates": [3]},
               {"overrides": []}, {"keep_running": 1}, {"templates": [{"image": "a.png"}]}],
)  # fmt: skip
def test_a_wrong_type_is_a_damaged_file(change):
    with pytest.raises(RequestError, match="cannot be read"):
        JobRequest.from_json(json.dumps(json.loads(REQUEST.to_json()) | change))


def test_another_protocol_is_reported_even_if_its_fields_changed_type():
    with pytest.raises(RequestError, match="speaks protocol 7"):
        JobRequest.from_json('{"prompt": {"text": "a bear"}, "protocol": 7}')


@pytest.mark.parametrize("text", ["", "{", "[]", '{"status": 4}', '{"pose_distribution": [1]}'])
def test_a_state_that_cannot_be_read_is_that_of_a_queued_job(tmp_path, text):
    job = JobFolder(tmp_path)
    job.state.write_text(text)
    assert job.read_state() == JobState()
