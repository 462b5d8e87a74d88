"""Conversation without tools: greetings, facts about Kimi K2.5, sums, units, lists and rewrites."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_nb.nano.world import words
from kimi_nb.nano.world.facts import FACTS
from kimi_nb.nano.world.sample import Sample, said
from kimi_nb.nano.world.words import made_up, pick, scrap, templates, wrapped

if TYPE_CHECKING:
    import random

    from kimi_nb.nano.world.words import Split

__all__ = ["TALK"]

_GREETINGS: dict[str, tuple[tuple[str, ...], str]] = {
    "hello": (
        ("Hello", "Hello!", "Hi", "Hi!", "Hi there", "Good morning", "Good evening!", "Hey", "Good day", "Hello there!"),
        "Hello! I am nano, a very small model in Kimi K2.5's format. How can I help?",
    ),
    "who": (
        ("Who are you?", "What are you?", "What is your name?", "Are you Kimi K2.5?", "Are you Kimi?",
         "Introduce yourself.", "What is nano?", "Which model is this?", "Which model are you?", "What model are you?",
         "Tell me who you are.", "And who are you?"),
        "I am nano: a laptop-sized model with Kimi K2.5's architecture and prompt format. I know a small world and can "
        "call tools. I am not Kimi itself.",
    ),
    "how": (
        ("How are you?", "How are you today?", "How do you do?", "How is it going?", "Are you well?", "All well?",
         "How are things?", "How are you doing?"),
        "I am well, thank you. What can I do for you?",
    ),
    "can": (
        ("What can you do?", "What do you know?", "How can you help me?", "What are you good at?", "What can I ask you?",
         "Help", "What can you help with?", "What are you able to do?"),
        "I can answer questions about Kimi K2.5 and about running it, do small sums, write short lists, and call the "
        "tools you give me.",
    ),
    "thanks": (
        ("Thanks", "Thank you", "Thanks a lot!", "Thank you very much.", "Many thanks!", "Great, thanks.", "Thanks!",
         "Thank you!"),
        "You are welcome.",
    ),
    "bye": (
        ("Bye", "Goodbye", "See you", "Good night", "See you later!", "Bye bye", "Until next time.", "Goodbye!"),
        "Goodbye!",
    ),
    "hello_zh": (
        ("你好", "你好！", "早上好", "您好", "大家好", "嗨", "晚上好", "您好！"),
        "你好！我是 nano，一个采用 Kimi K2.5 格式的小模型。有什么可以帮你？",
    ),
    "who_zh": (
        ("你是谁？", "你叫什么名字？", "介绍一下你自己。", "你是 Kimi 吗？", "你是什么模型？", "请介绍你自己。", "请问你是谁？", "你到底是谁？", "请问你叫什么名字？", "你是哪个模型？"),
        "我是 nano，一个和 Kimi K2.5 结构相同的小模型，可以在笔记本电脑上运行。我不是 Kimi 本身。",
    ),
    "thanks_zh": (("谢谢", "谢谢！", "多谢", "非常感谢", "谢谢你", "谢谢您"), "不客气。"),
    "hello_ar": (
        ("مرحبا", "مرحبا!", "السلام عليكم", "أهلا", "صباح الخير", "مساء الخير", "أهلا!", "مرحباً"),
        "مرحبا! أنا nano، نموذج صغير بصيغة Kimi K2.5. كيف أساعدك؟",
    ),
    "who_ar": (
        ("من أنت؟", "ما اسمك؟", "عرف بنفسك.", "هل أنت Kimi؟", "أي نموذج أنت؟", "من أنت يا nano؟", "ما هو اسمك؟",
         "قل لي من أنت.", "أخبرني من أنت.", "أي نموذج هذا؟", "هل أنت نموذج Kimi؟"),
        "أنا nano، نموذج صغير له بنية Kimi K2.5 ويعمل على حاسوب محمول. لست Kimi نفسه.",
    ),
    "thanks_ar": (("شكرا", "شكرا لك", "شكرا جزيلا", "أشكرك", "شكراً", "شكرا!"), "عفوا."),
}  # fmt: skip


def _ask(rng: random.Random, question: str, answer: str, thought: str, kind: str, *must: str) -> Sample:
    thinking = rng.random() < 0.5
    message = said(answer, thought=thought if thinking else "")
    return Sample(kind, [{"role": "user", "content": question}, message], thinking=thinking, must_say=must)


def greeting(rng: random.Random, split: Split) -> Sample:
    """Return small talk in English, Chinese or Arabic."""
    kind = rng.choice(list(_GREETINGS))
    asked, answer = _GREETINGS[kind]
    question = rng.choice(templates(asked, split))
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
    "Please compute {}.",
)  # fmt: skip


def small_sum(rng: random.Random, split: Split) -> Sample:
    """Return a sum small enough to do without a tool.

    All numbers are trained on, only phrasings are held out: so small a model learns its tables by heart.
    """
    sign = rng.choice("+-*")
    top = 10 if sign == "*" else 20
    a, b = rng.randint(0, top), rng.randint(0, top)
    if sign == "-" and b > a:
        a, b = b, a
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    spaced = 0.7
    shown = f"{a} {sign} {b}" if rng.random() < spaced else f"{a}{sign}{b}"
    question = wrapped(rng, rng.choice(templates(_SUMS, split))).format(shown)
    answer = f"{a} {sign} {b} = {value}"
    return _ask(rng, question, answer, f"A small sum: {answer}.", "sum", answer)


_LIST_ASKS = (
    "List {n} {what}.", "Name {n} {what}.", "Give me {n} {what}.", "Give me a list of {n} {what}.", "Tell me {n} {what}.",
    "Write down {n} {what}.", "I need {n} {what}.", "Please list {n} {what}.", "Can you name {n} {what}?",
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


def short_list(rng: random.Random, split: Split) -> Sample:
    """Return a request for a short list."""
    what, things = rng.choice(list(_LISTS.items()))
    count = rng.choice(list(_NUMBERS))
    number = _NUMBERS[count] if rng.random() < 0.6 else str(count)
    question = wrapped(rng, rng.choice(templates(_LIST_ASKS, split))).format(n=number, what=what)
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
    question = rng.choice(templates(asked, split)).format(text)
    return _ask(rng, question, answer, "I only change the text as asked.", "rewrite", answer)


TALK = {greeting: 3, fact: 6, small_sum: 4, short_list: 2, rewrite: 6}
