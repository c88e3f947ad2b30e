"""The nodes of a real viser server follow a mirror, whatever happens to the map."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
import viser
import viser.transforms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gs_decoder import (
    Chunk,
    ChunkMeta,
    MapConfig,
    MapMirror,
    SplatMap,
    Splats,
    sh_basis,
    sh_from_rgb,
    to_world,
)
from viewer.allocation import NodeLayout
from viewer.nodes import ROOT, SplatNodes
from viewer.page import open_page

LAYOUT = NodeLayout(nodes=14, rows=64)
ORIGIN = np.array([4_500_000.0, -300_000.0, 100.0])


@pytest.fixture(scope="module")
def page() -> Iterator[viser.ViserServer]:
    server = open_page("127.0.0.1", 0)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def nodes(page: viser.ViserServer) -> SplatNodes:
    return SplatNodes(page, LAYOUT)


def splats_with_ids(first: int, count: int, seed: int) -> Splats:
    """Splats whose colours are their numbers: first, first + 1, …; none of them transparent."""
    random = np.random.default_rng(seed)
    ids = np.arange(first, first + count)
    rgb = np.stack([ids >> 16 & 255, ids >> 8 & 255, ids & 255], 1) / 255.0
    return Splats(
        means=torch.from_numpy(random.normal(size=(count, 3))).float(),
        quats_wxyz=torch.from_numpy(random.normal(size=(count, 4))).float(),
        scales=torch.from_numpy(np.exp(random.normal(-3.5, 0.4, size=(count, 3)))).float(),
        opacities=torch.from_numpy(random.uniform(0.1, 1.0, count)).float(),
        sh=sh_from_rgb(torch.from_numpy(rgb).float())[:, None, :],
    )


def similarity(seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = random.uniform(0.5, 2.0) * viser.transforms.SO3.sample_uniform(random).as_matrix()
    T[:3, 3] = ORIGIN + random.normal(size=3)
    return T


def numbers(rgbs: np.ndarray) -> np.ndarray:
    return rgbs.astype(np.int64) @ np.array([1 << 16, 1 << 8, 1])


def on_page(server: viser.ViserServer, layout: NodeLayout) -> dict[int, np.ndarray]:
    """Number → (centre, covariance, opacity) in page axes, of what a browser would draw."""
    found: dict[int, np.ndarray] = {}
    for i in range(layout.nodes):
        handle = server.scene._handle_from_node_name[f"{ROOT}/splats_{i:03d}"]
        assert isinstance(handle, viser.GaussianSplatHandle)
        assert handle.buffer.shape == (layout.rows, 8) and handle.visible
        shown = handle.opacities[:, 0] > 0
        rotation = viser.transforms.SO3(handle.wxyz).as_matrix() * handle.scale
        centers = handle.centers[shown].astype(np.float64) @ rotation.T + handle.position
        covariances = rotation @ handle.covariances[shown].astype(np.float64) @ rotation.T
        rows = np.concatenate(
            [centers, covariances.reshape(-1, 9), handle.opacities[shown]], axis=1
        )
        for number, row in zip(numbers(handle.rgbs[shown]), rows):
            assert number not in found, "a splat is shown twice"
            found[int(number)] = row
    return found


def expected(chunks: Mapping[int, Chunk], counts: Mapping[int, int]) -> dict[int, np.ndarray]:
    """The same of the first `counts` splats of each chunk, by the map's own arithmetic."""
    found: dict[int, np.ndarray] = {}
    for identity, chunk in chunks.items():
        world = to_world([chunk], origin=ORIGIN).select(slice(0, counts[identity]))
        arrays = world.to_numpy()
        axes = (
            viser.transforms.SO3(
                arrays["quats_wxyz"] / np.linalg.norm(arrays["quats_wxyz"], axis=1, keepdims=True)
            ).as_matrix()
            * arrays["scales"][:, None, :]
        )
        covariances = axes @ axes.transpose(0, 2, 1)
        opacities = np.rint(arrays["opacities"] * 255)
        rgbs = np.rint((0.5 + 0.28209479177387814 * arrays["sh"][:, 0]) * 255)
        for i, number in enumerate(numbers(rgbs)):
            found[int(number)] = np.concatenate(
                [arrays["means"][i], covariances[i].ravel(), opacities[i : i + 1]]
            )
    return found


def check(server: viser.ViserServer, nodes: SplatNodes, chunks: Mapping[int, Chunk]) -> None:
    shown = on_page(server, nodes.layout)
    truth = expected(chunks, nodes.counts())
    assert shown.keys() == truth.keys()
    if truth:
        a, b = np.array([shown[n] for n in truth]), np.array(list(truth.values()))
        np.testing.assert_allclose(a[:, :3], b[:, :3], atol=2e-5)
        size = np.trace(b[:, 3:12].reshape(-1, 3, 3), axis1=1, axis2=2)[:, None]
        assert np.abs((a[:, 3:12] - b[:, 3:12]) / size).max() < 0.02
        np.testing.assert_array_equal(a[:, 12], b[:, 12])


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 150), st.integers(0, 10**6)),
        st.tuples(st.just("replace"), st.integers(1, 150), st.integers(0, 10**6)),
        st.tuples(st.just("move"), st.integers(0, 9), st.integers(0, 10**6)),
        st.tuples(st.just("drop"), st.integers(0, 9), st.just(0)),
        st.tuples(st.just("reset"), st.just(0), st.just(0)),
        st.tuples(st.just("budget"), st.integers(50, 520), st.just(0)),
        st.tuples(st.just("show"), st.just(0), st.just(0)),
    ),
    min_size=3,
    max_size=25,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(OPERATIONS)
def test_nodes_hold_exactly_the_mirror_within_the_budget(
    page: viser.ViserServer, nodes: SplatNodes, operations: list[tuple[str, int, int]]
) -> None:
    names = set(page.scene._handle_from_node_name)
    nodes.clear()
    source, mirror = SplatMap(MapConfig(chunk_budget=150, map_budget=1500)), MapMirror()
    budget, used = 520, 0
    for name, number, seed in [*operations, ("show", 0, 0)]:
        ids = list(source.chunks)
        if name == "add":
            meta = ChunkMeta(frame_seq=used, stamp_ns=0, camera="c", T_world_chunk=similarity(seed))
            source.add(meta, splats_with_ids(used, number, seed))
            used += number
        elif name == "replace" and ids:
            source.replace(ids[seed % len(ids)], splats_with_ids(used, number, seed))
            used += number
        elif name == "move" and ids:
            source.move({ids[number % len(ids)]: similarity(seed)})
        elif name == "drop" and ids:
            source.drop([ids[number % len(ids)]])
        elif name == "reset":
            source.reset()
        elif name == "budget":
            budget = number
        if name == "show":
            for update in source.drain_updates():
                mirror.apply(update)
            shown = nodes.show(mirror.chunks, budget, ORIGIN)
            check(page, nodes, mirror.chunks)
            assert shown.available == mirror.count
            assert shown.splats == sum(nodes.counts().values()) <= budget
            if mirror.count <= budget:
                assert shown.splats == mirror.count
    assert set(page.scene._handle_from_node_name) == names


def one_chunk(count: int) -> tuple[SplatMap, MapMirror, int]:
    source, mirror = SplatMap(), MapMirror()
    meta = ChunkMeta(frame_seq=0, stamp_ns=0, camera="c", T_world_chunk=similarity(1))
    identity = source.add(meta, splats_with_ids(0, count, 1))
    for update in source.drain_updates():
        mirror.apply(update)
    return source, mirror, identity


def test_a_chunk_has_the_colours_that_its_key_frame_saw(
    page: viser.ViserServer, nodes: SplatNodes
) -> None:
    """The page knows no view dependence; DC alone would be no colour that anybody saw."""
    nodes.clear()
    random = np.random.default_rng(3)
    splats = splats_with_ids(0, 40, 3)
    bands = torch.from_numpy(random.normal(0, 0.5, (40, 8, 3))).float()
    basis = sh_basis(torch.nn.functional.normalize(splats.means, dim=-1), 2)
    # From the key frame the harmonics cancel what DC has too much.
    dc = splats.sh - (basis[:, 1:, None] * bands).sum(1, keepdim=True) / basis[:, :1, None]
    splats = dataclasses.replace(splats, sh=torch.cat([dc, bands], 1))
    source = SplatMap()
    meta = ChunkMeta(frame_seq=0, stamp_ns=0, camera="c", T_world_chunk=similarity(1))
    source.add(meta, splats)
    nodes.show(source.chunks, 500, ORIGIN)
    assert set(on_page(page, nodes.layout)) == set(range(40))
    # Where the rows of several chunks share a node, they are in page axes.
    source.add(
        ChunkMeta(frame_seq=1, stamp_ns=1, camera="c", T_world_chunk=similarity(2)),
        splats_with_ids(40, 30, 4),
    )
    nodes.show(source.chunks, 500, ORIGIN)
    assert set(on_page(page, nodes.layout)) == set(range(70))


def test_a_move_of_a_large_chunk_sends_no_splats(
    page: viser.ViserServer, nodes: SplatNodes
) -> None:
    nodes.clear()
    source, mirror, identity = one_chunk(3 * LAYOUT.rows)
    assert nodes.show(mirror.chunks, 500, ORIGIN).bytes_sent > 0
    source.move({identity: similarity(2)})
    for update in source.drain_updates():
        mirror.apply(update)
    assert nodes.show(mirror.chunks, 500, ORIGIN).bytes_sent == 0
    check(page, nodes, mirror.chunks)


def test_what_did_not_change_is_not_sent(page: viser.ViserServer, nodes: SplatNodes) -> None:
    nodes.clear()
    _, mirror, _ = one_chunk(100)
    nodes.show(mirror.chunks, 500, ORIGIN)
    assert nodes.show(mirror.chunks, 500, ORIGIN).bytes_sent == 0


def test_a_chunk_with_an_unusable_pose_is_left_out_and_said(
    page: viser.ViserServer, nodes: SplatNodes
) -> None:
    nodes.clear()
    _, mirror, identity = one_chunk(100)
    good = mirror.chunks[identity]
    sheared = np.array(good.T_world_chunk)
    sheared[0, 1] += 3.0
    bad = Chunk(
        id=7,
        revision=1,
        content=1,
        frame_seq=1,
        stamp_ns=0,
        camera="c",
        T_world_chunk=sheared,
        aabb=good.aabb,
        splats=good.splats,
    )
    shown = nodes.show({identity: good, 7: bad}, 500, ORIGIN)
    assert (shown.splats, shown.skipped) == (100, 1)
    check(page, nodes, mirror.chunks)
