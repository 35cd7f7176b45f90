"""Requests to a smart home's service desk: the templates of home-assistant-intents, filled.

The package holds, for each of 42 intents, templates such as "(turn|switch) on [the] {name}", and
the sentences that the system answers with. hassil reads the templates' grammar; what people call
their rooms and devices is not part of the package and stands here.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from rljax.tasks.sources import DataError

AREAS = (
    "kitchen", "living room", "bedroom", "bathroom", "office", "garage", "hallway", "garden",
    "dining room", "basement", "attic", "nursery",
)  # fmt: skip
DEVICES: Mapping[str, tuple[str, ...]] = {
    "light": ("ceiling lamp", "desk lamp", "bedside lamp", "fairy lights"),
    "switch": ("coffee maker", "kettle", "heater plug"),
    "fan": ("ceiling fan", "tower fan"),
    "media_player": ("television", "stereo", "kitchen speaker"),
    "cover": ("left curtain", "roller shutter", "patio awning"),
    "lock": ("front door", "back gate", "garden shed"),
    "valve": ("sprinkler", "main valve"),
    "climate": ("thermostat", "air conditioner"),
    "binary_sensor": ("phone charger", "smoke detector"),
    "sensor": ("humidity sensor", "power meter"),
    "todo": ("chores", "homework", "packing"),
    "vacuum": ("robot cleaner", "dusty"),
    "person": ("alice", "bruno"),
    "lawn_mower": ("lawn robot", "mowbot"),
    "scene": ("party", "movie night"),
    "weather": ("oslo", "lisbon"),
    "button": ("doorbell reset", "pairing"),
    "script": ("wake up routine", "good night routine"),
}
"""Names by the domain that a template asks for; what a household calls its things."""
WILDCARDS: Mapping[str, tuple[str, ...]] = {
    "message": ("dinner is ready", "time for bed", "the car is here"),
    "search_query": ("the beatles", "jazz classics", "morning news", "miles davis"),
    "zone": ("work", "school"),
    "timer_name": ("pizza", "laundry", "tea", "bread"),
    "timer_command": ("open the garage", "play music", "turn off the oven"),
    "todo_list_item": ("call the plumber", "buy stamps", "water plants"),
    "shopping_list_item": ("milk", "bananas", "coffee beans", "toilet paper"),
    "area": AREAS,
    "floor": ("first", "second", "ground", "top"),
}
NUMBERS: Mapping[str, tuple[int, ...]] = {
    "percentage": tuple(range(5, 101, 5)),
    "temperature": tuple(range(15, 27)),
    "": (1, 2, 3, 5, 10, 12, 15, 20, 25, 30, 40, 45),
}
"""Round numbers, as people say them, by the kind of a range; "" is every other kind."""
INSTALL = "pip install home-assistant-intents hassil"


class Request(NamedTuple):
    """What a customer says, and what is right to do."""

    text: str
    reply: str
    """Name of the reply: the intent, and which of its responses."""
    slots: dict[str, str]
    """What the reply is about, by slot: {"area": "kitchen"}."""
    spoken: dict[str, str]
    """How the customer put each of them."""
    template: str
    where: str


@dataclasses.dataclass(frozen=True)
class Assist:
    """The intents of a language, as the package has them."""

    intents: dict[str, Any]
    responses: dict[str, dict[str, str]]
    lists: dict[str, Any]
    rules: dict[str, Any]
    where: str

    def templates(self) -> Iterator[tuple[str, dict[str, Any], str]]:
        """Yield (intent, block, sentence template), each sentence once, where it first stands."""
        seen: set[str] = set()
        for intent, content in self.intents.items():
            for block in content["data"]:
                for sentence in block["sentences"]:
                    if sentence not in seen:
                        seen.add(sentence)
                        yield intent, block, sentence


def load_assist() -> Assist:
    """Read the English intents. Raises DataError where one of the packages is not installed."""
    spec = importlib.util.find_spec("home_assistant_intents")
    places = spec.submodule_search_locations if spec else None
    if not places or importlib.util.find_spec("hassil") is None:
        raise DataError(
            "the task customer_service needs the packages home-assistant-intents and hassil: "
            f"{INSTALL}; or give a file of your own, customer_service?path=faq.csv"
        )
    path = Path(places[0]) / "data" / "en.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    from hassil import parse_sentence

    rules = {name: parse_sentence(text) for name, text in content["expansion_rules"].items()}
    responses = content["responses"]["intents"]
    return Assist(content["intents"], responses, content["lists"], rules, "en.json")


def reply_name(intent: str, response: str) -> str:
    """Name a reply: HassTurnOn and lights_area make "TurnOn lights area"."""
    name = intent.removeprefix("Hass")
    return name if response == "default" else f"{name} {response.replace('_', ' ')}"


def make_requests(assist: Assist, fills: int) -> Iterator[Request]:
    """Fill every template `fills` times at random, the same way at every call.

    What is drawn for a template depends on its text alone. Equal sentences of one template come
    once.
    """
    from hassil import parse_sentence

    for intent, block, sentence in assist.templates():
        parsed = parse_sentence(sentence).expression
        draw = random.Random(f"customer service {sentence}")
        name = reply_name(intent, block.get("response", "default"))
        domains = (block.get("requires_context") or {}).get("domain") or tuple(DEVICES)[:4]
        texts: set[str] = set()
        for _ in range(fills):
            filled = _Filled(assist, draw, tuple(domains))
            text = re.sub(r"\s+", " ", filled.write(parsed)).strip()
            if text and text not in texts:
                texts.add(text)
                yield Request(
                    text, name, filled.slots, filled.spoken, sentence, f"{assist.where}: {sentence}"
                )


class _Filled:
    """One drawing of a template; collects what it has put into the slots."""

    def __init__(self, assist: Assist, draw: random.Random, domains: tuple[str, ...]) -> None:
        self.assist, self.draw, self.domains = assist, draw, domains
        self.slots: dict[str, str] = {}
        self.spoken: dict[str, str] = {}

    def write(self, expression: Any) -> str:
        """Write an expression of hassil's grammar: choices, optional parts, rules and lists."""
        from hassil import Alternative, Group, ListReference, Permutation, RuleReference, TextChunk

        if isinstance(expression, TextChunk):
            return expression.original_text
        if isinstance(expression, RuleReference):
            return self.write(self.assist.rules[expression.rule_name].expression)
        if isinstance(expression, ListReference):
            return self._fill(expression.list_name, expression.slot_name)
        if isinstance(expression, Alternative):
            return self.write(self.draw.choice(expression.items))
        if isinstance(expression, Group):
            items = list(expression.items)
            if isinstance(expression, Permutation):
                self.draw.shuffle(items)
            return "".join(self.write(item) for item in items)
        raise DataError(f"{self.assist.where}: hassil has an expression that is not known here: "
                        f"{type(expression).__name__}")  # fmt: skip

    def _fill(self, name: str, slot: str) -> str:
        spoken, value = self._value(name)
        self.slots[slot], self.spoken[slot] = value, spoken
        return spoken

    def _value(self, name: str) -> tuple[str, str]:
        """Draw what is said and what it means."""
        from hassil import parse_sentence

        if name == "name":
            devices = DEVICES.get(self.draw.choice(self.domains), DEVICES["switch"])
            chosen = self.draw.choice(devices)
            return chosen, chosen
        if name in WILDCARDS:
            chosen = self.draw.choice(WILDCARDS[name])
            return chosen, chosen
        content = self.assist.lists.get(name, {})
        if "range" in content:
            kind = content["range"].get("type", "")
            low, high = content["range"]["from"], content["range"]["to"]
            fitting = [n for n in NUMBERS.get(kind, NUMBERS[""]) if low <= n <= high]
            number = str(self.draw.choice(fitting or [low, high]))
            return number, number
        if "values" in content:
            entry = self.draw.choice(content["values"])
            inside = _Filled(self.assist, self.draw, self.domains)
            spoken = inside.write(parse_sentence(entry["in"]).expression)
            return spoken, str(entry["out"])
        raise DataError(f"{self.assist.where}: the list {name!r} has no values that are known here")
