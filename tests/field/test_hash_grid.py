"""The hash grid: closed forms, finite differences, and the Warp kernels against the torch reference."""

import pytest
import torch

from recdreamer.field import HashGrid, set_backend
from recdreamer.field.hash_grid import vertex_rows


def make_grid(features: int = 2, log2_table_size: int = 9, num_levels: int = 4) -> HashGrid:
    """Two dense levels (4, 7 cells) and two hashed ones, with features of order one."""
    generator = torch.Generator().manual_seed(0)
    grid = HashGrid(num_levels, features, log2_table_size, 4, 24, generator)
    with torch.no_grad():
        grid.table.normal_(generator=generator)
    return grid


def points(count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Random points, some of them outside the cube and some on its faces."""
    xyz = 2.4 * torch.rand(count, 3, generator=torch.Generator().manual_seed(1), dtype=dtype) - 1.2
    xyz[0], xyz[1], xyz[2] = 1.0, -1.0, 0.0
    return xyz


@pytest.fixture(autouse=True)
def _automatic_backend():
    yield
    set_backend("warp")


def test_levels_grow_from_base_to_max_resolution_and_fit_the_table():
    grid = make_grid()
    assert grid.resolutions == (4, 7, 13, 24)
    assert grid.sizes == (125, 512, 512, 512)
    assert grid.offsets == (0, 125, 637, 1149)
    assert grid.table.shape == (1661, 2)


def test_a_dense_level_gives_each_vertex_its_own_row():
    axis = torch.arange(8)
    vertices = torch.cartesian_prod(axis, axis, axis)
    assert sorted(vertex_rows(vertices, 7, 512).tolist()) == list(range(512))


def test_a_hashed_level_uses_the_whole_table_and_nothing_beyond():
    axis = torch.arange(25)
    rows = vertex_rows(torch.cartesian_prod(axis, axis, axis), 24, 512)
    assert rows.min() == 0
    assert rows.max() == 511
    assert len(rows.unique()) == 512


def test_a_level_of_more_cells_than_an_int32_has_a_cube_of():
    """Its number of vertices overflows 32 bits: taken for dense, rows lay outside the table."""
    grid, xyz = HashGrid(2, 2, 9, 1291, 2048, torch.Generator().manual_seed(0)), points(500)
    torch.testing.assert_close(grid(xyz), grid.reference(xyz), atol=1e-7, rtol=1e-4)


def test_trilinear_features_reproduce_a_linear_function():
    grid = HashGrid(1, 1, 9, 7, 7, torch.Generator())
    axis = torch.linspace(-1, 1, 8)
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    with torch.no_grad():
        grid.table.copy_((0.3 + x - 2 * y + 0.5 * z).reshape(-1, 1))
    xyz = 2 * torch.rand(100, 3) - 1
    expected = 0.3 + xyz @ torch.tensor([1, -2, 0.5])
    torch.testing.assert_close(grid(xyz)[:, 0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(grid.reference(xyz)[:, 0], expected, atol=1e-5, rtol=0)


def test_reference_gradients_agree_with_finite_differences():
    grid = HashGrid(2, 2, 6, 3, 5, torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)
    xyz = 1.8 * torch.rand(200, 3, dtype=torch.float64, generator=generator) - 0.9
    # The slope jumps where a point crosses a border between cells.
    cells = (0.5 * xyz + 0.5)[..., None] * torch.tensor(grid.resolutions)
    is_inside = ((cells - cells.round()).abs() > 0.05).flatten(1).all(1)
    xyz = xyz[is_inside][:6].requires_grad_()
    assert len(xyz) == 6

    def encode(table, xyz):
        return torch.func.functional_call(grid, {"table": table}, (xyz,))

    assert torch.autograd.gradcheck(encode, (grid.table.detach().requires_grad_(), xyz))


@pytest.mark.parametrize("features", [1, 2, 4])
def test_warp_equals_the_reference(features):
    grid, xyz = make_grid(features), points(500)
    grid.level_weights.copy_(torch.tensor([1, 0.5, 0, 1]))
    results = []
    for encode in (grid, grid.reference):
        encoded = encode(xyz)
        upstream = torch.randn(encoded.shape, generator=torch.Generator().manual_seed(2))
        results.append((encoded, *torch.autograd.grad(encoded, grid.table, upstream)))
    (warp, warp_grad), (reference, reference_grad) = results
    assert "HashEncode" in type(warp.grad_fn).__name__
    torch.testing.assert_close(warp, reference, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(warp_grad, reference_grad, atol=1e-5, rtol=1e-5)
    # The comparison can fail: one wrong row shows.
    with torch.no_grad():
        grid.table[0] += 1
    assert not torch.allclose(grid(xyz), reference, atol=1e-5)


def test_a_dark_level_is_zero_and_learns_nothing():
    grid = make_grid()
    grid.level_weights[2] = 0
    encoded = grid(points(50))
    assert torch.equal(encoded[:, 4:6], torch.zeros(50, 2))
    grad = torch.autograd.grad(encoded.sum(), grid.table)[0]
    assert torch.equal(grad[637:1149], torch.zeros(512, 2))
    assert grad[:125].abs().sum() > 0


def test_points_outside_take_the_features_of_the_nearest_face():
    grid = make_grid()
    outside, face = torch.tensor([[1.5, 0.2, -0.3]]), torch.tensor([[1.0, 0.2, -0.3]])
    torch.testing.assert_close(grid(outside), grid(face))


def test_gradients_towards_positions_come_from_the_reference():
    grid = make_grid()
    xyz = points(20).requires_grad_()
    assert torch.autograd.grad(grid(xyz).sum(), xyz)[0].abs().sum() > 0


def test_the_torch_backend_can_be_chosen():
    set_backend("torch")
    assert "HashEncode" not in type(make_grid()(points(5)).grad_fn).__name__
