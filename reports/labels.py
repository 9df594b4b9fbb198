"""Names beside what they name: labels of points and of lines' ends that lie on nothing else."""

import itertools
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

Boxes = np.ndarray
"""(n, 4) in pixels: left, bottom, right, top."""
SIZE = 8.5  # points
LEADER = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
PASSES = 4
"""How often every label may move, once all have a place."""


def extent(axes: Axes, text: str) -> tuple[float, float]:
    """Width and height of a text in pixels."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    probe = figure.text(0, 0, text, fontsize=SIZE)
    box = probe.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    probe.remove()
    return box.width, box.height


def overlaps(boxes: Boxes, others: Boxes) -> Boxes:
    """(n, m): which of ``boxes`` lie on which of ``others``."""
    left, right = boxes[:, None, :], others[None, :, :]
    return (
        (left[..., 0] < right[..., 2])
        & (right[..., 0] < left[..., 2])
        & (left[..., 1] < right[..., 3])
        & (right[..., 1] < left[..., 3])
    )


def candidates(point: np.ndarray, width: float, height: float, unit: float) -> tuple[Boxes, Boxes]:
    """Boxes around a point, nearest first, and the end of each one's leader.

    Args:
        point: (2,) in pixels.
        width: of the label in pixels.
        height: of the label in pixels.
        unit: pixels of a typographic point.
    """
    boxes, ends = [], []
    for rise in np.arange(-14, 15) * 0.6 * height:
        for reach in (7, 16, 28, 44, 64, 90):
            for side in (1, -1):
                x, y = point[0] + side * reach * unit, point[1] + rise
                left = x if side == 1 else x - width
                boxes.append((left, y - height / 2, left + width, y + height / 2))
                ends.append((x, y))
    for side in (1, -1):
        y = point[1] + side * (6 * unit + height / 2)
        boxes.append((point[0] - width / 2, y - height / 2, point[0] + width / 2, y + height / 2))
        ends.append((point[0], y - side * height / 2))
    return np.array(boxes), np.array(ends)


def label_points(
    axes: Axes, names: Sequence[str], points: np.ndarray, deviations: Sequence[float], line: Line2D
) -> list[Annotation]:
    """Label points so that no label lies on another, on a point, its error bar or a line, or beyond the axes, if there is room.

    A label starts at the nearest free place, and moves as long as a nearer one is free. One that is not beside its point has a
    thin line to it.

    Args:
        axes: whose limits are final.
        names: of the points.
        points: (n, 2) in data coordinates.
        deviations: half the error bar of each, vertical.
        line: of steps through some of the points.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # the layout is made here
    unit, transform = figure.dpi / 72, axes.transData.transform
    centers, frame = transform(points), axes.get_window_extent()
    reach = np.array([[0.0, deviation] for deviation in deviations])
    corners = transform(line.get_xydata())
    path = np.concatenate([along(start, end[None])[0] for start, end in itertools.pairwise(corners)])
    bars = np.hstack([transform(points - reach), transform(points + reach)]) + np.array([-4, -4, 4, 4]) * unit
    sizes = [np.add(extent(axes, name), (3 * unit, 1 * unit)) for name in names]
    choices = [candidates(center, size[0], size[1], unit) for center, size in zip(centers, sizes, strict=True)]
    inside = np.array([frame.x0, frame.y0, frame.x1, frame.y1])
    fixed = []
    for center, (boxes, ends) in zip(centers, choices, strict=True):
        beyond = (boxes[:, :2] < inside[:2]).any(1) | (boxes[:, 2:] > inside[2:]).any(1)
        leaders = along(center, ends)
        passed = touches(leaders, bars).sum(1) - 1  # its own
        distance = np.hypot(*(ends - center).T) / unit
        fixed.append(
            distance + 1000 * beyond + 400 * overlaps(boxes, bars).sum(1) + 25 * passed.clip(0) + 10 * points_in(path, boxes)
        )
    chosen = [int(np.argmin(cost)) for cost in fixed]
    order = sorted(range(len(names)), key=lambda index: -centers[index][1])
    for _ in range(PASSES):
        for index in order:
            others = [other for other in order if other != index]
            if not others:
                continue
            placed = np.array([choices[other][0][chosen[other]] for other in others])
            lines = np.concatenate([along(centers[other], choices[other][1][chosen[other]][None])[0] for other in others])
            boxes, ends = choices[index]
            cost = fixed[index] + 400 * overlaps(boxes, placed).sum(1)
            cost = cost + 60 * touches(along(centers[index], ends), placed).sum(1)
            cost = cost + 60 * points_in(lines, boxes)
            chosen[index] = int(np.argmin(cost))
    labels = []
    for name, point, center, size, (boxes, ends), choice in zip(names, points, centers, sizes, choices, chosen, strict=True):
        far = np.hypot(*(ends[choice] - center)) > 12 * unit
        middle = (boxes[choice][:2] + boxes[choice][2:]) / 2
        side = np.sign(middle[0] - center[0]) if abs(middle[0] - center[0]) > size[0] / 4 else 0
        upper = np.sign(middle[1] - center[1])
        label = axes.annotate(
            name,
            point,
            xytext=tuple((ends[choice] - center) / unit),
            textcoords="offset points",
            ha={1: "left", -1: "right", 0: "center"}[int(side)],
            va="center" if side else {1: "bottom", -1: "top"}[int(upper)],
            fontsize=SIZE,
            arrowprops=LEADER | {"relpos": (0.5 - 0.5 * side, 0.5 if side else 0.5 - 0.5 * upper)} if far else None,
            zorder=5,
        )
        labels.append(label)
    return labels


def along(start: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(n, 24, 2): points on the lines from one place to many."""
    shares = np.linspace(0.0, 1.0, 24)[None, :, None]
    return start + shares * (ends[:, None, :] - start)


def touches(lines: np.ndarray, boxes: Boxes) -> np.ndarray:
    """(n, m): which lines, given by points on them, go through which boxes."""
    x, y = lines[:, :, None, 0], lines[:, :, None, 1]
    return np.any((x > boxes[:, 0]) & (x < boxes[:, 2]) & (y > boxes[:, 1]) & (y < boxes[:, 3]), axis=1)


def points_in(points: np.ndarray, boxes: Boxes) -> np.ndarray:
    """(m,): how many of some points each box holds."""
    x, y = points[None, :, 0], points[None, :, 1]
    inside = (x > boxes[:, :1]) & (x < boxes[:, 2:3]) & (y > boxes[:, 1:2]) & (y < boxes[:, 3:])
    return inside.sum(1)


def spread_out(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places from ``low`` to ``high`` that are at least ``gap`` apart, in the order of ``wanted`` and as near to it as can be.

    Least squares: with i · gap taken off the i-th place it is an isotonic regression, which pooling neighbours solves.
    """
    order = np.argsort(wanted, kind="stable")
    pools: list[list[float]] = []
    for rank, index in enumerate(order):
        pools.append([wanted[index] - rank * gap])
        while len(pools) > 1 and np.mean(pools[-2]) > np.mean(pools[-1]):
            pools[-2:] = [pools[-2] + pools[-1]]
    levels = np.concatenate([np.full(len(pool), np.mean(pool)) for pool in pools]) if pools else np.array([])
    levels = levels.clip(low, max(low, high - (len(order) - 1) * gap))
    places = [0.0] * len(order)
    for rank, index in enumerate(order):
        places[index] = float(levels[rank] + rank * gap)
    return places


def label_ends(
    axes: Axes, names: Sequence[str], ends: Sequence[tuple[float, float]], colours: Sequence[str], dashes: float = 14
) -> list[Annotation]:
    """Label lines at their right ends, below each other, with room made for them inside the axes.

    Args:
        axes: with the lines, whose horizontal limits are moved.
        names: of the lines.
        ends: of the lines, in data coordinates.
        colours: of the lines.
        dashes: points between the last end and the labels, for the thin lines that lead there.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    unit, frame = figure.dpi / 72, axes.get_window_extent()
    sizes = [extent(axes, name) for name in names]
    room = max(width for width, _ in sizes) + (dashes + 4) * unit
    scale, (left, _) = axes.xaxis.get_transform(), axes.get_xlim()
    start, end = scale.transform([left, max(x for x, _ in ends)])
    axes.set_xlim(left, float(scale.inverted().transform([start + (end - start) * frame.width / (frame.width - room)])[0]))
    height = max(height for _, height in sizes) + 1 * unit
    pixels = axes.transData.transform(np.array(ends))
    places = spread_out(list(pixels[:, 1]), height, frame.y0 + height / 2, frame.y1 - height / 2)
    at = pixels[:, 0].max() + dashes * unit
    return [
        axes.annotate(
            name,
            point,
            xytext=((at - pixel[0]) / unit, (place - pixel[1]) / unit),
            textcoords="offset points",
            ha="left",
            va="center",
            color=colour,
            fontsize=SIZE,
            arrowprops=LEADER | {"color": colour, "relpos": (0, 0.5)},
            annotation_clip=False,
        )
        for name, point, pixel, place, colour in zip(names, ends, pixels, places, colours, strict=True)
    ]
