"""Geometry of the renderer that needs no body model: normals, turns, tubes, and strands on triangles."""

from collections import Counter

import numpy as np
import pytest
from people import body, fuzz, hair, rig

# An octahedron with one vertex that belongs to no triangle; seen from outside its triangles turn left.
OCTAHEDRON = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1], [9, 9, 9]], float)
FACES = np.array(
    [(0, 2, 4), (2, 1, 4), (1, 3, 4), (3, 0, 4), (2, 0, 5), (1, 2, 5), (3, 1, 5), (0, 3, 5)], dtype=np.int64
)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def edges(triangles):
    """How many triangles share each edge."""
    pairs = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    return Counter(map(tuple, np.sort(pairs, axis=1).tolist()))


def test_normals_of_an_octahedron_point_along_its_axes():
    normals = body.vertex_normals(3 * OCTAHEDRON, FACES)
    assert np.allclose(normals[:6], OCTAHEDRON[:6])
    assert not normals[6].any()


def test_normals_weigh_triangles_by_area():
    # Two triangles share the edge on the y axis: areas 1/2 (facing z) and 3/2 (facing x).
    vertices = np.array([[0, 0, 0], [0, 1, 0], [-1, 0, 0], [0, 0, -3.0]])
    normals = body.vertex_normals(vertices, np.array([[0, 1, 2], [0, 3, 1]]))
    assert np.allclose(normals[0], np.array([3, 0, 1]) / 10**0.5)


def test_polygons_become_fans():
    assert body._triangulate([[4, 5, 6, 7], [1, 2, 3]]).tolist() == [[4, 5, 6], [4, 6, 7], [1, 2, 3]]


def test_turns_are_rotations(rng):
    for angles in rng.uniform(-40, 40, (20, 3)):
        turn = rig.rotation(*angles)
        assert np.allclose(turn @ turn.T, np.eye(3))
        assert np.linalg.det(turn) == pytest.approx(1)
    assert np.allclose(rig.rotation(0, 0, 0), np.eye(3))


def test_directions_of_turns():
    # x to the person's left, y up, z out of the face
    face, up = np.array([0, 0, 1.0]), np.array([0, 1.0, 0])
    s, c = np.sin(np.radians(20)), np.cos(np.radians(20))
    assert np.allclose(rig.rotation(20, 0, 0) @ face, [s, 0, c])  # yaw: to the left
    assert np.allclose(rig.rotation(0, 20, 0) @ face, [0, s, c])  # pitch: upwards
    assert np.allclose(rig.rotation(0, 0, 20) @ up, [s, c, 0])  # roll: to the left shoulder


def test_a_closed_tube_has_no_border():
    angle = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    path = 5 * np.stack([np.cos(angle), np.sin(angle), 0 * angle], axis=1)
    vertices, triangles = rig.tube(path, 0.5, sides=6)
    assert len(vertices) == 12 * 6 and len(triangles) == 2 * 12 * 6
    shared = edges(triangles)
    assert set(shared.values()) == {2}
    assert len(vertices) - len(shared) + len(triangles) == 0  # Euler characteristic of a torus
    distance = np.linalg.norm(vertices.reshape(12, 6, 3) - path[:, None], axis=2)
    assert np.allclose(distance, 0.5)


def test_an_open_tube_has_two_ends():
    path = np.array([[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 1, 1.0]])
    vertices, triangles = rig.tube(path, 0.1, sides=8, closed=False)
    assert len(vertices) == 4 * 8 and len(triangles) == 2 * 3 * 8
    shared = edges(triangles)
    assert Counter(shared.values())[1] == 2 * 8
    assert len(vertices) - len(shared) + len(triangles) == 0  # Euler characteristic of a cylinder


def test_merged_meshes_keep_their_triangles():
    vertices, triangles = rig.merge([(OCTAHEDRON, FACES), (OCTAHEDRON + 10, FACES)])
    assert np.array_equal(vertices[triangles[:8]], OCTAHEDRON[FACES])
    assert np.array_equal(vertices[triangles[8:]], OCTAHEDRON[FACES] + 10)


def test_roots_are_barycentric(rng):
    corners = FACES[rng.integers(8, size=6)]
    assert np.allclose(
        hair.Roots(corners, np.tile([0, 1.0, 0], (6, 1))).at(OCTAHEDRON), OCTAHEDRON[corners[:, 1]]
    )
    roots = hair.Roots(corners, rng.dirichlet((1, 1, 1), 6))
    turn, shift = rig.rotation(11, 22, 33), np.array([1, 2, 3.0])
    moved = roots.at(2 * OCTAHEDRON @ turn.T + shift)  # affine maps of the mesh take the points along
    assert np.allclose(moved, 2 * roots.at(OCTAHEDRON) @ turn.T + shift)


def test_scattered_points_lie_where_the_density_is(rng):
    density = (OCTAHEDRON[:, 2] >= 0) & (OCTAHEDRON[:, 0] >= 0)  # leaves corners 0, 2, 3, 4
    roots = hair.scatter(rng, OCTAHEDRON, FACES[[0, 6]], density.astype(float), 400)
    assert (roots.weights >= 0).all() and np.allclose(roots.weights.sum(axis=1), 1)
    share = (roots.corners == FACES[0]).all(axis=1).mean()
    # Triangle (0, 2, 4) has density 1, triangle (3, 1, 5) a third of it: 3 of 4 points, standard error 0.022.
    assert share == pytest.approx(0.75, abs=0.09)
    points = hair.scatter(rng, OCTAHEDRON, FACES[:1], np.ones(7), 3000).at(OCTAHEDRON)
    assert np.allclose(
        points.mean(axis=0), 1 / 3, atol=0.03
    )  # even over the triangle: the mean is its middle


def test_frames_carry_directions_with_the_mesh(rng):
    roots = hair.scatter(rng, OCTAHEDRON, FACES, np.ones(7), 50)
    turn = rig.rotation(30, -20, 10)
    frames, turned = roots.frames(OCTAHEDRON), roots.frames(OCTAHEDRON @ turn.T)
    assert np.allclose(turned, frames @ turn.T)
    normal = frames[:, 2] / np.linalg.norm(frames[:, 2], axis=1, keepdims=True)
    assert np.allclose(normal, np.sign(roots.at(OCTAHEDRON)) / 3**0.5)


def strands_of(rng, mesh, count=40):
    roots = hair.scatter(rng, OCTAHEDRON, FACES, np.ones(7), count)
    short = fuzz.Fuzz(roots, rng.normal(size=(count, 3)), rng.uniform(0.4, 0.7, count), lift=0.0)
    return short, short.strands(mesh, OCTAHEDRON)


def test_short_hair_on_the_template_keeps_its_direction_and_length(rng):
    short, strands = strands_of(rng, OCTAHEDRON)
    along = strands[:, -1] - strands[:, 0]
    assert strands.shape == (40, 4, 3)
    assert np.allclose(np.linalg.norm(along, axis=1), short.length)
    direction = short.direction / np.linalg.norm(short.direction, axis=1, keepdims=True)
    assert np.allclose(along / short.length[:, None], direction)
    assert np.allclose(
        np.linalg.norm(strands[:, 0] - short.roots.at(OCTAHEDRON), axis=1), 0.03
    )  # in the skin


def test_short_hair_turns_with_the_face(rng):
    turn, shift = rig.rotation(-15, 40, 5), np.array([3, 0, 1.0])
    state = rng.bit_generator.state
    _, still = strands_of(rng, OCTAHEDRON)
    rng.bit_generator.state = state
    _, moved = strands_of(rng, OCTAHEDRON @ turn.T + shift)
    assert np.allclose(moved, still @ turn.T + shift)


def test_curls_wind_at_the_given_radius(rng):
    cut = hair.Cut(9, 9, 0.5, (0, 0, 0), 0, curl=0.8, curl_turns=3)
    normal = np.tile([0, 0, 1.0], (30, 1))
    wave = hair._curls(rng, np.zeros((30, hair.POINTS, 3)), normal, cut)
    radius = np.linalg.norm(wave, axis=2)
    assert np.allclose(radius[:, 0], 0) and np.allclose(radius[:, hair.POINTS // 2 :], 0.8)


def test_long_strands_are_as_long_as_they_should_be():
    # Far from any skin nothing pushes strands away, so every step has its full length.
    start = np.array([[0, 50, 0], [0, 60, 5.0]])
    ahead, nobody = np.tile([1.0, 0, 0], (2, 1)), np.zeros(2, dtype=bool)
    length = np.array([7.0, 14.0])
    strands = hair._grow(start, ahead, ahead, length, np.zeros(2), nobody, 0.5, OCTAHEDRON, FACES)
    steps = np.linalg.norm(np.diff(strands, axis=1), axis=2)
    assert strands.shape == (2, hair.POINTS, 3)
    assert np.allclose(steps, length[:, None] / (hair.POINTS - 1))
    assert (strands[:, -1, 1] < start[:, 1] - 1).all()  # and gravity has bent them down
