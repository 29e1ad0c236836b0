import numpy as np
import pytest

from analysis.conflict.plane import Block, coordinates, share_in_picture, step_blocks, step_gram
from ortho_lora.errors import OrthoLoraError


def gram_of(rng, tasks, width=1000, scale=1.0):
    gradients = rng.standard_normal((tasks, width)) * scale
    return gradients @ gradients.T


@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
@pytest.mark.parametrize("width", [1, 2, 3, 1000])
def test_inner_products_are_those_of_the_gradients(tasks, scale, width):
    rng = np.random.default_rng(0)
    for _ in range(50):
        gram = gram_of(rng, tasks, width, scale)
        arrows = coordinates(gram)
        np.testing.assert_allclose(arrows @ arrows.T, gram, rtol=0, atol=1e-7 * np.diagonal(gram).max())
        assert arrows.shape == (tasks, tasks)


def test_a_gradient_much_shorter_than_another_keeps_its_digits():
    gram = np.array([[1.0, -3e-7], [-3e-7, 1e-12]])
    arrows = coordinates(gram)
    np.testing.assert_allclose(arrows @ arrows.T, gram, rtol=1e-12)


@pytest.mark.parametrize("tasks", [2, 3])
def test_first_points_right_second_up_third_out_of_the_picture(tasks):
    rng = np.random.default_rng(1)
    for _ in range(50):
        arrows = coordinates(gram_of(rng, tasks))
        assert (np.diagonal(arrows) > 0).all()
        np.testing.assert_array_equal(arrows[np.triu_indices(tasks, 1)], 0)


def test_small_changes_of_gradients_move_arrows_little():
    rng = np.random.default_rng(2)
    gram = gram_of(rng, 3)
    moved = coordinates(gram * (1 + 1e-9 * np.ones_like(gram)))
    np.testing.assert_allclose(moved, coordinates(gram), rtol=1e-6, atol=1e-6)


def test_opposite_gradients_lie_on_one_line():
    np.testing.assert_allclose(coordinates(np.array([[1.0, -2.0], [-2.0, 4.0]])), [[1, 0], [-2, 0]], atol=1e-7)


def test_a_zero_gradient_is_an_arrow_without_length():
    arrows = coordinates(np.array([[4.0, 0.0], [0.0, 0.0]]))
    np.testing.assert_allclose(arrows, [[2, 0], [0, 0]])
    assert np.isnan(share_in_picture(arrows)[1])


def test_share_in_the_picture():
    np.testing.assert_allclose(share_in_picture(np.array([[1.0, 0, 0], [1, 1, 0], [3, 0, 4]])), [1, 1, 0.6])


TASKS = ("movies", "tweets", "trec")


@pytest.fixture(scope="module")
def gradients():
    return np.random.default_rng(3).standard_normal(
        (4, 2, 2, 2, 3, 2, 8)
    )  # steps, layers, modules, branches, T, halves


@pytest.fixture(scope="module")
def run(records, gradients, tmp_path_factory):
    tables = records.gradient_tables(gradients, TASKS, steps=range(0, 8, 2))
    info = records.run_info("one", [records.task_info(task) for task in TASKS])
    return records.write_run(tmp_path_factory.mktemp("runs") / "one", info, records.status(), tables)


def test_gram_of_a_block_is_that_of_its_gradients(run, gradients):
    names, gram = step_gram(run, 4, Block(1, "value", "B", None))
    whole = gradients[2, 1, 1, 1].mean(axis=1)  # [T, width]
    assert names == list(TASKS)
    np.testing.assert_allclose(gram, whole @ whole.T, rtol=1e-5, atol=1e-5)


def test_blocks_of_a_step_come_with_the_strongest_conflict_first(run):
    blocks = step_blocks(run, 4, ("trec", "movies"))  # in either order
    assert len(blocks) == 8
    assert [block.cosine for block in blocks] == sorted(block.cosine for block in blocks)
    names, gram = step_gram(run, 4, blocks[0])
    places = [names.index("movies"), names.index("trec")]
    length = np.sqrt(np.diagonal(gram))[places]
    assert gram[tuple(places)] / length.prod() == pytest.approx(blocks[0].cosine, rel=1e-6)


def test_step_that_is_not_recorded_is_refused_in_words(run):
    with pytest.raises(OrthoLoraError, match="step 3 holds no cosine of movies and trec: choose another step"):
        step_blocks(run, 3, ("movies", "trec"))
    with pytest.raises(OrthoLoraError, match="step 3 has no gradients of layer 1 value B: choose another"):
        step_gram(run, 3, Block(1, "value", "B", None))
