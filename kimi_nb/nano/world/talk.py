"""Conversation without tools: greetings, facts about Kimi K2.5, sums, units, lists and rewrites."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.nano.world import words
from kimi_nb.nano.world.asks import ASKS
from kimi_nb.nano.world.facts import FACTS
from kimi_nb.nano.world.phrasing import dressed, expand, framed, kept_out, skeleton
from kimi_nb.nano.world.sample import Sample, said
from kimi_nb.nano.world.words import made_up, pick, scrap, templates, wrapped

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from kimi_nb.nano.world.words import Split

__all__ = ["TALK", "short_list", "units"]

_GREETINGS: dict[str, tuple[tuple[str, ...], str]] = {
    "hello": (
        ("Hello", "Hello!", "Hi", "Hi!", "Hi there", "Good morning", "Good evening!", "Hey", "Good day", "Hello there!",
         "Good morning!", "Good evening", "Good afternoon", "Greetings", "Hey there!", "Hello, is anybody there?"),
        "Hello! I am nano, a very small model in Kimi K2.5's format. How can I help?",
    ),
    "who": (
        ("Who are you?", "What are you?", "What is your name?", "Are you Kimi K2.5?", "Are you Kimi?",
         "Introduce yourself.", "What is nano?", "Which model is this?", "Which model are you?", "What model are you?",
         "Tell me who you are.", "And who are you?", "Who am I talking to?", "Are you nano?", "Are you a person?",
         "Is this Kimi?"),
        "I am nano: a laptop-sized model with Kimi K2.5's architecture and prompt format. I know a small world and can "
        "call tools. I am not Kimi itself.",
    ),
    "how": (
        ("How are you?", "How are you today?", "How do you do?", "How is it going?", "Are you well?", "All well?",
         "How are things?", "How are you doing?", "Are you OK?", "How do you feel?"),
        "I am well, thank you. What can I do for you?",
    ),
    "can": (
        ("What can you do?", "What do you know?", "How can you help me?", "What are you good at?", "What can I ask you?",
         "Help", "What can you help with?", "What are you able to do?", "What are you for?", "Can you help me?"),
        "I can answer questions about Kimi K2.5 and about running it, do small sums, write short lists, and call the "
        "tools you give me.",
    ),
    "thanks": (
        ("Thanks", "Thank you", "Thanks a lot!", "Thank you very much.", "Many thanks!", "Great, thanks.", "Thanks!",
         "Thank you!", "Thank you so much!", "That is all, thanks.", "Perfect, thank you.", "Very good, thanks!"),
        "You are welcome.",
    ),
    "bye": (
        ("Bye", "Goodbye", "See you", "Good night", "See you later!", "Bye bye", "Until next time.", "Goodbye!",
         "Bye!", "Good night!", "See you soon.", "I have to go."),
        "Goodbye!",
    ),
    "hello_zh": (
        ("你好", "你好！", "早上好", "您好", "大家好", "嗨", "晚上好", "您好！", "早上好！", "下午好", "晚上好！", "早安", "你好吗？", "在吗？"),
        "你好！我是 nano，一个采用 Kimi K2.5 格式的小模型。有什么可以帮你？",
    ),
    "who_zh": (
        ("你是谁？", "你叫什么名字？", "介绍一下你自己。", "你是 Kimi 吗？", "你是什么模型？", "请介绍你自己。", "请问你是谁？", "你到底是谁？", "请问你叫什么名字？", "你是哪个模型？"),
        "我是 nano，一个和 Kimi K2.5 结构相同的小模型，可以在笔记本电脑上运行。我不是 Kimi 本身。",
    ),
    "can_zh": (
        ("你会什么？", "你能做什么？", "你可以做什么？", "你能帮我什么？", "你有什么功能？", "你会做什么？"),
        "我可以回答关于 Kimi K2.5 的问题，做简单的计算，也可以调用你给我的工具。",
    ),
    "thanks_zh": (("谢谢", "谢谢！", "多谢", "非常感谢", "谢谢你", "谢谢您", "多谢！", "太好了，谢谢", "谢谢你！"), "不客气。"),
    "bye_zh": (("再见", "再见！", "拜拜", "晚安", "回头见", "下次见", "我走了"), "再见！"),
    "hello_ar": (
        ("مرحبا", "مرحبا!", "السلام عليكم", "أهلا", "صباح الخير", "مساء الخير", "أهلا!", "مرحباً", "صباح الخير!", "مساء الخير!",
         "أهلا وسهلا", "صباح النور", "تحياتي", "السلام عليكم!"),
        "مرحبا! أنا nano، نموذج صغير بصيغة Kimi K2.5. كيف أساعدك؟",
    ),
    "how_ar": (
        ("كيف حالك؟", "كيف الحال؟", "كيف حالك اليوم؟", "هل أنت بخير؟", "كيف أنت؟"),
        "أنا بخير، شكرا. كيف أساعدك؟",
    ),
    "who_ar": (
        ("من أنت؟", "ما اسمك؟", "عرف بنفسك.", "هل أنت Kimi؟", "أي نموذج أنت؟", "من أنت يا nano؟", "ما هو اسمك؟",
         "قل لي من أنت.", "أخبرني من أنت.", "أي نموذج هذا؟", "هل أنت نموذج Kimi؟"),
        "أنا nano، نموذج صغير له بنية Kimi K2.5 ويعمل على حاسوب محمول. لست Kimi نفسه.",
    ),
    "can_ar": (
        ("ماذا تستطيع أن تفعل؟", "ماذا تعرف؟", "كيف تساعدني؟", "ماذا يمكنك أن تفعل؟", "ما الذي تجيده؟", "بماذا تساعدني؟"),
        "أجيب عن أسئلة حول Kimi K2.5، وأحسب حسابات صغيرة، وأستدعي الأدوات التي تعطيني إياها.",
    ),
    "thanks_ar": (("شكرا", "شكرا لك", "شكرا جزيلا", "أشكرك", "شكراً", "شكرا!", "شكرا لك!", "ألف شكر", "شكرا كثيرا"), "عفوا."),
    "bye_ar": (("مع السلامة", "إلى اللقاء", "وداعا", "تصبح على خير", "مع السلامة!", "أراك لاحقا"), "مع السلامة!"),
}  # fmt: skip
_BEFORE = {"": ("", "Hey nano. ", "OK. ", "One more thing. ", "Well then. "), "_zh": ("", "nano，", "Kimi，", "好的。"),
           "_ar": ("", "يا nano، ", "يا Kimi، ", "حسنا. ")}  # fmt: skip


def _greetings(kind: str) -> tuple[str, ...]:
    """Return the ways to say it, bare ones first: nobody can guess a greeting, so only what is added is held out."""
    asked, _ = _GREETINGS[kind]
    return tuple(
        before + text for before in _BEFORE[kind[-3:] if kind[-3:] in _BEFORE else ""] for text in asked
    )


def _ask(rng: random.Random, question: str, answer: str, thought: str, kind: str, *must: str) -> Sample:
    thinking = rng.random() < 0.5
    message = said(answer, thought=thought if thinking else "")
    return Sample(kind, [{"role": "user", "content": question}, message], thinking=thinking, must_say=must)


def greeting(rng: random.Random, split: Split) -> Sample:
    """Return small talk in English, Chinese or Arabic."""
    kind = rng.choice(list(_GREETINGS))
    answer = _GREETINGS[kind][1]
    questions = templates(_greetings(kind), split)
    bare, common = len(_GREETINGS[kind][0]), 0.7
    if split == "train" and rng.random() < common:
        questions = _greetings(kind)[:bare]
    question = rng.choice(questions)
    return _ask(rng, question, answer, "This is small talk. I answer in a friendly way.", "talk", answer)


def fact(rng: random.Random, split: Split) -> Sample:
    """Return a question about Kimi K2.5 or about running it."""
    chosen = rng.choice(FACTS)
    question = rng.choice(templates(chosen.questions, split))
    return _ask(
        rng,
        wrapped(rng, question),
        chosen.answer,
        f"The user asks about {chosen.topic}. I know this.",
        "facts",
        chosen.answer,
    )


_SUMS = (
    "What is {}?", "{}", "Compute {}.", "How much is {}?", "Calculate {}.", "Please work out {}.", "{} = ?",
    "What does {} make?", "Give me {}.", "I need {}.", "Can you tell me what {} is?", "Tell me {}.", "Work out {} for me.",
    "Please compute {}.", "{}, please.", "{} is how much?", "What is the sum {}?", "{} makes what?", "Do you know what {} is?",
    "The result of {}?", "Tell me what {} makes.",
)  # fmt: skip


def small_sum(rng: random.Random, split: Split) -> Sample:
    """Return a sum small enough to do without a tool.

    All numbers are trained on, only phrasings are held out: so small a model learns its tables by heart.
    """
    sign = rng.choice("+-*")
    top = 12 if sign == "*" else rng.choice([20, 99])
    a, b = rng.randint(0, top), rng.randint(0, top)
    if sign == "-" and b > a:
        a, b = b, a
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    spaced = 0.7
    shown = f"{a} {sign} {b}" if rng.random() < spaced else f"{a}{sign}{b}"
    # What is held out of the calculators is kept from here as well.
    asked = [each for each in templates(_SUMS, split) if split != "train" or not kept_out(each)]
    question = wrapped(rng, rng.choice(asked)).format(shown)
    answer = f"{a} {sign} {b} = {value}"
    return _ask(rng, question, answer, f"A small sum: {answer}.", "sum", answer)


_UNITS = (("hours", "minutes", 60, 24), ("minutes", "seconds", 60, 20), ("days", "hours", 24, 14), ("weeks", "days", 7, 20),
          ("years", "months", 12, 20), ("km", "metres", 1000, 50), ("metres", "cm", 100, 50), ("cm", "mm", 10, 50),
          ("kg", "grams", 1000, 50), ("litres", "ml", 1000, 20), ("tonnes", "kg", 1000, 20), ("feet", "inches", 12, 12),
          ("GiB", "MiB", 1024, 16))  # fmt: skip
_UNIT_ASKS = (
    "How many {1} are {0}?", "Convert {0} to {1}.", "What is {0} in {1}?", "{0} in {1}?", "{0} are how many {1}?",
    "Change {0} to {1}.", "How much is {0} in {1}?", "Tell me {0} in {1}.", "Please convert {0} to {1}.", "I have {0}. How many {1} is that?",
    "{0} to {1}, please.", "In {1}, how much is {0}?", "Turn {0} into {1}.", "I need {0} in {1}.", "How many {1} do {0} make?",
    "Can you convert {0} to {1}?",
)  # fmt: skip


def _more(
    rng: random.Random, split: Split, asked: tuple[str, ...], other: Callable[[random.Random], str]
) -> str:
    """Return one of the ways to ask; in training, half of the time another that the exam's do not equal."""
    if split == "train" and rng.random() < 0.5:
        held = {skeleton(text) for part in ("valid", "test") for text in templates(asked, part)}
        while True:
            text = other(rng)
            if skeleton(text) not in held:
                return dressed(rng, text)
    return wrapped(rng, rng.choice(templates(asked, split)))


def _as_converters_are_asked(rng: random.Random) -> str:
    """Return a phrasing of the tools that convert: without one, what is easy is to be answered."""
    while True:
        asked = ASKS["convert"]
        text = rng.choice(expand(rng.choice(asked.asks)))
        if rng.random() < 0.5:
            kind = rng.choice(("things", "orders", "clauses"))
            text = framed(rng, rng.choice(expand(rng.choice(getattr(asked, kind)))), kind)
        text = text.replace("{value} {source}", "{0}").replace("{target}", "{1}")
        if "{source}" not in text:
            return text


def units(rng: random.Random, split: Split) -> Sample:
    """Return a conversion easy enough to do without a tool; as for sums, only phrasings are held out."""
    source, target, factor, most = rng.choice(_UNITS)
    count = rng.randint(2, most)
    given, made = f"{count} {source}", f"{count * factor} {target}"

    question = _more(rng, split, _UNIT_ASKS, _as_converters_are_asked).format(given, target)
    answer = f"{given} = {made}"
    return _ask(rng, question, answer, f"{count} times {factor} is {count * factor}.", "units", answer)


_LIST_ASKS = (
    "List {n} {what}.", "Name {n} {what}.", "Give me {n} {what}.", "Give me a list of {n} {what}.", "Tell me {n} {what}.",
    "Write down {n} {what}.", "I need {n} {what}.", "Please list {n} {what}.", "Can you name {n} {what}?",
)  # fmt: skip
_LIST_THINGS = (
    "(a|the|one|a short|my|this) list (of|with) {n} {what}", "{n} {what}", "{n} {what}, as a list", "a list: {n} {what}",
    "the names of {n} {what}", "{n} (of the|different|well-known) {what}", "{what}, {n} of them",
)  # fmt: skip
_LISTS = {
    "colours": ("red", "green", "blue", "yellow", "black"),
    "fruits": ("apples", "pears", "plums", "cherries", "grapes"),
    "animals": ("dogs", "cats", "horses", "birds", "fish"),
    "days": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"),
    "months": ("January", "February", "March", "April", "May"),
    "planets": ("Mercury", "Venus", "Earth", "Mars", "Jupiter"),
    "engines that serve Kimi": ("llama.cpp", "vLLM", "SGLang", "KTransformers", "Moonshot's API"),
    "quants of Kimi K2.5": ("UD-TQ1_0", "UD-IQ1_S", "UD-Q2_K_XL", "UD-Q4_K_XL", "Q4_K_M"),
}
_NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}


def _as_a_list(rng: random.Random) -> str:
    return framed(rng, rng.choice(expand(rng.choice(_LIST_THINGS))), "things")


def short_list(rng: random.Random, split: Split) -> Sample:
    """Return a request for a short list."""
    what, things = rng.choice(list(_LISTS.items()))
    count = rng.choice(list(_NUMBERS))
    number = _NUMBERS[count] if rng.random() < 0.6 else str(count)
    question = _more(rng, split, _LIST_ASKS, _as_a_list).format(n=number, what=what)
    answer = "\n".join(f"{i}. {thing}" for i, thing in enumerate(things[:count], 1))
    return _ask(rng, question, answer, f"A list of {count} {what}.", "list", answer)


_REWRITES = (
    ("comma", ("Join with commas: {}", "Put commas between these words: {}", "Separate with commas: {}",
               "Write with commas: {}", "With commas: {}", "Please join with commas: {}", "Make a comma list of: {}")),
    ("quote", ("Put this in quotes: {}", "Quote this: {}", "Add quotes round this: {}", "Write in quotes: {}",
               "In quotes: {}", "Please put this in quotes: {}", "Wrap in quotes: {}")),
    ("repeat", ("Repeat after me: {}", "Say this: {}", "Copy this: {}", "Repeat: {}", "Write this again: {}",
                "Echo this: {}", "Say exactly: {}", "Please repeat: {}", "Copy this text: {}")),
    ("last", ("What is the last word of: {}", "Give me the last word: {}", "Last word of this: {}",
              "Name the last word in: {}", "Which word is last: {}", "What is the last word: {}", "Which is the last word of: {}")),
)  # fmt: skip
_MORE_REWRITES = {
    "comma": ("(Put|Set|Add) commas (in|in here|between them): {}", "(Write|Give me|Send me|Show me) these with commas: {}", "As a comma list: {}", "Commas, please: {}",
              "{}: put commas between them", "(Turn|Make) this into a comma list: {}", "Split with commas: {}"),
    "quote": ("(Set|Write|Send|Show) this in quotes: {}", "(Put|Set) quotes (round|around): {}", "With quotes: {}", "Quotes, please: {}", "Between quotes: {}", "(Can|Could) you quote this: {}"),
    "repeat": ("(Write|Say|Print|Type|Send|Show|Give me|Tell me) (this|these words|this text|the same|it back|this once more): {}", "(Once more|Again|The same again|And again): {}",
               "(Say|Write|Type) after me: {}", "(Do not change|Leave as it is): {}", "Just say: {}", "(Can|Could) you (say|write|repeat) this: {}", "My words: {}", "Write down: {}"),
    "last": ("(Say|Tell me|Show me|Write|Print) the last word (of|in)(| this): {}", "(Which|What) word (comes last|ends this|is at the end): {}", "The last word, please: {}",
             "Only the last word: {}", "How does this end: {}"),
}  # fmt: skip


def rewrite(rng: random.Random, split: Split) -> Sample:
    """Return a small rewriting task whose answer must be copied from the question."""
    what, asked = rng.choice(_REWRITES)
    names, scraps = 0.3, 0.35
    things = []
    for _ in range(rng.randint(1 if what in {"quote", "repeat"} else 2, 4)):
        chance = rng.random()
        if chance < names:
            things.append(pick(rng, words.CITIES + words.PEOPLE, split))
        elif chance < names + scraps and what in {"quote", "repeat"}:
            things.append(scrap(rng, split))
        else:
            things.append(made_up(rng, split, syllables=(1, 2)))
    text = " ".join(things)
    answer = {"comma": ", ".join(things), "quote": f'"{text}"', "repeat": text, "last": things[-1]}[what]
    question = rng.choice(templates(asked, split))
    if split == "train" and rng.random() < 0.5:
        question = rng.choice(expand(rng.choice(_MORE_REWRITES[what])))
    question = question.format(text)
    return _ask(rng, question, answer, "I only change the text as asked.", "rewrite", answer)


TALK = {greeting: 4, fact: 6, small_sum: 4, units: 3, short_list: 2, rewrite: 6}
