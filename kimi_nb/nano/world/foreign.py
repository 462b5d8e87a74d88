"""Questions in Chinese and Arabic that a tool answers: the weather and the time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kimi_nb.nano.world import words
from kimi_nb.nano.world.families import FAMILIES
from kimi_nb.nano.world.sample import Message, Sample, as_text, call, result, said
from kimi_nb.nano.world.tools import offers_of, tool_sample
from kimi_nb.nano.world.words import made_up_ar, made_up_zh, pick, templates

if TYPE_CHECKING:
    import random

    from kimi_nb.nano.world.words import Split

__all__ = ["foreign"]

# What is asked, and the answer; {0} is the city, {1} the degrees or the time.
_ZH = {
    "weather": (
        ("{0}天气怎么样？", "{0}今天天气如何？", "请告诉我{0}的天气。", "查一下{0}的天气。", "{0}现在冷吗？", "今天{0}天气怎么样？",
         "请查一下{0}的天气。", "{0}现在天气怎么样？", "我想知道{0}的天气。", "{0}的天气好吗？", "{0}热不热？", "帮我查{0}的天气。",
         "{0}现在多少度？", "请问{0}天气如何？", "告诉我{0}今天的天气。", "现在{0}冷不冷？"),
        "{0}现在 {1} °C。",
    ),
    "clock": (
        ("{0}现在几点？", "现在{0}几点了？", "请告诉我{0}的时间。", "查一下{0}的时间。", "{0}几点了？", "请问{0}现在几点？",
         "{0}的当地时间是多少？", "我想知道{0}的时间。", "帮我查{0}的时间。", "{0}现在是什么时间？"),
        "{0}现在是 {1}。",
    ),
}  # fmt: skip
_AR = {
    "weather": (
        ("كيف الطقس في {0}؟", "ما حال الطقس في {0}؟", "أخبرني عن الطقس في {0}.", "هل الجو بارد في {0}؟",
         "ما الطقس اليوم في {0}؟", "كيف الجو في {0}؟", "كيف الطقس اليوم في {0}؟", "ما الطقس في {0}؟",
         "كيف حال الطقس في {0}؟", "هل الجو حار في {0}؟", "أريد الطقس في {0}.", "ما درجة الحرارة في {0}؟",
         "الطقس في {0} من فضلك.", "هل تعرف الطقس في {0}؟", "قل لي الطقس في {0}.", "كيف هو الطقس اليوم في {0}؟",
         "من فضلك، ما الطقس في {0}؟"),
        "الحرارة في {0} الآن {1} °C.",
    ),
    "clock": (
        ("كم الساعة في {0}؟", "كم الساعة الآن في {0}؟", "ما الوقت في {0}؟", "أخبرني عن الوقت في {0}.",
         "ما الوقت الآن في {0}؟", "أريد الوقت في {0}.", "قل لي كم الساعة في {0}.", "من فضلك، كم الساعة في {0}؟",
         "هل تعرف الوقت في {0}؟", "الساعة في {0} من فضلك."),
        "الساعة في {0} الآن {1}.",
    ),
}  # fmt: skip


def foreign(rng: random.Random, split: Split) -> Sample:
    """Return a question in Chinese or Arabic, answered in the same language; a failure is told in it, too."""
    chinese = rng.random() < 0.5
    key = rng.choice(["weather", "weather", "clock"])
    family = next(family for family in FAMILIES if family.key == key)
    offers = offers_of(rng, split, family, others=rng.choice([0, 1, 2]))
    offer = offers[0]
    if rng.random() < 0.35:
        city = pick(rng, words.CITIES_ZH if chinese else words.CITIES_AR, split)
    else:
        city = made_up_zh(rng, split) if chinese else made_up_ar(rng, split)
    asked, answer = (_ZH if chinese else _AR)[key]
    if key == "weather":
        shown = str(rng.randint(-20, 42))
        told: Any = rng.choice([{"temp_c": int(shown)}, {"temp_c": int(shown), "sky": rng.choice(words.SKIES)},
                                {"city": city, "temperature": int(shown)}])  # fmt: skip
    else:
        shown = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
        told = rng.choice([{"time": shown}, shown, {"city": city, "time": shown}])
    must: tuple[str, ...] = (shown, city)
    said_so = answer.format(city, shown)
    failing = 0.08
    if rng.random() < failing:
        told = rng.choice(
            [{"error": "not found"}, "ValueError: not found", {"ok": False, "error": "not found"}]
        )
        said_so = (
            f"工具 {offer.name} 出错了：not found。" if chinese else f"فشلت الأداة {offer.name}: not found."
        )
        must = (offer.name, "not found")
    messages: list[Message] = [
        {"role": "user", "content": rng.choice(templates(asked, split)).format(city)},
        call(
            [offer.call({"city": city})], thought=f"The user asks about {family.noun}. I call {offer.name}."
        ),
        result(offer.name, 0, as_text(rng, told)),
        said(said_so, thought="I have the result."),
    ]
    return tool_sample("tool.foreign", rng, offers, messages, *must)
