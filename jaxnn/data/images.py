"""Images in files, decoded by Pillow: a folder for each class, or a table of paths.

Pixels are what the files say, 0 to 255, as [height, width, 1] where all are gray and else as
[height, width, 3]; a `Preparation` divides them by 255, or standardises them.

=====================================  =========================================================
of a file                              becomes
=====================================  =========================================================
black and white, gray                  gray; where others have colours, equal red, green and blue
RGB, a palette                         RGB
colours where gray is asked for        0.299 R + 0.587 G + 0.114 B (ITU-R BT.601, luma)
an orientation in EXIF                 the image turned as it says
another size than the one asked for    the image resized, bilinearly over the area that a pixel
                                       takes in, whatever its proportions were
an alpha channel                       nothing, where all is opaque; otherwise refused
16 bits, CMYK, several frames          refused
=====================================  =========================================================
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxnn.core.validation import brief, listed, unknown_name
from jaxnn.data.cache import cached
from jaxnn.data.dataset import Dataset, warn_without_weights
from jaxnn.data.digests import digest
from jaxnn.data.optional import require_library
from jaxnn.data.tables.reading import FOUND, Reading, is_table
from jaxnn.data.tables.table import read_table
from jaxnn.data.tables.targets import read_target, read_weights

VERSION = 1  # changes when the same files would be decoded to something else

FORMATS = {
    ".bmp": "BMP",
    ".gif": "GIF",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".png": "PNG",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
"""Suffixes, and Pillow's decoders that are used: some of its others start programs."""
COLORS = {"gray": 1, "rgb": 3}
MOST_PIXELS = 1 << 26
"""Of a single image: more is taken for a file that was made to fill the memory."""
PARTS = ("train", "training", "test", "testing", "valid", "validation", "val")
"""Folders of this name hold parts of the data, and are no classes."""
_IGNORED = ("thumbs.db", "desktop.ini")
_LARGEST_CACHED = 1 << 32
_BYTES = 8
"""Of a pixel: as it is read, as it is split, in float32, and as much again on its way."""
_GRAY, _COLOR = ("1", "L", "LA", "La"), ("RGB", "RGBA", "RGBa", "P", "PA")
_ALPHA = ("LA", "La", "RGBA", "RGBa", "PA")
_TURNED = (5, 6, 7, 8)
"""Orientations in EXIF that exchange height and width."""
_NAMED = 5


class Pixels(NamedTuple):
    """How files become pixels."""

    resized: bool = False
    """Whether images of other sizes are brought to the one size."""
    to_gray: bool = False
    """Whether colours become gray."""


class _Look(NamedTuple):
    """What the beginning of a file says."""

    height: int
    width: int
    channels: int


def is_image(path: Path) -> bool:
    """Whether the suffix is that of an image."""
    return path.suffix.lower() in FORMATS


def is_image_folder(path: Path) -> bool:
    """Whether it is a folder of images or of folders, and not one of .npy files."""
    if not path.is_dir() or (path / "train_x.npy").exists():
        return False
    return any(is_image(p) or p.is_dir() for p in path.iterdir() if not _is_hidden(p))


class Found(NamedTuple):
    """Images that have been looked at, and not been decoded."""

    files: list[Path]
    examples: Dataset
    """Without x."""
    shape: tuple[int, int, int]
    """Height, width and channels of all."""
    seen: str
    """The digest of their names, sizes and times of modification."""


def find_examples(
    path: Path,
    column: str | None,
    targets: Sequence[str] | None,
    *,
    size: tuple[int, int] | None = None,
    colors: str = "",
    task: str | None = None,
    reading: Reading = FOUND,
    groups: str | None = None,
    prefer_numbers: bool = False,
    weights: str | None = None,
) -> Found:
    """The images of a folder with a folder of them for each class, or of a table of paths.

    They are in the natural order of their names (2 before 10), or in that of the table. Files whose
    name begins with a dot are passed over.

    Args:
        path: The folder, or the table.
        column: Of the table, where the paths of the images are, from the table's own folder on.
        targets: Of the table, the columns of the targets.
        size: (height, width) to which images are resized; None where all have the same size.
        colors: "gray" or "rgb"; rgb unless all are gray, where it is not given.
        task: Of a table, as in `jaxnn.data.load`; so are the others.

    Raises:
        ValueError: naming the file that is no image, cannot be decoded, or differs from the others.
        FileNotFoundError: There is no such folder.
    """
    if colors and colors not in COLORS:
        raise ValueError(f"images: {unknown_name('colors', colors, COLORS)}")
    if size is not None and not all(1 <= side <= 1 << 14 for side in size):
        raise ValueError(f"images: expected size to be a height and a width, got {size}")
    pixels = Pixels(size is not None, colors == "gray")
    if column is None:
        files, target, classes = _labelled_folder(path)
        found = Dataset(np.zeros(0), target, (), classes, images=pixels)
    else:
        files, found = _labelled_table(
            path, column, targets, task, (), reading, groups, prefer_numbers, weights
        )
        found = found._replace(images=pixels)
    channels = COLORS[colors] if colors else None
    seen = digest([(str(f), s.st_size, s.st_mtime_ns) for f in files for s in [f.stat()]])

    def look() -> dict[str, np.ndarray]:
        return {"shape": np.array(_shape_of(files, size, channels, pixels))}

    facts = "shape of images", VERSION, seen, size, channels, pixels
    height, width, channels = cached(files[0].parent, look, *facts)["shape"].tolist()
    return Found(files, found, (height, width, channels), seen)


def read_images(found: Found) -> Dataset:
    """The examples in memory, from the cache if they are there.

    Raises:
        ValueError: naming the file that cannot be decoded; or they take more memory than there is.
    """
    files, examples, shape, seen = found
    needed = len(files) * int(np.prod(shape)) * _BYTES
    if needed > memory():
        raise ValueError(
            f"images: expected what fits into the memory, got {len(files)} images of {shape[0]} × "
            f"{shape[1]} pixels, which take {needed / 1e9:.1f} GB of {memory() / 1e9:.1f}: take a "
            "smaller --data.size, or write them with map_data and train on its folder with --stream"
        )
    facts = "images", VERSION, seen, shape, examples.images

    def make() -> dict[str, np.ndarray]:
        return {"x": decode(files, shape, examples.images)}

    place = files[0].parent
    return examples._replace(x=cached(place, make, *facts, largest=_LARGEST_CACHED)["x"])


def memory() -> float:
    """The bytes that this machine has; no bound where it does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return float("inf")


class Files(NamedTuple):
    """Images without targets."""

    paths: list[Path]
    names: list[str]
    """As they are shown."""


def find_images(path: Path, column: str | None = None, reading: Reading = FOUND) -> Files:
    """The images that a path stands for: one, all below a folder, or those of a table's column.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is neither, or there are none.
    """
    if path.is_dir():
        paths = _images_below(path, path)
        if not paths:
            raise ValueError(f"{path}: expected images ({', '.join(FORMATS)}), got none")
        return Files(paths, [str(p.relative_to(path)) for p in paths])
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected images, got no such file or folder")
    if is_table(path):
        if column is None:
            raise ValueError(f"{path}: expected the column of the images: say --inputs COLUMN")
        table = read_table(path, reading, (column,), (column,))
        table.require_column(column)
        return Files(table.paths(column), table.texts(column))
    if not is_image(path):
        raise ValueError(
            f"{path}: expected an image ({', '.join(FORMATS)}), a folder of them or a table of "
            f"their paths, as in training, got {path.suffix!r}"
        )
    return Files([path], [path.name])


def decode_like(pixels: Pixels, shape: tuple[int, ...], paths: Sequence[Path]) -> np.ndarray:
    """The pixels of images, as those of the training data: [images, height, width, channels]."""
    return decode(paths, _shape_of(paths, shape[:2], shape[2], pixels), pixels)


def examples_like(
    known: Any,
    shape: tuple[int, ...],
    path: Path,
    column: str | None,
    targets: Sequence[str] | None,
    reading: Reading = FOUND,
    weights: str | None = None,
) -> Dataset:
    """The images of a folder of class folders, or of a table, like those that ``known`` is about.

    Where there is no column of ``weights``, a warning says that all count the same.

    Raises:
        ValueError: There is a class that is not known.
    """
    classes = known.class_names
    if path.is_dir():
        if not classes:
            raise ValueError(f"{path}: expected a table of images and numbers, got a folder")
        files, labels, names = _labelled_folder(path, one=True)
        if unknown := [name for name in names if name not in classes]:
            raise ValueError(
                f"{path}: expected the classes to be among {listed(classes)}, got {listed(unknown)}"
            )
        target = np.array([classes.index(name) for name in names], np.int32)[labels]
        found = Dataset(np.zeros(0), target, (), classes)
    else:
        if column is None:
            raise ValueError(f"{path}: expected the column of the images: say --inputs COLUMN")
        task = "classification" if classes else known.task or "regression"
        targets = targets or known.target_names
        files, found = _labelled_table(
            path, column, targets, task, classes, reading, weights=weights, is_other=True
        )
    if weights and found.weights is None:
        warn_without_weights(path, weights)
    return found._replace(x=decode_like(known.images, shape, files), images=known.images)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _IGNORED


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key by which 2 comes before 10."""
    parts = re.split("([0-9]+)", name)
    return [(0, int(p), p) if p.isdecimal() and p.isascii() else (1, 0, p) for p in parts]


def _labelled_folder(
    path: Path, *, one: bool = False
) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    """Files, labels and the names of the classes; ``one`` class may be all that there is."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: expected a folder with one of images for each class")
    inside = [p for p in path.iterdir() if not _is_hidden(p)]
    folders = sorted((p for p in inside if p.is_dir()), key=lambda p: _natural(p.name))
    if loose := sorted(p.name for p in inside if is_image(p)):
        raise ValueError(
            f"{path}: expected every image in the folder of its class, got {listed(loose)} beside "
            f"{'the folders' if folders else 'no folder'}; a table says the classes of images that "
            "lie together: --data.name TABLE.csv --data.images COLUMN --data.target COLUMN"
        )
    if not folders:
        raise ValueError(f"{path}: expected a folder of images for each class, got none")
    if parts := [p.name for p in folders if p.name.lower() in PARTS]:
        other = next((p for p in parts if p.lower().startswith("test")), None)
        raise ValueError(
            f"{path}: expected a folder for each class, got the parts {listed(parts)} of the data: "
            f"say --data.name {path / parts[0]}" + f" --data.test {path / (other or 'TEST')}"
        )
    files, labels, empty = [], [], []
    for label, folder in enumerate(folders):
        try:
            folder.name.encode()
        except UnicodeEncodeError:
            raise ValueError(
                f"{folder}: expected a name in UTF-8, which is to be that of a class"
            ) from None
        found = _images_below(folder, path)
        empty += [] if found else [folder.name]
        files += found
        labels += [label] * len(found)
    if empty:
        raise ValueError(f"{path}: expected images in every folder, got none in {listed(empty)}")
    if len(folders) < 2 and not one:
        raise ValueError(f"{path}: expected two classes or more, got only {folders[0].name!r}")
    return files, np.array(labels, np.int32), tuple(p.name for p in folders)


def _images_below(folder: Path, root: Path) -> list[Path]:
    found = []
    for place, inner, names in os.walk(folder):
        inner[:] = [name for name in inner if not _is_hidden(Path(name))]
        found += [Path(place, name) for name in names if not _is_hidden(Path(name))]
    found.sort(key=lambda p: _natural(str(p.relative_to(root))))
    if others := [str(p.relative_to(root)) for p in found if not is_image(p)]:
        raise ValueError(
            f"{root}: expected nothing but images ({', '.join(FORMATS)}), got {listed(others)}: "
            "convert, move or remove them"
        )
    return found


def _labelled_table(
    path: Path,
    column: str,
    targets: Sequence[str] | None,
    task: str | None,
    classes: Sequence[str],
    reading: Reading,
    groups: str | None = None,
    prefer_numbers: bool = False,
    weights: str | None = None,
    *,
    is_other: bool = False,
) -> tuple[list[Path], Dataset]:
    """Files, and examples without x; a table of ``is_other`` examples may have no weights."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: expected a table, got no such file")
    if not is_table(path):
        raise ValueError(f"{path}: expected a table with a column {column!r} of paths")
    if not targets:
        raise ValueError(f"{path}: expected target to name a column: say --data.target")
    if weights in targets:
        raise ValueError(f"{path}: expected weights beside the target, got {weights!r} for both")
    used = (column, *targets, *(name for name in (groups, weights) if name))
    table = read_table(path, reading._replace(kinds=()), used, used)
    for name in used:
        if name != weights or not is_other:
            table.require_column(name)
    target, kept = read_target(table, targets, task, classes, prefer_numbers=prefer_numbers)
    files = table.paths(column, kept)
    is_classes = target.task == "classification"
    values = target.values if is_classes else target.values.reshape(len(target.values), -1)
    return files, Dataset(
        np.zeros(0),
        values,
        (),
        tuple(classes) if classes and is_classes else target.class_names,
        () if is_classes else tuple(targets),
        "labels" if target.task == "labels" else "",
        groups=table.codes(groups)[kept] if groups else None,
        weights=read_weights(table, weights, kept) if weights and weights in table.names else None,
    )


def _shape_of(
    files: Sequence[Path], size: tuple[int, ...] | None, channels: int | None, pixels: Pixels
) -> tuple[int, int, int]:
    """The height, width and channels that images are to have, once they are found to fit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of many pixels: `_look` has a limit of its own
        looks = [_look(file) for file in files]
    if size is None:
        size = Counter(look[:2] for look in looks).most_common(1)[0][0]
    if channels is None:
        channels = max(look.channels for look in looks)
    sizes = [(f, look) for f, look in zip(files, looks, strict=True) if look[:2] != tuple(size)]
    if sizes and not pixels.resized:
        shown = ", ".join(f"{f} ({look.height} × {look.width})" for f, look in sizes[:_NAMED])
        more = f" and {len(sizes) - _NAMED} more" * (len(sizes) > _NAMED)
        raise ValueError(
            f"images: expected all to be {size[0]} × {size[1]}, got {shown}{more}; train with "
            f"--data.size {size[0]} {size[1]} to have them resized"
        )
    colored = [f for f, look in zip(files, looks, strict=True) if look.channels > channels]
    if colored and not pixels.to_gray:
        raise ValueError(
            f"images: expected gray images, as those of the training, got colours in "
            f"{listed(list(map(str, colored[:_NAMED])))}; train with --data.colors gray to have "
            "them converted"
        )
    return size[0], size[1], channels


def decode(files: Sequence[Path], shape: tuple[int, int, int], pixels: Pixels) -> np.ndarray:
    """uint8 [images, height, width, channels], of files that `find_examples` has found to fit."""
    x = np.empty((len(files), *shape), np.uint8)

    def fill(place: int) -> None:
        x[place] = _pixels(files[place], shape, pixels)

    with warnings.catch_warnings(), ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # for all threads at once: filters are not theirs
        for _ in pool.map(fill, range(len(files))):
            pass
    return x


def _look(path: Path) -> _Look:
    with _opened(path) as image:
        width, height = image.size
        mode = image.mode
        deep = any(_is_deep(image.format, tile[3]) for tile in getattr(image, "tile", ()))
        # Of TIFF the size is that after the turn; of PNG, what is said at its end would cost a look
        # at all of it: `_pixels` meets it.
        says = {"TIFF": False, "PNG": "exif" in image.info}.get(image.format, True)
        turned = says and image.getexif().get(0x0112) in _TURNED
        # A photograph may come with another of its kind, for depth or brightness.
        frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if width * height > MOST_PIXELS:
        raise ValueError(f"{path}: expected at most {MOST_PIXELS:,} pixels, got {height} × {width}")
    if frames > 1:
        raise ValueError(f"{path}: expected one image, got {frames} frames: save one as a file")
    if deep or mode not in (*_GRAY, *_COLOR):
        kind = "16 bits a colour" if deep or mode.startswith("I") else f"the mode {mode}"
        raise ValueError(f"{path}: expected 8 bits of gray or RGB, got {kind}: convert it")
    channels = 1 if mode in _GRAY else 3
    return _Look(*((width, height) if turned else (height, width)), channels)


def _is_deep(kind: str | None, arguments: Any) -> bool:
    """Whether Pillow's decoder would cut 16 bits down to 8."""
    of = arguments if isinstance(arguments, tuple) else (arguments,)
    return any(";16" in a if isinstance(a, str) else kind == "PPM" and a > 255 for a in of)


def _pixels(path: Path, shape: tuple[int, int, int], pixels: Pixels) -> np.ndarray:
    height, width, channels = shape
    ops = require_library("PIL.ImageOps", "reading images")
    is_clear = True
    with _opened(path) as image:
        image = ops.exif_transpose(image)
        if image.mode in _ALPHA or "transparency" in image.info:
            image = image.convert("RGBA")
            is_clear = image.getchannel("A").getextrema() == (255, 255)
        # Through its own colours: the gray of a palette is not that of its numbers.
        image = image if image.mode in ("L", "RGB", "1") else image.convert("RGB")
        image = image.convert("L" if channels == 1 else "RGB")
        if image.size != (width, height):
            if not pixels.resized:
                raise ValueError(f"{image.size[1]} × {image.size[0]} pixels when it is turned")
            image = image.resize((width, height), 2)  # bilinear, over what a pixel takes in
        found = np.asarray(image, np.uint8).reshape(shape)
    if not is_clear:
        raise ValueError(
            f"{path}: expected an opaque image, got transparent pixels, which have no colour: "
            "save it on a background"
        )
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The image, while whatever its decoder raises becomes a ValueError that names the file."""
    pillow = require_library("PIL.Image", "reading images")
    # Not by its name: Pillow would map a TIFF, and turn it wrongly.
    with path.open("rb") as file:
        try:
            with pillow.open(file, formats=sorted({*FORMATS.values()})) as image:
                yield image
        except MemoryError:
            raise
        except Exception as error:  # each decoder has errors of its own
            raise ValueError(
                f"{path}: expected an image that can be decoded, got {brief(str(error))}"
            ) from error
