"""Draws the images that ship with this example: `python examples/image_resize/draw_images.py`."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

FOLDER = Path(__file__).with_name("images")
ORIENTATION = 0x0112


def hills() -> Image.Image:
    """An evening sky over three rows of hills, 960 x 600."""
    sky = Image.linear_gradient("L").resize((960, 600))
    image = Image.composite(Image.new("RGB", sky.size, "#f4a259"), Image.new("RGB", sky.size, "#2b4570"), sky)
    draw = ImageDraw.Draw(image)
    draw.ellipse((620, 250, 720, 350), fill="#ffe8b0")
    for row, colour in enumerate(("#5b5f97", "#3d405b", "#22223b")):
        for left in range(-200, 960, 260):
            top = 360 + 70 * row + (left * 7 + row * 31) % 60
            draw.ellipse((left + 90 * row, top, left + 90 * row + 460, top + 500), fill=colour)
    return image.filter(ImageFilter.GaussianBlur(1))


def badge() -> Image.Image:
    """A ring on a transparent ground, 400 x 400."""
    image = Image.new("RGBA", (400, 400), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)
    draw.ellipse((20, 20, 380, 380), fill="#2a9d8f", outline="#264653", width=16)
    draw.ellipse((130, 130, 270, 270), fill=(0, 0, 0, 0), outline="#264653", width=16)
    draw.polygon([(200, 40), (225, 110), (175, 110)], fill="#e9c46a")
    return image


def tower() -> Image.Image:
    """A tower as a camera held upright stores it: 480 x 320 pixels, to be turned by a quarter."""
    image = Image.new("RGB", (320, 480), "#a8dadc")
    draw = ImageDraw.Draw(image)
    draw.rectangle((120, 120, 200, 480), fill="#6d6875")
    draw.polygon([(105, 120), (215, 120), (160, 30)], fill="#b5838d")
    for top in range(160, 440, 60):
        draw.rectangle((148, top, 172, top + 30), fill="#ffe8b0")
    return image.transpose(Image.Transpose.ROTATE_90)


def main() -> None:
    """Write all three."""
    FOLDER.mkdir(exist_ok=True)
    hills().save(FOLDER / "hills.jpg", quality=80)
    badge().save(FOLDER / "badge.png", optimize=True)
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    tower().save(FOLDER / "tower.jpg", quality=80, exif=turned)


if __name__ == "__main__":
    main()
