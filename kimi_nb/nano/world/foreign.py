"""Questions in Chinese and Arabic that a tool answers: the weather and the time; in training, four more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kimi_nb.nano.world import words
from kimi_nb.nano.world.families import FAMILIES, Family
from kimi_nb.nano.world.held import HELD
from kimi_nb.nano.world.phrasing import expand, kept_out
from kimi_nb.nano.world.sample import Message, Sample, as_text, call, result, said
from kimi_nb.nano.world.tools import offers_of, tool_sample
from kimi_nb.nano.world.words import made_up_ar, made_up_zh, pick

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

    from kimi_nb.nano.world.words import Split

__all__ = ["ABROAD", "Abroad", "foreign"]

_FRAMES = {
    "zh": (
        "(告诉我|说说|给我看看|看看|查查|查|查一查|找找|说一下|查一下|看一下|给我|我要|我想要|我需要|我想知道|我想看|我想查|我想了解|需要知道|显示|打印|发给我|念一下){}。",
        "{}(怎么样|如何|好吗|好不好|是什么样的|呢|是多少|是什么|有吗|有没有|知道吗)？", "(你知道|你知不知道|能不能告诉我|可以告诉我|能告诉我|可以查|能查到|有没有|是否知道|谁知道){}吗？", "(能不能告诉我|可不可以查|会不会查|知不知道){}？",
        "关于{}，(告诉我|说说看|我想知道)。", "把{}(告诉我|发给我|说一下|念给我听)。", "{}，(谢谢|告诉我|我想知道|快查)。", "{}？", "{}。", "我问的是{}。",
    ),
    "ar": (
        "(أخبرني عن|قل لي|أعطني|أرني|أريد أن أعرف|أريد|أحتاج إلى|أود معرفة|ابحث عن|تحقق من|اعرض|هات|اقرأ لي|أرسل لي|اكتب لي|أحب أن أعرف|اطبع) {}.",
        "(ما|ما هو|ما هي|كيف|هل تعرف|هل لديك|ماذا عن|هل يمكنك أن تخبرني عن|هل لي أن أعرف|أين أجد|من يعرف) {}؟", "{}(؟|.|، من فضلك.| من فضلك.| لو سمحت.)", "أسأل عن {}.", "سؤالي عن {}.", "{}: ما هو؟",
    ),
}  # fmt: skip
_AROUND = {
    "zh": (("请问，", "你好，", "请", "麻烦", "请帮我", "nano，", "好的。", "嗨，", "请问"), ("谢谢。", "谢谢！", "快点。", "我很急。", "谢谢你。")),
    "ar": (("من فضلك، ", "مرحبا، ", "يا nano، ", "لو سمحت، ", "حسنا. ", "أهلا، "), (" شكرا.", " شكرا لك.", " من فضلك.", " بسرعة.", " الأمر عاجل.")),
}  # fmt: skip


@dataclass(frozen=True)
class Abroad:
    """How one family is asked for in another language.

    Attributes:
        key: What it is in :data:`kimi_nb.nano.world.held.HELD`; the part before the dot is the language.
        answer: What is said; ``{0}`` is what was asked about, ``{1}`` what the tool told.
        asks: Patterns of whole questions; ``{city}`` is what is asked about, whatever it is.
        things: Patterns of noun phrases.
    """

    key: str
    answer: str
    asks: tuple[str, ...]
    things: tuple[str, ...]

    def __call__(self, rng: random.Random, split: Split) -> str:
        """Draw a phrasing, with its slot not filled yet; of what is held out, the oldest is asked most."""
        held = HELD.get(self.key)
        if split != "train" and held:
            return rng.choice(held.valid if split == "valid" else (held.test[0], *held.test))
        language = self.key[:2]
        while True:
            text = rng.choice(expand(rng.choice(self.asks)))
            if rng.random() < 0.45:
                frame = rng.choice(expand(rng.choice(_FRAMES[language])))
                text = frame.replace("{}", rng.choice(expand(rng.choice(self.things))))
            if not kept_out(text):
                break
        before, after = _AROUND[language]
        chance = rng.random()
        if chance < 0.15:
            return rng.choice(before) + text
        if chance < 0.25:
            return text + rng.choice(after)
        return text[:-1] if chance < 0.32 and text[-1] in "。？.؟" else text

    def all(self) -> Iterator[str]:
        """Yield each phrasing of training once, with nothing before or after it."""
        frames = [each for frame in _FRAMES[self.key[:2]] for each in expand(frame)]
        things = [thing for pattern in self.things for thing in expand(pattern)]
        texts = [each for pattern in self.asks for each in expand(pattern)]
        texts += [frame.replace("{}", thing) for frame in frames for thing in things]
        yield from (text for text in dict.fromkeys(texts) if not kept_out(text))


ABROAD = (
    Abroad("zh.weather", "{0}现在 {1} °C。", (
        "{city}(今天|现在|那边|那里|外面|)天气(怎么样|如何|好吗|好不好)？", "(今天|现在|)(在|){city}(的|)天气(怎么样|如何|好吗|好不好)？", "{city}(现在|今天|那边|那里|外面|)(冷吗|热吗|下雨吗|下雪吗|有雨吗|有风吗|暖和吗|凉快吗|冷还是热)？",
        "{city}(今天|那边|那里|外面|)(冷不冷|热不热|暖不暖和|有没有雨|有没有风)？", "今天{city}(冷不冷|热不热|冷吗|下雨吗|会下雨吗|有没有雨|暖和吗)？", "现在{city}(冷吗|热不热|热吗|下雨吗|下雪吗|多少度|有没有风|暖不暖和|外面冷吗)？", "{city}(现在|今天|那边|)(多少度|几度|气温多少|有多冷|有多热)？",
        "{city}(下雨了吗|下雪了吗|下雪了没有|起风了没有|天晴了没有)？", "{city}那边(下雨了吗|下雪了吗|起风了没有|天气好吗)？", "我(在|要去|明天去){city}，(天气怎么样|冷不冷|热不热|外面下雨吗|要不要带伞|要带伞吗)？", "(去|在){city}要不要(带伞|穿大衣|戴帽子)？",
        "{city}(会不会|是不是|会)(下雨|很冷|很热)(了|)？", "{city}(：|，)(天气怎么样|天气|冷吗|冷不冷|多少度)？", "在{city}，(外面冷吗|今天热不热|天气好吗)？", "说到{city}，那里天气怎么样？", "雨下到{city}了没有？"),
        ("{city}的天气", "{city}(今天|现在)的天气", "{city}天气", "{city}的气温", "{city}那边的天气", "{city}的天气情况", "(今天|现在){city}的天气", "{city}的天气预报")),
    Abroad("zh.clock", "{0}现在是 {1}。", (
        "{city}(现在|那边|那里|那边现在|)(几点|几点钟|是几点|是什么时间|是什么时候|什么时间)？", "{city}(现在|那里|)几点钟了？", "{city}现在几点了？", "(现在|这会儿)(在|){city}(几点|几点了|几点钟|是几点|是什么时间)？", "{city}的时间(是多少|是几点)？",
        "{city}当地(几点|现在几点|是什么时间)？", "{city}(现在|那边|)(是早上吗|是晚上吗|天黑了吗|天亮了没有|晚不晚|早不早)？", "现在{city}(是不是晚上|天黑了没有|是白天吗)？", "我(在|要去|要打电话到){city}，(现在几点|那里几点了|那边是几点钟)？", "{city}(：|，)(现在几点|几点了|时间)？", "在{city}，现在(几点|是什么时间)？"),
        ("{city}的时间", "{city}现在的时间", "{city}时间", "{city}(当地|的本地)时间", "现在{city}的时间", "{city}的钟点", "{city}那边的时间", "{city}现在几点")),
    Abroad("zh.stock", "{0} 的价格是 {1}。", (
        "{city}(现在|今天|)(多少钱|什么价|涨了吗|跌了没有|涨没涨|贵不贵)？", "(现在|今天){city}(多少钱|什么价|贵不贵)？", "{city}一股多少钱？"), ("{city}的股价", "{city}的价格", "{city}股票的价格", "{city}今天的股价")),
    Abroad("zh.order", "订单 {0}：{1}。", (
        "订单{city}(到了吗|到了没有|在哪里|发货了吗|发了没有|什么时候到|到哪里了)？", "我的订单{city}(呢|在哪|怎么样了|到没到)？", "现在订单{city}到哪了？"), ("订单{city}的状态", "订单{city}", "我的订单{city}")),
    Abroad("zh.person", "{0} 的电话是 {1}。", (
        "{city}的电话(是多少|是几号)？", "怎么(联系|找到){city}？", "我要(打电话给|联系){city}。", "{city}有没有电话？", "现在给{city}打电话，号码是多少？"), ("{city}的电话", "{city}的电话号码", "{city}的号码", "{city}的联系方式")),
    Abroad("zh.news", "{0} 的最新消息：{1}。", (
        "(关于|){city}(有什么新闻|有新闻吗|有没有新闻|怎么了|有什么消息)？", "现在{city}有什么新闻？", "最近{city}(怎么样|发生了什么)？"), ("{city}的新闻", "(关于|){city}的消息", "{city}的最新新闻", "{city}新闻")),
    Abroad("ar.weather", "الحرارة في {0} الآن {1} °C.", (
        "(كيف|ما) (الطقس|حال الطقس|حالة الطقس) (اليوم |الآن |)في {city}؟", "كيف (الجو|هو الطقس|هو الجو) (اليوم |الآن |)في {city}؟", "هل (الجو|الطقس) (بارد|حار|جميل|دافئ|ممطر|مشمس) (اليوم |الآن |)في {city}؟", "هل (يوجد|هناك) (مطر|ثلج|ريح|غيم) في {city}( الآن| اليوم|)؟",
        "هل يهطل الثلج في {city}( اليوم|)؟", "هل ينزل المطر في {city}( اليوم| الآن|)؟", "(كيف الطقس|كيف الجو|كم الحرارة|هل الجو بارد|هل الطقس جميل|هل توقف المطر|هل بدأ المطر|هل تهب الريح) في {city} (الآن|اليوم|هذا الصباح)؟", "متى ينزل المطر في {city}؟", "في {city}، (كيف الطقس|هل الجو بارد|كم الحرارة|هل يهطل الثلج)؟", "{city}: (كيف الطقس|هل الجو حار|هل يهطل مطر|الطقس)؟", "كم (درجة الحرارة|الحرارة) (اليوم |الآن |)في {city}؟",
        "أنا (في|ذاهب إلى) {city}. (كيف الطقس|هل الجو بارد|هل أحتاج إلى معطف)؟", "هل أحتاج إلى (معطف|مظلة) في {city}؟", "هل الجو في {city} (بارد|حار|جميل)؟", "هل تعرف (الطقس|الجو) في {city}؟", "من فضلك، (ما|كيف) الطقس في {city}؟", "بالنسبة إلى {city}، كيف الطقس؟"),
        ("الطقس (اليوم |الآن |)في {city}", "حالة الطقس في {city}", "درجة الحرارة (الآن |)في {city}", "الجو في {city}", "طقس {city}", "حرارة {city}", "أحوال الطقس في {city}")),
    Abroad("ar.clock", "الساعة في {0} الآن {1}.", (
        "كم (الساعة|الوقت) (الآن |)في {city}؟", "ما (الوقت|الساعة) في {city}( اليوم|)؟", "في {city}، (كم الساعة|ما الوقت|كم الوقت الآن|متأخر هو الوقت أم مبكر)؟", "{city}: (كم الساعة|ما الوقت|الوقت)؟", "هل (الوقت مبكر|الساعة متأخرة|الوقت ليل|هو الليل) (الآن |)في {city}؟",
        "أنا (في|ذاهب إلى) {city}. (كم الساعة|ما الوقت هناك)؟", "من فضلك، (كم الساعة|ما الوقت) في {city}؟", "كم الساعة هناك في {city}؟", "ما هو الوقت في {city} الآن؟", "هل تعرف (كم الساعة|الوقت) في {city}؟", "هل حل الليل في {city}؟"),
        ("الوقت (الآن |)في {city}", "الساعة (الآن |)في {city}", "الوقت المحلي في {city}", "كم الساعة في {city}", "توقيت {city}", "وقت {city}")),
    Abroad("ar.stock", "سعر {0} هو {1}.", (
        "(كم|ما) سعر {city}( اليوم| الآن|)؟", "بكم {city}( اليوم|)؟", "هل ارتفع {city} اليوم؟"), ("سعر {city}", "سعر سهم {city}", "سعر {city} الآن")),
    Abroad("ar.order", "الطلب {0}: {1}.", (
        "أين (الطلب|طلبي) {city}( الآن|)؟", "هل وصل الطلب {city}؟", "متى يصل الطلب {city}؟", "ما حال الطلب {city}؟"), ("حالة الطلب {city}", "الطلب {city}", "طلبي {city}")),
    Abroad("ar.person", "رقم {0} هو {1}.", (
        "(ما|كم) رقم {city}؟", "كيف أتصل مع {city}؟", "أريد أن أتصل مع {city}.", "هل لديك رقم {city}؟"), ("رقم {city}", "رقم هاتف {city}", "هاتف {city}")),
    Abroad("ar.news", "آخر خبر عن {0}: {1}.", (
        "ما (أخبار|الجديد عن|الأخبار عن) {city}( اليوم|)؟", "ماذا حدث مع {city}؟", "هل هناك أخبار عن {city}؟"), ("الأخبار عن {city}", "أخبار {city}", "آخر الأخبار عن {city}")),
)  # fmt: skip
_MAIN, _MORE = ([each for each in ABROAD if (each.key in HELD) == main] for main in (True, False))


def foreign(rng: random.Random, split: Split) -> Sample:
    """Return a question in Chinese or Arabic, answered in the same language; a failure is told in it, too."""
    more = 0.25
    if split == "train" and rng.random() < more:
        asked = rng.choice(_MORE)
    else:
        asked = rng.choices(_MAIN, [2 if each.key.endswith("weather") else 1 for each in _MAIN])[0]
    chinese, key = asked.key.startswith("zh"), asked.key[3:]
    family = next(family for family in FAMILIES if family.key == key)
    (slot,) = family.slots
    offers = offers_of(rng, split, family, others=rng.choice([0, 1, 2]))
    offer = offers[0]
    thing, told, shown = _drawn(rng, split, family, chinese=chinese)
    must: tuple[str, ...] = (shown, thing)
    said_so = asked.answer.format(thing, shown)
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
        {"role": "user", "content": asked(rng, split).format(city=thing)},
        call([offer.call({slot: thing})], thought=f"The user asks about {family.noun}. I call {offer.name}."),
        result(offer.name, 0, as_text(rng, told)),
        said(said_so, thought="I have the result."),
    ]
    return tool_sample("tool.foreign", rng, offers, messages, *must)


def _drawn(rng: random.Random, split: Split, family: Family, *, chinese: bool) -> tuple[str, Any, str]:
    """Return what is asked about, what the tool tells, and the part of it that is to be said."""
    known, latin = 0.35, 0.3
    if family.key in {"stock", "order"} or (family.key in {"person", "news"} and rng.random() < latin):
        (slot,) = family.slots.values()
        thing = str(slot.value(rng, split))
    elif family.key in {"weather", "clock"} and rng.random() < known:
        thing = pick(rng, words.CITIES_ZH if chinese else words.CITIES_AR, split)
    else:
        thing = made_up_zh(rng, split) if chinese else made_up_ar(rng, split)
    if family.key == "weather":
        shown = str(rng.randint(-20, 42))
        sky = rng.choice(words.SKIES)
        return (
            thing,
            rng.choice(
                [
                    {"temp_c": int(shown)},
                    {"temp_c": int(shown), "sky": sky},
                    {"city": thing, "temperature": int(shown)},
                ]
            ),
            shown,
        )
    if family.key == "clock":
        shown = f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"
        return thing, rng.choice([{"time": shown}, shown, {"city": thing, "time": shown}]), shown
    told, _, (shown,) = family.answer(rng, split, {next(iter(family.slots)): thing})
    return thing, told, shown
