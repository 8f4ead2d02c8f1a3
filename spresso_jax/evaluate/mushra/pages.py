"""The pages of a listening test as webMUSHRA's YAML, and what webMUSHRA demands of them.

Facts about webMUSHRA 1.4 (github.com/audiolabs/webMUSHRA): condition names are shown only with `showConditionNames:
true` or at the end with `showResults: true`; results are sent as a form field that is not escaped, so that a `&`, `+` or
`%` in a name or an answer would destroy the whole session; names go into HTML attributes as they are. Hence plain names
only, and questions with fixed answers only.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

from spresso_jax.evaluate.mushra.results import REFERENCE, TRAINING

MAX_CONDITIONS = 12
MAX_SECONDS = 12.0
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,49}")
TOP_KEYS = {"testname", "testId", "bufferSize", "stopOnErrors", "showButtonPreviousPage", "remoteService", "pages"}
# Page type -> (keys it must have, keys it may have besides); `type` is understood.
PAGE_KEYS = {
    "generic": ({"id", "name", "content"}, set()),
    "consent": ({"id", "name", "content", "mustConsent"}, set()),
    "volume": ({"id", "name", "content", "stimulus", "defaultVolume"}, set()),
    "mushra": (
        {"id", "name", "content", "reference", "createAnchor35", "createAnchor70", "stimuli"},
        {"showWaveform", "enableLooping", "randomize", "showConditionNames", "strict", "switchBack"},
    ),
    "finish": ({"name", "content", "showResults", "writeResults", "questionnaire"}, {"popupContent", "showErrors"}),
}
# Seconds that a listener spends on one stimulus of a page, for the estimate (evaluation.md 7.1: 15 pages of 5 to 6
# conditions take 20 to 30 minutes).
SECONDS_PER_STIMULUS = (15.0, 22.0)

_WELCOME = (
    "<p>Thank you for taking part. You will hear short sounds, in several versions each, and rate how close each version "
    "comes to a reference.</p>"
    "<p>Please use headphones in a quiet room. There is one page to practise, then {pages} pages; plan about {minutes} "
    "minutes, and take a break whenever you like. Answers are sent at the very end only: please do not reload or "
    "leave the page before that.</p>"
)
_CONSENT = (
    "<p>Your ratings and the answers to three questions at the end are stored without your name, under a random number, "
    "and are used for research. You may stop at any time by closing the page; nothing is stored then.</p>"
)
_VOLUME = "<p>Play the sound, set a comfortable level, and leave it unchanged until the end.</p>"
_TASK = (
    "<p>Play the reference and every condition, as often as you like, then rate with the slider how similar each "
    "condition sounds to the reference: every audible difference counts. One of the conditions is the reference itself "
    "and should get 100. You can loop a part of the sound with the handles below the waveform.</p>"
)
_PRACTICE = "<p><strong>For practice.</strong> These ratings are not used. Listen for the range from best to worst.</p>"
_START = "<p>The practice is over. The next {pages} pages are the test itself.</p>"
_FINISH = "<p>Please answer three questions, then press the button below to send your ratings.</p>"
# webMUSHRA shows this even when sending failed, with its own line about the error above it (`showErrors`).
_SENT = "<p>Unless an error is shown here, your ratings were sent and you may close this page.</p>"
_QUESTIONS = (
    ("experience", "Have you taken part in listening tests before?", ("never", "sometimes", "often")),
    ("playback", "What did you listen with?", ("headphones", "earphones", "loudspeakers")),
    ("hearing", "Do you know of any hearing loss of yours?", ("no", "yes", "unsure")),
)


def mushra_page(page_id: str, name: str, content: str, files: Mapping[str, str]) -> dict[str, Any]:
    """One rating page; `files` maps the conditions, the reference among them, to their paths."""
    return {
        "type": "mushra",
        "id": page_id,
        "name": name,
        "content": content,
        "showWaveform": True,
        "enableLooping": True,
        "randomize": True,
        "showConditionNames": False,
        "createAnchor35": False,
        "createAnchor70": False,
        "reference": files[REFERENCE],
        "stimuli": {condition: path for condition, path in files.items() if condition != REFERENCE},
    }


def test_config(
    title: str, test_id: str, training: Mapping[str, str], items: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """The whole test.

    Args:
      title: shown above every page.
      test_id: name of the results' folder; lower case, as webMUSHRA makes it.
      training: condition -> path, for the page to practise on.
      items: page id -> condition -> path; webMUSHRA shuffles these pages for every listener.
    """
    low, high = minutes(len(items), len(training))
    pages = [mushra_page(page, "Please rate", _TASK, files) for page, files in items.items()]
    return {
        "testname": title,
        "testId": test_id,
        "bufferSize": 2048,
        "stopOnErrors": True,
        "showButtonPreviousPage": True,
        "remoteService": "service/write.php",
        "pages": [
            {
                "type": "generic",
                "id": "welcome",
                "name": html.escape(title),
                "content": _WELCOME.format(pages=len(items), minutes=f"{low:.0f} to {high:.0f}"),
            },
            {"type": "consent", "id": "consent", "name": "Consent", "mustConsent": True, "content": _CONSENT},
            {
                "type": "volume",
                "id": "volume",
                "name": "Volume",
                "content": _VOLUME,
                "stimulus": training[REFERENCE],
                "defaultVolume": 0.5,
            },
            mushra_page(TRAINING, "Practice", _PRACTICE + _TASK, training),
            {"type": "generic", "id": "start", "name": "The test", "content": _START.format(pages=len(items))},
            ["random", *pages],
            {
                "type": "finish",
                "name": "Almost done",
                "content": _FINISH,
                "popupContent": _SENT,
                "showResults": False,
                "showErrors": True,
                "writeResults": True,
                "questionnaire": [
                    {
                        "type": "likert",
                        "name": name,
                        "label": label,
                        "response": [{"value": answer, "label": answer.capitalize()} for answer in answers],
                    }
                    for name, label, answers in _QUESTIONS
                ],
            },
        ],
    }


def minutes(items: int, stimuli: int) -> tuple[float, float]:
    """Shortest and longest plausible time for `items` pages of `stimuli` each, a page to practise and the rest included."""
    low, high = ((items + 1) * stimuli * seconds / 60.0 for seconds in SECONDS_PER_STIMULUS)
    return low + 2.0, high + 3.0


def flat_pages(pages: Sequence[Any]) -> list[dict[str, Any]]:
    """Pages in order, nested lists opened, the word `random` left out."""
    flat: list[dict[str, Any]] = []
    for page in pages:
        if isinstance(page, list):
            flat += flat_pages(page)
        elif isinstance(page, dict):
            flat.append(page)
        elif page != "random":
            raise ValueError(f"pages: {str(page)[:40]!r} is no page")
    return flat


def check_config(config: Any, source: str) -> list[dict[str, Any]]:
    """Refuses what webMUSHRA would not understand, or what would tell a listener the conditions' names.

    Returns:
      The rating pages, the one to practise on included.

    Raises:
      ValueError: naming the file, the page and the key.
    """
    if not isinstance(config, dict) or set(config) != TOP_KEYS or not isinstance(config["pages"], list):
        raise ValueError(f"{source}: must hold exactly the keys {', '.join(sorted(TOP_KEYS))}")
    pages = flat_pages(config["pages"])
    for number, page in enumerate(pages, 1):
        place = f"{source}, page {number} ({page.get('id', page.get('type'))})"
        if page.get("type") not in PAGE_KEYS:
            raise ValueError(f"{place}: unknown type {page.get('type')!r}")
        needed, possible = PAGE_KEYS[page["type"]]
        keys = set(page) - {"type"}
        if needed - keys or keys - needed - possible:
            raise ValueError(
                f"{place}: missing keys {sorted(needed - keys)}, unknown keys {sorted(keys - needed - possible)}"
            )
        if page["type"] == "mushra":
            _check_mushra_page(page, place)
        if page["type"] == "finish" and page["showResults"]:
            raise ValueError(f"{place}: showResults would show the names of the conditions")
    rated = [page for page in pages if page["type"] == "mushra"]
    names = [page["id"] for page in rated]
    if len(set(names)) != len(names) or not rated or pages[-1]["type"] != "finish":
        raise ValueError(f"{source}: needs rating pages with different ids, and a finish page as the last one")
    return rated


def _check_mushra_page(page: Mapping[str, Any], place: str) -> None:
    stimuli = page["stimuli"]
    if not isinstance(stimuli, dict) or not stimuli:
        raise ValueError(f"{place}: no stimuli")
    if len(stimuli) + 1 > MAX_CONDITIONS:
        raise ValueError(f"{place}: {len(stimuli) + 1} conditions, at most {MAX_CONDITIONS} with the hidden reference")
    if page.get("showConditionNames"):
        raise ValueError(f"{place}: showConditionNames would tell the listeners what they hear")
    for name in (page["id"], *stimuli):
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"{place}: name {name!r} may hold letters, digits, '_', '.' and '-' only")
    if REFERENCE in stimuli:
        raise ValueError(f"{place}: webMUSHRA adds the hidden reference itself, it must not be a stimulus")
