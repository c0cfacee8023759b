#!/usr/bin/python
# Copyright (c) 2026, the edgelab.model_trial authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Page over module_utils/speech: does a speech service really speak?"""

from __future__ import annotations

DOCUMENTATION = r"""
module: speech_check
short_description: Check that a text-to-speech service answers with speech
version_added: "0.1.0"
description:
  - Sends a JSON body to a text-to-speech service and parses what comes back. It must be a WAV that is
    complete, larger than a limit, and not silent. A positive health page does not prove speech.
  - Fails and says what came instead, for example an HTML page, an empty body, a truncated WAV
    or silence.
options:
  url:
    description:
      - Address that is asked with POST, from the host itself.
    type: str
    required: true
  body:
    description:
      - Body of the request, sent as JSON.
    type: dict
    default:
      text: test one two
  min_bytes:
    description:
      - The answer must be larger than this many bytes.
    type: int
    default: 5120
  timeout_s:
    description:
      - Seconds to wait for the answer.
    type: float
    default: 30.0
extends_documentation_fragment:
  - edgelab.model_trial.attributes
attributes:
  check_mode:
    description: Only asks, so check mode makes no difference.
    support: full
  idempotent:
    description: Changes nothing, however often it asks.
    support: full
requirements:
  - Python 3.10 or newer on the host.
seealso:
  - module: edgelab.model_trial.checks
"""

EXAMPLES = r"""
- name: The voice is back
  edgelab.model_trial.speech_check:
    url: http://127.0.0.1:8772/synthesize
    body:
      text: test one two

- name: Wait until it speaks, half a minute at most
  edgelab.model_trial.speech_check:
    url: http://127.0.0.1:8772/synthesize
    timeout_s: 5
  register: spoken
  until: spoken is succeeded
  retries: 6
  delay: 1
"""

RETURN = r"""
found:
  description: What came back, in words.
  returned: always
  type: str
  sample: WAV, 1.42 s, 24000 Hz, 1 channel, 68204 bytes
audio_s:
  description: Length of the speech in seconds, 0 when there is none.
  returned: always
  type: float
  sample: 1.42
rate_hz:
  description: Samples per second, 0 when there is no audio.
  returned: always
  type: int
  sample: 24000
size_bytes:
  description: Size of the answer's body.
  returned: always
  type: int
  sample: 68204
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.edgelab.model_trial.plugins.module_utils import planfile, speech
from ansible_collections.edgelab.model_trial.plugins.module_utils.plan import Speech


def main() -> None:
    """Ask once, and fail with what came instead of speech."""
    module = AnsibleModule(
        argument_spec={
            "url": {"type": "str", "required": True},
            "body": {"type": "dict", "default": {"text": "test one two"}},
            "min_bytes": {"type": "int", "default": 5120},
            "timeout_s": {"type": "float", "default": 30.0},
        },
        supports_check_mode=True,
    )
    try:
        planfile.check_figures(module.params)
    except planfile.PlanError as err:
        module.fail_json(msg=str(err))
    spoken = speech.listen(Speech(**module.params))
    result = {
        "found": spoken.found,
        "audio_s": round(spoken.duration_s, 3),
        "rate_hz": spoken.rate_hz,
        "size_bytes": spoken.bytes,
    }
    if not spoken.ok:
        expected = f"a valid WAV of more than {module.params['min_bytes']} bytes that is not silent"
        module.fail_json(msg=f"{module.params['url']}: expected {expected}, found {spoken.found}", **result)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
