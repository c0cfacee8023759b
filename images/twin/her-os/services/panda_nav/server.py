"""panda-nav: the navigation service of the robot car.

The car asks here what to do next. The service takes the camera picture, asks the vision model behind llama-server,
and turns the model's reply into a command. When the model can't be reached the car is told that it is blind, and
stops: a wrong guess is worse than standing still.

Endpoints
    GET  /health     {"status": "ok"}
    GET  /status     what the car is doing right now
    POST /drive      {"moving": bool}: the car reports its own state
    POST /navigate   {"goal": str}: one picture, one command

This copy lives in the digital twin: the service, its model and its replies are real, the car is not.
"""

from __future__ import annotations

import base64
import dataclasses
import os
import pathlib
import re
import time

import httpx
from fastapi import FastAPI
from pydantic import BaseModel

# The language of the car: what the model may answer. The prompt and the parser are both made from these.
NAV_ACTIONS = ("forward", "left", "right")
NAV_SIZES = ("small", "medium", "large")

# How far each size goes, in centimetres for a move and in degrees for a turn.
STEP_CM = {"small": 10, "medium": 30, "large": 60}
TURN_DEG = {"small": 15, "medium": 45, "large": 90}

# Words that a chatty model uses instead of the agreed ones.
ACTION_HINTS = {
    "straight": "forward",
    "ahead": "forward",
    "onward": "forward",
    "leftward": "left",
    "leftwards": "left",
    "rightward": "right",
    "rightwards": "right",
}
SIZE_HINTS = {
    "little": "small",
    "slightly": "small",
    "tiny": "small",
    "moderate": "medium",
    "normal": "medium",
    "big": "large",
    "far": "large",
    "sharply": "large",
}

MODEL_URL = os.environ.get("PANDA_NAV_MODEL_URL", "http://127.0.0.1:11435")
CAMERA_IMAGE = pathlib.Path(os.environ.get("PANDA_NAV_CAMERA", str(pathlib.Path.home() / "car-view.jpg")))
MAX_TOKENS = 20
TEMPERATURE = 0.0
MODEL_TIMEOUT_S = 5.0

# One thing at a time: a command on one line, with nothing but the two agreed words.
EXACT_REPLY = re.compile(rf"({'|'.join(NAV_ACTIONS)}) ({'|'.join(NAV_SIZES)})")
# The same two words side by side, but in any case, with punctuation, or with text around them on the same line.
TOLERANT_REPLY = re.compile(
    rf"\b({'|'.join(NAV_ACTIONS)})\b[^\w\n]+({'|'.join(NAV_SIZES)})\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class NavReply:
    """A parsed reply: the action, its size, and which strategy understood it (1 exact, 2 tolerant, 3 loose)."""

    action: str
    size: str
    strategy: int


@dataclasses.dataclass
class CarState:
    """What the car last told about itself, and the last command it was given."""

    moving: bool = False
    since_s: float = dataclasses.field(default_factory=time.monotonic)
    last_action: str | None = None
    last_size: str | None = None
    commands: int = 0
    blind: int = 0

    def drive(self, moving: bool) -> None:
        if moving != self.moving:
            self.moving = moving
            self.since_s = time.monotonic()

    def as_dict(self) -> dict[str, object]:
        return {
            "moving": self.moving,
            "state": "driving" if self.moving else "parked",
            "for_s": round(time.monotonic() - self.since_s, 3),
            "last_action": self.last_action,
            "last_size": self.last_size,
            "commands": self.commands,
            "blind": self.blind,
        }


class DriveReport(BaseModel):
    """The body of POST /drive."""

    moving: bool


class NavRequest(BaseModel):
    """The body of POST /navigate.

    The goal is said in plain words, without a full stop: "something interesting", "the red door". It goes into the
    prompt as it is, and nowhere else.
    """

    goal: str = "something interesting"


# ---- the prompt ------------------------------------------------------------------------------------------------
# Changing one word of it changes what the model does: measure before you do. The first lines say who the model is,
# the last ones what it may answer; the goal stands between them.


def build_vlm_prompt(goal: str) -> str:
    """Return what the vision model is asked, for a goal in plain words."""
    actions = ", ".join(NAV_ACTIONS)
    sizes = ", ".join(NAV_SIZES)
    return (
        "You are the navigation module of a small robot.\n"
        "You see one picture from the front camera.\n"
        f"Goal: {goal}\n"
        "Answer with exactly two words.\n"
        f"The first word is one of {actions}.\n"
        f"The second word is one of {sizes}.\n"
        "Do not explain your answer."
    )


def parse_nav_reply(text: str) -> NavReply | None:
    """Turn a model's reply into a command: exactly as agreed, then tolerantly, then by loose keywords.

    Returns None when no action can be found; a reply with an action but no size means the smallest step.
    """
    exact = EXACT_REPLY.fullmatch(text.strip())
    if exact is not None:
        return NavReply(exact[1], exact[2], 1)
    tolerant = TOLERANT_REPLY.search(text)
    if tolerant is not None:
        return NavReply(tolerant[1].lower(), tolerant[2].lower(), 2)
    words = re.findall(r"[a-z]+", text.lower())
    actions = [ACTION_HINTS.get(word, word) for word in words]
    action = next((word for word in actions if word in NAV_ACTIONS), None)
    if action is None:
        return None
    sizes = [SIZE_HINTS.get(word, word) for word in words]
    return NavReply(action, next((word for word in sizes if word in NAV_SIZES), NAV_SIZES[0]), 3)


def chat_request(goal: str, picture: bytes) -> dict[str, object]:
    """Return the request body for llama-server's chat endpoint."""
    url = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
    return {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "image_url", "image_url": {"url": url}},
                    {"type": "text", "text": build_vlm_prompt(goal)},
                ],
            }
        ],
        "max_tokens": MAX_TOKENS,
        "temperature": TEMPERATURE,
        "cache_prompt": True,
        "chat_template_kwargs": {"enable_thinking": False},
    }


app = FastAPI(title="panda-nav")
car = CarState()


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/status")
async def status() -> dict[str, object]:
    return car.as_dict()


@app.post("/drive")
async def drive(report: DriveReport) -> dict[str, object]:
    car.drive(report.moving)
    return car.as_dict()


@app.post("/navigate")
async def navigate(request: NavRequest) -> dict[str, object]:
    """Ask the model once. A model that is away, or that makes no sense, means stop."""
    try:
        async with httpx.AsyncClient(timeout=MODEL_TIMEOUT_S) as client:
            body = chat_request(request.goal, CAMERA_IMAGE.read_bytes())
            answer = await client.post(f"{MODEL_URL}/v1/chat/completions", json=body)
            answer.raise_for_status()
            text = str(answer.json()["choices"][0]["message"]["content"] or "")
    except (OSError, httpx.HTTPError, KeyError, IndexError, ValueError) as error:
        car.blind += 1
        return {"action": "stop", "size": None, "blind": True, "reason": type(error).__name__}
    reply = parse_nav_reply(text)
    if reply is None:
        return {"action": "stop", "size": None, "blind": False, "reason": "reply not understood", "reply": text}
    car.commands += 1
    car.last_action, car.last_size = reply.action, reply.size
    reach = STEP_CM[reply.size] if reply.action == "forward" else TURN_DEG[reply.size]
    return {"action": reply.action, "size": reply.size, "reach": reach, "strategy": reply.strategy, "blind": False}
