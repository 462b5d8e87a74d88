"""What nano knows about Kimi K2.5 and about running it. Figures agree with the catalog; a test holds them to it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

__all__ = ["FACTS", "Fact"]


@dataclass(frozen=True)
class Fact:
    """One fact: what it is about, the ways it is asked for, and the answer, word for word."""

    topic: str
    questions: tuple[str, ...]
    answer: str


_OPENINGS = ("", "Tell me: ", "Please tell me, ", "Quick question: ", "I wonder, ", "Do you know: ", "Can you say, ",
             "One question: ")  # fmt: skip


def _fact(topic: str, answer: str, *questions: str) -> Fact:
    """Cross the questions with the openings; held-out phrasings are new pairs of a known question and opening."""
    asked = [question if not opening else opening + question[0].lower() + question[1:]
             for opening, question in product(_OPENINGS, questions)]  # fmt: skip
    # Every fact is asked bare in training; the last pairs, which are held out, all have an opening.
    return Fact(topic, tuple(asked), answer)


FACTS = (
    _fact("Kimi K2.5", "Kimi K2.5 is an open model by Moonshot AI: a mixture of experts with 1.03 trillion parameters.",
          "What is Kimi K2.5?", "What is Kimi?", "Describe Kimi K2.5.", "What kind of model is Kimi K2.5?"),
    _fact("its maker", "Moonshot AI made Kimi K2.5.",
          "Who made Kimi K2.5?", "Who made Kimi?", "Which company made Kimi K2.5?", "Who is behind Kimi?"),
    _fact("its parameters", "Kimi K2.5 has 1.03 trillion parameters; about 32 billion are used for each token.",
          "How many parameters does Kimi K2.5 have?", "How big is Kimi K2.5?", "How large is Kimi?",
          "What is the size of Kimi K2.5?"),
    _fact("active parameters", "About 32 billion parameters are active for each token.",
          "How many parameters are active?", "How many active parameters does Kimi have?",
          "How many parameters are used for each token?"),
    _fact("experts", "Kimi K2.5 has 384 experts in each layer and uses 8 of them for each token, plus one shared expert.",
          "How many experts does Kimi K2.5 have?", "How many experts are there?", "How many experts does Kimi use?",
          "How many experts are used for each token?"),
    _fact("layers", "Kimi K2.5 has 61 layers; the first is dense, the other 60 are mixtures of experts.",
          "How many layers does Kimi K2.5 have?", "How many layers does Kimi have?", "How many layers are there?"),
    _fact("attention", "Kimi K2.5 uses MLA, multi-head latent attention, which keeps the KV cache small.",
          "Which attention does Kimi K2.5 use?", "What attention does Kimi use?", "What is MLA?"),
    _fact("context", "Kimi K2.5 can read up to 262,144 tokens of context.",
          "How long is the context of Kimi K2.5?", "What is the context length of Kimi?",
          "How many tokens can Kimi K2.5 read?", "What is the largest context?"),
    _fact("the KV cache", "The KV cache of Kimi K2.5 takes 70,272 bytes a token in f16: about 1.1 GiB for 16k tokens.",
          "How big is the KV cache?", "How much memory does the KV cache take?", "How much memory does the context take?"),
    _fact("the vocabulary", "The vocabulary of Kimi K2.5 has 163,840 tokens.",
          "How large is the vocabulary of Kimi K2.5?", "How many tokens are in the vocabulary?",
          "What is the vocabulary size of Kimi?"),
    _fact("the smallest quant", "UD-TQ1_0 is the smallest quant of Unsloth: about 240 GB in 5 files.",
          "What is the smallest quant?", "Which quant is smallest?", "How big is UD-TQ1_0?",
          "Which is the smallest quant of Kimi K2.5?"),
    _fact("UD-Q2_K_XL", "UD-Q2_K_XL is about 375 GB in 8 files. Unsloth recommends it.",
          "How big is UD-Q2_K_XL?", "Which quant is recommended?", "What is UD-Q2_K_XL?"),
    _fact("UD-Q4_K_XL", "UD-Q4_K_XL is about 630 GB in 13 files.", "How big is UD-Q4_K_XL?", "What is UD-Q4_K_XL?"),
    _fact("the native weights", "The native INT4 weights of Kimi K2.5 are 595 GB.",
          "How big are the native weights?", "How big is the full model?", "How large is the original release?"),
    _fact("what must fit", "RAM and VRAM together should hold the whole quant: at least 240 GB for UD-TQ1_0.",
          "How much memory do I need?", "How much RAM do I need?", "What do I need to run Kimi K2.5?",
          "How much memory does Kimi need?"),
    _fact("laptops", "The full model needs 240 GB or more, so it does not fit on a laptop. I do: I am nano.",
          "Can I run Kimi K2.5 on a laptop?", "Does Kimi fit on my laptop?", "Can a laptop run Kimi?"),
    _fact("vLLM hardware", "With vLLM the full model runs on 8 H200 GPUs.",
          "What hardware does vLLM need for Kimi?", "How many GPUs does vLLM need?", "Which GPUs run the full model?"),
    _fact("small GPUs", "Keep attention and shared weights on the GPU and the experts in RAM: use --n-cpu-moe.",
          "How do I run Kimi with a small GPU?", "How do I use one GPU?", "What if the GPU is small?"),
    _fact("--n-cpu-moe", "--n-cpu-moe N keeps the experts of the first N layers in RAM.",
          "What does --n-cpu-moe do?", "What is --n-cpu-moe?", "Explain --n-cpu-moe."),
    _fact("-ngl", "-ngl, or --n-gpu-layers, sets how many layers go to the GPU.",
          "What does -ngl do?", "What is -ngl?", "What does --n-gpu-layers do?"),
    _fact("instant mode", 'Send chat_template_kwargs with "thinking": false. Nothing else works on llama-server.',
          "How do I turn thinking off?", "How do I use instant mode?", "How do I stop Kimi from thinking?",
          "How do I switch thinking off?"),
    _fact("thinking mode", "In thinking mode Kimi first writes its reasoning, then the answer. It is on by default.",
          "What is thinking mode?", "What does thinking mode do?", "Is thinking on by default?"),
    _fact("sampling", "Use temperature 1.0 when thinking and 0.6 in instant mode, with top_p 0.95 in both.",
          "Which temperature should I use?", "What sampling should I use?", "Which sampling does Kimi need?",
          "What temperature is right for Kimi?"),
    _fact("--special", "Never pass --special to llama-server with Kimi: it breaks tool calls.",
          "Should I use --special?", "What does --special do?", "Is --special needed?"),
    _fact("tool calls", "A tool call names a function and its arguments; you run it and send the result back.",
          "What is a tool call?", "How do tool calls work?", "What does a tool call do?"),
    _fact("call ids", "Kimi's call ids look like functions.name:0 and count over the whole conversation.",
          "What do call ids look like?", "What is the id of a tool call?", "How are tool calls numbered?"),
    _fact("GGUF", "GGUF is the file format of llama.cpp: a header with the model's shape, then the weights.",
          "What is GGUF?", "What is a GGUF file?", "Explain GGUF."),
    _fact("quants", "A quant is a version of the model with fewer bits for each weight.",
          "What is a quant?", "What does quant mean?", "Explain quants."),
    _fact("llama.cpp", "llama.cpp runs GGUF models on CPUs and GPUs; its server is llama-server.",
          "What is llama.cpp?", "What does llama.cpp do?", "What is llama-server?"),
    _fact("vLLM", "vLLM serves models on GPUs at high throughput. It needs the whole model in GPU memory.",
          "What is vLLM?", "What does vLLM do?", "When should I use vLLM?"),
    _fact("nano", "I am nano. I share Kimi's architecture and format but am a few thousand times smaller.",
          "How are you different from Kimi?", "How do you differ from Kimi K2.5?", "Are you as good as Kimi?"),
    _fact("speed", "Speed depends on memory: experts in RAM are read for each token. Measure on your machine.",
          "How fast is Kimi K2.5?", "How fast will it be?", "How many tokens per second will I get?"),
    _fact("images", "Kimi K2.5 reads images; with llama.cpp load the mmproj file beside the model.",
          "Can Kimi K2.5 see images?", "Can Kimi read images?", "How do I use images?"),
    _fact("the licence", "Kimi K2.5 has a modified MIT licence. Nano has Apache-2.0.",
          "What licence does Kimi K2.5 have?", "Which licence does Kimi have?", "What is the licence?"),
    _fact("the port", "kimi-nb takes a free port on 127.0.0.1 and makes a key, so nobody else can use your server.",
          "Which port does the server use?", "Is the server safe?", "Who can reach my server?"),
    _fact("out of memory", "Use a smaller quant, less context, or keep more experts in RAM.",
          "What if I run out of memory?", "What should I do when memory runs out?", "It says out of memory. What now?"),
    _fact("the future", "I only know my small world, so I cannot tell.",
          "What will the weather be next year?", "Who will win the cup?", "What is the meaning of life?"),
)  # fmt: skip
