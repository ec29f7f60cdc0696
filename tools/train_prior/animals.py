"""The animals of the game 0 A.D.: textured meshes that face -Y, read from the Debian package `0ad-data`.

    python tools/train_prior/animals.py --fetch --out out/animals

downloads the package (1.4 GB, CC-BY-SA 3.0), checks its hash, and writes `animals.npz`: each mesh once, each coat as a
texture, some megabytes in all. Nothing of the package is in this repository. The formats are documented by the game's
wiki (PMD) and Microsoft (DDS, which Pillow reads).
"""

from __future__ import annotations

import argparse
import hashlib
import io
import struct
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from animal_table import COATS
from jaxtyping import Float, Int, UInt8
from PIL import Image

from recdreamer.evaluation.animal_meshes import Animal

PACKAGE = "0ad-data=0.0.26-1"
SHA256 = "53745ae74d05bccf6783400fa98f3932b21729ab9d2e86151aa2c331c3455178"
ZIP = "usr/share/games/0ad/mods/public/public.zip"
TEXTURE_PX = 256
"""Longest side of a stored texture: at 128-pixel pictures no more can be seen."""


def read_pmd(
    data: bytes,
) -> tuple[Float[np.ndarray, "verts 3"], Int[np.ndarray, "faces 3"], Float[np.ndarray, "verts 2"]]:
    """Vertices, faces and the first UV set of a PMD mesh, in the game's axes: Y up, left-handed.

    Raises ValueError if it is not one.
    """
    if data[:4] != b"PSMD":
        raise ValueError("This is no PMD mesh.")
    version, _, num_verts = struct.unpack_from("<III", data, 4)
    offset, num_uvs = 16, 1
    if version >= 4:
        (num_uvs,) = struct.unpack_from("<I", data, offset)
        offset += 4
    vertex = np.dtype(
        [
            ("xyz", "<f4", 3),
            ("normal", "<f4", 3),
            ("uv", "<f4", (num_uvs, 2)),
            ("bones", "u1", 4),
            ("weights", "<f4", 4),
        ]
    )
    verts = np.frombuffer(data, vertex, num_verts, offset)
    offset += num_verts * vertex.itemsize
    (num_faces,) = struct.unpack_from("<I", data, offset)
    faces = np.frombuffer(data, "<u2", 3 * num_faces, offset + 4).reshape(-1, 3).astype(np.int32)
    return verts["xyz"].copy(), faces, verts["uv"][:, 0].copy()


def to_blender(
    verts: Float[np.ndarray, "verts 3"], faces: Int[np.ndarray, "faces 3"]
) -> tuple[Float[np.ndarray, "verts 3"], Int[np.ndarray, "faces 3"]]:
    """Z up and right-handed: the exchange of two axes mirrors, so the faces are turned.

    >>> to_blender(np.array([[1.0, 2.0, 3.0]]), np.array([[0, 1, 2]]))
    (array([[1., 3., 2.]]), array([[0, 2, 1]]))
    """
    return verts[:, [0, 2, 1]], faces[:, ::-1][:, [2, 0, 1]]


def read_animals(package: Path) -> Iterator[Animal]:
    """All animals of the table, from the package's public.zip. Raises KeyError if one is missing."""
    with zipfile.ZipFile(package) as archive:
        for kind, meshes in COATS.items():
            for mesh, coats in meshes.items():
                xyz, faces, uvs = read_pmd(archive.read(f"art/meshes/{mesh}.dae.cached.pmd"))
                verts, faces = to_blender(xyz, faces)
                used, faces = np.unique(faces, return_inverse=True)
                verts, uvs, faces = verts[used], uvs[used], faces.reshape(-1, 3).astype(np.int32)
                low, high = verts.min(0), verts.max(0)
                size = float((high - low).max())
                yield Animal(
                    kind, mesh, ((verts - (low + high) / 2) / size).astype(np.float32), faces, uvs[faces], size,
                    {coat: read_texture(archive, name) for coat, name in coats.items()},
                )  # fmt: skip


def read_texture(archive: zipfile.ZipFile, name: str) -> UInt8[np.ndarray, "height width 4"]:
    """A texture of the package, at most TEXTURE_PX wide."""
    with Image.open(io.BytesIO(archive.read(f"art/textures/skins/{name}.cached.dds"))) as image:
        picture = image.convert("RGBA")
    picture.thumbnail((TEXTURE_PX, TEXTURE_PX), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def fetch(folder: Path) -> Path:
    """Download the package with apt, check its hash, and unpack its archive. Returns the path of public.zip."""
    archive = folder / ZIP
    if archive.exists():
        return archive
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
    (package,) = folder.glob("0ad-data_*.deb")
    with package.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != SHA256:
        raise SystemExit(
            f"{package} has the SHA-256 {found}, but {SHA256} is expected. Delete it and try again."
        )
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as files:
        subprocess.run(["tar", "-x", "-C", folder, f"./{ZIP}"], stdin=files.stdout, check=True)
    return archive


def save_animals(animals: list[Animal], path: Path) -> None:
    """All animals in one file without pickle: the arrays of animal k are called k.verts, k.coat.brown and so on."""
    arrays: dict[str, np.ndarray] = {}
    for index, animal in enumerate(animals):
        arrays[f"{index}.name"] = np.array([animal.kind, animal.mesh])
        arrays |= {f"{index}.{name}": getattr(animal, name) for name in ("verts", "faces", "uvs")}
        arrays[f"{index}.size"] = np.array(animal.size)
        arrays |= {f"{index}.coat.{coat}": texture for coat, texture in animal.coats.items()}
    np.savez_compressed(path, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fetch", action="store_true", help="download the package if it is not in OUT")
    parser.add_argument("--out", type=Path, default=Path("out/animals"))
    options = parser.parse_args()
    archive = fetch(options.out) if options.fetch else options.out / ZIP
    if not archive.exists():
        raise SystemExit(f"There is no {archive}. Add --fetch to download it.")
    animals = list(read_animals(archive))
    save_animals(animals, options.out / "animals.npz")
    looks = sum(len(animal.coats) for animal in animals)
    print(
        f"{len(animals)} meshes in {looks} coats: {(options.out / 'animals.npz').stat().st_size / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
