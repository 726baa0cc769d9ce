"""What every kind of image becomes; the truth is arithmetic on the pixels that were written."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dpdm.data.decode import BadImage, Preprocessing, quiet_pillow

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 9), np.uint8)
RGB = RNG.integers(0, 256, (6, 9, 3), np.uint8)
ALPHA = RNG.integers(0, 256, (6, 9, 1), np.uint8)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def decode(data, **options):
    with quiet_pillow():
        return Preprocessing(**options).from_bytes(data)[0]


def over_black(colour, alpha):
    return colour * (alpha / 255.0)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_eight_bit_rgb_is_unchanged(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decode(encode(Image.fromarray(RGB), kind, **options)), RGB)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_eight_bit_grey_is_one_channel(kind):
    np.testing.assert_array_equal(decode(encode(Image.fromarray(GREY), kind)), GREY[..., None])


def test_jpeg_is_what_pillow_reads():
    data = encode(Image.fromarray(RGB), "JPEG", quality=95)
    np.testing.assert_array_equal(decode(data), np.asarray(Image.open(io.BytesIO(data))))


def test_one_bit_is_black_and_white():
    bits = GREY > 127
    np.testing.assert_array_equal(
        decode(encode(Image.fromarray(bits))), np.where(bits, 255, 0)[..., None]
    )


def test_a_palette_becomes_rgb():
    indices = RNG.integers(0, 4, (6, 9), np.uint8)
    colours = RNG.integers(0, 256, (4, 3), np.uint8)
    image = Image.new("P", (9, 6))
    image.putdata(indices.reshape(-1).tolist())
    image.putpalette(colours.reshape(-1).tolist())
    np.testing.assert_array_equal(decode(encode(image)), colours[indices])


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_divided_by_257(kind):
    deep = np.array([[0, 128, 129, 257, 32768, 65534, 65535]], np.uint16)
    expected = np.floor(deep / 257 + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(deep), kind))[..., 0], expected)


def test_sixteen_bits_are_not_stretched_by_what_an_image_holds():
    dark = np.array([[0, 257, 514]], np.uint16)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(dark)))[..., 0], [[0, 1, 2]])


def sixteen_bit_rgb_png(pixels):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_sixteen_bit_rgb_is_its_high_byte():
    deep = RNG.integers(0, 65536, (3, 4, 3), np.uint16)
    np.testing.assert_array_equal(decode(sixteen_bit_rgb_png(deep)), deep >> 8)


def test_alpha_is_laid_over_black():
    data = encode(Image.fromarray(np.concatenate([RGB, ALPHA], -1)))
    np.testing.assert_allclose(decode(data), over_black(RGB, ALPHA), atol=0.51)


def test_grey_with_alpha_is_laid_over_black():
    data = encode(Image.fromarray(np.concatenate([GREY[..., None], ALPHA], -1)))
    np.testing.assert_allclose(decode(data), over_black(GREY[..., None], ALPHA), atol=0.51)


def test_a_transparent_palette_entry_is_black():
    image = Image.new("P", (2, 1))
    image.putdata([0, 1])
    image.putpalette([10, 20, 30, 40, 50, 60])
    data = encode(image, transparency=0)
    np.testing.assert_array_equal(decode(data), [[[0, 0, 0], [40, 50, 60]]])


def test_a_transparent_grey_level_is_black():
    data = encode(Image.fromarray(np.array([[7, 9]], np.uint8)), transparency=7)
    np.testing.assert_array_equal(decode(data)[..., 0], [[0, 9]])


def test_four_channels_keep_alpha():
    pixels = np.concatenate([RGB, ALPHA], -1)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(pixels)), channels=4), pixels)


def test_two_channels_keep_grey_and_alpha():
    pixels = np.concatenate([GREY[..., None], ALPHA], -1)
    np.testing.assert_array_equal(decode(encode(Image.fromarray(pixels)), channels=2), pixels)


def test_alpha_that_is_asked_for_and_missing_is_opaque():
    assert (decode(encode(Image.fromarray(RGB)), channels=4)[..., 3] == 255).all()


def test_grey_to_rgb_repeats_the_channel():
    pixels = decode(encode(Image.fromarray(GREY)), channels=3)
    np.testing.assert_array_equal(pixels, np.repeat(GREY[..., None], 3, -1))


def test_rgb_to_grey_is_luma_601():
    pixels = decode(encode(Image.fromarray(RGB)), channels=1)[..., 0]
    np.testing.assert_allclose(pixels, RGB @ [0.299, 0.587, 0.114], atol=0.51)


def test_cmyk_becomes_rgb():
    inks = np.zeros((1, 2, 4), np.uint8)
    inks[0, 1, 3] = 255  # no ink is white, black ink is black
    data = encode(Image.frombytes("CMYK", (2, 1), inks.tobytes()), "TIFF")
    np.testing.assert_array_equal(decode(data), [[[255] * 3, [0] * 3]])


# What undoes each EXIF orientation (Exif 2.3, tag 274), on rows and columns of the stored pixels.
UPRIGHT = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.T,
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].T,
    8: lambda p: np.rot90(p, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_exif_orientation_is_applied(orientation, kind):
    exif = Image.Exif()
    exif[274] = orientation
    pixels = np.kron(np.array([[0, 80, 160], [255, 40, 120]], np.uint8), np.ones((8, 8), np.uint8))
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(Image.fromarray(pixels), kind, exif=exif, **options)
    decoded = decode(data, channels=1)[..., 0]
    expected = UPRIGHT[orientation](pixels)
    assert decoded.shape == expected.shape
    np.testing.assert_allclose(decoded, expected, atol=0 if kind != "JPEG" else 8)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"GIF89a not read", "damaged, or not a PNG"),
        (b"<html>quota exceeded</html>", "damaged, or not a PNG"),
        (encode(Image.fromarray(RGB))[:-40], "damaged"),
        (encode(Image.fromarray(RGB), "JPEG")[:-60], "damaged"),
        (encode(Image.fromarray(RGB))[:30], "damaged"),
        (encode(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "floating-point pixels"),
        (encode(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "32-bit pixels"),
        (
            encode(
                Image.fromarray(GREY), "TIFF", save_all=True, append_images=[Image.fromarray(GREY)]
            ),
            "2 frames",
        ),
    ],
    ids=["empty", "gif", "html", "short-png", "short-jpeg", "header", "float", "int32", "frames"],
)
def test_what_is_no_usable_image_says_why(data, reason):
    with pytest.raises(BadImage, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("side", [10_000, 20_000])
def test_a_decompression_bomb_is_refused_before_it_is_unpacked(side):
    bomb = bytearray(sixteen_bit_rgb_png(np.zeros((1, 1, 3))))
    bomb[16:24] = struct.pack(">II", side, side)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
    with pytest.raises(BadImage, match="pixels, the limit is"):
        decode(bytes(bomb))


def test_a_wide_image_is_cropped_to_its_centre():
    image = np.zeros((4, 10), np.uint8)
    image[:, 3:7] = 200
    assert (decode(encode(Image.fromarray(image)), image_size=4) == 200).all()


def test_a_tall_image_is_cropped_to_its_centre():
    image = np.zeros((10, 4), np.uint8)
    image[3:7] = 200
    assert (decode(encode(Image.fromarray(image)), image_size=4) == 200).all()


def test_an_image_of_the_size_asked_for_is_unchanged():
    square = GREY[:6, :6]
    np.testing.assert_array_equal(
        decode(encode(Image.fromarray(square)), image_size=6)[..., 0], square
    )


def test_shrinking_averages_instead_of_dropping_pixels():
    checkerboard = (np.indices((32, 32)).sum(0) % 2 * 255).astype(np.uint8)
    small = decode(encode(Image.fromarray(checkerboard)), image_size=8)
    assert abs(small.astype(int) - 127.5).max() < 40


def test_an_own_crop_comes_before_the_square():
    image = np.zeros((9, 9), np.uint8)
    image[3:6, 3:6] = 255
    assert (decode(encode(Image.fromarray(image)), image_size=6, crop=3) == 255).all()


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 2, 3, 4]),
    wanted=st.sampled_from([None, 1, 2, 3, 4]),
    size=st.sampled_from([None, 1, 7, 16]),
)
def test_an_array_and_the_file_of_it_give_the_same_pixels(height, width, channels, wanted, size):
    pixels = np.random.default_rng(height * 41 + width).integers(
        0, 256, (height, width, channels), np.uint8
    )
    same = Preprocessing(size, channels if wanted is None else wanted)
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    from_file = same.from_bytes(encode(image))[0]
    np.testing.assert_array_equal(same.from_array(pixels), from_file)
    assert from_file.shape == (size or height, size or width, same.channels)
