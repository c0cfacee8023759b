"""Client of the Chatterbox text-to-speech server, as the phone daemon uses it.

A sentence goes out as text and comes back as a WAV; the caller hears it in small frames. The rule that everything
else hangs on: *a call must never end because the voice is away.* Whatever goes wrong with Chatterbox (it is being
restarted, it is slow, it answers nonsense), the sentence is skipped, the caller hears silence for that moment, and the
conversation goes on: mute, not crashed.

The frames are those of a voice pipeline: TTSStartedFrame, any number of TTSAudioRawFrame, TTSStoppedFrame. The last
one always comes, so that a caller who waits for the end of a sentence always gets it.

This copy lives in the digital twin; the server behind it is a stand-in that speaks with espeak-ng.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import time
import wave
from collections.abc import AsyncGenerator

import httpx

log = logging.getLogger("chatterbox_tts")

DEFAULT_URL = "http://127.0.0.1:8772"

# Long sentences take their time, but nobody on a phone waits longer than this for a voice.
TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 0.5

# Sound goes out in pieces of this length, in seconds: short enough to be interrupted politely.
FRAME_S = 0.04


class Frame:
    """Something that travels through the voice pipeline."""


@dataclasses.dataclass(frozen=True)
class TTSStartedFrame(Frame):
    """A sentence begins."""


@dataclasses.dataclass(frozen=True)
class TTSStoppedFrame(Frame):
    """A sentence is over, spoken or not."""


@dataclasses.dataclass(frozen=True)
class TTSAudioRawFrame(Frame):
    """A piece of sound: 16 bit little endian samples."""

    audio: bytes
    sample_rate_hz: int
    channels: int


@dataclasses.dataclass
class Metrics:
    """Counters for the daemon's status page. Times in seconds on the monotonic clock."""

    spoken: int = 0
    failed: int = 0
    last_error: str | None = None
    last_spoken_s: float | None = None
    last_latency_s: float | None = None
    voice_s: float = 0.0


def split_frames(pcm: bytes, sample_rate_hz: int, channels: int, width: int) -> list[bytes]:
    """Cut sound into pieces of FRAME_S; the last one may be shorter."""
    step = max(1, int(sample_rate_hz * FRAME_S)) * channels * width
    return [pcm[begin : begin + step] for begin in range(0, len(pcm), step)]


class NoSoundError(httpx.HTTPError):
    """The server answered, but what it sent is not a voice.

    It is an HTTPError on purpose: for a caller, a server that sends nonsense is as good as one that is away.
    """


@dataclasses.dataclass(frozen=True)
class Sound:
    """A decoded WAV."""

    pcm: bytes
    sample_rate_hz: int
    channels: int
    width: int

    @property
    def duration_s(self) -> float:
        return len(self.pcm) / (self.sample_rate_hz * self.channels * self.width)


def decode_wav(content: bytes) -> Sound:
    """Decode a WAV; raises NoSoundError when it isn't one, or holds no sample that is not zero."""
    try:
        with wave.open(io.BytesIO(content)) as reader:
            sound = Sound(
                reader.readframes(reader.getnframes()),
                reader.getframerate(),
                reader.getnchannels(),
                reader.getsampwidth(),
            )
    except (wave.Error, EOFError) as error:
        raise NoSoundError(f"not a WAV: {error}") from error
    if not any(sound.pcm):
        raise NoSoundError("silence")
    return sound


class ChatterboxTTSService:
    """Speaks sentences through Chatterbox.

    Args:
        url: address of the server.
        timeout_s: how long a whole sentence may take.
    """

    def __init__(self, url: str = DEFAULT_URL, timeout_s: float = TIMEOUT_S) -> None:
        self.url = url.rstrip("/")
        self.metrics = Metrics()
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S))

    async def close(self) -> None:
        """Give back the connections."""
        await self._client.aclose()

    # One sentence at a time: the daemon waits for TTSStoppedFrame before it says the next one.
    async def run_tts(self, text: str) -> AsyncGenerator[Frame, None]:
        """Speak one sentence.

        Yields TTSStartedFrame, the sound, and TTSStoppedFrame. When the server is away, late, or sends no
        voice, TTSStoppedFrame comes at once: the sentence is silent, and the call goes on.

        Args:
            text: one sentence; the server speaks it in one go.

        Nothing is raised for a voice that is away. Errors of this program itself are.
        """
        began_s = time.monotonic()
        yield TTSStartedFrame()
        try:
            response = await self._client.post(
                f"{self.url}/synthesize",
                json={"text": text},
            )
            response.raise_for_status()
            sound = decode_wav(response.content)
            for piece in split_frames(sound.pcm, sound.sample_rate_hz, sound.channels, sound.width):
                yield TTSAudioRawFrame(piece, sound.sample_rate_hz, sound.channels)
            self._note_success(sound, time.monotonic() - began_s)
            yield TTSStoppedFrame()
        # The promise of this module: a voice that is away makes the line silent, never dead.
        except (httpx.TimeoutException, httpx.HTTPError) as error:
            self._note_failure(error)
            yield TTSStoppedFrame()

    def _note_success(self, sound: Sound, latency_s: float) -> None:
        self.metrics.spoken += 1
        self.metrics.last_error = None
        self.metrics.last_spoken_s = time.monotonic()
        self.metrics.last_latency_s = latency_s
        self.metrics.voice_s += sound.duration_s

    def _note_failure(self, error: Exception) -> None:
        self.metrics.failed += 1
        self.metrics.last_error = f"{type(error).__name__}: {error}"
        log.warning("sentence skipped: %s", self.metrics.last_error)
