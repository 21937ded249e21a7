"""Makes the sample lecture: draws and plays it, encodes it as HLS in two sizes, and writes its captions.

    python docs/examples/sample_lecture.py ops/sample_lecture/sample-1

Needs ffmpeg with libx264 and aac (Debian's package `ffmpeg`, or the wheel `imageio-ffmpeg`) and Pillow, which matplotlib brings.
Everything in it is drawn and computed here: it is original, under the project's licence.
"""

import math
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, FPS, SECONDS = 640, 360, 25, 16
STEPS = (2.5, 5.0, 7.5, 10.0)
"""When the next odd number is added."""

ENDING = 12.5
CELL, CORNER = 52, (370, 290)
RATE = 44_100
COLOURS = ("#1a56c4", "#17803d", "#c2410c", "#7c3aed")
PAPER, INK, FAINT = "#ffffff", "#1b1d21", "#5c6370"
NOTES = (261.63, 329.63, 392.00, 523.25)

CAPTIONS = {
    ("en", "English"): (
        "Add up odd numbers, and look at the shape.",
        "One: a single square.",
        "Three more around it: two by two.",
        "Five more: three by three.",
        "And seven: four by four.",
        "So the first n odd numbers add up to n squared.",
    ),
    ("uz", "O‘zbekcha"): (
        "Toq sonlarni qo‘shib, hosil bo‘lgan shaklga qarang.",
        "Bir: bitta katak.",
        "Atrofiga yana uchta: ikkiga ikki.",
        "Yana beshta: uchga uch.",
        "Yana yettita: to‘rtga to‘rt.",
        "Demak, dastlabki n ta toq sonning yig‘indisi n kvadratga teng.",
    ),
}


def frames() -> Iterator[bytes]:
    """Yield every picture, as RGB."""
    for number in range(SECONDS * FPS):
        yield picture(number / FPS).tobytes()


def picture(at: float) -> Image.Image:
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((32, 26), "The sum of odd numbers", INK, font(28))
    count = sum(at >= step for step in STEPS)
    for ring in range(count):
        grown = min(1.0, (at - STEPS[ring]) / 0.8)
        cells = [(ring, row) for row in range(ring + 1)] + [(column, ring) for column in reversed(range(ring))]
        for column, row in cells[: math.ceil(grown * len(cells))]:
            left, bottom = CORNER[0] + column * CELL, CORNER[1] - row * CELL
            draw.rectangle((left, bottom - CELL + 4, left + CELL - 4, bottom), COLOURS[ring])
    if count:
        left = 32
        for ring in range(count):
            text = f"{'+ ' if ring else ''}{2 * ring + 1} "
            draw.text((left, 130), text, COLOURS[ring], font(32))
            left += round(draw.textlength(text, font(32)))
        draw.text((32, 180), f"= {count * count} = {count} × {count}", INK, font(32))
    else:
        draw.text((32, 130), "1 + 3 + 5 + 7 = ?", FAINT, font(32))
    if at >= ENDING:
        draw.text((32, 250), "1 + 3 + … + (2n − 1) = n²", INK, font(22))
    return image


def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), size)


def sound(file: Path) -> None:
    """Write a note for each step, and a chord at the end."""
    struck = [(at, note) for at, note in zip(STEPS, NOTES, strict=True)] + [(ENDING, note) for note in NOTES]
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        for number in range(SECONDS * RATE):
            at = number / RATE
            level = sum(
                0.2 * min(1.0, (at - since) * 100) * math.exp(-1.8 * (at - since)) * math.sin(2 * math.pi * note * (at - since))
                for since, note in struck
                if since <= at
            )
            out.writeframesraw(struct.pack("<h", round(max(-1.0, min(1.0, level)) * 32_000)))


def encode(ffmpeg: str, into: Path) -> None:
    """Encode two renditions, of segments of four seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        sound(Path(scratch) / "sound.wav")
        command = [
            *(ffmpeg, "-hide_banner", "-loglevel", "error", "-y"),
            *("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS), "-i", "-"),
            *("-i", f"{scratch}/sound.wav", "-filter_complex", "[0:v]split[high][large];[large]scale=320:180[low]"),
            *("-map", "[high]", "-map", "1:a", "-map", "[low]", "-map", "1:a"),
            *("-c:v", "libx264", "-profile:v", "main", "-preset", "veryslow", "-tune", "animation", "-crf", "27"),
            *("-pix_fmt", "yuv420p", "-g", str(2 * FPS), "-keyint_min", str(2 * FPS), "-sc_threshold", "0"),
            *("-c:a", "aac", "-b:a:0", "64k", "-b:a:1", "32k"),
            *("-f", "hls", "-hls_time", "4", "-hls_playlist_type", "vod", "-hls_flags", "independent_segments"),
            *("-hls_segment_type", "fmp4", "-hls_fmp4_init_filename", "init.mp4"),
            *("-hls_segment_filename", f"{into}/%v/%d.m4s", "-master_pl_name", "master.m3u8"),
            *("-var_stream_map", "v:0,a:0,name:360p v:1,a:1,name:180p", f"{into}/%v/index.m3u8"),
        ]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as encoder:
            assert encoder.stdin
            for frame in frames():
                encoder.stdin.write(frame)
        if encoder.returncode:
            sys.exit("ffmpeg could not encode it")


def caption(into: Path) -> None:
    """Write the captions, each as one WebVTT file, and name them in the master playlist."""
    (into / "captions").mkdir()
    times = [0.3, *STEPS, ENDING, SECONDS]
    media = []
    for (language, label), texts in CAPTIONS.items():
        cues = [f"{_time(times[n])} --> {_time(times[n + 1] - 0.1)}\n{text}\n" for n, text in enumerate(texts)]
        (into / "captions" / f"{language}.vtt").write_text("\n".join(["WEBVTT\n", *cues]))
        lines = [
            "#EXTM3U",
            f"#EXT-X-TARGETDURATION:{SECONDS}",
            "#EXT-X-PLAYLIST-TYPE:VOD",
            f"#EXTINF:{SECONDS},",
            f"{language}.vtt",
        ]
        (into / "captions" / f"{language}.m3u8").write_text("\n".join([*lines, "#EXT-X-ENDLIST", ""]))
        media.append(
            f'#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID="captions",NAME="{label}",LANGUAGE="{language}",AUTOSELECT=YES,'
            f'DEFAULT=NO,URI="captions/{language}.m3u8"'
        )
    master = (into / "master.m3u8").read_text()
    master = re.sub(r"(#EXT-X-STREAM-INF:[^\n]*)", r'\1,SUBTITLES="captions"', master)
    (into / "master.m3u8").write_text(master.replace("#EXT-X-STREAM-INF", "\n".join([*media, "#EXT-X-STREAM-INF"]), 1))


def _time(seconds: float) -> str:
    return f"00:00:{seconds:06.3f}"


def _ffmpeg() -> str:
    found = os.environ.get("FFMPEG") or shutil.which("ffmpeg")
    if found:
        return found
    try:
        import imageio_ffmpeg
    except ImportError:
        sys.exit("ffmpeg is not here: apt-get install ffmpeg, or pip install imageio-ffmpeg")
    return str(imageio_ffmpeg.get_ffmpeg_exe())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    encode(_ffmpeg(), folder)
    caption(folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    print(f"{folder}: {size:,} bytes")
