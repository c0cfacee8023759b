"""The tenants' pure parts, and what the trial expects of their files."""

from __future__ import annotations

import ast
import asyncio
import io
import json
import sys
import wave
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .conftest import HER_OS, TWIN, load
