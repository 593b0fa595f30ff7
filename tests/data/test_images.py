"""Image files of every kind become RGB pictures, or are named."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image, ImageOps, features

from crispmask.data.images import ImageError, read_header, read_image
from tests.data.image_files import png_chunk, png_start, write_png16, write_tiff

# Left half red, right half blue
TWO_COLOURS = np.zeros((20, 40, 3), np.uint8)
TWO_COLOURS[:, :20, 0] = TWO_COLOURS[:, 20:, 2] = 255
GREY = np.arange(256, dtype=np.uint8).reshape(8, 32)


def saved(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)
    return path


def exif_with(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_a_photo_taken_sideways_is_turned(tmp_path: Path) -> None:
    path = saved(tmp_path / "photo.jpg", TWO_COLOURS, exif=exif_with(6), quality=95)
    picture = read_image(path)
    assert picture.shape == (40, 20, 3)
    assert picture[:18].mean(axis=(0, 1)).argmax() == 0 and picture[22:].mean(axis=(0, 1)).argmax() == 2


@pytest.mark.parametrize("orientation", range(10))
def test_every_way_of_holding_a_camera_in_every_kind_of_file(tmp_path: Path, orientation: int) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    exif = exif_with(orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(saved(tmp_path / "a.png", colours, exif=exif))))
    deep = (colours.astype(np.uint16) * 257)[..., 0]
    files = {
        "b.tif": saved(tmp_path / "b.tif", colours, exif=exif),
        "b.webp": saved(tmp_path / "b.webp", colours, exif=exif, lossless=True),
        "b.png": saved(tmp_path / "b.png", colours, exif=exif),
    }
    for path in files.values():
        assert np.array_equal(read_image(path), expected), path.name
    # Uncompressed grey TIFF files are those that Pillow would map into memory
    grey = read_image(saved(tmp_path / "grey.tif", colours[..., 0], exif=exif))
    assert np.array_equal(grey, np.repeat(expected[..., :1], 3, axis=2))
    for name in ("deep.png", "deep.tif"):
        grey = read_image(saved(tmp_path / name, deep, exif=exif))
        assert np.array_equal(grey, np.repeat(expected[..., :1], 3, axis=2)), name
    tiff = write_tiff(tmp_path / "rgb16.tif", colours.astype(np.uint16) * 257, tag_274=("H", [orientation]))
    assert np.array_equal(read_image(tiff), expected)


def test_broken_exif_turns_nothing(tmp_path: Path) -> None:
    path = saved(tmp_path / "photo.png", TWO_COLOURS, exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12broken")
    assert np.array_equal(read_image(path), TWO_COLOURS)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "RGB"])
def test_every_mode_becomes_three_channels(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(TWO_COLOURS).convert(mode)
    path = saved(tmp_path / f"image.{'tif' if mode == 'CMYK' else 'png'}", image)
    assert np.array_equal(read_image(path), np.asarray(image.convert("RGB")))


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    rgba = np.dstack([TWO_COLOURS, np.full((20, 40), 255, np.uint8)])
    rgba[:10, :, 3] = 0
    picture = read_image(saved(tmp_path / "cut.png", rgba))
    assert (picture[:10] == 255).all() and np.array_equal(picture[10:], TWO_COLOURS[10:])
    palette = Image.fromarray(TWO_COLOURS).convert("P")
    # The index of the red half
    path = saved(tmp_path / "palette.png", palette, transparency=palette.getpixel((0, 0)))
    assert (read_image(path)[:, :20] == 255).all()


def same_grey_picture(folder: Path) -> dict[str, Path]:
    """One grey picture in many forms."""
    image, deep = Image.fromarray(GREY), GREY.astype(np.uint16) * 257
    opaque = np.full_like(deep, 65535)
    transparent = np.where(GREY == 255, 0, 65535)  # what is white by being transparent
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)
    for name in ("L", "RGB", "RGBA", "LA"):
        saved(folder / f"8-{name}.png", image.convert(name))
        saved(folder / f"8-{name}.tif", image.convert(name))
    saved(folder / "8-palette.png", palette)
    saved(folder / "8-palette.gif", palette)
    saved(folder / "8-lossless.webp", image.convert("RGB"), lossless=True)
    saved(folder / "8-cmyk.tif", image.convert("RGB").convert("CMYK"))
    write_tiff(folder / "8-white-is-zero.tif", 255 - GREY, tag_262=("H", [0]))
    saved(folder / "16-grey.png", deep)
    saved(folder / "16-lzw.tif", Image.fromarray(deep), compression="tiff_lzw")
    write_png16(folder / "16-transparent.png", deep, tRNS=b"\xff\xff")
    write_png16(folder / "16-la.png", np.dstack([deep, transparent]))
    write_png16(folder / "16-rgb.png", np.dstack([deep] * 3))
    write_png16(folder / "16-rgb-transparent.png", np.dstack([deep] * 3), tRNS=b"\xff" * 6)
    write_png16(folder / "16-rgba.png", np.dstack([deep] * 3 + [transparent]))
    for order, name in ("<", "little"), (">", "big"):
        write_tiff(folder / f"16-{name}.tif", deep, order)
        write_tiff(folder / f"16-rgb-{name}.tif", np.dstack([deep] * 3), order)
        write_tiff(folder / f"16-rgba-{name}.tif", np.dstack([deep] * 3 + [opaque]), order)
        full = {f"tag_{tag}": ("f", [value]) for tag, value in ((340, 0.0), (341, 255.0))}
        write_tiff(folder / f"float-{name}.tif", GREY.astype(np.float32), order, **full)
        write_tiff(folder / f"signed-{name}.tif", GREY.astype(np.int16), order, **full)
    write_tiff(folder / "32-bit.tif", GREY.astype(np.uint32), tag_281=("H", [255]))
    write_tiff(folder / "16-white-is-zero.tif", 65535 - deep, tag_262=("H", [0]))
    (folder / "16.pgm").write_bytes(b"P5 32 8 255\n" + GREY.tobytes())
    (folder / "10.pgm").write_bytes(b"P5 32 8 1020\n" + (GREY * np.uint16(4)).astype(">u2").tobytes())
    return {path.name: path for path in folder.iterdir()}


def test_a_picture_is_the_same_in_every_form(tmp_path: Path) -> None:
    expected = np.repeat(GREY[..., None], 3, axis=2)
    files = same_grey_picture(tmp_path)
    assert len(files) > 30
    wrong = {name for name, path in files.items() if not np.array_equal(read_image(path), expected)}
    assert wrong == set()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    picture = read_image(saved(tmp_path / "deep.png", values))
    assert np.array_equal(picture, np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))


def test_grey_and_colour_of_sixteen_bits_are_rounded_alike(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 65536, (7, 5, 4), np.uint16)
    values[..., 3] = 65535
    expected = (values[..., :3] / 257).round().astype(np.uint8)
    for name, samples in {"rgb": values[..., :3], "rgba": values}.items():
        assert np.array_equal(read_image(write_png16(tmp_path / f"{name}.png", samples)), expected)
        for order in "<>":
            assert np.array_equal(read_image(write_tiff(tmp_path / f"{name}.tif", samples, order)), expected)
    lzw = saved(tmp_path / "grey.tif", values[..., 0], compression="tiff_lzw")
    assert np.array_equal(read_image(lzw)[..., 0], expected[..., 0])


@pytest.mark.parametrize("encoding", ["as they are", "zeros", "repeated", "scaled"])
@pytest.mark.parametrize("samples", [1, 3])
def test_twelve_bits_that_count_whatever_is_below_them(tmp_path: Path, encoding: str, samples: int) -> None:
    values = np.random.default_rng(0).integers(0, 1200, (9, 9), np.uint16)  # a dark picture
    written = {
        "as they are": values,
        "zeros": values << 4,
        "repeated": values << 4 | values >> 8,
        "scaled": (values * (65535 / 4095)).round(),
    }[encoding]
    written = np.repeat(written[..., None], samples, axis=2)
    path = write_png16(tmp_path / "deep.png", written, sBIT=bytes([12] * samples))
    expected = (values * (255 / 4095)).round().astype(np.uint8)
    assert np.array_equal(read_image(path, (0, 65535))[..., 0], expected)


def test_range_by_the_file_then_by_the_key_then_by_the_type(tmp_path: Path) -> None:
    values = np.array([[0, 1000, 2000, 4000]], np.uint16)

    def first_row(path: Path, value_range: tuple[float, float] | None = None) -> list[int]:
        return read_image(path, value_range)[0, :, 0].tolist()

    plain = write_tiff(tmp_path / "plain.tif", values)
    assert first_row(plain) == [0, 4, 8, 16]
    assert first_row(plain, (0, 2000)) == [0, 128, 255, 255]
    assert first_row(plain, (1000, 2000)) == [0, 0, 255, 255]
    stated = write_tiff(tmp_path / "stated.tif", values, tag_281=("H", [4000]))
    assert first_row(stated) == first_row(stated, (0, 2000)) == [0, 64, 128, 255]
    colours = write_png16(tmp_path / "colours.png", np.dstack([values] * 3))
    assert first_row(colours, (0, 4000)) == [0, 64, 128, 255]
    floats = np.array([[np.nan, -np.inf, 0.25, np.inf]], np.float32)
    assert first_row(write_tiff(tmp_path / "f.tif", floats), (0, 1)) == [0, 0, 64, 255]
    eight = saved(tmp_path / "eight.png", values.astype(np.uint8))
    assert first_row(eight, (0, 4000)) == first_row(eight)
    zeros = write_tiff(tmp_path / "zeros.tif", values, tag_280=("H", [0]), tag_281=("H", [0]))
    assert first_row(zeros) == [0, 4, 8, 16]


@pytest.mark.parametrize("kind", ["float32", "int16", "int32", "uint32"])
def test_numbers_without_a_range_name_the_key(tmp_path: Path, kind: str) -> None:
    path = write_tiff(tmp_path / "numbers.tif", np.ones((4, 4), kind))
    with pytest.raises(
        ImageError, match=r"numbers\.tif'.*range only its author knows: set INPUT.VALUE_RANGE"
    ):
        read_image(path)
    assert (read_image(path, (0, 2)) == 128).all()


def test_premultiplied_colours_of_sixteen_bits_are_not_read_wrong(tmp_path: Path) -> None:
    values = np.full((4, 4, 4), 65535, np.uint16)
    path = write_tiff(tmp_path / "rgba.tif", values, tag_338=("H", [1]))
    assert (read_image(path) == 255).all()
    with pytest.raises(ImageError, match=r"rgba\.tif'.*upper 8, and its range is 0 to 4095"):
        read_image(path, (0, 4095))


def grey_as_colours(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", ["float32", "int16", "int32"])
def test_numbers_of_compressed_tiff_files_whatever_their_byte_order(
    tmp_path: Path, kind: str, order: str
) -> None:
    data = zlib.compress(GREY.astype(np.dtype(kind).newbyteorder(order)).tobytes())
    path = write_tiff(tmp_path / "a.tif", GREY.astype(kind), order, data, tag_259=("H", [8]))
    assert np.array_equal(read_image(path, (0, 255)), grey_as_colours(GREY))


@pytest.mark.parametrize("order", "<>")
def test_tiff_files_with_layers(tmp_path: Path, order: str) -> None:
    """Planar configuration 2: one plane of red, one of green, one of blue, or one of grey alone."""
    layers = {"tag_284": ("H", [2])}
    for kind, value_range in (
        ("uint8", None),
        ("uint16", (0, 255)),
        ("float32", (0, 255)),
        ("int32", (0, 255)),
    ):
        path = write_tiff(tmp_path / f"{kind}.tif", GREY.astype(kind), order, **layers)
        assert np.array_equal(read_image(path, value_range), grey_as_colours(GREY)), kind
    path = write_tiff(tmp_path / "inverted.tif", 255 - GREY, order, tag_262=("H", [0]), **layers)
    assert np.array_equal(read_image(path), grey_as_colours(GREY))
    for kind, factor in (("uint8", 1), ("uint16", 257)):
        colours = np.dstack([GREY, GREY[::-1], 255 - GREY])
        planes = colours.astype(kind).transpose(2, 0, 1) * np.dtype(kind).type(factor)
        size = planes[0].nbytes
        path = write_tiff(
            tmp_path / f"colours_{kind}.tif",
            colours.astype(kind),
            order,
            planes.astype(planes.dtype.newbyteorder(order)).tobytes(),
            tag_273=("L", [0, size, 2 * size]),
            tag_279=("L", [size] * 3),
            **layers,
        )
        assert np.array_equal(read_image(path), colours), kind


def test_compressed_layers_of_sixteen_bits_have_no_other_range(tmp_path: Path) -> None:
    """libtiff gives Pillow their high bytes alone, which are enough for all 16 bits."""
    colours = np.dstack([GREY] * 3).astype(np.uint16) * 257
    strips = [zlib.compress(plane.astype("<u2").tobytes()) for plane in colours.transpose(2, 0, 1)]
    starts = [0, len(strips[0]), len(strips[0]) + len(strips[1])]
    path = write_tiff(
        tmp_path / "a.tif",
        colours,
        "<",
        b"".join(strips),
        tag_259=("H", [8]),
        tag_273=("L", starts),
        tag_279=("L", [len(strip) for strip in strips]),
        tag_284=("H", [2]),
    )
    assert np.array_equal(read_image(path), grey_as_colours(GREY))
    with pytest.raises(ImageError, match=r"a.tif' cannot be read: of its 16 bits Pillow gives the upper 8"):
        read_image(path, (0, 4095))


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_the_transparent_grey_of_few_bits(tmp_path: Path, bits: int) -> None:
    values = np.arange(8) % (1 << bits)
    line = "".join(f"{value:0{bits}b}" for value in values)
    pixels = zlib.compress(bytes([0, *(int(line[i : i + 8], 2) for i in range(0, len(line), 8))]))
    chunks = png_chunk(b"tRNS", b"\0\1") + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    path = tmp_path / "a.png"
    path.write_bytes(png_start(8, 1, bits) + chunks)
    expected = np.where(values == 1, 255, values * (255 // ((1 << bits) - 1)))
    assert read_image(path)[0, :, 0].tolist() == expected.tolist()


@pytest.mark.parametrize("kind", ["int8", "uint32"])
@pytest.mark.parametrize("packed", [False, True])
def test_numbers_that_pillow_takes_for_others(tmp_path: Path, kind: str, packed: bool) -> None:
    """It gives signed bytes as unsigned ones, and unsigned numbers of 32 bits as signed ones."""
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    values = np.linspace(low, high, GREY.size).reshape(GREY.shape).astype(kind)
    content, tag = (zlib.compress(values.tobytes()), {"tag_259": ("H", [8])}) if packed else (None, {})
    path = write_tiff(tmp_path / "a.tif", values, "<", content, **tag)
    assert np.array_equal(read_image(path, (low, high)), grey_as_colours(GREY))
    with pytest.raises(ImageError, match=r"INPUT\.VALUE_RANGE"):
        read_image(path)


@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_grey_and_alpha_in_layers_are_refused(tmp_path: Path, kind: str) -> None:
    planes = np.stack([GREY, 255 - GREY]).astype(kind)
    strips = [zlib.compress(plane.tobytes()) for plane in planes]
    path = write_tiff(
        tmp_path / "a.tif",
        planes.transpose(1, 2, 0),
        "<",
        b"".join(strips),
        tag_259=("H", [8]),
        tag_273=("L", [0, len(strips[0])]),
        tag_279=("L", [len(strip) for strip in strips]),
        tag_284=("H", [2]),
    )
    with pytest.raises(ImageError, match=r"a.tif' cannot be read"):
        read_image(path)


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="Pillow 12 reads no such file")
def test_grey_that_was_multiplied_with_its_alpha(tmp_path: Path) -> None:
    values = np.dstack([np.full_like(GREY, 100), np.full_like(GREY, 200)])
    path = write_tiff(tmp_path / "a.tif", values, tag_338=("H", [1]))
    assert abs(read_image(path).astype(int) - 155).max() <= 1


@pytest.mark.parametrize("factor", [1, 256, 257])
def test_palettes_of_tiff_files_also_as_old_programs_wrote_them(tmp_path: Path, factor: int) -> None:
    """Their colours have 16 bits; some wrote them with 8."""
    palette = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 7)])
    colours = ("H", (palette * factor).ravel().tolist())
    path = write_tiff(tmp_path / "a.tif", GREY, tag_262=("H", [3]), tag_320=colours)
    assert np.array_equal(read_image(path), palette.T[GREY])


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow reads no JPEG 2000")
def test_jpeg_2000_with_colours_of_more_than_8_bits_is_refused(tmp_path: Path) -> None:
    """Pillow rounds their largest values up to 256, which it stores as 0."""
    path = saved(tmp_path / "a.jp2", TWO_COLOURS)
    assert np.array_equal(read_image(path), TWO_COLOURS)
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\x4f\xff\x51") + 42
    content[start : start + 9 : 3] = bytes([11] * 3)  # bits less one
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"a.jp2' cannot be read: .*12 bits"):
        read_image(path)


def test_postscript_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n")
    with pytest.raises(ImageError, match="PostScript"):
        read_image(path)


@pytest.mark.parametrize("in_xmp", [False, True])
def test_the_header_has_the_size_of_the_turned_picture(tmp_path: Path, in_xmp: bool) -> None:
    xmp = b'<rdf:Description tiff:Orientation="6"/>'
    tag = {"tag_700": ("B", xmp)} if in_xmp else {"tag_274": ("H", [6])}
    path = write_tiff(tmp_path / "a.tif", TWO_COLOURS, **tag)
    assert read_header(path) == (40, 20, 6)
    assert read_image(path).shape == (40, 20, 3)


def test_broken_files_are_named(tmp_path: Path) -> None:
    whole = saved(tmp_path / "whole.png", np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    half = tmp_path / "half.png"
    half.write_bytes(whole.read_bytes()[:3000])
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "bomb.png").write_bytes(png_start(30_000, 30_000))
    (tmp_path / "short.png").write_bytes(png_start(8, 8, keep=9))
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    names = ["half.png", "text.jpg", "empty.png", "bomb.png", "short.png", "folder.png", "dangling.png"]
    for name in [*names, "missing.png", "pipe.png"]:
        with pytest.raises(ImageError, match=rf"{name}'.*\.$"):
            read_image(tmp_path / name)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_a_broken_avif_file_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.avif", TWO_COLOURS)
    content = path.read_bytes()
    start = content.index(b"mdat") + 4
    for damaged in (content[:start] + bytes(len(content) - start), content.replace(b"av01", b"av00")):
        path.write_bytes(damaged)
        with pytest.raises(ImageError, match=r"a.avif' cannot be read: Failed to decode"):
            read_image(path)


@pytest.mark.parametrize("kind", ["png", "jpg", "tif", "gif", "webp", "bmp", "ppm", "deep.png", "deep.tif"])
def test_damaged_files_are_read_or_named(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / f"image.{kind}"
    if kind == "deep.png":
        write_png16(path, rng.integers(0, 65536, (20, 20, 3)), sBIT=b"\x0c\x0c\x0c")
    elif kind == "deep.tif":
        write_tiff(path, rng.integers(0, 65536, (20, 20), np.uint16))
    else:
        saved(
            path,
            rng.integers(0, 256, (20, 20, 3), np.uint8),
            **({"exif": exif_with(3)} if kind in ("jpg", "png") else {}),
        )
    content = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(content)
        for place in rng.integers(0, min(len(damaged), rng.choice([100, len(damaged)])), 4):
            damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged[: rng.choice([len(damaged), rng.integers(0, len(damaged))])])
        try:
            assert read_image(path).dtype == np.uint8
        except ImageError as error:
            assert path.name in str(error) and "\n" not in str(error)
