"""The phrasings that training never uses: those that validate, and those that examine."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["HELD", "Held"]


class Held(NamedTuple):
    """What is kept out of training for one way to ask.

    Attributes:
        valid: For the loss that is watched while training.
        test: For the exam. The first was the second edition's only one; the others are built differently.
    """

    valid: tuple[str, ...]
    test: tuple[str, ...]


HELD = {
    "weather": Held(("{city} weather, please.",),
                    ("Can you check the weather in {city}?", "How much rain is there in {city}?")),
    "code": Held(("Search the source for {query}.",),
                 ("Find where {query} is.", "Where does the code define {query}?")),
    "calculate": Held(("Add it up: {expression}.",),
                      ("Can you calculate {expression}?", "If I compute {expression}, what do I get?")),
    "convert": Held(("Make {target} of {value} {source}.",),
                    ("{value} {source} is how much in {target}?", "From {source} to {target}, what is {value}?")),
    "money": Held(("For {amount} {source}, how many {target}?",),
                  ("Give me {amount} {source} in {target}.", "What would {amount} {source} be in {target}?")),
    "clock": Held(("The clock in {city} says what?",), ("{city} time, please.", "Is it late in {city}?")),
    "mail": Held(("Get an email about {subject} to {to}.",),
                 ("About {subject}: send an email to {to}.", "Subject {subject}, to {to}: send that as an email.")),
    "ticket": Held(("Priority {priority}, ticket: {title}.",),
                   ("Add a {priority} priority ticket about {title}.", "A new ticket, and its priority is {priority}: {title}.")),
    "timer": Held(("Set the alarm to {minutes} minutes.",),
                  ("Timer for {minutes} minutes, please.", "Let me know when {minutes} minutes have passed.")),
    "stock": Held(("{symbol}: at what price?",),
                  ("Tell me the price of {symbol}.", "At what price does {symbol} trade?")),
    "order": Held(("Order {order}: when was it sent?",), ("When will order {order} arrive?", "Is order {order} still waiting?")),
    "translate": Held(("How would {text} be in {language}?",),
                      ("Say {text} in {language}.", "What do people say in {language} for {text}?")),
    "person": Held(("At which number is {name}?",),
                   ("Can you find the phone number of {name}?", "Which number should I dial to reach {name}?")),
    "file": Held(("Bring up {path}.",), ("Print {path}.", "Which lines are in {path}?")),
    "news": Held(("Show me the latest about {topic}.",),
                 ("{topic} news, please.", "Has anything happened with {topic}?")),
    "zh.weather": Held(("{city}有没有下雪？",), ("现在{city}冷不冷？", "{city}那边下雨了没有？")),
    "zh.clock": Held(("{city}现在是几点几分？",), ("{city}的当地时间是多少？", "{city}那边几点钟了？")),
    "ar.weather": Held(("ما أخبار الطقس في {city}؟",), ("أريد الطقس في {city}.", "هل يهطل المطر في {city} الآن؟")),
    "ar.clock": Held(("أي ساعة الآن في {city}؟",), ("ما الوقت الآن في {city}؟", "هل الوقت متأخر في {city}؟")),
    "both.weather": Held(("{0}, {1}: weather?",),
                         ("Show me the weather for {0} and {1}.", "Is it raining in {0} and in {1}?")),
    "both.clock": Held(("{0}, {1}: what time?",),
                       ("The time in {0} and in {1}, please.", "For {0} and {1}, what is the time?")),
    "both.code": Held(("Find the functions {0} and {1}.",),
                      ("Search for {0} and {1} in the code.", "Does the code have {0} and {1}?")),
    "both.stock": Held(("What does a share of {0} cost, and of {1}?",),
                       ("Check the {0} and {1} stocks.", "How much do {0} and {1} cost?")),
    "chain": Held(("{0}: find it and read its file.",),
                  ("Search for {0}, then read the file.", "Once you find {0}, show me its file.")),
    "mixed": Held(("Show me the time and weather in {0}.",),
                  ("What are the time and the weather in {0}?", "In {0}, what time is it and how is the weather?")),
    "own.calculator": Held(("{expression} gives what?",), ("Work out {expression}.", "{expression} comes to what?")),
    "own.clock": Held(("Date and time in {city}?",), ("The time in {city}, please.", "Which hour is it in {city}?")),
    "own.now": Held(("What is the hour?",), ("What time is it now?", "Do you have the time?")),
    "own.code_search": Held(("Tell me where {query} is.",),
                            ("Look for {query} in the code.", "Is there any {query} in the project?")),
    "own.files": Held(("Search for {0} in {1}.",), ("Only in {1}: where is {0}?", "Do files in {1} have {0}?")),
    "own.read_file": Held(("{path}: read it to me.",), ("I want to see {path}.", "What is written in {path}?")),
    "own.lines": Held(("Show {0}, lines {1} to {2}.",),
                      ("Open {0} from line {1} to line {2}.", "From line {1} to line {2}, what does {0} say?")),
}  # fmt: skip
