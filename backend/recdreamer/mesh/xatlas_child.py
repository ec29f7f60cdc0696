"""Runs xatlas in a process of its own: a task on stdin and its outcome on stdout, each as an .npz.

Started by `xatlas_process.py`. Imports nothing of the package, so that it starts in a tenth of a second.
"""

from __future__ import annotations

import faulthandler
import io
import sys
from collections.abc import Mapping

import numpy as np
import xatlas

LIMIT_S = 900
"""Time after which the process ends by itself, should the worker be gone: longer than that would wait."""


def cut(task: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`charts`: the chart of each face of the mesh `verts`, `faces`."""
    atlas = xatlas.Atlas()
    atlas.add_mesh(task["verts"], task["faces"])
    coarse = xatlas.PackOptions()  # only the charts matter, so pack them quickly
    coarse.texels_per_unit, coarse.bruteForce = 4.0, False
    atlas.generate(pack_options=coarse)
    charts = np.zeros(len(task["faces"]), np.int64)
    for index in range(atlas.get_mesh_chart_count(0)):
        charts[np.asarray(atlas.get_mesh_chart(0, index).faces)] = index
    return {"charts": charts}


def pack(task: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`uvs` (faces 3 2) of all charts one after the other, and `size`: the page's width and height in xatlas's pixels.

    The task has the charts' `uvs` and `faces` one after the other, the numbers of both by chart in `counts`, and
    `options`: the page's side, the padding, and whether every place is tried.
    """
    atlas = xatlas.Atlas()
    # Rows of one array, each at an address of its own: xatlas takes charts of the same sizes at the same address for
    # copies of one, and so it would those whose arrays are made and freed one by one.
    all_uvs, all_faces = (np.ascontiguousarray(task[name]) for name in ("uvs", "faces"))
    uv_ends, face_ends = np.cumsum(task["counts"], axis=0).T
    for uvs, faces in zip(np.split(all_uvs, uv_ends[:-1]), np.split(all_faces, face_ends[:-1]), strict=True):
        atlas.add_uv_mesh(uvs, faces)
    options = xatlas.PackOptions()
    options.resolution, options.padding = map(int, task["options"][:2])
    options.bruteForce = bool(task["options"][2])
    atlas.generate(pack_options=options)
    packed = [uvs[corners] for _, corners, uvs in (atlas.get_mesh(number) for number in range(len(uv_ends)))]
    return {"uvs": np.concatenate(packed), "size": np.array([atlas.width, atlas.height])}


def main() -> None:
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as archive:
        task = dict(archive)
    outcome = io.BytesIO()
    np.savez(outcome, allow_pickle=False, **{"cut": cut, "pack": pack}[sys.argv[1]](task))
    sys.stdout.buffer.write(outcome.getvalue())


if __name__ == "__main__":
    main()
